import asyncio
import time

import living
import numpy as np
import pytest

from jaxmec.serving.presets import find_serving_preset
from jaxmec_testbed import play, wire
from jaxmec_testbed.node import Device
from jaxmec_testbed.policy import Policy
from jaxmec_testbed.station import Asked

PICTURE = play.pictures(1)[0]
FLEET = """
like = "edge-inpainting"
[setting]
heartbeat = 0.2
detect = 0.05
[[server]]
name = "quick"
step_time = 0.01
load_time = [0.01, 0.01, 0.02, 0.02]
task_time = 0.02
memory = 5.0
rate = 100.0
[[server]]
name = "slow"
step_time = 0.02
load_time = [0.01, 0.01, 0.02, 0.02]
task_time = 0.02
memory = 5.0
rate = 100.0
"""


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    file = tmp_path_factory.mktemp("fleet") / "two.toml"
    file.write_text(FLEET)
    return Policy(find_serving_preset(file), "triage")


def asked(name="a", **changes):
    fields = {"images": 1, "quality": 0.7, "limit": 5.0, "size": 0.1, **changes}
    return Asked(name, PICTURE.image, PICTURE.mask, **fields)


def devices(policy):
    return [Device.of(policy.preset, index) for index in range(2)]


def with_nodes(policy, work):
    """What ``work(stations, nodes, urls)`` gives, with two nodes that listen."""

    async def run():
        nodes = [living.node(device, index) for index, device in enumerate(devices(policy))]
        async with living.listening(nodes[0]) as one, living.listening(nodes[1]) as other:
            peers = [wire.Peer(one), wire.Peer(other)]
            async with play.stations(policy, peers, time.monotonic()) as stations:
                await asyncio.sleep(0.25)  # the first heartbeats
                return await work(stations, nodes)

    policy.anew()
    return asyncio.run(run())


def test_a_request_goes_where_the_rule_says_and_is_answered(policy):
    async def work(stations, nodes):
        return await stations[1].serve(asked())

    outcome = with_nodes(policy, work)
    assert outcome.status == "answered" and outcome.server == 0 and outcome.attempts == 1
    # M at 10 steps is the least that will do.
    assert outcome.told["variant"] == "M" and outcome.told["steps"] == 10
    assert outcome.quality == pytest.approx(0.75) and len(outcome.images) == 1
    assert outcome.delay >= 0.02 + 0.12


def test_what_would_be_late_is_refused_by_name(policy):
    async def work(stations, nodes):
        return await stations[0].serve(asked(limit=0.1, quality=0.9))

    outcome = with_nodes(policy, work)
    assert outcome.status == "refused" and outcome.server == -1


def test_what_was_sent_counts_until_the_next_heartbeat(policy):
    async def work(stations, nodes):
        asks = [asyncio.create_task(stations[0].serve(asked(name, images=4))) for name in "abc"]
        await asyncio.gather(*asks)
        return [ask.result().server for ask in asks]

    # 0.44 s each at the quick one: the third is done sooner at the other.
    assert sorted(with_nodes(policy, work)) == [0, 0, 1]


def test_a_loss_is_noticed_and_decided_anew(policy):
    async def work(stations, nodes):
        ask = asyncio.create_task(stations[0].serve(asked(images=4, quality=0.9)))
        await asyncio.sleep(0.2)  # it is being painted
        stations[0].watch.cut[0] = True
        return await ask

    outcome = with_nodes(policy, work)
    assert outcome.status == "answered" and outcome.attempts == 2
    assert [server for _, server, _ in outcome.decisions] == [0, 1]


def test_what_waits_is_asked_for_again_when_its_node_is_back(policy):
    async def work(stations, nodes):
        watch = stations[0].watch
        watch.cut[0] = watch.cut[1] = True
        watch.told[:] = 0
        ask = asyncio.create_task(stations[0].serve(asked(limit=3.0)))
        await asyncio.sleep(0.5)
        open_then = ask.done()
        watch.cut[0] = watch.cut[1] = False
        return open_then, await ask

    done, outcome = with_nodes(policy, work)
    assert not done and outcome.status == "answered" and outcome.attempts == 1
    assert outcome.delay > 0.5


def test_who_never_answers_is_said_to_be_unreachable(policy):
    async def work(stations, nodes):
        stations[0].watch.cut[:] = [True, True]
        return await stations[0].serve(asked(limit=0.2, quality=0.0))

    assert with_nodes(policy, work).status == "unreachable"


def test_a_rule_that_knows_too_much_is_refused(policy):
    with pytest.raises(ValueError, match="rule must need information stale or local"):
        Policy(policy.preset, "triage-full")
    with pytest.raises(ValueError, match="did you mean 'triage'"):
        Policy(policy.preset, "triag")


def test_pictures_have_something_missing():
    image = wire.picture("image", PICTURE.image, "RGB")
    mask = wire.picture("mask", PICTURE.mask, "L")
    assert image.shape == (32, 32, 3) and 0 < np.mean(mask > 127) < 0.5
