"""What is trained, wholly: looked up, changed, scaled, identified; nothing is trained here."""

import contextlib
import dataclasses
import json
from collections import Counter

import jax
import numpy as np
import pytest

import jaxmec
from jaxmec import envs, traces
from jaxmec.agents import DQN, Pathwise, PerStation
from jaxmec.agents.chain import OF_NETWORK
from jaxmec.core.naming import by_layer
from jaxmec.experiment import SHARED, Policy, Recipe, RunOptions, option_layers, recipe
from jaxmec.experiment.recipes import ARGUMENTS, RUN_OPTIONS
from jaxmec.experiment.setting import plain
from jaxmec.methods import METHODS
from jaxmec.training import parts
from jaxmec.training.checkpoint import CheckpointMissing
from jaxmec.training.cloning import CloningConfig
from jaxmec.training.off_policy import TrainConfig
from jaxmec.training.pathwise import PathwiseConfig
from jaxmec.training.rollout import make_spec

MULTI = "MultiServerOffloading-v0"


def every_recipe():
    """Every way in which a method can be run, in every environment."""
    for name in METHODS:
        for published, scale in ((False, "cpu"), (True, "cpu"), (False, "gpu")):
            with contextlib.suppress(ValueError):  # not every method has all
                chosen = recipe(name, published=published, scale=scale)
                for env in envs.ENVIRONMENTS:
                    yield name, chosen.changed(env=env)


def test_an_agent_of_ones_own_is_trained_by_what_trains_it():
    assert isinstance(recipe(Pathwise()).config, PathwiseConfig)
    assert isinstance(recipe(PerStation(DQN())).config, TrainConfig)
    assert recipe(PerStation(DQN()), hidden=(7,)).agent.inner.hidden == (7,)


def test_no_layer_silently_takes_a_name_that_another_has():
    """All overlaps of all methods: shared on purpose, with a reason, or refused."""
    arguments = Counter([*ARGUMENTS, *RUN_OPTIONS, "method", "seeds", "run", "published", "scale"])
    assert max(arguments.values()) == 1
    refused, seen = {}, set()
    for name, chosen in every_recipe():
        kind = (type(chosen.each), type(chosen.config), chosen.setting.env)
        if kind in seen:
            continue
        seen.add(kind)
        layers = option_layers(chosen.each, chosen.config, chosen.setting.env)
        for option in set().union(*layers.values()):
            owners = [layer for layer in layers if option in layers[layer]]
            if len(owners) > 1 and option in SHARED:
                given = by_layer({option: 1}, layers, shared=SHARED, owner="it")
                assert [layer for layer in layers if given[layer]] == [
                    layer for layer in owners if layer in SHARED[option]
                ]
                continue
            if len(owners) == 1 and option not in arguments:
                continue
            refused.setdefault(option, (name, chosen.setting.env, owners))
            for owner in owners:
                full = by_layer({f"{owner}.{option}": 1}, layers, shared=SHARED, owner="it")
                assert {layer: of for layer, of in full.items() if of} == {owner: {option: 1}}
    assert "start" in refused
    for option, (name, env, owners) in refused.items():
        with pytest.raises(TypeError, match=f"{option!r} is ambiguous") as caught:
            recipe(name, env=env, **{option: "noise"})
        for owner in owners:
            assert f"{owner}.{option}" in str(caught.value)
    starts = [row for row in METHODS.values() if row.start is not None]
    assert not any("start" in {f.name for f in dataclasses.fields(row.agent())} for row in starts)
    assert not set(OF_NETWORK) & {*refused, *SHARED}  # handed on by their plain names


@pytest.mark.parametrize(
    ("method", "options", "agent", "env"),
    [
        ("lad-ts", {"agent.start": "noise"}, {"start": "noise"}, {}),
        ("ddrl-amsa", {"agent.tau": 0.5, "env.penalty": 3.0}, {"tau": 0.5}, {"penalty": 3.0}),
        ("ddrl-amsa", {"env_options": {"penalty": 3.0}}, {}, {"penalty": 3.0}),
        ("drlcoedge", {"discount": 0.5}, {"discount": 0.5}, {}),
    ],
)  # fmt: skip
def test_a_name_written_in_full_goes_where_it_says(method, options, agent, env):
    chosen = recipe(method, **{"config.num_envs": 4}, **options)
    assert plain(chosen.agent) == plain(dataclasses.replace(METHODS[method].agent(), **agent))
    _, params = chosen.make()
    for name, value in env.items():
        assert float(getattr(params, name)) == value
    assert chosen.config.num_envs == 4


@pytest.mark.parametrize(
    "options", [{"k": 2}, {"agent.k": 2}, {"env.k": 2}, {"env_options": {"k": 2}}]
)
def test_the_number_of_servers_named_is_one(options):
    chosen = recipe("smcoedge", **options)
    assert chosen.agent.k == chosen.make()[0].k == 2
    with pytest.raises(TypeError, match=r"k must be one number|given twice"):
        recipe("smcoedge", **options, **{"env.k" if "agent.k" in options else "agent.k": 4})


def test_an_option_is_given_once():
    with pytest.raises(TypeError, match="probability is given twice"):
        recipe("drlcoedge", probability=0.1, env_options={"probability": 0.2})


def test_a_start_is_a_method_by_its_bare_name_and_else_a_path(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name, message in (("ddrl-ats-clone", "did you mean"), ("./mine", "mine")):
        with pytest.raises((ValueError, CheckpointMissing), match=message):
            recipe("ddrl-amsa-pathwise", start=name)


def test_a_wrong_name_is_told_the_right_one_wherever_that_belongs():
    for wrong, right in (("stps", "steps"), ("resmue", "resume"), ("preset_sed", "preset_seed")):
        with pytest.raises(TypeError, match=f"no option '{wrong}'; did you mean '{right}'"):
            jaxmec.train("dsac", **{wrong: 1})
    with pytest.raises(ValueError, match="tensorboard needs directory"):
        RunOptions(tensorboard=True)


def test_other_arrivals_take_the_place_of_those_before(tmp_path):
    rows = traces.Rows(
        slot=np.array([0, 1]), origin=np.array([0, 1]), size=np.array([2.0, 3.0]),
        work=np.array([0.4, 0.5]), result=None,
    )  # fmt: skip
    file = traces.write(tmp_path / "tasks.csv", rows)
    in_memory = traces.read(file)
    of_file = recipe("ddrl-amsa", trace=file)
    assert of_file.setting.trace is not None
    listed = of_file.changed(env_options={"workload": in_memory})
    assert listed.setting.trace is None and "workload" in dict(listed.setting.options)
    again = listed.changed(trace=file)
    assert again.setting == of_file.setting
    with pytest.raises(TypeError, match="both arrivals"):
        recipe("ddrl-amsa", trace=file, env_options={"workload": in_memory})


def test_changes_are_of_the_recipe_before_them():
    once = recipe("ddrl-amsa", steps=20_000, hidden=(16,), slots=3)
    twice = recipe("ddrl-amsa", steps=20_000).changed(hidden=(16,)).changed(slots=3)
    assert once.identity() == twice.identity()
    assert recipe(once).identity() == once.identity()
    other = once.changed(env="SingleServerOffloading-v0")
    assert (other.setting.preset, other.setting.options) == ("lad-ts", ())
    assert other.config == once.config and plain(other.agent) == plain(once.agent)
    with pytest.raises(ValueError, match="published and scale go with a method's name"):
        recipe(once, published=True)


def test_every_station_s_agent_is_changed():
    chosen = recipe("smcoedge", published=True, hidden=(8,))
    assert isinstance(chosen.agent, PerStation) and chosen.agent.inner.hidden == (8,)
    assert chosen.name == "smcoedge (published)"


@pytest.mark.parametrize("name", ["ddrl-amsa-taught", "mlp-carried", "ddrl-ats-pathwise"])
@pytest.mark.parametrize("share", [1.0, 0.5])
def test_what_training_starts_from_is_shortened_as_the_method_is(name, share):
    """Whatever the method's own length, and however it is shortened."""
    own = METHODS[name].config
    for chosen in (
        recipe(name, start="ddrl-amsa-cloned", slots=2, steps=round(share * own.steps)),
        recipe(name, start="ddrl-amsa-cloned", slots=2).changed(steps=round(share * own.steps)),
        recipe(name, start="ddrl-amsa-cloned", slots=2).scaled(share),
        recipe(name, start="ddrl-amsa-cloned", slots=2,
               config=dataclasses.replace(own, steps=round(share * own.steps))),
    ):  # fmt: skip
        assert chosen.start.name == "ddrl-amsa-cloned"
        assert dict(chosen.start.setting.options)["slots"] == 2
        windows = CloningConfig().windows * share
        assert chosen.start.config.windows == windows
        assert chosen.start.config.steps == CloningConfig().steps * share


def test_a_recipe_that_training_starts_from_is_as_long_as_it_says():
    before = recipe("mlp-cloned", windows=7)
    chosen = recipe("mlp-pathwise", steps=90_000, start=before, hidden=(4,))
    assert chosen.start.config == before.config and chosen.start.agent.hidden == (4,)
    assert chosen.work > dataclasses.replace(chosen, start=None).work


def test_what_training_starts_from_follows_in_setting_and_network():
    chosen = recipe("ddrl-amsa-taught")
    changed = chosen.changed(
        network="servers", hidden=(8, 8), denoising_steps=2, probability=0.2, learning_rate=1e-5
    )
    before, after = chosen.start, changed.start
    assert (after.agent.network, after.agent.hidden) == ("servers", (8, 8))
    assert after.agent.denoising_steps == 2
    assert after.agent.learning_rate == before.agent.learning_rate  # its own
    assert dict(after.setting.options)["probability"] == 0.2
    assert dataclasses.replace(after.setting, options=()) == dataclasses.replace(
        changed.setting, options=()
    )
    dqn = recipe(Pathwise(hidden=(8,)), env=MULTI, start=recipe(DQN(), env=MULTI)).start
    assert dqn.agent.hidden == (8,)  # it has no more of a network in common


def test_scaling_keeps_the_points_of_every_method():
    for name in METHODS:
        chosen = recipe(name)
        assert chosen.scaled(1.0).identity() == chosen.identity()
        short = chosen.scaled(0.25)
        assert short.config.num_points == pytest.approx(chosen.config.num_points, abs=1)
        assert short.work < 0.5 * chosen.work
        assert plain(short.agent) == plain(chosen.agent) and short.setting == chosen.setting


def test_an_identity_is_of_all_that_is_trained_and_of_nothing_else():
    chosen = recipe("mlp-taught")
    text = json.dumps(chosen.identity(), allow_nan=False)
    assert json.dumps(recipe("mlp-taught").identity()) == text
    for change in (
        {"steps": 1_000}, {"learning_rate": 1e-4}, {"hidden": (4,)}, {"deadline": 2.0},
        {"information": "slot"}, {"preset_seed": 1}, {"preset": "smcoedge"},
        {"start": "ddrl-amsa-cloned"}, {"env.k": 2}, {"name": "mine"},
    ):  # fmt: skip
        assert chosen.changed(**change).identity() != chosen.identity(), change
    shown = dataclasses.replace(chosen.start, config=CloningConfig(windows=1))
    assert chosen.changed(start=shown).identity() != chosen.identity()
    assert chosen.changed(deadline=1.0).identity() == chosen.identity()  # the preset's own


def test_a_policy_that_training_starts_from_is_part_of_the_identity():
    chosen = recipe("mlp-pathwise", hidden=(4,))
    env, params = chosen.make()
    spec = make_spec(env, params)
    policies = [
        Policy(chosen.agent, chosen.agent.init(jax.random.key(seed), spec), spec,
               chosen.setting, "it")
        for seed in (0, 0, 1)
    ]  # fmt: skip
    one, same, other = (chosen.changed(start=policy).identity() for policy in policies)
    assert one == same != other


def test_a_new_row_is_all_that_a_new_method_needs(monkeypatch, tmp_path):
    """It is trained, and compared in a study; the index of the command line is written anew."""
    from jaxmec.methods import Method, Settings
    from jaxmec.studies import study

    sizes = TrainConfig(
        steps=160, num_envs=4, prefill=40, buffer_size=200, batch_size=8, eval_every=40,
        eval_episodes=1,
    )  # fmt: skip
    row = Method(
        name="dqn-of-mine",
        about="a test's own",
        source="here",
        env=MULTI,
        tuned=Settings(lambda: DQN(hidden=(4,)), (("information", "local"), ("slots", 1)), sizes),
    )
    monkeypatch.setitem(METHODS, row.name, row)
    result = jaxmec.train("dqn-of-mine", progress=False)
    assert result.name == "dqn-of-mine" and result.config == sizes
    assert isinstance(recipe("dqn-of-mine"), Recipe)
    plan = study.Study(
        "mine", "one of mine", MULTI, (study.Entry("dqn-of-mine"),), presets=("amcoedge",),
        sweep=study.sweep_over("probability", (0.2,)), seeds=1, episodes=1,
    )  # fmt: skip
    outcome = study.run(plan, tmp_path, progress=False)
    assert np.isfinite(outcome.find("dqn-of-mine").report.mean("makespan"))


def test_what_is_trained_is_what_the_recipe_says(monkeypatch):
    told = {}

    def instead(agent, environment, params, config, seeds, settings, **options):
        told.update(options, **vars(settings), agent=agent, config=config, seeds=seeds)
        raise KeyboardInterrupt

    monkeypatch.setattr(parts, "run", instead)
    chosen = recipe("drlcoedge", steps=20_000)
    with pytest.raises(KeyboardInterrupt):
        jaxmec.train(chosen, seeds=(3, 5), run=RunOptions(devices=2), progress=False, hidden=(4,))
    assert plain(told["agent"]) == plain(dataclasses.replace(chosen.agent, hidden=(4,)))
    assert (told["config"], told["seeds"]) == (chosen.config, (3, 5))
    assert (told["devices"], told["progress"]) == (2, False)
    assert told["metadata"]["recipe"] == chosen.changed(hidden=(4,)).identity()
