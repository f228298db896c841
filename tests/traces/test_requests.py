"""Traces of requests for pictures: files, logs, and the law of arrivals that they are."""

from __future__ import annotations

import numpy as np
import pytest

import jaxmec
from jaxmec import traces
from jaxmec.experiment.setting import Setting
from jaxmec.serving import Recorded, find_serving_preset
from jaxmec.traces import (
    RequestConversion,
    RequestRows,
    TraceError,
    TraceFile,
    convert_requests,
    read_requests,
    write_requests,
)

FLEET = find_serving_preset("genai-5")
ROWS = RequestRows(
    time=np.array([0.0, 1.25, 2_592_000.123456]),
    origin=np.array([0, 4, 1]),
    images=np.array([1, 8, 2]),
    size=np.array([0.3, 6.25, 1.0]),
    result=np.array([0.7, 0.7, 0.0]),
    quality=np.array([0.4, 0.9, 0.0]),
    limit=np.array([5.0, 40.0, np.inf]),
    model=np.array(["M0", 'a "b", c', ""], object),
)


def same(one, two):
    for name in RequestRows._fields:
        mine, theirs = getattr(one, name), getattr(two, name)
        if name == "model":
            assert (mine is None) == (theirs is None)
            assert mine is None or mine.tolist() == theirs.tolist()
        else:
            np.testing.assert_allclose(mine, theirs, rtol=1e-8, err_msg=name)


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz", "a.parquet"])
def test_what_is_written_is_read(tmp_path, name):
    path = write_requests(tmp_path / name, ROWS)
    found = read_requests(path)
    same(found, ROWS)
    assert found.time[2] == pytest.approx(2_592_000.123456, abs=1e-6)  # not to nine digits only
    assert traces.of_requests(path)
    assert found.stations == 5


def test_what_may_be_missing_and_other_units(tmp_path):
    (tmp_path / "a.csv").write_text(
        "origin,time:ms,size:kB,images,limit:min\n1,1500,125,2,1\n0,500,250,1,\n"
    )
    found = read_requests(tmp_path / "a.csv")
    assert found.time.tolist() == [0.5, 1.5] and found.origin.tolist() == [0, 1]
    np.testing.assert_allclose(found.size, [2.0, 1.0])
    assert found.limit.tolist() == [np.inf, 60] and found.model is None
    assert found.quality.tolist() == [0, 0] and found.result.tolist() == [0, 0]


HEAD = "time,origin,images,size,quality,limit\n"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (HEAD + "0,0,1,1,.5,5\n-1,0,1,1,.5,5\n", "line 3, column 'time': expected a number of at "
         "least 0 (s), got '-1'"),
        (HEAD + "0,0.5,1,1,.5,5\n", "line 2, column 'origin': expected a whole number from 0"),
        (HEAD + "0,0,0,1,.5,5\n", "line 2, column 'images': expected a whole number from 1"),
        (HEAD + "0,0,1,nan,.5,5\n", "line 2, column 'size': expected a number of at least 0"),
        (HEAD + "0,0,1,1,1.5,5\n", "line 2, column 'quality': expected a number of 0 to 1, got "
         "'1.5'"),
        (HEAD + "0,0,1,1,.5,0\n", "line 2, column 'limit': expected a number above 0 (s), got '0'"),
        (HEAD + "0,0,1,1,.5\n", "line 2: expected 6 columns"),
        ("time,origin,image,size\n0,0,1,1\n", "column 'image' is not one of time, origin, images"),
        ("time,origin,image,size\n0,0,1,1\n", "did you mean 'images'?"),
        ("time,origin,images\n0,0,1\n", "there is no column 'size'"),
        ("time:Mbit,origin,images,size\n0,0,1,1\n", "'Mbit' is no unit of time; expected s, ms"),
        ("time,time:ms,origin,images,size\n0,0,0,1,1\n", "expected one column of time, got two"),
        ("slot,origin,size,work\n0,0,1,1\n", "column 'slot' is not one of time"),
        (HEAD, "expected a header and at least one row"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(tmp_path, text, says):
    path = tmp_path / "a.csv"
    path.write_text(text)
    with pytest.raises(TraceError) as caught:
        read_requests(path)
    assert str(path) in str(caught.value) and says in str(caught.value)


GENTD26 = (
    "gmt_create,predict_type,predict_status,exec_time_seconds,groupId,prompt_length,"
    "negative_prompt_length,num_images_per_prompt,num_inference_steps,"
    "checkpoint_model_version_id,num_lora\n"
)  # and rows of our own, not of the data
LINES = [
    "2024-11-15 10:00:30,TXT_2_IMG,SUCCEED,32.0,G7,63.0,26.0,1.0,30.0,M3,0",
    "2024-11-15 10:00:00,TXT_2_IMG,SUCCEED,43.0,G1,93.0,,8.0,40.0,M1,0",
    "2024-11-15 10:01:00,IMG_2_IMG,FAILED,3.0,G2,93.0,,4.0,40.0,M1,0",
    "2024-11-15 10:02:00,INPAINTING,SUCCEED,9.0,G7,12.0,,,40.0,M1,2",
]


@pytest.fixture
def log(tmp_path):
    path = tmp_path / "lora_request_trace.csv"
    path.write_text(GENTD26 + "\n".join(LINES) + "\n")
    return path


def test_the_layout_of_gentd26(log):
    said = []
    rows = convert_requests(log, FLEET, "gentd26", say=said.append)
    assert rows.time.tolist() == [0, 30, 60, 120]
    assert rows.model.tolist() == ["M1", "M3", "M1", "M1"]
    assert rows.images[:3].tolist() == [8, 1, 4] and rows.images[3] in (1, 2, 4, 8)
    # Whoever asks keeps to a station, given in turn: G7, G1, G2.
    assert rows.origin.tolist() == [1, 0, 2, 0]
    assert said == ["1 of 4 requests have failed; --drop failed leaves them out"]
    kinds = {(each.quality, each.limit) for each in FLEET.classes}
    assert set(zip(rows.quality, rows.limit, strict=True)) <= kinds
    assert np.all((rows.size >= 0.3) & (rows.size <= 6.3)) and np.all(rows.result == 0.7)


def test_failed_requests_are_left_out_and_time_is_squeezed(log):
    conversion = RequestConversion(drop="failed", rate=10.0, start=15.0, seconds=4.0, stations=1)
    rows = convert_requests(log, FLEET, "gentd26", conversion=conversion)
    assert rows.time.tolist() == [1.5] and rows.origin.tolist() == [0]


def test_what_is_drawn_is_drawn_by_the_seed_and_as_the_fleet_asks(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("at\n" + "\n".join(map(str, range(20_000))) + "\n")
    rows = [
        convert_requests(path, FLEET, columns=["time=at:ms"], conversion=RequestConversion(seed=s))
        for s in (0, 0, 1)
    ]
    same(rows[0], rows[1])
    assert not np.array_equal(rows[0].images, rows[2].images)
    np.testing.assert_allclose(rows[0].time, np.arange(20_000) / 1000)
    for images, share in zip((1, 2, 4, 8), (0.58, 0.08, 0.19, 0.15), strict=True):
        assert np.mean(rows[0].images == images) == pytest.approx(share, abs=0.015)
    for limit, share in ((5, 0.3), (15, 0.5), (40, 0.2)):
        assert np.mean(rows[0].limit == limit) == pytest.approx(share, abs=0.015)
    np.testing.assert_allclose(np.bincount(rows[0].origin) / 20_000, 0.2, atol=0.015)


def test_logs_of_tasks_say_their_times(tmp_path):
    path = tmp_path / "azure.csv"
    path.write_text(
        "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.68,374,44\n"
        "2023-11-16 18:15:50.99,396,109\n"
    )
    rows = convert_requests(path, FLEET, "azure-llm-2023")
    np.testing.assert_allclose(rows.time, [0, 4.31])
    path.write_text("GenerationTime,TaskSize,CyclesPerBit,DDL,SrcName\n1,2,3,4,e0\n2,3,4,9,e1\n")
    rows = convert_requests(path, FLEET, "raycloudsim")
    assert rows.size.tolist() == [2, 3] and rows.limit.tolist() == [4, 9]
    assert rows.origin.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("columns", "conversion", "error", "says"),
    [
        (["work=w"], {}, ValueError, "column 'work' is not one of time, origin, images"),
        (["images=n"], {}, ValueError, "columns must name a time"),
        (["time=t", "images=n"], {"drop": "failed"}, ValueError, "drop must be nothing where no"),
        (["time=t"], {"start": 99.0}, ValueError, "start and seconds must leave a row"),
        (["time=t", "images=n"], {}, TraceError, "line 3, column 'n': expected a whole number"),
        (["time=t", "origin=o"], {}, TraceError, "line 3, column 'o': expected a station from 0 to "
         "4, or a name, got '7'"),
        (["time=no"], {}, TraceError, "there is no column 'no'"),
        (["time=t", "status=s"], {"drop": "failed"}, TraceError, "all 2 requests have failed"),
    ],
)  # fmt: skip
def test_conversions_that_cannot_be(tmp_path, columns, conversion, error, says):
    path = tmp_path / "log.csv"
    path.write_text("t,n,o,s\n0,1,0,no\n1,x,7,no\n")
    with pytest.raises(error, match=says):
        convert_requests(path, FLEET, columns=columns, conversion=RequestConversion(**conversion))


@pytest.mark.parametrize(
    ("field", "value"), [("rate", 0.0), ("start", -1.0), ("seconds", 0.0), ("drop", "x"),
                         ("stations", 0)],
)  # fmt: skip
def test_numbers_of_a_conversion_are_checked(field, value):
    with pytest.raises(ValueError, match=f"^{field} must be"):
        RequestConversion(**{field: value})


def test_a_trace_is_a_law_of_arrivals(tmp_path):
    law = ROWS.arrivals()
    assert isinstance(law, Recorded) and law.num_stations == 5
    path = write_requests(tmp_path / "a.csv", ROWS)
    setting = Setting("GenerativeServing-v0", "genai-5", trace=TraceFile.of(path))
    _, params = setting.make()
    np.testing.assert_allclose(params.arrivals.arrival, ROWS.time, rtol=1e-6)
    assert "arrivals" in setting.tasks
    window = Setting("GenerativeServing-v0", "genai-5", options=(("anywhere", True),),
                     trace=TraceFile.of(path)).make()[1].arrivals.window  # fmt: skip
    assert float(window) == 600
    with pytest.raises(ValueError, match="slots must be None for a trace of requests, got 5"):
        Setting("GenerativeServing-v0", "genai-5", trace=TraceFile.of(path, 5)).make()
    with pytest.raises(TraceError, match="column 'time:s' is not one of slot"):
        Setting("MultiServerOffloading-v0", "amcoedge", trace=TraceFile.of(path)).make()


def test_more_stations_than_servers_are_refused():
    rows = ROWS._replace(origin=np.array([0, 1, 7]))
    with pytest.raises(ValueError, match="num_stations must be at most the number of servers"):
        jaxmec.make("GenerativeServing-v0", workload=rows.arrivals())


def test_rules_are_evaluated_on_a_trace(tmp_path):
    time = np.arange(1.0, 31.0)
    rows = RequestRows(time, np.arange(30) % 5, np.ones(30, int), np.ones(30), np.zeros(30),
                       np.full(30, 0.4), np.full(30, 9.0))  # fmt: skip
    path = write_requests(tmp_path / "a.csv", rows)
    where = {"env": "GenerativeServing-v0", "outages": 0.0}
    report = jaxmec.evaluate("shortest", trace=path, episodes=2, **where)
    np.testing.assert_array_equal(report.values["length"], 30)  # a decision a request
    with pytest.raises(TypeError, match="trace and workload are both arrivals"):
        jaxmec.evaluate(
            "shortest", env="GenerativeServing-v0", trace=path, workload=rows.arrivals()
        )
