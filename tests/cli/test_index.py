"""The index of what there is, against the tables themselves."""

import dataclasses

import pytest

from jaxmec.cli import index
from jaxmec.cli.comments import comments
from jaxmec.envs.presets import PRESETS
from jaxmec.methods import METHODS


def test_the_index_is_up_to_date():
    assert index.FILE.read_text("utf-8") == index.text_of(index.build()), (
        "methods, schedulers, environments, presets, studies, fields or flags have changed: run "
        "`make format`, or `python -m jaxmec.cli.index`, and commit jaxmec/cli/index.json"
    )


def test_fields_have_the_defaults_of_the_method_and_the_preset():
    def of(method, **where):
        return {field.name: field for field in index.fields_of(method, **where)
                if (field.group, field.name) != ("env", "discount")}  # fmt: skip

    tuned, published = of("ddrl-amsa"), of("ddrl-amsa", published=True)
    assert (tuned["discount"].default, tuned["allocate"].default) == ("0.9", "water_filling")
    assert published["allocate"].default == "cwa"
    assert published["steps"].default == str(METHODS["ddrl-amsa"].published.config.steps)
    assert tuned["activation"].choices == ("relu", "tanh", "silu", "mish", "gelu")
    assert tuned["hidden"].default == "64,64"
    assert of("sac", scale="gpu")["num_envs"].default == "4096"
    elsewhere = of("ddrl-amsa", preset="smcoedge")
    assert elsewhere["slots"].default == str(PRESETS["smcoedge"].slots)
    assert elsewhere["allocate"].default == "water_filling"
    cartpole = of("ddrl-amsa", env="CartPole-v1")
    assert "gravity" in cartpole and "allocate" not in cartpole
    with pytest.raises(ValueError, match="did you mean 'dsac'"):
        index.fields_of("dasc")


@dataclasses.dataclass
class Base:
    """Has fields."""

    plain: int = 0  # of the base
    changed: int = 0  # at first


@dataclasses.dataclass
class Noted(Base):
    """Has more."""

    changed: int = 1  # in the end
    long: tuple[int, ...] = (
        1,
        2,
    )  # over several lines
    below: str = ""
    """what is said
    below"""
    bare: str = ""


def test_comments_beside_fields_are_found():
    assert comments(Noted) == {
        "plain": "of the base",
        "changed": "in the end",
        "long": "over several lines",
        "below": "what is said below",
        "bare": "",
    }
