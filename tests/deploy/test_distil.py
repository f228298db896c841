"""Distillation: by which loss a student learns, and what of a policy it may change."""

import dataclasses

import jax
import numpy as np
import pytest
from edge_policies import MULTI, SINGLE, Case

from jaxmec.agents import DSAC, SAC, Pathwise, PerStation
from jaxmec.deploy import distil
from jaxmec.deploy.distil import DistilConfig
from jaxmec.envs import ENVIRONMENTS
from jaxmec.experiment import Policy


def options_of(env):
    """All options of an environment, the usual ones too, as the settings of older runs have."""
    return tuple(dataclasses.asdict(ENVIRONMENTS[env].options()).items())


@pytest.mark.parametrize(
    ("env", "options", "chooses"),
    [
        (SINGLE, (), True),
        (SINGLE, options_of(SINGLE), True),
        (SINGLE, (("action", "score"),), False),
        (MULTI, (), True),
        (MULTI, options_of(MULTI), True),
        (MULTI, (("action", "local_plus_one"),), True),
        (MULTI, (("action", "top_k"),), True),
        (MULTI, (("action", "score"),), False),
        (MULTI, (("action", "mask"),), False),
        (MULTI, (("action", "fraction"),), False),
        ("CartPole-v1", (), True),
    ],
)
def test_whether_preferences_rank_choices_is_what_the_environment_says(env, options, chooses):
    """However a run was made: what is usual may be named among its options or not."""
    assert distil._chooses(Case(SAC(hidden=(4,)), env, None, options).policy()) == chooses


CHAIN = {"hidden": (4,), "denoising_steps": 2}
TAUGHT = {
    "DSAC": Case(DSAC(**CHAIN), MULTI, "amcoedge"),
    "its last answers": Case(
        DSAC(**CHAIN, start="last", places=64, judged_chains=0),
        SINGLE,
        "lad-ts",
        (("show_place", True),),
    ),
    "a policy for each station": Case(PerStation(DSAC(**CHAIN)), MULTI, "amcoedge"),
    "Pathwise": Case(Pathwise(**CHAIN), MULTI, "amcoedge", (("action", "score"),)),
    "Pathwise, over servers": Case(
        Pathwise(**CHAIN, network="servers"),
        MULTI,
        "amcoedge",
        (("action", "score"), ("features", "times")),
    ),
}


@pytest.mark.parametrize("name", TAUGHT)
def test_a_student_learns_its_parameters_and_nothing_else_of_it_changes(name):
    """A learner has data too: answers that it kept, and which entry names which station."""
    policy = TAUGHT[name].policy()
    student = Policy(
        distil.one_step(policy.agent), policy.learner, policy.spec, policy.setting, "student"
    )
    rng = np.random.default_rng(0)
    seen = rng.random((16, policy.spec.observation_size), np.float32)
    wanted = rng.normal(size=(16, policy.spec.num_actions)).astype(np.float32)
    config = DistilConfig(updates=5, batch_size=16)
    learn = distil._learner(student, distil._chooses(policy), config)
    before = jax.tree_util.tree_leaves_with_path(student.learner)
    after = jax.tree.leaves(learn(student.learner, seen, wanted, jax.random.key(0)))
    changed = {True: 0, False: 0}
    for (path, leaf), taught in zip(before, after, strict=True):
        parameter = jax.tree_util.DictKey("params") in path  # as flax names them
        moved = not np.array_equal(leaf, taught)
        assert parameter or not moved, jax.tree_util.keystr(path)
        changed[parameter] += moved
    assert changed[True] > 0


@pytest.mark.parametrize("name", ["its last answers", "a policy for each station"])
def test_what_a_learner_holds_beside_its_parameters_takes_no_gradient(name):
    policy = TAUGHT[name].policy()
    rows = np.random.default_rng(0).random((8, policy.spec.observation_size), np.float32)

    def total(learner, row):
        return (policy.agent.preferences(learner, row) ** 2).sum()

    slopes = jax.jit(jax.vmap(jax.grad(total), (None, 0)))(policy.learner, rows)
    for path, slope in jax.tree_util.tree_leaves_with_path(slopes):
        if jax.tree_util.DictKey("params") not in path:
            assert not slope.any(), jax.tree_util.keystr(path)
