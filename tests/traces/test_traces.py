"""Trace files: what is read, what is refused and how, and runs on them."""

import csv
import json
import os
import re
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import jaxmec
from jaxmec import cli, traces
from jaxmec.envs.presets import find_preset
from jaxmec.studies import gap

OWN = "slot,origin,size:Mbit,work:Gcycles,result:Mbit\n"


def file(tmp_path, text, name="trace.csv"):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


def run(capsys, *words):
    code = cli.main([str(word) for word in words])
    out, err = capsys.readouterr()
    return code, re.sub(r"\s+", " ", out), re.sub(r"\s+", " ", err)


# The project's own form


def test_rows_are_sorted_and_units_are_read(tmp_path):
    path = file(
        tmp_path,
        "origin,slot,work:Mcycles,size:kB\n1,2,300,125\n\n0,0,100,250\n1,2,200,500\n0,2,400,1000\n",
    )
    rows = traces.read_rows(path)
    assert rows.slot.tolist() == [0, 2, 2, 2] and rows.origin.tolist() == [0, 0, 1, 1]
    np.testing.assert_allclose(rows.size, [2, 8, 1, 4])  # the earlier row of a station first
    np.testing.assert_allclose(rows.work, [0.1, 0.4, 0.3, 0.2])
    assert rows.result.tolist() == [0, 0, 0, 0] and rows.stations == 2
    workload = traces.read(path)
    assert int(workload.slots) == 3 and workload.positions == 2
    assert traces.read(path, slots=9).slots == 9
    assert traces.read(path, slots=2).slot.tolist() == [0]


@pytest.mark.parametrize("name", ["trace.csv", "trace.parquet"])
def test_what_is_written_is_read_back(tmp_path, name):
    rows = traces.Synthetic("mmpp", slots=5, load=0.2).draw(seed=3)
    again = traces.read_rows(traces.write(tmp_path / "new" / name, rows))
    assert rows.deadline is None and again.deadline is None
    for column, other in zip(rows[:5], again[:5], strict=True):
        np.testing.assert_allclose(column, other, rtol=1e-8)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (OWN + "0,0,1,1,0\n0,0,x,1,0\n", "line 3, column 'size:Mbit': expected a number above 0 "
         "(Mbit), got 'x'"),
        (OWN + "0,0,1,0,0\n", "line 2, column 'work:Gcycles': expected a number above 0 (Gcycles)"),
        (OWN + "0,0,1,nan,0\n", "line 2, column 'work:Gcycles': expected"),
        (OWN + "\n0,0,1,1,-1\n", "line 3, column 'result:Mbit': expected a number of at least 0"),
        (OWN + "0.5,0,1,1,0\n", "line 2, column 'slot': expected a whole number from 0"),
        (OWN + "1700446546,0,1,1,0\n", "line 2, column 'slot': expected a whole number from 0"),
        (OWN + "0,-2,1,1,0\n", "line 2, column 'origin': expected a whole number from -1"),
        (OWN + "0,-1,1,1,0\n1,2,1,1,0\n", "line 3, column 'origin': expected -1, a master node, "
         "as in other rows: it has all tasks or none, got '2'"),
        (OWN + "0,0,1,1\n", "line 2: expected 5 columns as in the header, got 4"),
        (OWN, "at least one row"),
        ("", "at least one row"),
        ("slot,origin,size,work\xff\n".encode("latin-1").decode("latin-1"), "not one of slot"),
        ("slot,orign,size,work\n0,0,1,1\n", "did you mean 'origin'"),
        ("slot,size,work\n0,1,1\n", "no column 'origin'"),
        ("slot,origin,size:kilo,work\n0,0,1,1\n", "'kilo' is no unit of size; expected Mbit, bit"),
        ("slot,origin,size,size:kB,work\n0,0,1,1,1\n", "one column of size"),
        ("slot,slot,size,work\n0,0,1,1\n", "different names"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_by_row_and_column(tmp_path, text, message):
    if not text.startswith(OWN) and text and "\n" in text and text.count("\n") == 1:
        text += "0,0,1,1\n"
    with pytest.raises(traces.TraceError) as error:
        traces.read(file(tmp_path, text))
    assert message in str(error.value) and "trace.csv" in str(error.value)


def test_a_file_that_is_no_table_is_refused(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"\xff\xfe\x00slot")
    with pytest.raises(traces.TraceError, match="no CSV file in UTF-8"):
        traces.read(tmp_path / "a.csv")
    (tmp_path / "a.parquet").write_bytes(b"slot,origin\n")
    with pytest.raises(traces.TraceError, match="no Parquet file"):
        traces.read(tmp_path / "a.parquet")
    with pytest.raises(FileNotFoundError):
        traces.read(tmp_path / "none.csv")


def test_parquet_errors_name_the_row(tmp_path):
    rows = traces.Rows(*(np.array(x) for x in ([0, 1], [0, 0], [1.0, -1.0], [1.0, 1.0], [0, 0])))
    with pytest.raises(traces.TraceError, match=r"row 2, column 'size:Mbit': expected .* got -1"):
        traces.read(traces.write(tmp_path / "a.parquet", rows))


def test_without_pyarrow_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r"pip install 'jaxmec\[parquet\]'"):
        traces.read(tmp_path / "a.parquet")


# Logs

AZURE = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:15:46.6805900,374,44
2023-11-16 18:15:50.9951690,396,109
2023-11-16 18:15:47.2224670,879,55
2023-11-16 18:15:51.3910170,91,16
"""
BURST = """Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type
5,ChatGPT,472,18,490,Conversation log
45,ChatGPT,1087,230,1317,Conversation log
118,GPT-4,417,276,693,API log
"""


def test_azure_rows_become_tasks_by_their_tokens(tmp_path):
    path = file(tmp_path, AZURE)
    rows = traces.convert(path, "azure-llm-2023", conversion=traces.Conversion(stations=3))
    # 0, 4.31, 0.54 and 4.71 s after the first, given in turn to stations 0, 1 (the third row) ...
    assert rows.slot.tolist() == [0, 0, 4, 4] and rows.origin.tolist() == [0, 1, 0, 2]
    np.testing.assert_allclose(rows.size * 1e6, 32 * np.array([374, 879, 91, 396]))
    np.testing.assert_allclose(rows.result * 1e6, 32 * np.array([44, 55, 16, 109]))
    np.testing.assert_allclose(
        rows.work, [0.002 * 374 + 0.02 * 44, 0.002 * 879 + 0.02 * 55, 0.182 + 0.32, 0.792 + 2.18]
    )


def test_burstgpt_rows_and_what_an_option_does(tmp_path):
    path = file(tmp_path, BURST)
    options = {"slot_length": 10.0, "rate": 2.0, "context_work": 0.0, "assign": "master"}
    rows = traces.convert(path, "burstgpt", conversion=traces.Conversion(**options, slots=3))
    assert rows.slot.tolist() == [0, 2] and rows.origin.tolist() == [-1, -1]  # 0, 40/2 and 113/2 s
    np.testing.assert_allclose(rows.work, [18 * 0.02, 230 * 0.02])
    stretched = traces.convert(path, "burstgpt", conversion=traces.Conversion(rate=0.1))
    assert stretched.slot.tolist() == [0, 400, 1130]
    one, same, other = (
        traces.convert(
            path, "burstgpt", conversion=traces.Conversion(assign="random", stations=99, seed=seed)
        ).origin.tolist()
        for seed in (1, 1, 2)
    )
    assert one == same != other


def test_columns_of_ones_own_by_name_and_unit(tmp_path):
    log = (
        "arrived,at the cell,payload:x,cycles\n200,north,250,1e8\n0,south,125,3e8\n300,north,5,1\n"
    )
    path = file(tmp_path, log)
    columns = ["time=arrived:ms", "size=payload:x:kB", "work=cycles:cycles", "origin=at the cell"]
    rows = traces.convert(path, columns=columns, conversion=traces.Conversion(slot_length=0.1))
    assert rows.slot.tolist() == [0, 2, 3]  # 0.3 / 0.1 is 2.9999999999999996
    assert rows.origin.tolist() == [1, 0, 0]  # in the order in which the file names them
    np.testing.assert_allclose(rows.size, [1, 2, 0.04])
    np.testing.assert_allclose(rows.work, [0.3, 0.1, 1e-9])
    dense = traces.convert(
        path, columns=columns[:2], conversion=traces.Conversion(density=0.2, stations=2)
    )
    np.testing.assert_allclose(dense.work, 0.2 * dense.size)


def test_parquet_logs_know_dates_themselves(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    when = np.array(["2024-01-01T00:00:00", "2024-01-01T00:00:02.5"], "datetime64[ms]")
    parquet.write_table(arrow.table({"t": when, "b": [1, 2]}), tmp_path / "log")
    rows = traces.convert(
        tmp_path / "log", "parquet", ["time=t", "size=b:MB"], traces.Conversion(density=1.0)
    )
    assert rows.slot.tolist() == [0, 2] and rows.size.tolist() == [8, 16]


@pytest.mark.parametrize(
    ("columns", "options", "message"),
    [
        (["size=payload:kB"], {}, "exactly one of time and slot"),
        (["time=t", "slot=s", "size=b"], {}, "exactly one of time and slot"),
        (["time=t", "size=b"], {}, "density"),
        (["time=t", "work=b"], {}, "size or context"),
        (["slot=t", "size=b", "work=b"], {"rate": 2}, "rate must be 1"),
        (["time=t", "size=b", "work=b"], {"density": 1}, "density must be None"),
        (["tiem=t"], {}, "did you mean 'time'"),
        (["time"], {}, "what=name"),
    ],
)
def test_columns_that_make_no_task_are_refused(tmp_path, columns, options, message):
    path = file(tmp_path, "t,b,s\n0,1,1\n")
    with pytest.raises(ValueError, match=message):
        traces.convert(path, columns=columns, conversion=traces.Conversion(**options))


@pytest.mark.parametrize(
    ("text", "columns", "message"),
    [
        ("t,b\n0,1\nno,1\n", ["time=t:ms", "size=b"], "line 3, column 't': expected a time in ms"),
        ("t,b\n2023-13-01,1\n", ["time=t:date", "size=b"], "line 2, column 't': expected a date"),
        ("t,b\n0,1\n", ["time=t", "size=bytes"], "no column 'bytes'; it has t, b"),
        ("t,b\n0,1\n", ["time=t", "size=b:kilo"], "'kilo' is no unit of size"),
        ("t,b\n0,0\n", ["time=t", "context=b"], "line 2, column 'b': expected at least 1 token"),
        ("t,b\n0,1\n5e10,1\n", ["time=t", "size=b"], "is its unit s, and slot_length right?"),
        ("t,b,o\n0,1,0\n0,1,5\n", ["time=t", "size=b", "origin=o"],
         "line 3, column 'o': expected a station from 0 to 4"),
        ("t,b,o\n" + "".join(f"0,1,c{i}\n" for i in range(6)), ["time=t", "size=b", "origin=o"],
         "line 7, column 'o': expected at most 5 different stations"),
    ],
)  # fmt: skip
def test_a_row_that_makes_no_task_is_named(tmp_path, text, columns, message):
    density = None if "context=b" in columns else 1.0
    with pytest.raises(traces.TraceError) as error:
        traces.convert(file(tmp_path, text), columns=columns,
                       conversion=traces.Conversion(density=density))  # fmt: skip
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("field", "value"),
    [("stations", 0), ("rate", 0), ("slot_length", float("nan")), ("slots", 2.5), ("assign", "x"),
     ("bits_per_token", -1), ("context_work", -1), ("density", 0)],
)  # fmt: skip
def test_a_conversion_is_checked(field, value):
    with pytest.raises(ValueError, match=field):
        traces.Conversion(**{field: value})


def test_a_real_hour_of_requests(tmp_path, capsys):
    beside = Path(__file__).parents[3] / "shared" / "data" / "azure_llm_2023_conv.csv"
    path = Path(os.environ.get("JAXMEC_AZURE_TRACE", beside))
    if not path.exists():
        pytest.skip("JAXMEC_AZURE_TRACE names no file")
    to = tmp_path / "azure.csv"
    code, out, err = run(
        capsys, "trace", "import", path, "--format", "azure-llm-2023", "--to", to, "--rate", "2"
    )
    assert code == 0, err
    assert "tasks 19,366" in out
    with path.open() as stream:
        log = list(csv.DictReader(stream))
    rows = traces.read_rows(to)
    tokens = sum(int(row["ContextTokens"]) for row in log)
    assert rows.size.sum() == pytest.approx(tokens * 32e-6, rel=1e-6)
    assert 1700 < rows.slot[-1] < 1800  # almost an hour, in half the time
    env, params = jaxmec.make(
        "MultiServerOffloading-v0", information="slot", workload=traces.read(to, slots=20)
    )
    _, state = env.reset(jax.random.key(0), params)
    assert float(state.task.work) == pytest.approx(float(rows.work[0]), rel=1e-6)


# Laws


@pytest.mark.parametrize("kind", ["diurnal", "mmpp", "heavy-tailed"])
@pytest.mark.parametrize("load", [0.3, 0.9])
def test_the_mean_load_comes_out_as_asked(kind, load):
    preset = find_preset("amcoedge")
    # Heavy tails and bursts even out slowly, hence the slots. 100 is no whole number of periods.
    law = traces.Synthetic(kind, load=load, slots=4100, size=(2, 20), period=80.0)
    measured = traces.mean_load(law.draw(seed=7).workload(4100), preset.params().network)
    assert measured == pytest.approx(load, rel=0.03)


def test_laws_are_what_they_are_called():
    def by_slot(kind, **options):
        rows = traces.Synthetic(kind, slots=2000, load=0.5, **options).draw(seed=1)
        return rows, np.bincount(rows.slot * 5 + rows.origin, minlength=10_000).reshape(2000, 5)

    rows, counts = by_slot("diurnal", amplitude=0.9, period=40)
    phase = counts.reshape(50, 40, 5).sum(axis=(0, 2)) / counts.sum() * 40
    np.testing.assert_allclose(phase, 1 + 0.9 * np.sin(2 * np.pi * np.arange(40) / 40), atol=0.1)
    assert rows.size.min() >= 2 and rows.size.max() <= 5

    _, counts = by_slot("mmpp", burst=9, busy=10, quiet=30)
    # Two levels, 9 times apart: as many busy slots as the law says, in stays of its mean length.
    busy = counts > 4 * np.median(counts)
    assert busy.mean() == pytest.approx(0.25, abs=0.05)
    stays = busy.sum() / np.count_nonzero(busy[1:] & ~busy[:-1])
    assert 6 < stays < 15
    assert counts[busy].mean() / counts[~busy].mean() == pytest.approx(9, rel=0.1)

    rows, _ = by_slot("heavy-tailed", tail=1.5, size=(1.0, 100.0))
    assert rows.size.min() >= 1 and rows.size.max() <= 100
    share = np.mean(rows.size > 10)  # (10^−a − h^−a) / (1 − h^−a)
    assert share == pytest.approx((10**-1.5 - 1e-3) / (1 - 1e-3), rel=0.1)
    even = traces.Synthetic("heavy-tailed", tail=1.0)
    assert even.mean_size == pytest.approx(traces.Synthetic("heavy-tailed", tail=1.0001).mean_size,
                                           rel=1e-3)  # fmt: skip


@pytest.mark.parametrize(
    ("field", "value"),
    [("kind", "mmp"), ("load", 0), ("slots", 0), ("amplitude", 1.5), ("burst", 0.5), ("busy", 0),
     ("quiet", float("inf")), ("tail", -1), ("size", (5, 2)), ("period", 0)],
)  # fmt: skip
def test_a_law_is_checked(field, value):
    with pytest.raises(ValueError, match=field):
        traces.Synthetic(**{"kind": "mmpp", field: value})


# Runs on a trace

TINY = (
    "--steps 60 --set num_envs=2 --set prefill=20 --set batch_size=8 --set buffer_size=100 "
    "--set eval_every=20 --set eval_episodes=1 --set hidden=8 --no-progress"
).split()


def test_a_run_on_a_trace_goes_on_with_the_same_tasks_only(tmp_path):
    path = file(tmp_path, "slot,origin,size,work\n0,0,3,1\n0,1,3,10\n2,1,3,10\n")

    def train(**options):
        return jaxmec.train(
            jaxmec.DQN(hidden=(4,)), env="SingleServerOffloading-v0", directory=tmp_path / "run",
            num_envs=1, prefill=4, batch_size=2, buffer_size=8, eval_every=4, eval_episodes=1,
            progress=False, **options,
        )  # fmt: skip

    result = train(trace=path, steps=8)
    assert jaxmec.load_policy(tmp_path / "run" / "policy").setting == result.setting
    with pytest.raises(ValueError, match="trace must be given"):
        gap.measure([result], episodes=1)
    for other in (None, traces.TraceFile.of(path, slots=1)):
        with pytest.raises(ValueError, match=r"its trace was .*trace.csv .* and is"):
            train(trace=other, steps=12, resume=True)
    report = jaxmec.evaluate(result, episodes=2)
    assert report.values["length"].tolist() == [[3, 3]]
    text = path.read_text()
    path.write_text(text + "2,1,3,9\n")
    for again in (lambda: jaxmec.evaluate(result), lambda: result.policies):
        with pytest.raises(traces.TraceError, match="not the trace that it was"):
            again()
    path.unlink()
    with pytest.raises(traces.TraceError, match="not there"):
        jaxmec.evaluate(result)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["ddrl-amsa", "ddrl-ats"])
def test_train_resume_and_evaluate_on_a_trace(capsys, tmp_path, method):
    trace, out = tmp_path / "a.csv", tmp_path / "run"
    preset = "amcoedge" if method == "ddrl-amsa" else "lad-ts"
    code, text, err = run(capsys, "trace", "synth", "--kind", "mmpp", "--preset", preset, "--to",
                          trace, "--slots", "2", "--load", "0.1")  # fmt: skip
    assert code == 0 and "load" in text, err
    tasks = len(trace.read_text().splitlines()) - 1
    on = ["train", method, "--trace", trace, "--out", out, *TINY]
    code, _, err = run(capsys, *on)
    assert code == 0, err
    code, _, err = run(capsys, *on, "--resume", "--steps", "80")
    assert code == 0, err
    code, text, err = run(capsys, "evaluate", out, "--episodes", "2", "--json")
    assert code == 0, err
    assert json.loads(text)["length"] == [[tasks, tasks]]
    policy = jaxmec.load_policy(out / "policy")
    assert policy.setting.trace == traces.TraceFile.of(trace)

    other = tmp_path / "b.csv"
    other.write_text(trace.read_text() + "3,0,2,1,0\n")
    code, _, err = run(capsys, "train", method, "--trace", other, "--out", out, *TINY, "--resume")
    assert code == 2 and str(trace) in err and str(other) in err
    assert traces.TraceFile.of(other).sha256[:12] in err
    code, _, err = run(capsys, "train", method, "--out", out, *TINY, "--resume")
    assert code == 2 and "is none now" in err
    # Asked for by name, other tasks are what the policy is tried on.
    code, text, err = run(capsys, "evaluate", out, "--trace", other, "--episodes", "1", "--json")
    assert code == 0 and json.loads(text)["length"] == [[tasks + 1]], err
    # The same tasks in another place go on; other tasks in the same place do not.
    moved = trace.rename(tmp_path / "moved.csv")
    code, _, err = run(capsys, "evaluate", out)
    assert code == 1 and "not there" in err and "--trace" in err
    code, _, err = run(
        capsys, "train", method, "--trace", moved, "--out", out, *TINY, "--steps", "100", "--resume"
    )
    assert code == 0, err
    moved.write_text(other.read_text())
    code, _, err = run(capsys, "evaluate", out)
    assert code == 1 and "not the trace that it was" in err


FOUR = "slot,origin,size,work\n0,0,3,1\n0,1,3,10\n1,4,3,1\n3,2,2,1\n"


def test_schedulers_and_studies_on_a_trace(capsys, tmp_path):
    path = file(tmp_path, FOUR)
    code, text, err = run(
        capsys,
        "evaluate",
        "local",
        "--trace",
        path,
        "--trace-slots",
        "2",
        "--episodes",
        "2",
        "--json",
    )
    assert code == 0, err
    # Alone in its queue a task takes c/f: 1/10, 10/20 and 1/50 s.
    np.testing.assert_allclose(
        json.loads(text)["makespan"], [[(1 / 10 + 10 / 20 + 1 / 50) / 3] * 2], rtol=1e-5
    )
    code, text, err = run(
        capsys, "compare", "--schedulers", "local", "--trace", path,
        "--episodes", "1", "--out", tmp_path / "study", "--no-progress",
    )  # fmt: skip
    assert code == 0 and "trace.csv" in text, err
    again = [capsys, "compare", "--schedulers", "local", "--trace", path,
             "--episodes", "1", "--out", tmp_path / "study", "--plan"]  # fmt: skip
    assert run(*again)[1].count("finished") == 1
    path.write_text(path.read_text() + "3,2,2,1\n")
    assert run(*again)[1].count("to do") == 1
    assert run(capsys, "gap", "optimal", "--trace", path, "--loads", "0.5")[0] == 2
    assert run(capsys, "evaluate", "optimal", "--trace-slots", "2")[0] == 2


@pytest.mark.slow
def test_a_gap_on_a_trace(capsys, tmp_path):
    words = ["gap", "optimal", "--trace", file(tmp_path, FOUR), "--episodes", "1", "--json"]
    code, text, err = run(capsys, *words)
    assert code == 0, err
    assert json.loads(text)["places"][0]["tasks"] == 3  # of the first two slots


def test_check_says_what_is_in_a_file_and_what_is_wrong(capsys, tmp_path):
    path = file(tmp_path, "slot,origin,size,work\n0,0,3,75\n1,4,3,75\n")
    code, text, _ = run(capsys, "trace", "check", path)
    assert code == 0
    for part in ("tasks 2", "slots 2", "stations 5", "load 0.5 of preset amcoedge"):
        assert part in text
    path.write_text("slot,origin,size,work\n0,7,3,75\n")
    code, _, err = run(capsys, "trace", "check", path)
    assert code == 1 and "expected at most 4" in err and "amcoedge-8" in err
    assert run(capsys, "trace", "check", path, "--preset", "lad-ts")[0] == 0
    path.write_text("slot,origin,size,work\n0,0,3,much\n")
    code, _, err = run(capsys, "trace", "check", path)
    assert code == 1 and "line 2, column 'work'" in err
    assert run(capsys, "trace", "check", tmp_path / "none.csv")[0] == 1
    assert run(capsys, "trace", "chek", path)[0] == 2 and run(capsys, "trace")[0] == 2
    assert run(capsys, "trace", "--help")[0] == 0


def test_import_by_columns_on_the_command_line(capsys, tmp_path):
    log = file(tmp_path, "when,bytes\n0,1000\n90,2000\n", "log.csv")
    to = tmp_path / "trace.parquet"
    code, text, err = run(
        capsys, "trace", "import", log, "--to", to, "--column", "time=when:min", "--column",
        "size=bytes:kB", "--density", "0.2", "--stations", "2", "--slot-length", "60",
    )  # fmt: skip
    assert code == 0 and "slots 91" in text, err
    assert traces.read_rows(to).size.tolist() == [8, 16]
    code, _, err = run(capsys, "trace", "import", log, "--to", to, "--format", "azure")
    assert code == 2 and "azure-llm-2023" in err
