"""Tables: pieces, forms and compression, and errors that name the file, the row and the column."""

import gzip
import json
import os
import subprocess
import sys
import threading

import numpy as np
import pytest

from jaxmec import traces
from jaxmec.traces import reading

ROWS = "t,b,note\n0,1,x\n1,2,y\n5,3,z\n"
COLUMNS = ["time=t", "size=b:MB"]
DENSE = traces.Conversion(density=1.0)


def convert(path, format="csv", columns=COLUMNS, conversion=DENSE, **options):
    return traces.convert(path, format, columns, conversion, **options)


def write(path, data):
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


def test_a_field_is_as_long_as_it_likes_where_nobody_asked_for_it(tmp_path):
    import csv

    limit = csv.field_size_limit()
    path = write(tmp_path / "log.csv", ROWS.replace("y", "y" * 200_000))
    assert convert(path).slot.tolist() == [0, 1, 5]
    assert csv.field_size_limit() == limit  # which is the whole process's
    with pytest.raises(traces.TraceError) as error:
        convert(path, columns=["time=t", "size=note:MB"])
    assert "log.csv, line 2, column 'note': expected a number" in str(error.value)
    path = write(tmp_path / "log.csv", "t,b\n" + "7" * 200_000 + ",1\n")
    with pytest.raises(traces.TraceError, match=r"'t': .*'7+\.\.\. \(200,002 characters\)$"):
        convert(path)


def test_a_file_without_a_header_has_numbers_for_names(tmp_path):
    path = write(tmp_path / "log.csv", "3,1\n4,2\n\n8,3\n")
    rows = convert(path, columns=["time=1", "size=2:MB"], header=False)
    assert rows.slot.tolist() == [0, 1, 5] and rows.size.tolist() == [8, 16, 24]
    with pytest.raises(traces.TraceError, match=r"no column '3'; it has 1, 2"):
        convert(path, columns=["time=1", "size=3:MB"], header=False)
    write(path, "3,1\n4,2,9\n")
    with pytest.raises(traces.TraceError, match="line 2: expected 2 columns as in the first row"):
        convert(path, columns=["time=1", "size=2:MB"], header=False)
    with pytest.raises(ValueError, match="header must be True for JSON"):
        convert(write(tmp_path / "log.jsonl", "{}"), header=False)


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_every_form_is_read_zipped_too(tmp_path, monkeypatch, form, zipped):
    monkeypatch.setattr(reading, "_PIECE", 2)
    path = tmp_path / f"log.{form}"
    if form == "parquet":
        arrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        table = {"t": [0, 1, 5], "b": [1, 2, 3], "note": ["x", "y", "z"]}
        parquet.write_table(arrow.table(table), path)
    elif form == "jsonl":
        rows = [{"b": b, "t": t, "note": [{}]} for t, b in ((0, 1), (1, 2), (5, 3))]
        write(path, "\n\n".join(map(json.dumps, rows)) + "\n")
    else:
        write(path, ROWS)
    if zipped:
        path = write(tmp_path / f"log.{form}.gz", gzip.compress(path.read_bytes()))
    told = []
    rows = convert(path, progress=lambda *parts: told.append(parts))
    assert rows.slot.tolist() == [0, 1, 5] and rows.size.tolist() == [8, 16, 24]
    assert len(told) == 2 and told[-1][1] == path.stat().st_size
    if zipped:
        write(path, path.read_bytes()[:-9])
        with pytest.raises(traces.TraceError, match=rf"log.{form}.gz is no whole gzip file"):
            convert(path)


def test_traces_of_ones_own_are_json_lines_or_zipped_too(tmp_path):
    row = '{"slot": 3, "origin": 1, "size:kB": 125.0, "work": 2, "deadline:ms": 500}\n'
    rows = traces.read_rows(write(tmp_path / "a.jsonl.gz", gzip.compress(row.encode())))
    assert [column.tolist() for column in rows] == [[3], [1], [1.0], [2.0], [0.0], [0.5]]
    path = traces.write(tmp_path / "a.csv.gz", rows)
    assert path.read_bytes()[:2] == b"\x1f\x8b"
    again = traces.read_rows(path)
    assert all(np.array_equal(*pair) for pair in zip(rows, again, strict=True))
    assert traces.write(tmp_path / "b.csv.gz", rows).read_bytes() == path.read_bytes()
    for name in ("a.jsonl", "a.ndjson", "a.parquet.gz"):
        with pytest.raises(ValueError, match=rf"path must end in .*got '{name}'"):
            traces.write(tmp_path / name, rows)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", '{"t": 1, "b": 1}\n{"t": 1', "line 2: expected a JSON object: Expecting"),
        ("a.jsonl", '[{"t": 1, "b": 1}]', "line 1: expected a JSON object, got [{"),
        ("a.jsonl", "[" * 10**5, "line 1: expected a JSON object: "),
        ("a.jsonl", "\n\n", "at least one row"),
        ("a.jsonl", '{"t": 1, "b": 1}\n{"t": 2}', "line 2, column 'b': expected a number above 0 "
         "(MB), got nothing"),
        ("a.jsonl", '{"t": 1, "b": true}', "line 1, column 'b': expected a number above 0 (MB), "
         "got 'true'"),
        ("a.jsonl", '{"t": NaN, "b": 1}', "line 1, column 't': expected a time in s, got 'NaN'"),
        ("a.jsonl", b'{"t": 1, "b": "\xff"}', "is no JSONL file in UTF-8"),
        ("a.csv", b"t,b\n1,\xff", "is no CSV file in UTF-8"),
        ("a.csv", 't,b\n1,"2\n', "line 2: it is no CSV: unexpected end of data"),
        ("a.csv", 't,b\n1,"2"3\n', "line 2: it is no CSV: "),
        ("a.csv", "\n\nt,b\n\n1,0\n", "line 5, column 'b': expected a number above 0 (MB)"),
        ("a.csv", 't,b,c\n1,1,"\n\n"\n1,,\n', "line 5, column 'b': expected a number above 0 (MB), "
         "got ''"),
        ("a.csv", "t,b\n", "at least one row"),
        ("a.csv", "", "at least one row"),
        ("a.parquet", "t,b\n1,1\n", "is no Parquet file"),
        ("a.parquet", b"PAR1" + b"\0" * 40 + b"PAR1", "is no Parquet file"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(tmp_path, name, content, message):
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    path = write(tmp_path / name, content)
    with pytest.raises(traces.TraceError) as error:
        convert(path)
    assert str(path) in str(error.value) and message in str(error.value)


def test_rows_of_later_pieces_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "_PIECE", 2)
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path = tmp_path / "log.parquet"
    parquet.write_table(arrow.table({"t": [1, 2, 3, None], "b": [1.0, 1.0, 1.0, 1.0]}), path)
    with pytest.raises(traces.TraceError, match=r"row 4, column 't': .* got nothing"):
        convert(path)
    path = write(tmp_path / "log.csv", "t,b\n1,1\n2,1\n3,1\n\n4,no\n")
    with pytest.raises(traces.TraceError, match=r"line 6, column 'b': .* got 'no'"):
        convert(path)


@pytest.mark.parametrize(
    ("row", "name", "wrong"),
    [
        ("0,0,1e-320,1,0,1", "size:Mbit", "1e-320"),
        ("0,0,1e39,1,0,1", "size:Mbit", "1e39"),
        ("0,0,1,2e38,0,1", "work:Tcycles", "2e38"),  # 2e41 Gcycles
        ("0,0,1,1,1e-39,1", "result:Mbit", "1e-39"),
        ("0,0,1,1,0,1e-38", "deadline:ms", "1e-38"),
    ],
)
def test_numbers_that_float32_cannot_hold_are_refused(tmp_path, row, name, wrong):
    names = "slot,origin,size:Mbit,work:Tcycles,result:Mbit,deadline:ms\n"
    path = write(tmp_path / "a.csv", f"{names}0,0,1,1,0,1\n{row}\n")
    with pytest.raises(traces.TraceError) as error:
        traces.read(path)
    assert f"a.csv, line 3, column '{name}': expected a number that float32 holds, 1.18e-38 to " \
        f"3.4e+38 " in str(error.value)  # fmt: skip
    assert str(error.value).endswith(f"got '{wrong}'")


def test_what_is_calculated_is_held_by_float32_too(tmp_path):
    path = write(tmp_path / "a.csv", "t,b\n0,1\n1,1e30\n")
    for columns, options, made in (
        (["time=t", "size=b"], {"density": 1e9}, "work"),
        (["time=t", "context=b"], {"bits_per_token": 1e20}, "size"),
        (["time=t", "context=b"], {"context_work": 1e9}, "work"),
    ):
        with pytest.raises(traces.TraceError) as error:
            convert(path, columns=columns, conversion=traces.Conversion(**options))
        assert f"a.csv, line 3, column 'b': expected what makes a {made} that float32 holds" in str(
            error.value
        )


@pytest.mark.parametrize("piece", [1, 9])
@pytest.mark.parametrize("origins", [(-1, 2), (2, -1)])
def test_a_master_node_has_all_tasks_or_none(tmp_path, monkeypatch, piece, origins):
    monkeypatch.setattr(reading, "_PIECE", piece)
    rows = "".join(f"0,{origin},1,1\n" for origin in origins)
    path = write(tmp_path / "a.csv", "slot,origin,size,work\n" + rows)
    with pytest.raises(traces.TraceError, match=r"line [23], column 'origin': .* other rows"):
        traces.read(path)


def test_a_pipe_is_read_once(tmp_path):
    if not hasattr(os, "mkfifo"):
        pytest.skip("no pipes with a name here")
    os.mkfifo(tmp_path / "pipe")
    feed = threading.Thread(target=write, args=(tmp_path / "pipe", ROWS))
    feed.start()
    assert convert(tmp_path / "pipe").slot.tolist() == [0, 1, 5]
    feed.join()


MEASURED = """
import re, sys
from pathlib import Path
from jaxmec import traces
for name in sys.argv[1:]:
    rows = traces.convert(name, columns=["time=t:ms", "size=b:kB"],
                          conversion=traces.Conversion(density=0.2))
    status = Path("/proc/self/status").read_text()
    print(len(rows.slot), re.search(r"VmHWM:\\s*(\\d+)", status)[1])  # kB, and not its parent's
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_what_is_not_asked_for_takes_no_memory(tmp_path):
    """Read at once, a file of 50 MB in which a row has 2 kB of notes took more than 100 MB."""
    files = []
    for rows in (100, 25_000):
        row = f"1700000000123,7,{'n' * 2000}\n"
        files.append(write(tmp_path / f"{rows}.csv", "t,b,note\n" + row * rows))
    command = [sys.executable, "-c", MEASURED, *files]
    out = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout
    small, large = (list(map(int, line.split())) for line in out.splitlines())
    assert (small[0], large[0]) == (100, 25_000)
    assert large[1] - small[1] < 30_000
