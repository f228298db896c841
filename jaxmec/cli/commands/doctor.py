"""What is installed here, and what to do about what is broken.

Imports nothing that might be missing or broken before it is tried, JAX least of all.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import importlib.metadata
import platform
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import tyro

from jaxmec.cli import programs
from jaxmec.cli.errors import EXIT_FAILED, EXIT_OK
from jaxmec.core.terminal import quoted

# Where the name to import is not the distribution's.
MODULES = {"orbax-checkpoint": "orbax.checkpoint"}
EDGE = "jaxmec-edge"  # the distribution of what runs beside a base station
PYTHONS = ((3, 11), (3, 14))  # from, and up to but without


@dataclasses.dataclass(frozen=True)
class Doctor:
    """What jaxmec stands on here; where something required is broken, what to do, and exit 1."""


def run(words: Sequence[str]) -> int:
    tyro.cli(Doctor, args=list(words), prog="jaxmec doctor")
    report = examine(programs.directory())
    print("\n".join(map(quoted, str(report).split("\n"))))
    return EXIT_FAILED if report.broken else EXIT_OK


@dataclasses.dataclass(frozen=True)
class Finding:
    """One line of the report."""

    name: str
    says: str
    remedy: str = ""  # what to do, where something required is broken


@dataclasses.dataclass(frozen=True)
class Diagnosis:
    """What was found."""

    required: tuple[Finding, ...]  # Python and what jaxmec cannot do without
    devices: Finding
    programs: Finding
    extras: tuple[Finding, ...]

    @property
    def broken(self) -> tuple[Finding, ...]:
        """What must be repaired."""
        return tuple(found for found in (*self.required, self.devices) if found.remedy)

    def __str__(self) -> str:
        lines = []
        for found in (*self.required, self.devices, self.programs):
            lines.append(f"{found.name:<17} {found.says}")
        lines.append("extras")
        lines += [f"  {found.name:<15} {found.says}" for found in self.extras]
        if self.broken:
            lines.append("to do")
            lines += [f"  {found.name}: {found.remedy}" for found in self.broken]
        return "\n".join(lines)


def examine(kept: Path | None) -> Diagnosis:
    """Look at everything; raises nothing.

    Args:
        kept: the directory of compiled programs; None where none are kept.
    """
    own, texts = _installed()
    required: list[str] = []
    extras: dict[str, list[str]] = {}
    for text in texts:
        if extra := re.search(r"extra\s*==\s*['\"]([\w.-]+)['\"]", text):
            extras.setdefault(extra[1], []).append(text)
        else:
            required.append(text)
    return Diagnosis(
        required=(_python(), own, *map(_required, required)),
        devices=Finding("devices", "not looked for: jaxmec-edge does without JAX")
        if own.name == EDGE
        else _jax_devices(),
        programs=_installed_programs(kept),
        extras=tuple(
            Finding(name, "installed" if not (missing := _missing(name, extras, set()))
                    else f"pip install '{own.name}[{name}]'  (not here: {', '.join(missing)})")
            for name in sorted(extras)
        ),
    )  # fmt: skip


def _installed() -> tuple[Finding, list[str]]:
    """Which of the two distributions is here, and what it requires."""
    for name in ("jaxmec", EDGE):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            requires = importlib.metadata.requires(name) or []
            return Finding(name, importlib.metadata.version(name)), requires
    return Finding("jaxmec", "not installed", "pip install -e . in its repository"), []


def _python() -> Finding:
    low, high = (".".join(map(str, version)) for version in PYTHONS)
    says = f"{platform.python_version()}, {sys.executable}"
    if PYTHONS[0] <= sys.version_info[:2] < PYTHONS[1]:
        return Finding("python", says)
    return Finding("python", says, f"use a Python from {low} up to, but without, {high}")


def _name(requirement: str) -> str:
    found = re.match(r"\s*([\w.-]+)", requirement)
    return found[1] if found else requirement


def _specifier(requirement: str) -> str:
    """The versions that a requirement allows, without its extras and its marker."""
    text = requirement.split(";")[0].strip()[len(_name(requirement)) :]
    return re.sub(r"^\s*\[[^\]]*\]", "", text).strip().strip("()")


def _version(requirement: str) -> tuple[str | None, bool]:
    """What is installed of a requirement, and whether it is a version that is allowed."""
    try:
        version = importlib.metadata.version(_name(requirement))
    except importlib.metadata.PackageNotFoundError:
        return None, False
    try:
        from packaging.specifiers import SpecifierSet

        return version, SpecifierSet(_specifier(requirement)).contains(version, prereleases=True)
    except Exception:  # packaging is missing or broken, and is on the list itself
        return version, True


def _required(requirement: str) -> Finding:
    name, allowed = _name(requirement), _specifier(requirement)
    version, fits = _version(requirement)
    install = f"pip install '{name}{allowed}'"
    if version is None:
        return Finding(name, "not installed", install)
    if not fits:
        return Finding(name, f"{version}, not {allowed}", install)
    try:
        importlib.import_module(MODULES.get(name, name))
    except Exception as error:
        return Finding(
            name,
            f"{version}, cannot be imported: {_short(error)}",
            f"pip install --force-reinstall '{name}{allowed}'",
        )
    return Finding(name, version)


def _jax_devices() -> Finding:
    try:
        import jax

        devices = jax.devices()
        jaxlib = importlib.metadata.version("jaxlib")
    except Exception as error:
        return Finding(
            "devices",
            f"none: {_short(error)}",
            "repair jax; where it asks for an accelerator that is not there, JAX_PLATFORMS=cpu",
        )
    kinds: dict[str, int] = {}
    for device in devices:
        kind = device.platform if device.platform == device.device_kind else (
            f"{device.platform} ({device.device_kind})"
        )  # fmt: skip
        kinds[kind] = kinds.get(kind, 0) + 1
    count = ", ".join(f"{number} x {kind}" for kind, number in kinds.items())
    return Finding("devices", f"{count}; jaxlib {jaxlib}")


def _installed_programs(place: Path | None) -> Finding:
    if place is None:
        return Finding("programs", "not kept: there is no home directory")
    try:
        sizes = [file.stat().st_size for file in place.rglob("*") if file.is_file()]
    except OSError as error:
        return Finding("programs", f"{place}: {_short(error)}")
    return Finding("programs", f"{place}: {len(sizes)} files, {sum(sizes) / 1e6:.1f} MB")


def _missing(extra: str, extras: dict[str, list[str]], seen: set[str]) -> list[str]:
    """The distributions of an extra, and of extras that it takes, that are not here."""
    seen.add(extra)
    missing: list[str] = []
    for text in extras.get(extra, ()):
        if not _for_this_machine(text, extra):
            continue
        if _name(text) == "jaxmec":
            for inner in _extras_of(text):
                if inner not in seen:
                    missing += _missing(inner, extras, seen)
            continue
        version, fits = _version(text)
        if version is None:
            missing.append(_name(text))
        elif not fits:
            missing.append(f"{_name(text)}{_specifier(text)}")
        for inner in _extras_of(text):  # jax[cuda13]: what it brings is what matters
            missing += _missing_of(_name(text), inner)
    return list(dict.fromkeys(missing))


def _missing_of(name: str, extra: str) -> list[str]:
    """The distributions that another distribution's extra asks for and that are not here."""
    try:
        texts = importlib.metadata.requires(name) or []
    except importlib.metadata.PackageNotFoundError:
        return []
    asked = [
        text
        for text in texts
        if re.search(rf"extra\s*==\s*['\"]{re.escape(extra)}['\"]", text)
        and _for_this_machine(text, extra)
    ]
    return [_name(text) for text in asked if _version(text)[0] is None]


def _extras_of(requirement: str) -> list[str]:
    found = re.match(r"\s*[\w.-]+\s*\[([^\]]*)\]", requirement)
    return [part.strip() for part in found[1].split(",")] if found else []


def _for_this_machine(requirement: str, extra: str) -> bool:
    try:
        from packaging.requirements import Requirement

        marker = Requirement(requirement).marker
        return marker is None or marker.evaluate({"extra": extra})
    except Exception:  # packaging is missing or broken
        return True


def _short(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return text[0] if text else type(error).__name__
