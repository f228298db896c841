"""Tasks of your own: trace files, read and checked, made from logs, or drawn from a law.

A trace file is CSV or, where its name ends in ``.parquet``, Parquet, with one task a row::

    slot,origin,size:Mbit,work:Gcycles,result:Mbit
    0,2,3.1,0.52,0

``result`` may be missing and is then 0. A column ``deadline`` in s gives each task its own, in the
place of the environment's. The unit after a colon may be missing (Mbit, Gcycles and s then) or
another one of ``UNITS``. Rows may come in any order: they are sorted by slot and station, and of
one station's slot the earlier row is decided first. JSON lines (``.jsonl``) are read too, and
``.gz`` may follow every name.
"""

from jaxmec.traces.files import (
    OWN,
    Rows,
    TraceFile,
    describe,
    mean_load,
    read,
    read_rows,
    write,
)
from jaxmec.traces.laws import Synthetic
from jaxmec.traces.logs import FORMATS, Conversion, convert
from jaxmec.traces.reading import LARGEST, SMALLEST, UNITS, PathLike, TraceError

__all__ = [
    "FORMATS",
    "LARGEST",
    "OWN",
    "SMALLEST",
    "UNITS",
    "Conversion",
    "PathLike",
    "Rows",
    "Synthetic",
    "TraceError",
    "TraceFile",
    "convert",
    "describe",
    "mean_load",
    "read",
    "read_rows",
    "write",
]
