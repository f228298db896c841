"""Write a bundle of a trained policy, for boxes at the edge."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import tyro

from jaxmec.cli import programs
from jaxmec.cli.errors import EXIT_OK, UsageError
from jaxmec.core.terminal import quoted


@dataclasses.dataclass(frozen=True)
class Export:
    """Write a bundle of a trained policy: checkpoint, StableHLO, ONNX and a manifest."""

    run: tyro.conf.Positional[Path]  # the path of a run, or of a saved policy
    to: Path  # directory of the bundle; a bundle that is there is replaced
    one_step: bool = False  # distil a chain of K steps into one; the loss of quality is measured


def run(words: Sequence[str]) -> int:
    programs.keep()
    command = tyro.cli(Export, args=list(words), prog="jaxmec export")
    if not command.run.exists():
        raise UsageError(f"there is no run or policy at {command.run}")
    from jaxmec.deploy import export

    bundle = export.export(command.run, command.to, one_step=command.one_step)
    if measured := bundle.manifest["distilled"]:
        print(
            f"one step instead of {measured['denoising_steps']}: {measured['metric']} "
            f"{measured['student']:.4g} against {measured['teacher']:.4g} "
            f"({measured['ratio']:.3f} times), {measured['agreement']:.1%} alike"
        )
    print(f"bundle: {quoted(bundle.path)}\ndigest: {bundle.digest}")
    return EXIT_OK
