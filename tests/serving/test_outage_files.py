"""Files that say when servers were up: what is read, and what is wrong by row and key."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from jaxmec.serving import FleetError, given, read_outages, read_spot


def record(path, data, gap=600):
    path.write_text(json.dumps({"metadata": {"gap_seconds": gap}, "data": data}))
    return path


def test_records_are_squeezed_and_counts_are_up(tmp_path):
    law = read_spot([record(tmp_path / "a.json", [0, 1, 2, 0, 0, 16])], horizon=30, squeeze=60)
    assert float(law.gap[0]) == 10 and int(law.entries[0]) == 6
    np.testing.assert_array_equal(law.begins[0], [0, 1, 3, 5])
    np.testing.assert_array_equal(law.up[0], [False, True, False, True])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("no", "it is no JSON"),
        ("[1, 2]", "must be an object, got a list of 2"),
        ('{"data": [1, 1]}', "metadata is missing"),
        ('{"metadata": {"gap_seconds": 0}, "data": [1, 1]}', "metadata.gap_seconds must be a "
         "finite number above 0, got 0"),
        ('{"metadata": {"gap_seconds": 9}, "data": [1, -1]}', "data[1] must be a whole number of "
         "at least 0, got -1"),
        ('{"metadata": {"gap_seconds": 9}, "data": [1, 0.5]}', "data[1] must be a whole number"),
        ('{"metadata": {"gap_seconds": 9}, "data": [1, 1]}', "data must have at least 13 entries, "
         "for an episode of 100 s at 9 s an entry, got 2"),
    ],
)  # fmt: skip
def test_what_is_no_record(tmp_path, text, says):
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(FleetError, match=re.escape(says)):
        read_spot([path], horizon=100)


def test_lists_of_outages(tmp_path):
    (tmp_path / "a.csv").write_text("server, begin,end,speed\n1,5,9,0.5\n\n0,2.5,3,0\n")
    (tmp_path / "b.csv").write_text("\ufeffend,begin,server\n9,5,1\n")
    (tmp_path / "c.toml").write_text(
        "[[outage]]\nserver = 1\nbegin = 5\nend = 9\n[[outage]]\nserver = 0\nbegin = 0.5\n"
        "end = 1\nspeed = 0.2\n"
    )
    assert read_outages(tmp_path / "a.csv") == [(1, 5, 9, 0.5), (0, 2.5, 3, 0)]
    assert read_outages(tmp_path / "b.csv") == [(1, 5, 9, 0)]
    troubles = read_outages(tmp_path / "c.toml")
    assert troubles == [(1, 5, 9, 0), (0, 0.5, 1, 0.2)]
    availability = given(2, troubles)
    np.testing.assert_allclose(availability.breaks[0], [0, 0.5, 1])


HEAD = "server,begin,end\n"


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("a.csv", HEAD + "0,1,2\n0,x,3\n", "line 3.begin must be a finite number of at least 0, "
         "got 'x'"),
        ("a.csv", HEAD + "0,5,4\n", "line 2.end must be above begin, 5, got 4"),
        ("a.csv", HEAD + "-1,5,6\n", "line 2.server must be a whole number of at least 0, got -1"),
        ("a.csv", HEAD + "0,nan,6\n", "line 2.begin must be a finite number of at least 0, "
         "got nan"),
        ("a.csv", HEAD + "0,1\n", "line 2 must have 3 columns, got 2"),
        ("a.csv", "server,beginn,end\n", "got 'beginn'; did you mean 'begin'?"),
        ("a.csv", "server,begin\n", "there is no column 'end'"),
        ("a.csv", "server,begin,end,end\n", "each once, got 'end'"),
        ("a.csv", "", "there is no column 'server'"),
        ("a.toml", "[[outage]]\nserver = 0\nbegin = 1\n", "outage[0].end is missing"),
        ("a.toml", "[[outage]]\nsrver = 0\nbegin = 1\nend=2\n", "outage[0].srver is not one of "
         "server, begin, end, speed; did you mean 'server'?"),
        ("a.toml", "[[outages]]\nserver = 0\n", "outages is not one of outage; did you mean "
         "'outage'?"),
        ("a.toml", "x", "Expected '='"),
    ],
)  # fmt: skip
def test_what_is_wrong_in_a_list(tmp_path, name, text, says):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(FleetError) as caught:
        read_outages(path)
    assert str(caught.value).startswith(f"{path}: ") and says in str(caught.value)
    assert "\n" not in str(caught.value)
