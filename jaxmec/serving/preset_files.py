"""A fleet's TOML file: what may be in it, and how it is read (docs/fleets.md: "The file")."""

from __future__ import annotations

import itertools
import os
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from jaxmec.core import checks
from jaxmec.core.naming import suggestion
from jaxmec.core.types import Document, Keywords
from jaxmec.serving.errors import FleetError
from jaxmec.serving.presets import (
    FLEETS,
    FOLDER,
    FRACTION,
    FROM_0,
    POSITIVE,
    SETTING,
    Cloud,
    OutageLaw,
    Reference,
    RequestClass,
    Server,
    ServingPreset,
    ServingSetting,
    Variant,
    Wanted,
    sized,
    span,
)

Keys = Document
DEVICES = FOLDER.with_name("devices.toml")
EDGE_DEVICES = ("RTX 4090", "RTX 3090", "RTX 3060", "T4", "RTX 2060", "GTX 1070")  # for the edge

_TEXT = checks.text(r"[^\s].*", "a name in one line", 200)
_WHOLE = checks.whole(1, 10_000)
_RATE = sized(checks.number(above=0, finite=False))
_MOST = 1024  # servers; entries of any other list


def _or_list(inner: checks.Check) -> checks.Check:
    """One value for all, or a list of one for each."""

    def problems(value: object, name: str) -> checks.Problems:
        yield from (_list_of(inner) if isinstance(value, list) else inner)(value, name)

    return problems


def _list_of(inner: checks.Check) -> checks.Check:
    return checks.listing(inner, 1, _MOST)


def _number_or_span(value: object, name: str) -> checks.Problems:
    yield from (span if isinstance(value, list) else FROM_0)(value, name)


_KEYS: dict[str, checks.Check] = {
    "about": _TEXT,
    "setting": checks.closed({}, SETTING),
    "reference": checks.closed({"variant": _TEXT, "steps": _WHOLE}, {"images": POSITIVE}),
    "variant": _list_of(
        checks.closed(
            {
                "name": _TEXT,
                "size": POSITIVE,
                "load_time": FROM_0,
                "steps": _list_of(_WHOLE),
                "quality": _list_of(FRACTION),
            },
            {"work": POSITIVE, "task_time": FROM_0},
        )
    ),
    "server": _list_of(
        checks.closed(
            {"rate": _RATE},
            {
                "name": _TEXT,
                "device": _TEXT,
                "count": checks.whole(1, _MOST),
                "step_time": _or_list(POSITIVE),
                "task_time": _or_list(FROM_0),
                "load_time": _list_of(FROM_0),
                "memory": POSITIVE,
                "latency": FROM_0,
                "breaks": _list_of(FROM_0),
                "speed": _list_of(FROM_0),
            },
        )
    ),
    "cloud": checks.closed(
        {"latency": FROM_0, "image_time": POSITIVE, "variant": _TEXT, "steps": _WHOLE},
        {"rate": _RATE},
    ),
    "class": _list_of(
        checks.closed({"name": _TEXT, "share": FROM_0, "limit": POSITIVE}, {"quality": FRACTION})
    ),
    "requests": checks.closed(
        {"size": _number_or_span},
        {
            "images": _list_of(_WHOLE),
            "images_share": _list_of(FROM_0),
            "result": _number_or_span,
            "origin_share": _list_of(FROM_0),
        },
    ),
    "outages": checks.closed(
        {"law": checks.one_of(("none", "log-normal", "given", "spot"))},
        {
            "up_median": POSITIVE,
            "up_spread": FROM_0,
            "down_median": POSITIVE,
            "down_spread": FROM_0,
            "slow_share": FRACTION,
            "slow_speed": sized(checks.number(above=0, most=1)),
            "troubles": checks.whole(1, _MOST),
            "file": _TEXT,
            "files": _list_of(_TEXT),
            "squeeze": POSITIVE,
        },
    ),
}
_REQUIRED = ("reference", "variant", "server", "class", "requests")


def read_preset(path: str | os.PathLike[str]) -> ServingPreset:
    """The fleet in a file.

    Raises:
        FleetError: one line that names file, key, value and what was expected.
        OSError: the file cannot be read.
    """
    path = Path(path)
    table = _merged(path)
    try:
        return _preset(path.stem, table)
    except ValueError as error:
        raise FleetError(f"{path}: {error}") from None


def drawn(servers: int, seed: int, devices: Sequence[str] = EDGE_DEVICES) -> str:
    """The text of a fleet's file: devices of the catalogue at random, else as ``genai-5``.

    Args:
        servers: how many.
        seed: of the devices, each as likely, and of the rates, uniform between 100 and 500 Mbit/s.
        devices: those to draw from, by name.

    Raises:
        ValueError: no positive number of servers, or a device that the catalogue has not.
    """
    checks.require("servers", servers, checks.whole(1, _MOST))
    catalogue = tomllib.loads(DEVICES.read_text("utf-8"))
    for device in devices:
        _require_known("devices", device, catalogue)
    rng = np.random.default_rng(seed)
    rows = zip(rng.choice(devices, servers), rng.integers(100, 501, servers), strict=True)
    lines = [
        f"# Written by `jaxmec fleet draw {servers} --seed {seed}`.",
        'like = "genai-5"',
        f'about = "{servers} devices drawn from the catalogue by seed {seed}"',
        *(f'\n[[server]]\ndevice = "{device}"\nrate = {rate}.0' for device, rate in rows),
    ]
    return "\n".join(lines) + "\n"


def _merged(path: Path, seen: Sequence[Path] = ()) -> Keys:
    """What a file says, on top of the one that it is ``like``; the types are checked."""
    try:
        table: Keys = tomllib.loads(path.read_text("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise FleetError(f"{path}: it is no TOML: {error}") from None
    like = table.pop("like", None)
    needed = {name: _KEYS[name] for name in _REQUIRED if like is None}
    schema = _KEYS if like is None else {name: _partly(name) for name in _KEYS}
    try:
        checks.require("", table, checks.closed(needed, schema))
        _resolve_files(table.get("outages", {}), path.parent)
        if like is None:
            return table
        checks.require("like", like, _TEXT)
        base = _place_of(like, path)
    except ValueError as error:
        raise FleetError(f"{path}: {error}") from None
    if base.resolve() in {path.resolve(), *seen}:
        raise FleetError(f"{path}: like must name another fleet than those like it, got {like!r}")
    below = _merged(base, (*seen, path.resolve()))
    for key, value in table.items():
        below[key] = {**below.get(key, {}), **value} if isinstance(value, dict) else value
    return below


def _resolve_files(outages: Keys, folder: Path) -> None:
    """Names of files are meant from where the fleet's file is."""
    if "file" in outages:
        outages["file"] = str(folder / outages["file"])
    if "files" in outages:
        outages["files"] = [str(folder / name) for name in outages["files"]]


def _partly(name: str) -> checks.Check:
    """The check of a key where a file is like another: a table may say some of its keys."""
    inner = _KEYS[name]

    def problems(value: object, where: str) -> checks.Problems:
        for problem in inner(value, where):
            if not (isinstance(value, dict) and problem.endswith(" is missing")):
                yield problem

    return problems


def _place_of(like: str, path: Path) -> Path:
    """The file of a fleet that another is like."""
    if like in FLEETS:
        return FOLDER / f"{like}.toml"
    if not like.endswith(".toml"):
        raise ValueError(
            f"like must be one of {', '.join(FLEETS)}, or a file's name that ends in .toml, "
            f"got {like!r}{suggestion(like, FLEETS)}"
        )
    return path.parent / like


def _preset(name: str, table: Keys) -> ServingPreset:
    """The preset that a whole table means.

    Raises:
        ValueError: names the key, the value and what was expected.
    """
    checks.require("", table, checks.closed({key: _KEYS[key] for key in _REQUIRED}, _KEYS))
    variants = tuple(_variant(f"variant[{i}]", row) for i, row in enumerate(table["variant"]))
    _require_names("variant", [variant.name for variant in variants])
    outages = _outage_law(table.get("outages", {"law": "none"}))
    own = outages.law == "given" and not outages.file
    servers = _all_servers(table["server"], variants, own)
    _require_homes(variants, servers)
    classes = tuple(RequestClass(**{"quality": 0.0, **row}) for row in table["class"])
    _require_names("class", [each.name for each in classes])
    _require_shares("class", [each.share for each in classes], ".share")
    wanted = _in_common(table["requests"], len(servers))
    setting: Keys = {key: tuple(value) if isinstance(value, list) else value
               for key, value in table.get("setting", {}).items()}  # fmt: skip
    cloud = None
    if "cloud" in table:
        cloud = Cloud(**{"rate": float("inf"), **table["cloud"]})
        _require_level("cloud", cloud.variant, cloud.steps, variants)
    reference = Reference(**{"images": wanted.mean_images, **table["reference"]})
    _require_known("reference.variant", reference.variant, [v.name for v in variants])
    return ServingPreset(
        name=name,
        about=table.get("about", ""),
        servers=servers,
        cloud=cloud,
        variants=variants,
        classes=classes,
        wanted=wanted,
        reference=reference,
        outages=outages,
        setting=ServingSetting(**setting),
    )


def _outage_law(row: Keys) -> OutageLaw:
    law = OutageLaw(**{**row, "files": tuple(row.get("files", ()))})
    if law.law == "spot" and not law.files:
        raise ValueError("outages.files is missing, which the law spot needs")
    return law


def _variant(where: str, row: Keys) -> Variant:
    row = {"work": 1.0, "task_time": 0.0, **row}
    steps, quality = tuple(row.pop("steps")), tuple(row.pop("quality"))
    _require_length(f"{where}.quality", quality, len(steps), f"one for each of {where}.steps")
    _require_growing(f"{where}.steps", steps)
    _require_growing(f"{where}.quality", quality, equal=True)
    return Variant(steps=steps, quality=quality, **row)


def _all_servers(rows: list[Keys], variants: tuple[Variant, ...], own: bool) -> tuple[Server, ...]:
    """All servers; a row with a count is so many."""
    catalogue = tomllib.loads(DEVICES.read_text("utf-8"))
    found: list[Server] = []
    for index, row in enumerate(rows):
        where = f"server[{index}]"
        count, device = row.get("count", 1), row.get("device")
        if device is not None:
            _require_known(f"{where}.device", device, catalogue)
            row = {**catalogue[device], **row}
        for key in ("step_time", "memory"):
            if key not in row:
                raise ValueError(f"{where}.{key} is missing, and so is a device that has one")
        one = _server(where, row, variants, device or f"server {index}")
        if not own and {"breaks", "speed"} & set(row):
            raise ValueError(
                f"outages.law must be given, without a file, where {where} has breaks and speed"
            )
        found += [one] * count
    if len(found) > _MOST:
        raise ValueError(f"server must be at most {_MOST} servers, got {len(found)}")
    return tuple(found)


def _server(where: str, row: Keys, variants: tuple[Variant, ...], name: str) -> Server:
    """One server, its times as one number a variant."""
    times: Keywords = {"load_time": row.get("load_time")}
    for key, default in (
        ("step_time", [variant.work for variant in variants]),
        ("task_time", [variant.task_time for variant in variants]),
    ):
        value = row.get(key, default)
        if not isinstance(value, list):
            value = [value * work for work in default] if key == "step_time" else [value] * len(
                variants)  # fmt: skip
        times[key] = value
    for key, value in times.items():
        if value is not None:
            _require_length(f"{where}.{key}", value, len(variants), "one for each variant")
            times[key] = tuple(value)
    return Server(
        name=row.get("name", name),
        memory=row["memory"],
        rate=row["rate"],
        latency=row.get("latency", 0.0),
        **times,
        **_pieces(where, row),
    )


def _pieces(where: str, row: Keys) -> Keys:
    """When a server is up, as its row gives it."""
    breaks, speed = row.get("breaks", [0.0]), row.get("speed", [1.0])
    _require_length(f"{where}.speed", speed, len(breaks), f"one for each of {where}.breaks")
    if breaks[0] != 0:
        raise ValueError(f"{where}.breaks[0] must be 0, got {breaks[0]:g}")
    _require_growing(f"{where}.breaks", breaks)
    if speed[-1] == 0:
        raise ValueError(
            f"{where}.speed[{len(speed) - 1}] must be above 0, since the last piece goes on for "
            "ever, got 0"
        )
    return {"breaks": tuple(breaks), "speed": tuple(speed)}


def _in_common(row: Keys, servers: int) -> Wanted:
    images = row.get("images", [1])
    shares = row.get("images_share", [1.0] * len(images))
    origins = row.get("origin_share", [1.0] * servers)
    _require_length("requests.images_share", shares, len(images), "one for each of images")
    _require_shares("requests.images_share", shares)
    _require_shares("requests.origin_share", origins)
    if len(origins) > servers:
        raise ValueError(
            f"requests.origin_share must have at most {servers} numbers, one a server at which a "
            f"station stands, got {len(origins)}"
        )
    size, result = (value if isinstance(value, list) else [value, value]
                    for value in (row["size"], row.get("result", 0.0)))  # fmt: skip
    return Wanted(tuple(images), tuple(shares), (size[0], size[1]), (result[0], result[1]),
                 tuple(origins))  # fmt: skip


def _require_length(name: str, values: Sequence[object], length: int, what: str) -> None:
    if len(values) != length:
        raise ValueError(f"{name} must have {length} numbers, {what}, got {len(values)}")


def _require_growing(name: str, values: Sequence[float], equal: bool = False) -> None:
    for index, (less, more) in enumerate(itertools.pairwise(values)):
        if more < less or (more == less and not equal):
            raise ValueError(
                f"{name}[{index + 1}] must be {'at least' if equal else 'above'} "
                f"{name.rpartition('.')[2]}[{index}], {less:g}, got {more:g}"
            )


def _require_shares(name: str, shares: Sequence[float], entry: str = "") -> None:
    if not sum(shares) > 0:
        raise ValueError(f"{name}[0]{entry} must be above 0 where all others are 0, got 0")


def _require_names(name: str, names: Sequence[str]) -> None:
    for index, each in enumerate(names):
        if each in names[:index]:
            raise ValueError(
                f"{name}[{index}].name must be another than those before, got {each!r}"
            )


def _require_known(name: str, value: str, known: Mapping[str, object] | Sequence[str]) -> None:
    if value not in known:
        raise ValueError(
            f"{name} must be one of {', '.join(known)}, got {value!r}{suggestion(value, known)}"
        )


def _require_homes(variants: Sequence[Variant], servers: Sequence[Server]) -> None:
    largest = max(server.memory for server in servers)
    for index, variant in enumerate(variants):
        if variant.size > largest:
            raise ValueError(
                f"variant[{index}].size must fit a server, the largest of which has "
                f"{largest:g} GB, got {variant.size:g}"
            )


def _require_level(name: str, variant: str, steps: int, variants: Sequence[Variant]) -> None:
    by_name = {each.name: each for each in variants}
    _require_known(f"{name}.variant", variant, by_name)
    levels = by_name[variant].steps
    if steps not in levels:
        raise ValueError(
            f"{name}.steps must be one of {', '.join(map(str, levels))}, which {variant} has, "
            f"got {steps}"
        )
