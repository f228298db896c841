"""What mkdocs.yml asks of Python: pages made from the package's own tables, and docstrings.

The pages on presets, methods, schedulers and studies are written from the objects that the
toolkit runs on, each time the site is built, so they say what the code does.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
from pathlib import Path
from typing import Any

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Called by mkdocs: add the pages that are made, not kept."""
    pages = {
        "presets.md": presets(),
        "methods.md": methods(),
        "benchmarks.md": benchmarks(),
    }
    for name, text in pages.items():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Called by mkdocs: links that leave docs/ lead to the repository."""
    pages = ROOT / "docs"
    home = ROOT / "benchmarks" if page.file.src_uri == "benchmarks.md" else pages

    def moved(match: re.Match[str]) -> str:
        text, target = match[1], match[2]
        file = (home / target.split("#")[0]).resolve()
        if "://" in target or not file.is_file():
            return match[0]  # where it leads nowhere, mkdocs says so
        if file.is_relative_to(pages):
            return f"[{text}]({target.replace('../docs/', '')})"
        return f"[{text}]({config.repo_url}/blob/main/{file.relative_to(ROOT).as_posix()})"

    return re.sub(r"(?<!!)\[([^\]]+)\]\(([^)\s]+)\)", moved, markdown)


def benchmarks() -> str:
    """How to run the benchmarks, and what came of it, with its figures."""
    folder = ROOT / "benchmarks"
    how, what = ((folder / name).read_text(encoding="utf-8") for name in ("README.md", "NOTES.md"))
    what = re.sub("^#", "##", what, flags=re.M)  # one page has one title
    return f"{how}\n{what}".replace("](../docs/benchmarks/", "](benchmarks/")


def presets() -> str:
    """Every published setting, field by field, with the comments of the fields."""
    from jaxmec.envs.presets import PRESETS, Preset

    comments = dict(re.findall(r"^    (\w+): [^#\n]+# (.+)$", inspect.getsource(Preset), re.M))
    lines = [
        "# Presets",
        "The published settings, as `jaxmec/envs/presets.py` has them. `jaxmec.make(..., "
        'preset="amcoedge", deadline=0.5)` takes one and changes any field; '
        '`preset="amcoedge-64"` repeats its servers in turn until there are 64. '
        "[The system model](model.md) has the equations that the fields enter.",
        "",
        _row(["field", *(f"`{name}`" for name in PRESETS), "meaning"]),
        _row(["---"] * (len(PRESETS) + 2)),
    ]
    for field in dataclasses.fields(Preset):
        values = [_value(getattr(preset, field.name)) for preset in PRESETS.values()]
        lines.append(_row([f"`{field.name}`", *values, comments.get(field.name, "")]))
    lines += ["", "Per-position numbers (densities, qualities, result sizes) are drawn once, from "
              "`seed`, as a person who runs the published code would find them."]  # fmt: skip
    lines += ["", "## What an observation is made of", "", *_features()]
    return "\n".join(lines) + "\n"


def _features() -> list[str]:
    """The table of features, in their order; which are shown depends on the options."""
    from jaxmec.envs.observation import FEATURES

    lines = [
        "In this order; `information`, `features`, `show_place` and `neighbours` say which of them "
        "a scheduler sees ([the options](api/envs.md#jaxmec.envs.state.OffloadingOptions)). Each "
        "is divided by a scale of the preset, so that it is of order 1.",
        "",
        _row(["feature", "unit", "one number", "meaning"]),
        _row(["---"] * 4),
    ]
    for feature in FEATURES:
        of = "a server" if feature.per_server else "in all"
        lines.append(_row([f"`{feature.name}`", feature.unit, of, feature.about]))
    return lines


def methods() -> str:
    """Every method with its source and both its settings, every scheduler, every study."""
    from jaxmec.methods import METHODS
    from jaxmec.schedulers import SCHEDULERS
    from jaxmec.studies.catalogue import STUDIES

    lines = [
        "# Methods, schedulers, studies",
        "Written from `jaxmec.METHODS`, `jaxmec.SCHEDULERS` and `jaxmec.studies.catalogue.STUDIES` "
        "when this page was built. `jaxmec list` prints the same.",
        "",
        "## Methods that learn",
        _row(["name", "what it is", "source", "environment", "preset"]),
        _row(["---"] * 5),
    ]
    for method in METHODS.values():
        lines.append(
            _row([f"[`{method.name}`](#{method.name})", method.about, method.source,
                  f"`{method.env}`", f"`{method.preset}`" if method.preset else "-"])
        )  # fmt: skip
    lines += [
        "",
        '"Ours" is what `jaxmec.train(name)` runs; "published", where there is one, is the method '
        "as its authors ran it, `jaxmec.train(name, published=True)`. Fields that are at their "
        "class's default are left out.",
    ]
    for method in METHODS.values():
        lines += ["", f"### {method.name}", f"{method.about}. Source: {method.source}.", "",
                  _row(["", "ours", "published"]), _row(["---"] * 3)]  # fmt: skip
        ours, theirs = (
            None if settings is None else _described(settings)
            for settings in (method.tuned, method.published)
        )
        assert ours is not None
        for name in ours:
            lines.append(_row([name, ours[name], "-" if theirs is None else theirs[name]]))
    lines += [
        "",
        "## Schedulers that do not learn",
        "Each under the least information that it needs; an oracle knows what no station could.",
        "",
        _row(["name", "what it is", "selects", "sees", "oracle"]),
        _row(["---"] * 5),
    ]
    for scheduler in SCHEDULERS.values():
        selects = {"single": "one server", "multi": "a set"}[scheduler.problem]
        lines.append(
            _row([f"`{scheduler.name}`", scheduler.about, selects, f"`{scheduler.information}`",
                  "yes" if scheduler.oracle else ""])
        )  # fmt: skip
    lines += [
        "",
        "## Studies",
        "`jaxmec compare NAME --size short` runs one on two CPU cores in minutes "
        "(`amcoedge-many-servers` in half an hour), `jaxmec compare NAME` on a GPU. It writes "
        "tables and figures under `runs/studies`; a study that was stopped goes on where it was.",
        "",
        _row(["name", "what it compares"]),
        _row(["---"] * 2),
    ]
    for name, sizes in STUDIES.items():
        lines.append(_row([f"`{name}`", sizes["full"].about]))
    return "\n".join(lines) + "\n"


def _described(settings: Any) -> dict[str, str]:
    agent = settings.agent()
    return {
        "agent": _object(agent),
        "environment": ", ".join(f"`{name}={value!r}`" for name, value in settings.options) or "-",
        "training": _object(settings.config),
    }


def _object(value: Any) -> str:
    """A dataclass as it could be written, without the fields at their default."""
    parts = []
    for field in dataclasses.fields(value):
        now = getattr(value, field.name)
        if dataclasses.is_dataclass(now):
            parts.append(_object(now).strip("`"))
            continue
        now = now.item() if hasattr(now, "item") else now
        if now != field.default:
            parts.append(f"{field.name}={now!r}")
    return f"`{type(value).__name__}({', '.join(parts)})`"


def _value(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(_value, value))
    return {None: "-", float("inf"): "∞"}.get(value, str(value))


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


class Docstrings(griffe.Extension):
    """Reads what the house style says elsewhere than where griffe looks for it."""

    def on_instance(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Called by griffe for everything: a docstring's :class:`a.b.C` is shown as `a.b.C`."""
        if obj.docstring:
            roles = r":(?:class|func|meth|attr|mod):`~?([^`]+)`"
            text = re.sub(roles, r"`\1`", obj.docstring.value)
            obj.docstring.value = text.replace("``", "`")

    def on_attribute_instance(self, *, attr: griffe.Attribute, **kwargs: Any) -> None:
        """Called for every field: its shape and unit are in the comment behind it."""
        if attr.docstring or attr.lineno is None or not isinstance(attr.filepath, Path):
            return
        line = attr.lines_collection[attr.filepath][(attr.endlineno or attr.lineno) - 1]
        comment = re.search(r"  # (?!type:|fmt:|noqa)(.+)$", line)
        if comment:
            attr.docstring = griffe.Docstring(comment[1], lineno=attr.lineno, parent=attr)
