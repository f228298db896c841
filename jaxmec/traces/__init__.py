"""Tasks of your own: trace files, read and checked, made from logs, or drawn from a law.

A trace file is CSV or, where its name ends in ``.parquet``, Parquet, with one task a row::

    slot,origin,size:Mbit,work:Gcycles,result:Mbit
    0,2,3.1,0.52,0

``result`` may be missing and is then 0. A column ``deadline`` in s gives each task its own, in the
place of the environment's. The unit after a colon may be missing (Mbit, Gcycles and s then) or
another one of ``UNITS``. Rows may come in any order: they are sorted by slot and station, and of
one station's slot the earlier row is decided first. JSON lines (``.jsonl``) are read too, and
``.gz`` may follow every name. A trace of requests for pictures has other columns
(:mod:`jaxmec.traces.requests`).
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
from jaxmec.traces.reading import (
    LARGEST,
    REQUEST_UNITS,
    SMALLEST,
    UNITS,
    PathLike,
    TraceError,
)
from jaxmec.traces.requests import (
    REQUEST_COLUMNS,
    REQUEST_FORMATS,
    RequestConversion,
    RequestRows,
    convert_requests,
    describe_requests,
    of_requests,
    read_requests,
    write_requests,
)

__all__ = [
    "FORMATS",
    "LARGEST",
    "OWN",
    "REQUEST_COLUMNS",
    "REQUEST_FORMATS",
    "REQUEST_UNITS",
    "SMALLEST",
    "UNITS",
    "Conversion",
    "PathLike",
    "RequestConversion",
    "RequestRows",
    "Rows",
    "Synthetic",
    "TraceError",
    "TraceFile",
    "convert",
    "convert_requests",
    "describe",
    "describe_requests",
    "mean_load",
    "of_requests",
    "read",
    "read_requests",
    "read_rows",
    "write",
    "write_requests",
]
