"""Distillation: by which loss a student learns, and what of a policy it may change."""

import dataclasses

import pytest
from edge_policies import MULTI, SINGLE, Case

from jaxmec.agents import SAC
from jaxmec.cli import MultiChoices, SingleChoices
from jaxmec.deploy import distil


def options_of(choices):
    """The options that the command line writes into a run's setting: all, the usual ones too."""
    return tuple(dataclasses.asdict(choices).items())


@pytest.mark.parametrize(
    ("env", "options", "chooses"),
    [
        (SINGLE, (), True),
        (SINGLE, options_of(SingleChoices()), True),
        (SINGLE, (("action", "score"),), False),
        (MULTI, (), True),
        (MULTI, options_of(MultiChoices()), True),
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
