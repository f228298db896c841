"""What counts something takes NumPy's whole numbers as Python's, and refuses what is none."""

import dataclasses
import json
import re

import jax
import numpy as np
import pytest

import jaxmec
from jaxmec.deploy.distil import DistilConfig
from jaxmec.envs.presets import find_preset, scaled
from jaxmec.experiment.setting import Setting
from jaxmec.mec.workload import BernoulliWorkload, TaskSizes
from jaxmec.networks.chain import noise_schedule
from jaxmec.plots.films import _every_so_many
from jaxmec.serving.laws import Alternating
from jaxmec.studies.gap import with_servers
from jaxmec.studies.plans import Effort
from jaxmec.studies.study import Entry, Study
from jaxmec.training.cloning import CloningConfig
from jaxmec.training.evolution import EvolutionConfig
from jaxmec.training.off_policy import TrainConfig
from jaxmec.training.parts import _width
from jaxmec.training.pathwise import PathwiseConfig
from jaxmec.training.replay import ReplayBuffer
from jaxmec.training.runner import RunSettings, check_seeds

MULTI = "MultiServerOffloading-v0"
PRESET = find_preset("smcoedge")
SIZES = TaskSizes(1.0, 2.0, [1.0], [0.0], [0.0])
BUFFER = ReplayBuffer(8, 2)


def shape(n):
    item = jax.ShapeDtypeStruct((), "float32")
    return BUFFER.sample(BUFFER.init(item), jax.random.key(0), (n, 2)).shape


def play(**options):
    return jaxmec.evaluate("random", env=MULTI, slots=1, **options)


def environment(**options):
    return jaxmec.make(MULTI, **options)[0].options


# From a count, each 3 for one that is fine, to what is made of it.
COUNTS = {
    "k": lambda n: environment(action="top_k", k=n),
    "neighbours": lambda n: environment(neighbours=n),
    "stations": lambda n: dataclasses.asdict(BernoulliWorkload(0.5, SIZES, 4, n))["stations"],
    "slots": lambda n: BernoulliWorkload(0.5, SIZES, n, 2).slots.item(),
    "servers": lambda n: scaled(PRESET, n),
    "servers of a sweep": lambda n: with_servers("smcoedge", n),
    "positions": lambda n: dataclasses.replace(PRESET, positions=n),
    "episodes": lambda n: play(episodes=n).values["makespan"].shape,
    "every": lambda n: _every_so_many(10, n),
    "steps": lambda n: noise_schedule("vp", n).beta.tolist(),
    "troubles": lambda n: Alternating(1.0, 1.0, 1.0, 1.0, troubles=n).troubles,
    "window": lambda n: Effort(window=n),
    "seeds": lambda n: Study("a", "", MULTI, schedulers=(Entry("random"),), seeds=n),
    "num_envs": lambda n: TrainConfig(num_envs=n),
    "windows": lambda n: CloningConfig(windows=n),
    "window of a path": lambda n: PathwiseConfig(window=n),
    "pairs": lambda n: EvolutionConfig(pairs=n),
    "num_added": lambda n: ReplayBuffer(9, n),
    "shape": shape,
    "seeds side by side": lambda n: check_seeds(n),
    "seeds, each": lambda n: check_seeds([n]),
    "seeds_at_once": lambda n: _width(n, 9, None, None),
    "checkpoint_every": lambda n: RunSettings(checkpoint_every=n),
    "updates": lambda n: DistilConfig(updates=n),
    "denoising_steps": lambda n: jaxmec.DSAC(denoising_steps=n).denoising_steps,
}


@pytest.mark.parametrize("name", COUNTS)
def test_whole_numbers(name):
    make = COUNTS[name]
    expected = make(3)
    made = make(np.int64(3))
    assert made == expected
    assert repr(made) == repr(expected)  # a Python int again: no "np.int64(3)"
    field = re.match(r"\w+", name)[0]
    for wrong in (True, np.True_, 2.5, "x", *([] if name == "seeds, each" else [-1])):
        with pytest.raises(ValueError, match=rf"{field}.* (must be|is) "):
            make(wrong)


def test_a_policys_setting_is_json_whatever_numbers_it_was_given():
    setting = Setting(MULTI, "smcoedge", np.int64(0), (("k", np.int64(2)), ("x", np.float32(0.5))))
    assert json.loads(json.dumps(dataclasses.asdict(setting)))["options"] == [["k", 2], ["x", 0.5]]
    assert setting == Setting(MULTI, "smcoedge", 0, (("k", 2), ("x", 0.5)))
