"""What the course of a run depends on, described so that another run can be compared with it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from pathlib import Path

import jax
import numpy as np

from jaxmec.agents.base import Agent
from jaxmec.core import compilation
from jaxmec.core.types import Document, EnvParams, PyTree
from jaxmec.training.rollout import Environment
from jaxmec.training.trainer import AnyTrainer


def described_run(
    agent: Agent,
    env: Environment,
    params: EnvParams,
    config: AnyTrainer,
    seeds: tuple[int, ...],
) -> Document:
    """All that the course of a run depends on, as JSON by dotted name."""
    described: Document = {}
    _describe("config", config, described)
    described["seeds"] = list(seeds)
    _describe("agent", agent, described)
    described["env"] = _type_name(env)
    for name, value in sorted(vars(env).items()):
        if not name.startswith("_"):
            _describe(f"env.{name}", value, described)
    _describe("params", params, described)
    described["x64"] = bool(compilation.jax_setting("enable_x64"))
    return described


def _describe(name: str, value: object, described: Document) -> None:
    parts: list[tuple[str, object]] = []
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        described[name] = _type_name(value)
        parts = [(field.name, getattr(value, field.name)) for field in dataclasses.fields(value)]
    elif isinstance(value, tuple | list) and not all(map(_is_plain, value)):
        described[name] = len(value)
        labels = getattr(value, "_fields", None) or map(str, range(len(value)))
        parts = list(zip(labels, value, strict=True))
    elif isinstance(value, dict):
        parts = sorted((str(key), part) for key, part in value.items())
    elif _is_plain(value) or isinstance(value, tuple | list):
        described[name] = value
    elif hasattr(value, "dtype"):
        array = np.asarray(value)
        short = array.size <= 32
        data = array.tolist() if short else hashlib.sha256(array.tobytes()).hexdigest()
        described[name] = f"{array.dtype}{list(array.shape)} {data}"
    elif callable(value) and hasattr(value, "__qualname__"):
        described[name] = f"{value.__module__}.{value.__qualname__}"
    else:
        described[name] = _type_name(value)
    for part, content in parts:
        _describe(f"{name}.{part}", content, described)


def digest(tree: PyTree) -> str:
    """SHA-256 of a tree's names and values."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        array = np.asarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _is_plain(value: object) -> bool:
    return isinstance(value, bool | int | float | str | None)


def _type_name(value: object) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"


# What runs did before a field was there that now says so.
BEFORE = {
    "agent.network": "flat",
    "agent.inner.network": "flat",
    "agent.prior": 0.0,
    "agent.inner.prior": 0.0,
}


def refuse_differences(home: Path, saved: Document, now: Document) -> None:
    saved, now = _unhomed(saved), _unhomed(json.loads(json.dumps(now)))
    for name in [*saved, *(name for name in now if name not in saved)]:
        was, is_now = saved.get(name, BEFORE.get(name, "absent")), now.get(name, "absent")
        if name == "config.steps":
            if is_now < was:
                raise ValueError(
                    f"cannot resume {home}: config.steps was {was} and is {is_now} now; it may grow"
                )
        elif "absent" in (was, is_now) and any(x is False or x is None for x in (was, is_now)):
            continue  # what one of the versions does not have, and what is off in the other
        elif "absent" in (was, is_now) and name.startswith(("agent.", "config.")):
            raise ValueError(
                f"cannot resume {home}: {name} was {was} and is {is_now} now; the run was begun "
                "with another version of jaxmec: go on with that one, or begin anew elsewhere"
            )
        elif json.dumps(was) != json.dumps(is_now):
            raise ValueError(f"cannot resume {home}: {name} was {was} and is {is_now} now")


def _unhomed(described: Document) -> Document:
    """With our classes and functions by their own names: their modules may have moved since."""
    return {
        name: value.rpartition(".")[2]
        if isinstance(value, str) and re.fullmatch(r"jaxmec(\.\w+)+", value)
        else value
        for name, value in described.items()
    }
