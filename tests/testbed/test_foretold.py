import jax
import pytest

import jaxmec
from jaxmec.serving.presets import find_serving_preset
from jaxmec_testbed import compare
from jaxmec_testbed.faults import Fault, read_faults, regular_kills
from jaxmec_testbed.foretold import Arrival, Simulator, arrivals
from jaxmec_testbed.policy import Policy
from jaxmec_testbed.station import Outcome


@pytest.fixture(scope="module")
def policy():
    return Policy(find_serving_preset("edge-inpainting"), "triage", horizon=20.0)


def test_the_requests_are_those_of_the_environment(policy):
    env, params = jaxmec.make(
        "GenerativeServing-v0", preset="edge-inpainting", seed=0, horizon=20.0
    )
    _, state = jax.jit(env.reset)(jax.random.key(3), params)
    found = arrivals(policy.params, 3)
    assert len(found) > 5 and found[-1].time <= 20
    for one, other in ((found[0], state.request), (found[1], state.upcoming)):
        assert one.time == pytest.approx(float(other.arrival))
        assert one.size == pytest.approx(float(other.size))
        assert (one.origin, one.images) == (int(other.origin), int(other.images))


def request(number, time, **changes):
    fields = {"origin": 1, "size": 1.0, "result": 0.1, "images": 2, "quality": 0.7, "limit": 20.0}
    return Arrival(number, time, **{**fields, **changes})


def test_delays_by_hand(policy):
    # M at 10 steps on node 0: 1 s cold, then 0.1 + 2 * 10 * 0.05 s; 50 Mbit/s there and back.
    one, other = Simulator(policy).play(
        [request(0, 1.0), request(1, 1.5)], {0: [(0, 3)], 1: [(0, 3)]}
    )
    assert one.answered == pytest.approx(1 + 0.02 + 1 + 1.1 + 0.002, abs=1e-4)
    assert other.answered == pytest.approx(3.12 + 1.1 + 0.002, abs=1e-4)
    assert other.parts["queue"] == pytest.approx(3.12 - 1.52, abs=1e-4)
    assert one.status == "answered" and one.quality == pytest.approx(0.75)


def test_a_kill_loses_what_is_being_painted(policy):
    kill = Fault(0, 2.0, 5.0, "kill")
    found = Simulator(policy, [kill]).play([request(0, 1.0)], {0: [(0, 3), (1, 3)]})
    # Known 0.1 s after the crash, and painted by node 1: 10 Mbit/s are 100, 0.07 s a step.
    assert found[0].attempts == 2 and found[0].server == 1
    assert found[0].answered == pytest.approx(2.1 + 1 + 0.1 + 1.4, abs=1e-3)


def test_faults_are_read_and_named(tmp_path):
    file = tmp_path / "faults.toml"
    row = '[[fault]]\nserver = 1\nat = 5.0\nseconds = 4.0\nkind = "slow"\nspeed = 0.25\n'
    file.write_text(row)
    (fault,) = read_faults(file, 2)
    assert fault.trouble == (1, 5.0, 9.0, 0.25)
    for text, message in (
        (row.replace("slow", "sloow"), "fault.0.*kind must be one of kill, stop, slow, cut"),
        (row + row, "fault.1..at must be 9 or later"),
        (row.replace("server = 1", "server = 2"), "fault.0..server must be 0 to 1, got 2"),
    ):
        file.write_text(text)
        with pytest.raises(ValueError, match=message):
            read_faults(file, 2)
    assert [kill.at for kill in regular_kills(5, 60.0, 20.0, 8.0)] == [20.0, 40.0]


def test_a_comparison_by_hand(policy):
    asked = [request(0, 1.0, limit=3.0), request(1, 2.0, limit=1.0)]
    told = {"queue": 0.5, "service": 1.0}
    measured = [
        Outcome("a", 1, 1.0, "answered", 0, 3, 1, 1.0, 2.0, 3.0, 0.75, told),
        Outcome("b", 1, 2.0, "refused", -1, 0, 1, 2.0),
    ]
    foretold = Simulator(policy).play(asked, {0: [(0, 3)], 1: [(-1, 0)]})
    run = compare.Run("triage", asked, measured, foretold, foretold)
    figures = compare.summary(run)
    assert figures["measured"]["served"] == figures["foretold"]["served"] == 0.5
    assert figures["measured"]["refused"] == 1 and figures["same decision"] == 1
    foretold_delay = 0.02 + 1 + 1.1 + 0.002
    assert figures["error"]["median"] == pytest.approx(abs(2 - foretold_delay) / 2, abs=1e-4)
    assert figures["excess"]["way in"]["median"] == pytest.approx(1 - 0.5 - 0.02, abs=1e-4)
    assert figures["excess"]["way back"]["median"] == pytest.approx(-0.002, abs=1e-4)
    assert compare.agreement([figures])["served"] is None
