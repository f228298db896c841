"""What is written beside the fields of a dataclass, for help."""

from __future__ import annotations

import ast
import inspect
import io
import textwrap
import tokenize


def comments(kind: type) -> dict[str, str]:
    """What is written beside each field of a dataclass: at the end of its line, or below it."""
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__[:-1]):
        try:
            source = textwrap.dedent(inspect.getsource(base))
        except (OSError, TypeError):
            continue
        lines = {
            token.start[0]: token.string.lstrip("# ")
            for token in tokenize.generate_tokens(io.StringIO(source).readline)
            if token.type == tokenize.COMMENT
        }
        (body,) = (node.body for node in ast.parse(source).body if isinstance(node, ast.ClassDef))
        for node, below in zip(body, [*body[1:], None], strict=True):
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                text = lines.get(node.end_lineno or 0, "")
                if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
                    text = " ".join(str(below.value.value).split())
                if text or node.target.id not in found:
                    found[node.target.id] = text
    return found
