"""The package in numbers: its doors, long functions, loose types, names defined twice, lines.

    python tools/house.py                  # this tree
    python tools/house.py BEFORE           # another one
    python tools/house.py BEFORE AFTER     # both, side by side
    python tools/house.py --list           # also which functions and names are counted

A tree is a checkout: a folder that holds ``jaxmec/``. One of an older commit comes by
``git archive COMMIT | tar -x -C FOLDER``. The numbers are signs, not the aim.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

LONGEST = 60  # lines of a function, from `def` to its end, docstring included
MOST_PARAMETERS = 8  # without self and cls; *args and **kwargs count as one each

Function = ast.FunctionDef | ast.AsyncFunctionDef
_BRANCHES = (
    ast.If, ast.IfExp, ast.For, ast.AsyncFor, ast.While, ast.ExceptHandler, ast.BoolOp, ast.Match,
    ast.comprehension,
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Module:
    """One file of the package."""

    name: str  # relative to jaxmec/
    text: str
    tree: ast.Module


@dataclasses.dataclass(frozen=True)
class House:
    """What is counted in a tree; lists name each thing with where it is."""

    doors: list[str]
    train: tuple[int, int, int]  # lines, parameters, branches of `experiment.train`
    long: list[str]
    wide: list[str]
    any_words: int  # in the text, imports and comments included
    any_names: int  # in annotations, casts and other expressions
    ignores: int
    attributes: list[str]  # calls of getattr and hasattr
    twice: list[str]  # top-level names in two modules or more, private ones included
    lines: int
    written: int  # lines that are not blank
    readme: int

    def rows(self) -> dict[str, str]:
        """The numbers as a table has them."""
        shared = [entry for entry in self.twice if not entry.startswith("_")]
        return {
            "doors": f"{len(self.doors)}",
            "`experiment.train`: lines, parameters, branches": ", ".join(map(str, self.train)),
            f"functions over {LONGEST} lines": f"{len(self.long)}",
            f"functions with more than {MOST_PARAMETERS} parameters": f"{len(self.wide)}",
            "`Any`, as a word (as a name in code)": f"{self.any_words:,} ({self.any_names:,})",
            "`type: ignore`": f"{self.ignores}",
            "calls of `getattr` and `hasattr`": f"{len(self.attributes)}",
            "top-level names in two modules or more (public)": f"{len(self.twice)} ({len(shared)})",
            "lines of `jaxmec/` (not blank)": f"{self.lines:,} ({self.written:,})",
            "lines of README": f"{self.readme}",
        }

    def lists(self) -> dict[str, list[str]]:
        """What the numbers count, where that can be named."""
        return {
            "doors": self.doors,
            f"functions over {LONGEST} lines": self.long,
            f"functions with more than {MOST_PARAMETERS} parameters": self.wide,
            "calls of getattr and hasattr": self.attributes,
            "top-level names in two modules or more": self.twice,
        }


def measure(root: Path) -> House:
    """Count in the tree at ``root``.

    Raises:
        FileNotFoundError: there is no jaxmec/ in it.
    """
    package = root / "jaxmec"
    if not package.is_dir():
        raise FileNotFoundError(f"{root} is no checkout: it holds no folder jaxmec/")
    modules = [
        Module(file.relative_to(package).as_posix(), text := file.read_text("utf-8"),
               ast.parse(text))
        for file in sorted(package.rglob("*.py"))
    ]  # fmt: skip
    text = "".join(module.text for module in modules)
    found = [(m, function, name) for m in modules for function, name in functions(m.tree)]
    lengths = {f"{m.name}: {name}, {length(f)} lines": length(f) for m, f, name in found}
    widths = {f"{m.name}: {name}, {len(parameters(f))}": len(parameters(f)) for m, f, name in found}
    nodes = [(module, node) for module in modules for node in ast.walk(module.tree)]
    readme = root / "README.md"
    return House(
        doors=sorted(doors(package)),
        train=next(
            (
                (length(function), len(parameters(function)), branches(function))
                for module, function, name in found
                if name == "train" and module.name.startswith("experiment")
            ),
            (0, 0, 0),
        ),
        long=largest(lengths, LONGEST),
        wide=largest(widths, MOST_PARAMETERS),
        any_words=len(re.findall(r"\bAny\b", text)),
        any_names=sum(isinstance(node, ast.Name) and node.id == "Any" for _, node in nodes),
        ignores=len(re.findall(r"#\s*type:\s*ignore", text)),
        attributes=[
            f"{module.name}:{node.lineno}"
            for module, node in nodes
            if isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id in ("getattr", "hasattr")
        ],
        twice=defined_twice(modules),
        lines=len(text.splitlines()),
        written=sum(bool(line.strip()) for line in text.splitlines()),
        readme=len(readme.read_text("utf-8").splitlines()) if readme.exists() else 0,
    )


def doors(package: Path) -> Iterator[str]:
    """What stands directly in the package, but for what every package has."""
    for entry in package.iterdir():
        is_module = entry.suffix == ".py" and not entry.name.startswith("__")
        if is_module or (entry.is_dir() and any(entry.rglob("*.py"))):
            yield entry.name


def functions(tree: ast.AST, within: str = "") -> Iterator[tuple[Function, str]]:
    """All functions, nested ones and methods too, with their dotted names."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, Function | ast.ClassDef):
            name = f"{within}.{node.name}".lstrip(".")
            if not isinstance(node, ast.ClassDef):
                yield node, name
            yield from functions(node, name)
        else:
            yield from functions(node, within)


def length(function: Function) -> int:
    """Lines from ``def`` to the end."""
    return (function.end_lineno or function.lineno) - function.lineno + 1


def parameters(function: Function) -> list[str]:
    """Their names, without self and cls; ``*args`` and ``**kwargs`` are one each."""
    of = function.args
    every = (*of.posonlyargs, *of.args, of.vararg, *of.kwonlyargs, of.kwarg)
    names = [each.arg for each in every if each is not None]
    return names[1:] if names[:1] in (["self"], ["cls"]) else names


def branches(function: Function) -> int:
    """Decisions: ifs, loops, handlers, boolean operators, comprehensions."""
    return sum(isinstance(node, _BRANCHES) for node in ast.walk(function))


def largest(sizes: dict[str, int], most: int) -> list[str]:
    """The entries above a bound, the largest first."""
    return sorted((entry for entry, size in sizes.items() if size > most),
                  key=lambda entry: -sizes[entry])  # fmt: skip


def defined_twice(modules: list[Module]) -> list[str]:
    """Functions, classes and constants defined at the top of two modules or more."""
    where = defaultdict(set)
    for module in modules:
        for statement in module.tree.body:
            for name in defined(statement):
                where[name].add(module.name)
    return [
        f"{name}: {', '.join(sorted(places))}"
        for name, places in sorted(where.items())
        if len(places) > 1 and not name.startswith("__")
    ]


def defined(statement: ast.stmt) -> list[str]:
    """The names that a top-level statement defines; imports define none."""
    if isinstance(statement, Function | ast.ClassDef):
        return [statement.name]
    targets: list[ast.expr] = []
    if isinstance(statement, ast.Assign):
        targets = statement.targets
    elif isinstance(statement, ast.AnnAssign):
        targets = [statement.target]
    return [target.id for target in targets if isinstance(target, ast.Name)]


def table(columns: dict[str, House]) -> str:
    """Markdown, one column a tree."""
    rows = [house.rows() for house in columns.values()]
    lines = [f"| | {' | '.join(columns)} |", f"| --- |{' ---: |' * len(columns)}"]
    lines += [f"| {name} | {' | '.join(row[name] for row in rows)} |" for name in rows[0]]
    return "\n".join(lines)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    here = Path(__file__).parents[1]
    parser.add_argument("trees", nargs="*", type=Path, default=[here], help="one or two checkouts")
    parser.add_argument("--list", action="store_true", help="name what is counted in the last one")
    arguments = parser.parse_args()
    trees = arguments.trees or [here]
    titles = ["before", "after"] if len(trees) == 2 else [str(tree) for tree in trees]
    houses = dict(zip(titles, map(measure, trees), strict=True))
    print(table(houses))
    if arguments.list:
        for title, entries in houses[titles[-1]].lists().items():
            print(f"\n{title}:", *entries, sep="\n  ")


if __name__ == "__main__":
    main()
