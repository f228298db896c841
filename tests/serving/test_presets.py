"""Fleets as data: what is shipped is what the page says, and what is wrong in a file is named."""

from __future__ import annotations

import dataclasses
import re
import tempfile
import tomllib
from pathlib import Path

import jax
import numpy as np
import pytest
from hypothesis import given as examples
from hypothesis import settings
from hypothesis import strategies as st
from serving_worlds import genai5

from jaxmec.serving import (
    Alternating,
    Availability,
    FleetError,
    Poisson,
    Requests,
    ServingParams,
    Spot,
)
from jaxmec.serving.preset_files import DEVICES, drawn
from jaxmec.serving.presets import (
    FLEETS,
    FOLDER,
    Cloud,
    OutageLaw,
    Reference,
    RequestClass,
    Server,
    ServingSetting,
    Variant,
    Wanted,
    find_serving_preset,
)


def leaves(tree):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]


def test_every_file_of_the_package_is_a_preset():
    assert {path.stem for path in FOLDER.glob("*.toml")} == set(FLEETS)


@pytest.mark.parametrize("cloud", [True, False])
@pytest.mark.parametrize("name", FLEETS)
def test_presets_make_parameters(name, cloud):
    preset = find_serving_preset(name)
    assert preset.name == name and preset.about
    params = preset.params(cloud=cloud)
    assert isinstance(params, ServingParams)
    servers = {"genai-20": 20, "genai-64": 64}.get(name, 5)
    assert params.fleet.num_servers == servers + cloud and params.num_stations == servers
    assert len(preset.variants) >= 3 and len(preset.classes) == 3
    elastic = np.asarray(params.fleet.elastic)
    assert elastic.sum() == cloud and (not cloud or elastic[-1])


def test_genai_5_is_the_instance():
    ours = find_serving_preset("genai-5").params(load=0.4, heartbeat=10.0)
    instance = genai5(load=0.4, heartbeat=10.0)
    load_time = np.asarray(ours.fleet.load_time)[:5]
    factor = load_time[:, 0] / 3
    assert factor.min() >= 0.7 and factor.max() <= 1.3 and len(set(factor)) == 5
    np.testing.assert_allclose(load_time, factor[:, None] * [3, 8, 20], rtol=1e-6)
    assert np.asarray(ours.fleet.phase).max() < 10 and np.asarray(ours.fleet.phase).min() >= 0
    drawn = {"load_time": instance.fleet.load_time, "phase": instance.fleet.phase}
    same = dataclasses.replace(ours, fleet=dataclasses.replace(ours.fleet, **drawn))
    for mine, theirs in zip(leaves(same), leaves(instance), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-6)
    assert jax.tree.structure(ours) == jax.tree.structure(instance)


def test_capacity_is_the_formula():
    seconds = np.array([0.049, 0.072, 0.18, 0.23, 0.55])
    expected = np.sum(1 / (20 * seconds + 0.15)) / 2.6
    preset = find_serving_preset("genai-5")
    assert preset.capacity == pytest.approx(expected, rel=1e-12)
    rate = preset.params(load=0.7).arrivals.times.rate
    assert float(rate) == pytest.approx(0.7 * expected, rel=1e-6)


def test_seeds_draw_other_fleets_that_can_be_stacked():
    preset = find_serving_preset("genai-5")
    many = [preset.params(seed=seed) for seed in range(4)]
    assert all(np.array_equal(a, b) for a, b in zip(leaves(many[0]), leaves(preset.params()),
                                                    strict=True))  # fmt: skip
    stacked = jax.tree.map(lambda *each: np.stack(each), *many)
    assert len(np.unique(stacked.fleet.load_time[:, 0, 0])) == 4
    assert len(np.unique(stacked.fleet.phase[:, 0])) == 4


def test_the_phase_keeps_its_place_in_the_heartbeat():
    preset = find_serving_preset("genai-5")
    slow, quick = (preset.params(heartbeat=h).fleet.phase for h in (30.0, 1.0))
    np.testing.assert_allclose(np.asarray(slow) / 30, quick, rtol=1e-6)


def test_outages_are_as_frequent_as_is_asked_for():
    preset = find_serving_preset("genai-5")
    usual, three, none = (preset.params(outages=often).outages for often in (1, 3, 0))
    assert isinstance(usual, Alternating) and float(usual.up_median) == 180
    assert float(three.up_median) == 60 and float(three.down_median) == 20
    assert three.troubles == 3 * usual.troubles
    assert isinstance(none, Availability) and float(none.speed.min()) == 1
    law = Alternating(10.0, 0.1, 5.0, 0.1)
    assert preset.params(outages=law).outages is law


def test_laws_of_ones_own_arrivals():
    preset = find_serving_preset("genai-5")
    law = Requests(Poisson(2.0), preset.params().arrivals.mix)
    assert preset.params(workload=law).arrivals is law


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"laod": 0.4}, TypeError, "no field 'laod'; did you mean 'load'"),
        ({"load": 0}, ValueError, "load must be a finite number above 0, got 0"),
        ({"heartbeat": -1.0}, ValueError, "heartbeat must be a finite number above 0, got -1"),
        ({"outages": float("nan")}, ValueError, "outages must be a finite number of at least 0"),
        ({"cloud": 1}, ValueError, "cloud must be True or False, got 1"),
        ({"attempts": 0}, ValueError, "attempts must be a whole number of at least 1, got 0"),
        ({"arrivals": "posson"}, ValueError, "arrivals must be one of poisson"),
        ({"cold_spread": (2, 1)}, ValueError, "cold_spread[1] must be at least cold_spread[0]"),
    ],
)
def test_changes_that_cannot_be(changes, error, says):
    with pytest.raises(error, match=re.escape(says)):
        find_serving_preset("genai-5").params(**changes)


def test_every_field_of_the_setting_can_be_in_a_file():
    from jaxmec.serving.presets import SETTING

    assert set(SETTING) == {field.name for field in dataclasses.fields(ServingSetting)}


def test_an_unknown_name_suggests_the_nearest():
    with pytest.raises(ValueError, match=r"fleet 'genai-6' is not one of .*; did you mean 'genai-"):
        find_serving_preset("genai-6")
    with pytest.raises(FileNotFoundError):
        find_serving_preset("./none.toml")


@pytest.mark.parametrize("servers", [20, 64])
def test_what_was_drawn_once_is_drawn_again(servers):
    assert (FOLDER / f"genai-{servers}.toml").read_text("utf-8") == drawn(servers, servers)


def test_drawn_fleets_have_what_was_asked_for(tmp_path):
    (tmp_path / "mine.toml").write_text(drawn(7, 1, ["T4"]))
    preset = find_serving_preset(tmp_path / "mine.toml")
    assert [server.name for server in preset.servers] == ["T4"] * 7
    assert all(100 <= server.rate <= 500 for server in preset.servers)
    with pytest.raises(ValueError, match=r"devices must be one of .*did you mean 'T4'"):
        drawn(2, 1, ["T4 "])
    with pytest.raises(ValueError, match="servers must be a whole number of 1 to 1024, got 0"):
        drawn(0, 1)


WHOLE = """
[setting]
load = 0.5
[reference]
variant = "small"
steps = 10
[[variant]]
name = "small"
size = 2
load_time = 3
steps = [1, 10]
quality = [0.5, 0.9]
[[variant]]
name = "big"
size = 6
work = 2.0
load_time = 9
steps = [20]
quality = [0.9]
[[server]]
step_time = 0.1
memory = 8
rate = 100
[[server]]
name = "old"
step_time = [0.5, 0.9]
task_time = 0.2
load_time = [1, 2]
memory = 4
rate = inf
count = 2
[cloud]
latency = 30
image_time = 1
variant = "big"
steps = 20
[[class]]
name = "all"
share = 1
quality = 0.5
limit = 10
[requests]
images = [1, 2]
images_share = [3, 1]
size = 2
origin_share = [1, 1]
[outages]
law = "log-normal"
"""


def read(tmp_path, text):
    path = tmp_path / "my.toml"
    path.write_text(text)
    return find_serving_preset(path)


def test_a_file_of_ones_own(tmp_path):
    preset = read(tmp_path, WHOLE)
    params = preset.params()
    fleet = params.fleet
    np.testing.assert_allclose(fleet.step_time[:3], [[0.1, 0.2], [0.5, 0.9], [0.5, 0.9]], rtol=1e-6)
    np.testing.assert_allclose(fleet.task_time[:3], [[0, 0], [0.2, 0.2], [0.2, 0.2]])
    np.testing.assert_allclose(fleet.load_time[:3], [[3, 9], [1, 2], [1, 2]])
    assert [server.name for server in preset.servers] == ["server 0", "old", "old"]
    assert params.num_stations == 2 and fleet.num_servers == 4
    # The old ones do not hold the big variant, and the cloud offers one option.
    assert np.asarray(params.allowed).tolist() == [
        [True] * 3, [True, True, False], [True, True, False], [False, False, True],
    ]  # fmt: skip
    # Load is counted in the mean number of images where the file does not say another.
    assert preset.capacity == pytest.approx((1 / 1.0 + 2 / 5.2) / 1.25)
    np.testing.assert_allclose(params.arrivals.mix.size, [2, 2])


def test_a_file_like_another(tmp_path):
    (tmp_path / "base.toml").write_text(WHOLE)
    text = 'like = "base.toml"\n[setting]\nheartbeat = 5\n[[server]]\ndevice = "T4"\nrate = 50\n'
    preset = read(tmp_path, text + "[requests]\norigin_share = [1]\n")
    assert (preset.setting.load, preset.setting.heartbeat) == (0.5, 5)
    assert [server.name for server in preset.servers] == ["T4"]
    assert preset.wanted.origin_share == (1,) and preset.wanted.images == (1, 2)
    assert preset.cloud is not None and preset.cloud.latency == 30


def test_availability_that_is_given(tmp_path):
    text = WHOLE.replace("memory = 8", "memory = 8\nbreaks = [0, 5, 9]\nspeed = [1, 0, 0.5]")
    preset = read(tmp_path, text.replace("log-normal", "given"))
    availability = preset.params().outages
    np.testing.assert_allclose(availability.breaks[0], [0, 5, 9])
    np.testing.assert_allclose(availability.speed[0], [1, 0, 0.5])
    np.testing.assert_allclose(availability.speed[1:], 1)
    assert np.isinf(availability.breaks[1:, 1:]).all()
    assert float(preset.params(outages=0).outages.speed.min()) == 1
    with pytest.raises(ValueError, match="outages must be 0 or 1 where the fleet's are given"):
        preset.params(outages=2)


def test_outages_from_files(tmp_path):
    (tmp_path / "down.csv").write_text("server,begin,end\n1,10,20\n")
    (tmp_path / "spot.json").write_text(
        '{"metadata": {"gap_seconds": 600}, "data": [1, 0, 1, 1, 0, 1, 1, 1, 0, 1, 1, 1]}'
    )
    listed = WHOLE.replace('"log-normal"', '"given"\nfile = "down.csv"')
    availability = read(tmp_path, listed).params().outages
    np.testing.assert_allclose(availability.breaks[1, :3], [0, 10, 20])
    np.testing.assert_allclose(availability.speed[1, :3], [1, 0, 1])
    spot = WHOLE.replace('"log-normal"', '"spot"\nfiles = ["spot.json"]\nsqueeze = 6')
    law = read(tmp_path, spot).params().outages
    assert isinstance(law, Spot) and np.asarray(law.gap).tolist() == [100]
    with pytest.raises(FleetError, match=r"spot.json: data must have at least 601 entries"):
        read(tmp_path, spot.replace("squeeze = 6", "squeeze = 600")).params()
    (tmp_path / "down.csv").write_text("server,begin,end\n9,10,20\n")
    with pytest.raises(FleetError, match=r"down.csv: troubles\[0\]: server must be between"):
        read(tmp_path, listed).params()


WRONG = [
    ("memory = 8", "memmory = 8", "server[0].memmory is not one of rate, name, device, count, "),
    ("memory = 8", "memmory = 8", "; did you mean 'memory'?"),
    ("memory = 8", "", "server[0].memory is missing, and so is a device that has one"),
    ("memory = 8", "memory = -8", "server[0].memory must be a finite number above 0, got -8"),
    ("memory = 8", "memory = nan", "server[0].memory must be a finite number above 0, got nan"),
    ("memory = 8", 'memory = "8"', "server[0].memory must be a finite number above 0, got '8'"),
    ("memory = 8", "memory = true", "server[0].memory must be a finite number above 0, got True"),
    ("memory = 8", "memory = 5", "variant[1].size must fit a server, the largest of which has 5 GB,"
     " got 6"),
    ("step_time = 0.1", 'device = "RTX 4900"', "server[0].device must be one of A100, RTX 4090"),
    ("step_time = 0.1", 'device = "RTX 4900"', "got 'RTX 4900'; did you mean 'RTX 4090'?"),
    ("step_time = 0.1", "step_time = -0.1", "server[0].step_time must be a finite number above 0"),
    ("task_time = 0.2", "task_time = -1", "server[1].task_time must be a finite number of at least "
     "0, got -1"),
    ("[0.5, 0.9]\ntask", "[0.5]\ntask", "server[1].step_time must have 2 numbers, one for each "
     "variant, got 1"),
    ("[0.5, 0.9]\ntask", "[0.5, 0]\ntask", "server[1].step_time[1] must be a finite number above "
     "0, got 0"),
    ("memory = 8", "memory = 8\nbreaks = [0, 5, 5]\nspeed = [1, 0, 1]", "server[0].breaks[2] must "
     "be above breaks[1], 5, got 5"),
    ("memory = 8", "memory = 8\nbreaks = [1, 5]\nspeed = [1, 1]", "server[0].breaks[0] must be 0, "
     "got 1"),
    ("memory = 8", "memory = 8\nbreaks = [0, 5]\nspeed = [1, 0]", "server[0].speed[1] must be "
     "above 0, since the last piece goes on for ever, got 0"),
    ("memory = 8", "memory = 8\nbreaks = [0, 5]\nspeed = [1]", "server[0].speed must have 2 "
     "numbers, one for each of server[0].breaks, got 1"),
    ("memory = 8", "memory = 8\nbreaks = [0]\nspeed = [1]", "outages.law must be given, without a "
     "file, where server[0] has breaks and speed"),
    ('"log-normal"', '"spot"', "outages.files is missing, which the law spot needs"),
    ("[0.5, 0.9]\n[[variant", "[0.9, 0.5]\n[[variant", "variant[0].quality[1] must be at least "
     "quality[0], 0.9, got 0.5"),
    ("[0.5, 0.9]\n[[variant", "[0.5]\n[[variant", "variant[0].quality must have 2 numbers, one for "
     "each of variant[0].steps, got 1"),
    ("steps = [1, 10]", "steps = [10, 1]", "variant[0].steps[1] must be above steps[0], 10, got 1"),
    ("steps = [1, 10]", "steps = [1, 10.5]", "variant[0].steps[1] must be a whole number of "
        "1 to 10000, got 10.5"),
    ("quality = [0.9]", "quality = [1.1]", "variant[1].quality[0] must be a finite number of at "
     "least 0 and at most 1, got 1.1"),
    ('name = "big"', 'name = "small"', "variant[1].name must be another than those before"),
    ("limit = 10", "limit = 0", "class[0].limit must be a finite number above 0, got 0"),
    ("share = 1\n", "share = 0\n", "class[0].share must be above 0 where all others are 0, got 0"),
    ("images_share = [3, 1]", "images_share = [3]", "requests.images_share must have 2 numbers, "
     "one for each of images, got 1"),
    ("origin_share = [1, 1]", "origin_share = [1, 1, 1, 1]", "requests.origin_share must have at "
     "most 3 numbers, one a server at which a station stands, got 4"),
    ("size = 2\norigin", "size = [3, 2]\norigin", "requests.size[1] must be at least "
     "requests.size[0], 3, got 2"),
    ("steps = 20\n", "steps = 30\n", "cloud.steps must be one of 20, which big has, got 30"),
    ('variant = "small"', 'variant = "smal"', "reference.variant must be one of small, big, got "
     "'smal'; did you mean 'small'?"),
    ("load = 0.5", "laod = 0.5", "setting.laod is not one of load, heartbeat,"),
    ("load = 0.5", "load = 0.5\nheartbeat = 0", "setting.heartbeat must be a finite "
     "number above 0, got 0"),
    ('"log-normal"', '"lognormal"', "outages.law must be one of none, log-normal, given, spot"),
    ("[setting]", "[settings]", "settings is not one of reference, variant, "),
    ("[requests]", "[[requests]]", "requests must be an object, got a list of 1"),
    ("[setting]", "setting", "it is no TOML: "),
    ("[setting]", 'like = "genai-7"\n[setting]', "like must be one of genai-5, "),
    ("[setting]", 'like = "my.toml"\n[setting]', "like must name another fleet"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "says"), WRONG, ids=[case[2][:50] for case in WRONG])
def test_what_is_wrong_in_a_file_is_one_line(tmp_path, old, new, says):
    assert WHOLE.count(old) >= 1
    with pytest.raises(FleetError) as caught:
        read(tmp_path, WHOLE.replace(old, new, 1))
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'my.toml'}: ") and says in message
    assert "\n" not in message


@pytest.mark.parametrize("section", ["reference", "variant", "server", "class", "requests"])
def test_what_a_file_must_have(tmp_path, section):
    text = re.sub(rf"\[\[?{section}\]\]?\n([^\[].*\n)*", "", WHOLE)
    with pytest.raises(FleetError, match=f": {section} is missing"):
        read(tmp_path, text)


@pytest.mark.parametrize("key", ["size", "load_time", "steps", "quality"])
def test_what_a_variant_must_have(tmp_path, key):
    text = re.sub(rf"(\[\[variant\]\]\n(?:.*\n)*?){key} = .*\n", r"\1", WHOLE, count=1)
    with pytest.raises(FleetError, match=rf": variant\[0\].{key} is missing"):
        read(tmp_path, text)


PAGE = Path(__file__).parents[2] / "docs" / "fleets.md"


@pytest.mark.skipif(not PAGE.exists(), reason="the documents are not installed")
def test_the_page_has_every_key_and_what_the_fleets_serve():
    text = PAGE.read_text("utf-8")
    kinds = (ServingSetting, Server, Variant, Cloud, RequestClass, OutageLaw, Reference, Wanted)
    keys = {field.name for kind in kinds for field in dataclasses.fields(kind)}
    for key in keys:
        assert re.search(rf"`(\w+\.)?{key}`", text), key
    for name in FLEETS:
        row = re.search(rf"^\| `{name}` .*\| ([\d.]+)", text, flags=re.M)
        assert row and float(row[1]) == pytest.approx(find_serving_preset(name).capacity, rel=2e-3)
    for device in tomllib.loads(DEVICES.read_text("utf-8")):
        assert device in text


VALUES = st.sampled_from(
    ["0", "-1", "nan", "inf", "-inf", "1e400", "1e39", "1e-320", "10", "0.5", "true", '"x"', '""',
     '"a\\nb"', "[]", "[1]", "[1, 2]", "[[1]]", '["x"]', "{}", "{ a = 1 }", "1979-05-27",
     "9223372036854775807"]
)  # fmt: skip
KEYS_AT = [match.span(1) for match in re.finditer(r"^\w+ = (.*)$", WHOLE, flags=re.M)]


@examples(st.sampled_from(KEYS_AT), VALUES)
@settings(max_examples=150, deadline=None)
def test_any_value_anywhere_is_taken_or_one_line(place, value):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "my.toml")
        path.write_text(WHOLE[: place[0]] + value + WHOLE[place[1] :])
        try:
            find_serving_preset(path).params()
        except FleetError as error:
            message = str(error)
        else:
            message = f"{path}: "
        assert message.startswith(f"{path}: ") and "\n" not in message
