"""Logs: stations, failed requests, other people's layouts, and what the command line says."""

import re
import time

import numpy as np
import pytest

import jaxmec
from jaxmec import cli, traces
from jaxmec.core.terminal import Screen
from jaxmec.experiment.episode import record
from jaxmec.traces import reading

COLUMNS = ["time=t", "size=b", "origin=o"]


def run(capsys, *words):
    code = cli.main([str(word) for word in words])
    out, err = capsys.readouterr()
    return code, re.sub(r"\s+", " ", out), re.sub(r"\s+", " ", err)


def with_origins(path, origins, **options):
    """Stations of a log whose rows come a slot after the other."""
    if path.suffix == ".parquet":
        arrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        count = len(origins)
        columns = {"t": range(count), "b": [1] * count}
        table = arrow.table({name: list(values) for name, values in columns.items()})
        parquet.write_table(table.append_column("o", origins), path)
    else:
        rows = "".join(f"{row},1,{origin}\n" for row, origin in enumerate(origins))
        path.write_text("t,b,o\n" + rows, encoding="utf-8")
    conversion = traces.Conversion(density=1.0, **options)
    return traces.convert(path, columns=COLUMNS, conversion=conversion).origin.tolist()


@pytest.mark.parametrize(
    ("origins", "stations"),
    [
        (["3.0", "1.0", "3.0", "0.0"], [3, 1, 3, 0]),
        (["3", "1.0", " 3 ", "0e0"], [3, 1, 3, 0]),
        (["n3", "n1", " n3", "n0"], [0, 1, 0, 2]),
        (["1.5a", "0", "", "x"][:1], [0]),
    ],
)
def test_numbers_are_stations_and_names_are_numbered(tmp_path, origins, stations):
    assert with_origins(tmp_path / "log.csv", origins) == stations


@pytest.mark.parametrize(
    "kind",
    ["int64", "int8", "uint64", "float64", "float32", "string", "dictionary of string",
     "dictionary of int64", "decimal128"],
)  # fmt: skip
def test_parquet_stations_are_what_they_say(tmp_path, monkeypatch, kind):
    arrow = pytest.importorskip("pyarrow")
    monkeypatch.setattr(reading, "_PIECE", 3)
    of = kind.removeprefix("dictionary of ")
    values = [str(value) for value in (3, 1, 3, 0)] if of == "string" else [3, 1, 3, 0]
    column = arrow.array(values, arrow.decimal128(5, 2) if of == "decimal128" else of)
    column = column.dictionary_encode() if of != kind else column
    assert with_origins(tmp_path / "log.parquet", column) == [3, 1, 3, 0]


@pytest.mark.parametrize(
    ("origins", "message"),
    [
        (["3", ""], "line 3, column 'o': expected a station, got ''"),
        (["north", "nan"], "line 3, column 'o': expected a station, got 'nan'"),
        (["NULL", "north"], "line 2, column 'o': expected a station, got 'NULL'"),
        (["3", "north"], "line 3, column 'o': expected a number as in line 2; station_names says "
         "which is which, got 'north'"),
        (["north", "south", "3"], "line 4, column 'o': expected a name as in line 2; station_names "
         "says which is which, got '3'"),
        (["1", "2.5"], "line 3, column 'o': expected a whole number of a station, got '2.5'"),
        (["1", "-1"], "line 3, column 'o': expected a station from 0 to 4"),
        (["101", "205"], "line 2, column 'o': expected a station from 0 to 4 (stations is 5); "
         "--renumber takes them as they appear"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("piece", [1, 1000])
def test_a_station_that_is_none_is_named(tmp_path, monkeypatch, piece, origins, message):
    monkeypatch.setattr(reading, "_PIECE", piece)
    with pytest.raises(traces.TraceError) as error:
        with_origins(tmp_path / "log.csv", origins)
    assert f"{tmp_path / 'log.csv'}, {message}" in str(error.value)


@pytest.mark.parametrize("values", [[3.0, float("nan")], [3, None], ["3", None], [3.0, None]])
def test_gaps_in_parquet_are_no_stations(tmp_path, values):
    arrow = pytest.importorskip("pyarrow")
    with pytest.raises(traces.TraceError, match=r"row 2, column 'o': expected a station, got n"):
        with_origins(tmp_path / "log.parquet", arrow.array(values, from_pandas=False))


def test_numbers_that_are_no_places_are_stations_when_told(tmp_path):
    path, cells = tmp_path / "log.csv", ["262011", "262.0e3", "262011.0", "7"]
    assert with_origins(path, cells, renumber=True) == [0, 1, 0, 2]
    large = ["9007199254740993", "9007199254740992"]  # the same, as floating-point numbers
    assert with_origins(path, large, renumber=True) == [0, 1]
    names = ("7", "north", "262011", "262000")
    assert with_origins(path, cells, station_names=names) == [2, 3, 2, 0]
    assert with_origins(path, ["north", "7.0"], station_names=names) == [1, 0]
    with pytest.raises(traces.TraceError, match=r"line 3, .*expected one of 7, north, .*got 'x'"):
        with_origins(path, ["7", "x"], station_names=names)
    for options in (
        {"station_names": ("7", "7.0")},
        {"station_names": ("a", "b", "c"), "stations": 2},
    ):
        with pytest.raises(ValueError, match="station_names must be at most"):
            traces.Conversion(**options)
    with pytest.raises(ValueError, match="renumber must be False"):
        traces.Conversion(station_names=("a",), renumber=True)
    with pytest.raises(ValueError, match="station_names needs a column"):
        traces.convert(path, columns=COLUMNS[:2],
                       conversion=traces.Conversion(density=1.0, station_names=("a",)))  # fmt: skip


BURST = """Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type
5,ChatGPT,472,18,490,Conversation log
5.5,ChatGPT,13,0,13,Conversation log
45,ChatGPT,1087,230,1317,Conversation log
60,GPT-4,0,0,0,API log
118,GPT-4,417,276,693,API log
119,GPT-4,100,,100,API log
"""


def test_failed_requests_are_left_out_when_told(capsys, tmp_path):
    log, to = tmp_path / "log.csv", tmp_path / "trace.csv"
    log.write_text(BURST)
    words = ["trace", "import", log, "--format", "burstgpt", "--to", to]
    code, out, err = run(capsys, *words, "--drop", "failed")
    assert code == 0 and "tasks 3" in out, err
    assert "log.csv: left out 3 of 6 requests, which have failed" in err
    assert traces.read_rows(to).slot.tolist() == [0, 40, 113]
    code, _, err = run(capsys, *words)
    assert code == 1 and "line 7, column 'Response tokens': expected a number of tokens" in err
    assert "--drop failed" in err
    log.write_text("\n".join(BURST.splitlines()[:6]) + "\n")
    code, _, err = run(capsys, *words)
    assert code == 1 and "line 5, column 'Request tokens': expected at least 1 token" in err
    assert "--drop failed" in err
    log.write_text("\n".join(BURST.splitlines()[:4]) + "\n")
    code, out, err = run(capsys, *words)
    assert code == 0 and "tasks 3" in out and "1 of 3 requests have generated no token" in err
    code, out, err = run(capsys, *words, "--drop", "failed", "--from", "30")
    assert code == 0 and "tasks 1" in out, err
    assert traces.read_rows(to).slot.tolist() == [10]  # 45 s, 30 s after the first row at 5 s
    log.write_text("\n".join(BURST.splitlines()[:1] + BURST.splitlines()[4:5]) + "\n")
    code, _, err = run(capsys, *words, "--drop", "failed")
    assert code == 1 and "all 1 requests have failed" in err
    assert run(capsys, *words, "--drop", "fialed")[0] == 2
    with pytest.raises(ValueError, match="drop must be nothing"):
        traces.convert(log, columns=["time=Timestamp", "size=Total tokens"],
                       conversion=traces.Conversion(density=1.0, drop="failed"))  # fmt: skip


def test_mooncakes_requests(capsys, tmp_path):
    log, to = tmp_path / "conversation_trace.jsonl", tmp_path / "trace.csv"
    log.write_text(
        '{"timestamp": 27482, "input_length": 6955, "output_length": 52, "hash_ids": [46, 47]}\n'
        '{"timestamp": 30535, "input_length": 6472, "output_length": 26, "hash_ids": [46]}\n'
    )
    code, out, err = run(capsys, "trace", "import", log, "--format", "mooncake", "--to", to)
    assert code == 0 and "tasks 2" in out, err
    rows = traces.read_rows(to)
    assert rows.slot.tolist() == [0, 3] and rows.origin.tolist() == [0, 1]
    np.testing.assert_allclose(rows.size * 1e6, [6955 * 32, 6472 * 32], rtol=1e-6)
    np.testing.assert_allclose(rows.work, [6955 * 0.002 + 52 * 0.02, 6472 * 0.002 + 26 * 0.02])


TOPO4MEC = """TaskName,GenerationTime,TaskID,TaskSize,CyclesPerBit,TransBitRate,DDL,SrcName
t0,1.0,0,87,783,40,57,n21
t1,2.0,1,30,113,10,60,n8
t2,3.0,2,80,402,30,30,n21
"""


def test_raycloudsims_tasks_have_densities_deadlines_and_nodes(capsys, tmp_path):
    log, to = tmp_path / "testset.csv", tmp_path / "trace.csv"
    log.write_text(TOPO4MEC)
    words = ["trace", "import", log, "--format", "raycloudsim", "--to", to]
    code, out, err = run(capsys, *words)
    assert code == 0 and "deadline (s) 49 on average, 30 to 60" in out, err
    rows = traces.read_rows(to)
    assert to.read_text().splitlines()[0] == (
        "slot,origin,size:Mbit,work:Gcycles,result:Mbit,deadline:s"
    )
    assert rows.slot.tolist() == [0, 1, 2] and rows.origin.tolist() == [0, 1, 0]
    assert rows.size.tolist() == [87, 30, 80] and rows.deadline.tolist() == [57, 60, 30]
    np.testing.assert_allclose(rows.work, [87 * 0.783, 30 * 0.113, 80 * 0.402])
    code, _, err = run(capsys, *words, "--station-names", "n8", "n16", "n21", "n23")
    assert code == 0 and traces.read_rows(to).origin.tolist() == [2, 0, 2], err
    # The same tasks in other units, by columns.
    columns = ["--column", "size=TaskSize:kbit", "--column", "deadline=DDL:ms"]
    code, _, err = run(capsys, *words, *columns)
    rows = traces.read_rows(to)
    np.testing.assert_allclose(rows.size, [0.087, 0.03, 0.08], rtol=1e-8)
    np.testing.assert_allclose(rows.deadline, [0.057, 0.06, 0.03], rtol=1e-8)
    workload = rows.workload(slots=2)
    np.testing.assert_allclose(workload.deadline, [0.057, 0.06], rtol=1e-6)
    # A task that takes more than its own deadline has failed, though the preset has none: on 50,
    # 25 and 50 Gcycles/s they take 1.4, 0.1 and 0.6 ms.
    log.write_text(re.sub(r"(\d+)(,n)", r"1\2", TOPO4MEC))
    assert run(capsys, *words, *columns)[0] == 0
    report = jaxmec.evaluate("local", preset="lad-ts", trace=to, episodes=1)
    assert report.values["failed"].item() == pytest.approx(1 / 3)
    episode = record("local", preset="lad-ts", trace=to)
    assert (episode.failed == (episode.makespan > episode.deadline)).all()


@pytest.mark.parametrize(
    ("columns", "options", "message"),
    [
        (["time=t", "size=b", "density=d", "work=w"], {}, "the work once"),
        (["time=t", "size=b", "density=d"], {"density": 1.0}, "the work once"),
        (["time=t", "size=b", "density=d", "generated=w"], {}, "the work once"),
        (["slot=t", "size=b", "work=d"], {"start": 0.5}, "start must be a whole number"),
        (["time=t", "size=b", "work=d"], {"start": 9.0}, "start .*before the last row"),
    ],
)
def test_columns_that_make_no_task_are_refused(tmp_path, columns, options, message):
    (tmp_path / "log.csv").write_text("t,b,d,w\n0,1,1,1\n")
    with pytest.raises(ValueError, match=message):
        traces.convert(tmp_path / "log.csv", columns=columns,
                       conversion=traces.Conversion(**options))  # fmt: skip


def test_from_counts_slots_of_a_column_of_slots(tmp_path):
    (tmp_path / "log.csv").write_text("t,b,w\n9,1,1\n3,1,1\n4,1,1\n")
    rows = traces.convert(tmp_path / "log.csv", columns=["slot=t", "size=b", "work=w"],
                          conversion=traces.Conversion(start=4))  # fmt: skip
    assert rows.slot.tolist() == [0, 5] and rows.origin.tolist() == [0, 1]


def test_days_and_files_without_a_header_on_the_command_line(capsys, tmp_path):
    log, to = tmp_path / "log.csv", tmp_path / "trace.csv"
    log.write_text("0.5,3\n2.25,4\n")
    code, out, err = run(
        capsys, "trace", "import", log, "--to", to, "--no-header", "--column", "time=1:d",
        "--column", "size=2:MB", "--density", "0.1", "--slot-length", "21600",
    )  # fmt: skip
    assert code == 0 and "tasks 2" in out, err
    assert traces.read_rows(to).slot.tolist() == [0, 7]


def test_a_long_file_says_how_far_it_is(capsys, monkeypatch, tmp_path):
    """On stderr, after the first second; a clock that runs fast makes a small file a long one."""
    now = iter(range(0, 10**6, 3))
    monkeypatch.setattr(time, "monotonic", lambda: next(now))
    monkeypatch.setattr(reading, "_PIECE", 10)
    log, to = tmp_path / "log.csv", tmp_path / "trace.csv"
    log.write_text("slot,origin,size,work\n" + "0,0,1,1\n" * 100)
    code, out, err = run(capsys, "trace", "check", log)
    assert code == 0 and "tasks 100" in out
    assert re.search(r"log.csv: 0 of 0 MB read", err)
    monkeypatch.setattr(Screen, "is_terminal", True)
    assert run(capsys, "trace", "check", log)[0] == 0
    code, out, err = run(capsys, "trace", "import", log, "--to", to, "--column", "slot=slot",
                         "--column", "size=size", "--column", "work=work")  # fmt: skip
    assert code == 0 and "tasks 100" in out, err
