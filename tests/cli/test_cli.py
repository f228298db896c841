"""The command line, in process: what it prints and how it exits."""

import contextlib
import dataclasses
import io
import json
import re
import subprocess
import sys
import types
import typing
from pathlib import Path

import pytest
import tyro
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxmec
from jaxmec import cli
from jaxmec.agents import PerStation
from jaxmec.cli import commands, fields, index, programs
from jaxmec.cli.actions import ACTIONS_OF
from jaxmec.cli.commands import doctor
from jaxmec.cli.errors import EXIT_PIPE
from jaxmec.envs import ENVIRONMENTS
from jaxmec.experiment import recipe
from jaxmec.methods import METHODS

ROOT = Path(__file__).parents[2]

SMALL = (
    "--steps 700 --set num_envs=4 --set prefill=200 --set batch_size=16 --set buffer_size=1000 "
    "--set eval_every=500 --set eval_episodes=2 --set agent.hidden=16 --no-progress"
).split()


def run(capsys, *words):
    code = cli.main(words)
    out, err = capsys.readouterr()
    return code, out, re.sub(r"\s+", " ", err)


def test_without_a_home_no_programs_are_kept(monkeypatch, tmp_path):
    """A folder named ~ appeared wherever the program was started."""

    def nobody(number):
        raise KeyError(number)

    monkeypatch.delenv("HOME")
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    monkeypatch.setattr("pwd.getpwuid", nobody)
    for relative in ("", "cache"):
        monkeypatch.setenv("XDG_CACHE_HOME", relative)
        assert programs.directory() is None
    assert "no home" in doctor.examine(None).programs.says
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert programs.directory().parents[1] == tmp_path / "jaxmec"


def test_list_names_everything(capsys):
    code, out, _ = run(capsys, "list")
    assert code == 0
    for name in ("CartPole-v1", "amcoedge", "lad-ts", "dsac", "ddrl-amsa", "optimal"):
        assert name in out
    code, out, _ = run(capsys, "list", "presets")
    assert code == 0 and "amcoedge" in out and "optimal" not in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["trian"], "did you mean 'train'"),
        (["train", "dasc"], "did you mean 'dsac'"),
        (["train", "dsac", "--env", "Cartpole-v1"], "did you mean 'CartPole-v1'"),
        (["train", "ddrl-amsa", "--preset", "amcoedg"], "did you mean 'amcoedge'"),
        (["evaluate", "optimla"], "did you mean 'optimal'"),
        (["evaluate", "runs/nothing/policy"], "no policy at"),
        (["evaluate", "optimal", "--information", "local"], "needs information 'full'"),
        (["list", "scheduler"], "did you mean 'schedulers'"),
        (["compare", "cartpol"], "did you mean 'cartpole'"),
        (["compare", "cartpole", "--size", "ful"], "did you mean 'full'"),
        (["compare", "--schedulers", "optiml"], "did you mean 'optimal'"),
        (["compare", "--methods", "ddrl-amsa:publishd"], "neither published nor option=value"),
        (["compare", "--methods", "tests/training"], "jaxmec evaluate tests/training"),
        (["compare"], "name a study"),
        (["compare", "amcoedge-methods", "--sweep", "deadline"], "give both"),
        (["report", "--size", "shrt"], "did you mean 'short'"),
        (["train", "dsac", "--resume"], "--resume needs --out"),
        (["train", "dsac", "--steps", "0", "--no-progress"], "steps"),
    ],
)
def test_mistakes_exit_with_2_and_say_what_is_right(capsys, words, message):
    code, _, err = run(capsys, *words)
    assert code == 2
    assert message in err


def test_a_wrong_flag_suggests_the_right_one(capsys):
    code, out, err = run(capsys, "train", "dsac", "--stepz", "5")
    assert code == 2
    assert "--steps" in out + err


def test_a_scale_changes_the_other_defaults(capsys):
    code, out, _ = run(capsys, "train", "sac", "--scale", "gpu", "--help-all")
    assert code == 0
    assert "environments side by side (default: 4096)" in out
    code, out, _ = run(capsys, "train", "sac", "--scale", "gpu", "--scale", "cpu", "--help-all")
    assert "side by side (default: 16)" in out
    code, _, err = run(capsys, "train", "sac", "--scale=gpuu")
    assert code == 2 and "Expected one of ('cpu', 'gpu')" in err
    code, _, err = run(capsys, "train", "ddrl-amsa", "--scale", "gpu")
    assert code == 2 and "these have: dqn, sac, dsac" in err


@pytest.mark.slow
def test_both_scales_are_trained_and_drawn(tmp_path):
    words = ["--methods", "sac", "--seeds", "2", "--shorten", "0.001", "--no-progress"]
    command = [sys.executable, "train/scale.py", *words, "--out", str(tmp_path)]
    for _ in range(2):  # the second goes on where the first ended
        done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, check=True)
        assert "sac" in done.stdout and "gpu" in done.stdout
    assert (tmp_path / "scale.png").stat().st_size > 1000
    found = json.loads((tmp_path / "results.json").read_text())["methods"]["sac"]
    assert found["gpu"]["updates"] == [0, 50] and len(found["cpu"]["returns"][0]) == 2


def test_help_documents_every_field_with_its_default(capsys):
    code, out, _ = run(capsys, "train", "ddrl-amsa", "--help-all")
    assert code == 0
    for text in ("--steps", "--process-id", "discount", "0.9", "deadline", "Gcycles/s"):
        assert text in out
    assert run(capsys, "--help")[0] == 0
    assert run(capsys, "train", "--help")[0] == 0
    assert run(capsys)[0] == 2


PLAIN = (bool, int, float, str, Path, types.NoneType, ...)


def not_plain(shown, default, where):
    """What of a type on the command line is neither Python's own nor a dataclass of such."""
    if typing.get_origin(shown) is typing.Annotated:
        shown = typing.get_args(shown)[0]
    if dataclasses.is_dataclass(shown):
        hints = typing.get_type_hints(shown, include_extras=True)
        for field in dataclasses.fields(shown):
            value = getattr(default, field.name, field.default)
            yield from not_plain(hints[field.name], value, f"{where}.{field.name}")
        return
    parts = default if isinstance(default, tuple) else (default,)
    for part in parts:
        if part is not dataclasses.MISSING and type(part) not in (*PLAIN, type(Path())):
            yield f"{where}: a default of {type(part)}"
    if typing.get_origin(shown) is typing.Literal:
        return
    if typing.get_origin(shown) in (typing.Union, types.UnionType, tuple):
        for part in typing.get_args(shown):
            yield from not_plain(part, dataclasses.MISSING, where)
    elif shown not in PLAIN:
        yield f"{where}: {shown}"


@pytest.mark.parametrize(
    "words",
    [
        ["train", "dsac"],
        *([name, action] for name, actions in ACTIONS_OF.items() for action in actions),
        *([name] for name in commands.names() if name not in ("train", *ACTIONS_OF)),
    ],
    ids=" ".join,
)
def test_types_on_the_command_line_are_our_own(monkeypatch, words):
    """What others' types resolve to changes with their version and Python's."""
    seen = []

    def parse(command, **options):
        seen.append(command)
        raise SystemExit(0)

    monkeypatch.setattr(tyro, "cli", parse)
    assert cli.main(words) == 0
    assert list(not_plain(seen[0], dataclasses.MISSING, words[0])) == []


@pytest.mark.parametrize("method", METHODS)
def test_types_of_fields_are_our_own(method):
    row = METHODS[method]
    hints = index.hints(index.kinds(row.settings(), ENVIRONMENTS[row.env]))
    for group, of_group in hints.items():
        for name, hint in of_group.items():
            assert list(not_plain(hint, dataclasses.MISSING, f"{group}.{name}")) == []


def test_numbers_of_the_pole_are_fields(capsys):
    settings = "--set max_steps_in_episode=7 --set env.angle_limit=100".split()
    code, out, err = run(capsys, "train", "dqn", *settings, *SMALL)
    assert code == 0, err
    assert "length 7," in out


def test_train_save_and_evaluate(capsys, tmp_path):
    out = tmp_path / "run"
    code, text, err = run(
        capsys, "train", "ddrl-amsa", "--out", str(out), "--set", "slots=3",
        "--set", "probability=0.5", *SMALL,
    )  # fmt: skip
    assert code == 0, err
    assert str(out / "policy") in text
    code, text, err = run(capsys, "evaluate", str(out), "--episodes", "2", "--json")
    assert code == 0, err
    report = json.loads(text)
    assert report["name"] == "ddrl-amsa" and len(report["makespan"][0]) == 2
    # The policy remembers the setting it was trained on: 3 slots of 5 x 50 x 0.5 tasks.
    assert all(250 < length < 500 for length in report["length"][0])

    code, _, err = run(capsys, "train", "ddrl-amsa", "--out", str(out), *SMALL)
    assert code != 0 and "resume" in err
    files = [file for file in (out / "policy").rglob("*") if file.is_file()]
    victim = max(files, key=lambda file: file.stat().st_size)
    victim.write_bytes(b"")
    code, _, err = run(capsys, "evaluate", str(out))
    assert code == 1 and victim.name in err


def test_compare_rules_of_ones_own_choice(capsys, tmp_path):
    words = [
        "compare", "--out", str(tmp_path), "--presets", "amcoedge", "--sweep", "slots",
        "--values", "1", "2", "--episodes", "2", "--no-progress", "--schedulers", "local",
        "local-plus-random:allocation_information=true:label=RandCoEdge",
    ]  # fmt: skip
    code, out, _ = run(capsys, *words, "--plan")
    assert code == 0 and out.count("to do") == 4 and not any(tmp_path.iterdir())
    code, out, err = run(capsys, *words)
    assert code == 0, err
    assert out.count("RandCoEdge") == 2
    text = (tmp_path / "chosen" / "comparison" / "results.md").read_text()
    # Published, the allocation is given the true waits: the table says so.
    assert "| RandCoEdge | slot_start | true |" in text and "| local | slot_start | seen |" in text
    assert run(capsys, *words, "--plan")[1].count("finished") == 4


def test_a_plan_shows_a_study_with_what_was_changed(capsys, tmp_path):
    code, out, _ = run(
        capsys, "compare", "amcoedge-deadline", "--size", "short", "--plan", "--out", str(tmp_path),
        "--methods", "drlcoedge:discount=0.5:steps=20000", "smcoedge:published", "--seeds", "7",
    )  # fmt: skip
    assert code == 0
    assert "drlcoedge, discount=0.5, steps=20000, amcoedge, deadline (s) 0.2: 7 seeds" in out
    assert "smcoedge (published), amcoedge, deadline (s) 1: 7 seeds" in out
    assert out.count("does not learn") == 3 * 3


def test_report_without_results_says_so(capsys, tmp_path):
    page = tmp_path / "docs" / "page.md"
    code, out, _ = run(
        capsys, "report", "--size", "short", "--out", str(tmp_path), "--page", str(page)
    )
    assert code == 0 and str(page) in out
    text = page.read_text()
    assert "Nothing has been measured yet" in text and "**yes**" not in text


def test_a_missing_file_is_named_without_a_number_of_the_system(capsys, tmp_path):
    code, _, err = run(capsys, "trace", "check", str(tmp_path / "none.csv"))
    assert code == 1
    assert "none.csv: No such file or directory" in err and "Errno" not in err


@pytest.mark.parametrize("words", [["--help"], ["train", "--help"]])
def test_a_reader_that_leaves_early_is_no_error(words):
    command = [sys.executable, "-m", "jaxmec", *words]
    pipe = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    pipe.stdout.close()  # as `| head -0` does
    assert (pipe.stderr.read(), pipe.wait()) == ("", EXIT_PIPE)


JOB = Path(__file__).parents[2] / "train" / "ddrl_amsa.py"


@pytest.mark.skipif(not JOB.exists(), reason="an installed wheel has no jobs")
def test_the_main_job_says_without_a_traceback_what_is_wrong(tmp_path):
    command = [sys.executable, JOB, "--taught-updates", "0", "--out", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert "must be a whole number of at least 1" in done.stderr and "Traceback" not in done.stderr


WATCHING = ("seeds", "directory", "resume", "progress", "deterministic", "tensorboard", "wandb",
            "devices", "seeds_at_once")  # fmt: skip


class Stopped(Exception):
    """Instead of a training."""


def trained_as(words):
    """What `jaxmec train` would train, or None where it refuses the words."""
    told = {}

    def instead(method, **options):
        told.update(options)
        for name in WATCHING:
            del options[name]
        told["recipe"] = recipe(method, **options)
        raise Stopped

    with (
        pytest.MonkeyPatch.context() as patched,
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        patched.setattr("jaxmec.train", instead)
        patched.setattr("jaxmec.training.devices.connect", lambda *named: told.update(named=named))
        try:
            cli.main(["train", *words])
        except Stopped:
            return told
    return None


def config_of(name, published, scale="cpu"):
    return jaxmec.METHODS[name].settings(published, scale).config


@pytest.mark.parametrize(
    ("flags", "published"),
    [
        (["--published"], True),
        (["--published", "--no-published"], False),
        (["--no-published", "--published"], True),
        (["--agent.hidden", "8", "8", "--published"], True),
        (["--set", "hidden=8,8", "--published"], True),
    ],
)
def test_of_two_flags_the_last_is_what_is_trained(flags, published):
    trained = trained_as(["ddrl-ats", *flags])["recipe"]
    assert trained.name == jaxmec.METHODS["ddrl-ats"].label(published)
    assert trained.config == config_of("ddrl-ats", published)
    assert isinstance(trained.agent, PerStation) == published
    if "8" in "".join(flags):
        assert trained.each.hidden == (8, 8)


def test_a_plan_refuses_names_that_mean_several_things(capsys):
    words = ["compare", "--plan", "--seeds", "1", "--presets", "lad-ts", "--methods"]
    code, _, err = run(capsys, *words, "lad-ts:start=noise")
    assert code == 2 and "'start' is ambiguous" in err and "agent.start" in err
    full = "lad-ts:agent.start=noise:config.steps=20000:env.penalty=2"
    code, out, _ = run(capsys, *words, full)
    assert code == 0 and "140,000 steps" in out  # as few as there can be


def test_a_field_of_several_groups_is_theirs_to_settle():
    """Which of them is meant, `jaxmec.train` says or asks; what one group has is meant."""
    hints = {"config": {"steps": int}, "agent": {"k": int}, "env": {"k": int}}
    texts = {"steps": "5", "k": "2", "env.k": "3"}
    assert fields.values(texts, hints, "it") == {"config.steps": 5, "k": 2, "env.k": 3}


def test_what_is_played_is_told_whole():
    """`evaluate` and `show` take the same flags."""
    told = {
        "env": "MultiServerOffloading-v0",
        "preset": "smcoedge",
        "preset_seed": 3,
        "information": "local",
    }
    words = [f"--{name.replace('_', '-')}={value}" for name, value in told.items()]
    calls = []

    def instead(what, **options):
        calls.append((what, options))
        raise Stopped

    for function, command in (
        ("jaxmec.evaluate", ["evaluate"]),
        ("jaxmec.experiment.episode.record", ["show", "--to", "nowhere"]),
    ):
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(function, instead)
            with pytest.raises(Stopped):
                cli.main([*command, "water-filling", *words])
        _, options = calls[-1]
        assert {name: options[name] for name in told} == told and options["trace"] is None


def test_a_field_is_meant_where_a_flag_has_its_name():
    trained = trained_as(["lad-ts", "--set", "start=noise", "--set", "places=0"])["recipe"]
    assert trained.agent.start == "noise" and trained.start is None


def test_two_numbers_of_servers_are_refused_and_either_flag_is_heard():
    for words in (["--k", "2"], ["--agent.k", "2"], ["--set", "k=2"], ["--set", "env.k=2"]):
        trained = trained_as(["smcoedge", *words])["recipe"]
        assert trained.each.k == dict(trained.setting.options)["k"] == 2
    assert trained_as(["smcoedge", "--set", "env.k=2", "--set", "agent.k=1"]) is None


@pytest.mark.parametrize("flag", [["--process_id", "1"], ["--process-id", "1"], ["--process_id=1"]])
def test_every_spelling_of_a_flag_is_seen(flag):
    told = trained_as(["dqn", "--coordinator=here:1", "--processes", "2", *flag])
    assert told["named"] == ("here:1", 2, 1)
    assert told["devices"] == "all"


PAIRS = (
    ("--num-envs 32", "--set num_envs=32"),
    ("--num_envs=32", "--set num-envs=32"),
    ("--agent.hidden 8 8", "--set agent.hidden=8,8"),
    ("--agent.target-entropy -1.0", "--set agent.target_entropy=-1.0"),
    ("--agent.no-layer-norm", "--set layer_norm=false"),
    ("--agent.layer_norm", "--set layer_norm=true"),
    ("--show-place", "--set show_place=true"),
    ("--no-show-place", "--set show_place=false"),
    ("--setting.deadline 2", "--set deadline=2"),
    ("--setting.size 2 5", "--set env.size=2,5"),
    ("--features times", "--set features=times"),
    ("--neighbours None", "--set neighbours=none"),
    ("--published", "--published"),
    ("--scale=cpu", "--scale cpu"),
    ("--preset lad-ts-3", "--preset=lad-ts-3"),
    ("--steps 500000", "--set steps=500000"),
)


def field_of(pair):
    return pair[1].partition("=")[0].replace("num-envs", "num_envs")


@settings(max_examples=12, deadline=None, derandomize=True)
@given(st.lists(st.sampled_from(PAIRS), min_size=1, max_size=4, unique_by=field_of))
def test_a_flag_of_before_is_the_field_that_is_set_now(pairs):
    old, new = (
        trained_as(["sac-ts", *" ".join(pair[now] for pair in pairs).split()])["recipe"]
        for now in (0, 1)
    )
    for name in ("name", "agent", "config", "setting", "start"):
        assert repr(getattr(old, name)) == repr(getattr(new, name))


def test_a_flag_of_before_says_how_it_is_written_now(capsys):
    code, _, err = run(capsys, "train", "dsac", "--num-envs", "0", "--agent.hidden", "8", "8")
    assert code == 2 and "num_envs" in err
    assert "fields are set as --set num_envs=0 --set agent.hidden=8,8 now" in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--set dicount=0.9", "dsac has no field 'dicount'; did you mean 'discount'?"),
        ("--set agnt.discount=0.9", "has no field 'agnt.discount'"),
        ("--set discount", "expected NAME=VALUE"),
        ("--set discount=0.9 --set discount=0.8", "discount is given twice"),
        ("--set discount=high", "discount must be a number, got 'high'"),
        ("--set num_envs=2.5", "num_envs must be a whole number, got '2.5'"),
        ("--set layer_norm=yes", "layer_norm must be true or false, got 'yes'"),
        ("--set hidden=8,wide", "hidden must be a list of whole numbers, got '8,wide'"),
        ("--set discount=2", "discount must be a finite number of at least 0 and at most 1"),
        ("--set activation=rellu", "activation must be one of relu"),
        ("--set start=last --set agent.start=last", "agent.start is given twice"),
        ("--steps 100 --set steps=200", "--steps and --set steps"),
    ],
)
def test_what_is_wrong_with_a_field_is_said(capsys, words, message):
    code, _, err = run(capsys, "train", "dsac", *words.split())
    assert code == 2 and message in err, err


@pytest.mark.parametrize("method", METHODS)
def test_help_of_a_method_fits_one_screen(capsys, method):
    code, out, _ = run(capsys, "train", method, "--help")
    assert code == 0
    assert out.count("\n") <= 40 and max(map(len, out.splitlines())) <= 80
    assert METHODS[method].source.split()[0] in out


@pytest.mark.parametrize(
    "words", ["list", "--help", "train --help", "train ddrl-amsa --help-all", "completion bash"]
)
def test_what_only_names_things_imports_no_jax(words):
    code = "import sys; from jaxmec import cli; cli.main(sys.argv[1:]); print('jax' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code, *words.split()], capture_output=True, text=True
    )
    assert done.stdout.splitlines()[-1] == "False", done.stderr
