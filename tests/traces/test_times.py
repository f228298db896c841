"""Times and slots: exact, whatever the file's unit, its digits and the slots' length."""

import datetime
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from jaxmec import traces

UNITS = {"s": Fraction(1), "ms": Fraction(1, 10**3), "us": Fraction(1, 10**6),
         "ns": Fraction(1, 10**9), "min": Fraction(60), "h": Fraction(3600),
         "d": Fraction(86400)}  # fmt: skip


def slots_of(path, times, unit, length, **options):
    """Of a log with these times, written as they are."""
    path.write_text("t,b\n" + "".join(f"{time},1\n" for time in times), encoding="utf-8")
    return traces.convert(
        path,
        columns=[f"time=t:{unit}", "size=b:MB"],
        conversion=traces.Conversion(slot_length=length, density=1.0, **options),
    ).slot.tolist()


@pytest.mark.parametrize(
    ("unit", "write"),
    [
        ("s", lambda ms: f"{ms // 1000}.{ms % 1000:03}"),
        ("s", lambda ms: f"{ms / 1000!r}"),
        ("ms", str),
        ("us", lambda ms: f"{ms}000"),
        ("ns", lambda ms: f"{ms}000000"),
        ("s", lambda ms: f"{ms}e-3"),
        ("date", lambda ms: f"{moment(ms):%Y-%m-%d %H:%M:%S}.{ms % 1000:03}"),
        ("date", lambda ms: f"{moment(ms):%Y-%m-%dT%H:%M:%S}.{ms % 1000:03}0000+02:00"),
        ("date", lambda ms: f'"{moment(ms):%Y-%m-%dT%H:%M:%S},{ms % 1000:03}Z"'),
    ],
)
def test_one_row_a_slot_stays_one_row_a_slot(tmp_path, unit, write):
    """Of floating-point seconds since 1970 a third of the rows come a slot early."""
    times = [write(1_700_446_546_123 + 100 * row) for row in range(2000)]
    assert slots_of(tmp_path / "log.csv", times, unit, 0.1) == list(range(2000))


def moment(ms):
    return datetime.datetime.fromtimestamp(ms // 1000, datetime.UTC)


def test_zones_are_counted(tmp_path):
    times = ["2023-11-16T18:15:46.75+00:00", "2023-11-16T20:15:47+02:00", "2023-11-16 18:15:47.25Z"]
    assert slots_of(tmp_path / "log.csv", times, "date", 0.25) == [0, 1, 2]
    wrong = "log.csv, line 3, column 't': expected a date with a zone, as in the rows before, got"
    with pytest.raises(traces.TraceError, match=wrong):
        slots_of(tmp_path / "log.csv", [times[0], times[0][:10] + " 18:15:47"], "date", 1.0)


number = st.builds(
    lambda digits, places, point: (
        f"{digits // 10**places}.{digits % 10**places:0{places}}" if point and places
        else f"{digits}e-{places}" if places else str(digits)
    ),
    st.integers(0, 2**63),
    st.integers(0, 12),
    st.booleans(),
)  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(
    first=number,
    unit=st.sampled_from([*UNITS]),
    length=st.sampled_from([0.1, 0.25, 0.3, 1.0, 7.0, 1e-3]),
    rate=st.sampled_from([1.0, 0.1, 3.0, 2.5]),
    start=st.sampled_from([0.0, 0.1, 5.0]),
    steps=st.lists(st.tuples(st.integers(0, 5000), st.integers(-2, 2)), min_size=1, max_size=8),
)
@example("1700446546.123", "s", 0.1, 1.0, 0.0, [(1, 0), (2, -1)])
@example("1700446546123456789", "ns", 0.1, 1.0, 0.0, [(1, 0), (3, 1)])
def test_slots_are_those_of_exact_arithmetic(
    tmp_path_factory, first, unit, length, rate, start, steps
):
    """At slots' very edges, and a last digit before and after them, against fractions."""
    base, step = Fraction(first), Fraction(str(length)) * Fraction(str(rate))
    finest = Fraction(1, 10**13)
    texts = [first]
    for slots, off in steps:
        time = base + slots * step / UNITS[unit] + off * finest
        if time >= base:  # cut to 13 places, what is written is what counts
            digits = int(time * 10**13)
            texts.append(f"{digits // 10**13}.{digits % 10**13:013}")
    seconds = [(Fraction(text) - base) * UNITS[unit] for text in texts]
    wanted = [(time - Fraction(str(start))) // step for time in seconds]
    wanted = sorted(slot for slot in wanted if slot >= 0)
    path = tmp_path_factory.mktemp("log") / "log.csv"
    if not wanted:
        with pytest.raises(ValueError, match="start"):
            slots_of(path, texts, unit, length, rate=rate, start=start)
        return
    if max(wanted) >= 2**30:
        with pytest.raises(traces.TraceError, match="slot_length right"):
            slots_of(path, texts, unit, length, rate=rate, start=start)
        return
    assert slots_of(path, texts, unit, length, rate=rate, start=start) == wanted


def test_pieces_of_different_digits_have_one_clock(tmp_path, monkeypatch):
    from jaxmec.traces import reading

    monkeypatch.setattr(reading, "_PIECE", 3)
    times = ["7.3", "5", "1700.1", "5.35", "5.3499999999999999999999", "1e1", "9.95"]
    wanted = sorted((Fraction(time) - 5) // Fraction(1, 20) for time in times)
    assert slots_of(tmp_path / "log.csv", times, "s", 0.05) == wanted


@pytest.mark.parametrize("kind", ["int64", "uint64", "float64", "float32", "string", "decimal",
                                  "timestamp[ns]", "timestamp[us, tz=Europe/Berlin]",
                                  "timestamp[ms]", "dictionary"])  # fmt: skip
def test_parquet_times_keep_their_digits(tmp_path, kind):
    arrow = pytest.importorskip("pyarrow")
    from decimal import Decimal

    from pyarrow import parquet

    ms = np.arange(1_700_446_546_100, 1_700_446_546_100 + 50 * 100, 100)
    unit = "ms"
    if kind in ("int64", "uint64"):
        column = arrow.array(ms, kind)
    elif kind == "float64":
        column, unit = arrow.array(ms / 1000), "s"
    elif kind == "float32":
        column, unit = arrow.array(np.arange(50) / 10, arrow.float32()), "s"
    elif kind == "string":
        column = arrow.array([str(value) for value in ms])
    elif kind == "decimal":
        column, unit = arrow.array([Decimal(int(value)) / 1000 for value in ms]), "s"
    elif kind == "dictionary":
        column = arrow.array(ms).dictionary_encode()
    else:
        zone = "Europe/Berlin" if "tz" in kind else None
        scale = {"ns": 10**6, "us": 1000, "ms": 1}[kind[10:12]]
        column, unit = arrow.array(ms * scale, arrow.timestamp(kind[10:12], zone)), "date"
    path = tmp_path / "log.parquet"
    parquet.write_table(arrow.table({"t": column, "b": [1.0] * 50}), path)
    rows = traces.convert(
        path, "parquet", [f"time=t:{unit}", "size=b:MB"],
        traces.Conversion(slot_length=0.1, density=1.0),
    )  # fmt: skip
    assert rows.slot.tolist() == list(range(50))


@pytest.mark.parametrize(
    ("text", "unit", "message"),
    [
        ("1e400", "s", "expected a time in s, got '1e400'"),
        ("nan", "ms", "expected a time in ms, got 'nan'"),
        ("inf", "s", "expected a time in s"),
        ("1e-320", "s", "expected a time in s"),
        ("9" * 5000, "s", r"got '9+\.\.\. \(5,002 characters\)"),
        ("1.2.3", "s", "expected a time in s"),
        ("", "d", "expected a time in d, got ''"),
        ("1.²", "s", "expected a time in s"),
        ("2023-02-30 00:00:00", "date", "expected a date and time"),
        ("1700446546", "date", "expected a date and time"),
    ],
)
def test_what_is_no_time_is_named(tmp_path, text, unit, message):
    with pytest.raises(traces.TraceError, match=rf"log.csv, line 2, column 't': .*{message}"):
        slots_of(tmp_path / "log.csv", [text], unit, 1.0)


def test_a_span_that_is_too_long_names_both_its_ends(tmp_path):
    with pytest.raises(traces.TraceError) as error:
        slots_of(tmp_path / "log.csv", ["1700446546", "3", "1700446547"], "s", 0.1)
    assert "log.csv, column 't': 1.7e+10 slots from line 3 to line 4, expected below" in str(
        error.value
    )


def test_time_begins_at_from(tmp_path):
    """Slots are counted from there on, and the row at the very edge is in."""
    times = ["100", "100.2", "100.3", "100.35", "101"]
    assert slots_of(tmp_path / "a.csv", times, "s", 0.1, start=0.3) == [0, 0, 7]
    assert slots_of(tmp_path / "a.csv", times, "s", 0.1, start=0.25, slots=2) == [0, 1]
    with pytest.raises(ValueError, match="start"):
        slots_of(tmp_path / "a.csv", times, "s", 0.1, start=1.5)
