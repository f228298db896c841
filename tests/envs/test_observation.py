"""The table of features: an observation, its layout and its names are made from it."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmec.envs import make, observation
from jaxmec.envs.observation import Feature
from jaxmec.mec.offload import apply_split
from jaxmec.training.rollout import make_spec

SINGLE, MULTI = "SingleServerOffloading-v0", "MultiServerOffloading-v0"


@pytest.mark.parametrize("neighbours", [None, 3])
def test_a_new_feature_is_one_entry(monkeypatch, neighbours):
    """It is in the observation, scaled and near, in the layout, in the names and in the spec."""
    options = {"information": "local", "action": "mask", "neighbours": neighbours}
    env, params = make(MULTI, **options)
    state = env.reset(jax.random.key(1), params)[1]
    before, spec = env.observe_state(state, params), make_spec(env, params)
    speed = Feature(
        "speed", "Gcycles/s", "how fast each server is",
        lambda seen: seen.network.capacity, lambda params: params.network.capacity.sum(),
        per_server=True, shown=lambda options, params: options.information == "local",
    )  # fmt: skip
    slot = Feature("slot", "1", "which slot it is", lambda seen: seen.view.slot)
    monkeypatch.setattr(observation, "FEATURES", (*observation.FEATURES, speed, slot))
    number = env.num_choices
    among = (int(state.task.origin) + np.arange(number)) % 5 if neighbours else np.arange(5)
    shares = np.asarray(params.network.capacity)[among] / 150
    seen = env.observe_state(state, params)
    np.testing.assert_array_equal(seen[: len(before)], before)
    np.testing.assert_allclose(seen[len(before) :], [*shares, state.cursor.slot], rtol=1e-6)
    assert env.feature_layout(params)[-2:] == (("speed", number), ("slot", 1))
    assert env.feature_names(params)[-2:] == (f"speed[{number - 1}]", "slot")
    assert env.observation_space(params).shape == seen.shape
    after = make_spec(env, params)
    assert after.observation_size == spec.observation_size + number + 1
    assert after.layout == (*spec.layout, ("speed", number), ("slot", 1))
    other, _ = make(MULTI, action="mask", information="full")
    assert "speed" not in dict(other.feature_layout())


def test_raw_is_what_the_published_methods_see_in_its_units():
    """By hand: d in Mbit, c and Q in Gcycles; scaled they are of order 1."""
    env, params = make(SINGLE, preset="lad-ts", features="raw")
    scaled, _ = make(SINGLE, preset="lad-ts", features="published")
    state = env.reset(jax.random.key(1), params)[1]
    backlog = jnp.linspace(0, 600, 20)
    state = state._replace(queues=state.queues.replace(backlog=backlog))
    task, origin = state.task, np.eye(20)[int(state.task.origin)]
    seen = env.observe_state(state, params)
    np.testing.assert_allclose(seen, [task.size, task.work, *origin, *backlog], rtol=1e-6)
    seconds = backlog / params.network.capacity
    scales = params.scales
    np.testing.assert_allclose(
        scaled.observe_state(state, params),
        [task.size / 5, task.work / scales.work, *origin, *(seconds / 5)],
        rtol=1e-6,
    )
    layout = (("size", 1), ("work", 1), ("origin", 20), ("backlog", 20))
    assert env.feature_layout(params) == scaled.feature_layout(params) == layout


def test_the_layout_says_what_features_there_are():
    """In every setting: the lengths of the layout are those of the features."""
    for env_id, information, features, laid_out in itertools.product(
        (SINGLE, MULTI), ("slot_start", "local", "slot", "full"),
        ("raw", "published", "queues", "times", "expected", "priced"), (False, True),
    ):  # fmt: skip
        if (information == "slot" and not laid_out) or (
            (information, features) == ("slot_start", "priced")
        ):
            continue
        action = {"action": "mask"} if env_id == MULTI else {}
        env, params = make(
            env_id, preset="amcoedge", information=information, features=features,
            laid_out=laid_out, show_place=laid_out, **action,
        )  # fmt: skip
        found = {}
        jax.eval_shape(
            lambda key, env=env, params=params, found=found: found.update(
                env.features(env.reset(key, params)[1], params)
            ),
            jax.random.key(0),
        )
        layout = env.feature_layout(params)
        assert layout == tuple((name, value.size) for name, value in found.items())
        assert len(env.feature_names(params)) == sum(length for _, length in layout)


@pytest.mark.parametrize(
    ("env_id", "options"),
    [
        (SINGLE, {"preset": "lad-ts"}),
        (SINGLE, {"preset": "lad-ts", "action": "score"}),
        (MULTI, {"action": "subset"}),
        (MULTI, {"action": "local_plus_one", "neighbours": 3, "allocate": "hecwa"}),
        (MULTI, {"action": "top_k", "k": 2, "allocation_information": "seen"}),
        (MULTI, {"action": "score", "features": "priced", "allocation_information": "priced"}),
        (MULTI, {"action": "score", "allocation_information": "expected", "neighbours": 2}),
    ],
)
def test_seeing_and_deciding_are_functions_of_a_view(env_id, options):
    """What is exported, from a view to the make-span, is what a step of the environment does."""
    env, params = make(env_id, information="local", **options)
    state = env.reset(jax.random.key(1), params)[1]
    step = jax.jit(env.step)
    for number in range(12):
        state = step(jax.random.key(number), state, env.action_space().sample(jax.random.key(7)))[1]
    view, preferences = env.view(state, params), jnp.sin(jnp.arange(env.num_actions) + 3.0)

    @jax.jit
    def decide(view, preferences):
        believed = env.believed(view, view.queues, params)
        selected, fraction = env.divide(env.preferred(preferences), view, believed, params)
        outcome, _ = apply_split(params.network, believed, view.task, fraction, selected)
        return env.observe(view, params), selected, fraction, outcome.makespan

    seen, selected, fraction, makespan = decide(view, preferences)
    np.testing.assert_allclose(seen, env.observe_state(state, params), rtol=1e-6)
    known = state._replace(queues=view.queues)  # the true queues are those that are seen
    info = step(jax.random.key(0), known, env.preferred(preferences))[-1]
    np.testing.assert_allclose(fraction, info["fraction"], rtol=1e-5, atol=1e-6)
    assert np.all(np.asarray(selected) == (np.asarray(fraction) > 0)) or "allocate" in options
    if options.get("allocation_information", "true") in ("true", "seen"):
        np.testing.assert_allclose(makespan, info["makespan"], rtol=1e-5)
