"""How far schedulers are from the best plan known and from a lower bound."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

import tyro

from jaxmec.cli import programs
from jaxmec.cli.errors import EXIT_OK
from jaxmec.core.terminal import Screen, quoted


def run(words: Sequence[str]) -> int:
    programs.keep()
    import numpy as np

    from jaxmec import plots
    from jaxmec.studies import gap

    command = tyro.cli(gap.Command, args=list(words), prog="jaxmec gap")
    gaps = gap.run(command, say=Screen(stderr=True).print)
    if command.json:
        print(json.dumps(gap.document(gaps), indent=1))
    else:
        for measured in gaps:
            Screen(soft_wrap=False).print(gap.table(measured))
    if command.out is not None:
        samples, (label, places) = gap.samples_by_name(gaps), gap.swept(gaps)
        if len(gaps) == 1:
            rows = {name: values[:, 0] for name, values in samples.items()}
            figure = plots.comparison_bars(rows, "make-span [s]", highlight=list(rows)[:2])
        else:
            order = np.argsort(places)
            curves = {
                name: plots.Curve(places[order], values[:, order])
                for name, values in samples.items()
            }
            figure = plots.sweep_curves(curves, label, "make-span [s]")
        for file in plots.save(figure, command.out / "gap"):
            print(f"figure: {quoted(file)}", file=sys.stderr)
    return EXIT_OK
