"""Answer over HTTP where tasks go, from a bundle."""

from __future__ import annotations

import dataclasses
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from jaxmec.cli.errors import EXIT_OK, extra


def run(words: Sequence[str]) -> int:
    with extra("serve"):
        from jaxmec.deploy.server import ServeConfig, serve

    flat = Annotated[ServeConfig, tyro.conf.arg(name="")]
    command: Any = dataclasses.make_dataclass(
        "Serve",
        [("bundle", tyro.conf.Positional[Path]), ("config", flat, ServeConfig())],
        frozen=True,
    )
    command.__doc__ = "Answer over HTTP where tasks go; SIGHUP reloads, SIGTERM stops."
    parsed: Any = tyro.cli(command, args=list(words), prog="jaxmec serve")
    try:
        serve(parsed.bundle, parsed.config)
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # once more would interrupt its last word
        raise
    return EXIT_OK
