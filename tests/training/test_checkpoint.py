"""Checkpoints: exact, whole or not there, refused when damaged, at home on any devices."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import json
import os
import pickle
import resource
import shutil
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from changes import AtEveryChange

from jaxmec.core import files
from jaxmec.training import checkpoint
from jaxmec.training.checkpoint import (
    AS_STORED,
    CheckpointCorrupt,
    CheckpointError,
    CheckpointIncompatible,
    CheckpointMissing,
    CheckpointNotSaved,
)


class Learner(NamedTuple):
    params: dict[str, Any]
    key: jax.Array
    updates: jax.Array


def small(number: int = 0) -> Learner:
    params = {"Dense_0": {"kernel": jnp.full((2, 3), number, jnp.float32), "bias": jnp.ones(3)}}
    return Learner(params, jax.random.key(number), jnp.asarray(number, jnp.int32))


def every_dtype() -> dict[str, Any]:
    patterns = np.random.default_rng(0).integers(0, 2**32, 64, np.uint32)  # NaN payloads too
    return {
        "float32": jnp.asarray(patterns.view(np.float32)),
        "bfloat16": jax.lax.bitcast_convert_type(jnp.asarray(patterns), jnp.bfloat16),
        "uint32": jnp.asarray(patterns),
        "int8": jnp.asarray(patterns.view(np.int8)).reshape(16, 16),
        "bool": jnp.asarray(patterns % 2 == 0),
        "scalar": jnp.asarray(-0.0),
        "number": 7,
        "empty": jnp.zeros((0, 3), jnp.int32),
        "keys": jax.random.split(jax.random.key(3), (2, 3)),
        "rbg": jax.random.key(3, impl="rbg"),
        "a.b": {"c": jnp.ones(1), "c/d": jnp.zeros(2), "..": jnp.zeros(1)},
        "a": {"b": {"c": jnp.full(1, 2.0)}},
        "nested": [(), (jnp.arange(3), None), small(5)],
    }


def bits(tree: Any) -> list[tuple[str, tuple[int, ...], bytes]]:
    """Every leaf as its dtype, shape and bytes."""
    found = []
    for leaf in jax.tree.leaves(tree):
        leaf = jnp.asarray(leaf)
        data = leaf
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            data = jax.random.key_data(leaf)
        found.append((str(leaf.dtype), leaf.shape, np.asarray(data).tobytes()))
    return found


def sign_again(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change a manifest, and its digest with it, as a newer program or a forger would."""
    file = path / "manifest.json"
    document = json.loads(file.read_text())
    del document["sha256"]
    change(document)
    text = json.dumps(document, sort_keys=True, separators=(",", ":"))
    file.write_text(json.dumps(document | {"sha256": hashlib.sha256(text.encode()).hexdigest()}))


def largest_file(path: Path) -> Path:
    return max((path / "arrays").rglob("*"), key=lambda file: file.is_file() * file.stat().st_size)


# Exact


@pytest.mark.parametrize("abstract", [False, True])
def test_round_trip_keeps_every_bit(tmp_path: Path, abstract: bool) -> None:
    tree = every_dtype()
    path = checkpoint.save(tmp_path, tree, step=12, metric=1.5, metadata={"cap": float("inf")})
    assert path == tmp_path / "step_000000012"
    template = jax.eval_shape(lambda: tree) if abstract else tree
    restored, manifest = checkpoint.restore(path, template)
    assert jax.tree.structure(restored) == jax.tree.structure(tree)
    assert bits(restored) == bits(tree)
    assert str(jax.random.key_impl(restored["rbg"])) == "rbg"
    assert (manifest.step, manifest.metric, manifest.kind) == (12, 1.5, "state")
    assert manifest.metadata == {"cap": float("inf")}
    assert manifest.versions["jax"] == jax.__version__
    assert manifest.device == jax.devices()[0].device_kind


def test_restored_arrays_may_be_donated(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, {"x": jnp.arange(4096.0)}, step=0)
    step = jax.jit(lambda x: x + 1, donate_argnums=0)
    restored, _ = checkpoint.restore(tmp_path, {"x": jnp.arange(4096.0)})
    x = step(step(restored["x"]))
    assert restored["x"].is_deleted()
    np.testing.assert_array_equal(x, np.arange(4096.0) + 2)


def test_subtree_as_stored(tmp_path: Path) -> None:
    history = {"return": np.arange(6.0).reshape(2, 3), "steps": np.arange(3, dtype=np.int64)}
    checkpoint.save(tmp_path, {"state": small(1), "history": history}, step=0)
    restored, _ = checkpoint.restore(tmp_path, {"state": small(), "history": AS_STORED})
    assert bits(restored["state"]) == bits(small(1))
    assert {name: value.dtype for name, value in restored["history"].items()} == {
        "return": np.float64,
        "steps": np.int64,
    }
    np.testing.assert_array_equal(restored["history"]["return"], history["return"])


def test_plain_orbax_reads_the_arrays(tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path, small(4), step=0)
    with ocp.PyTreeCheckpointer() as orbax:
        tree = orbax.restore(path / "arrays")
    np.testing.assert_array_equal(tree["params"]["Dense_0"]["kernel"], np.full((2, 3), 4.0))


@pytest.mark.parametrize("leaf", ["text", object(), np.array([{}], object)])
def test_only_arrays_are_saved(tmp_path: Path, leaf: Any) -> None:
    with pytest.raises(TypeError, match="params/odd"):
        checkpoint.save(tmp_path, {"params": {"odd": leaf}}, step=0)
    assert list(tmp_path.iterdir()) == []


# Kept


def test_newest_and_best_are_kept(tmp_path: Path) -> None:
    for step, metric in enumerate([1.0, 9.0, 2.0, float("nan"), None, 3.0, 4.0]):
        checkpoint.save(tmp_path, small(step), step=step, metric=metric, keep=2)
    assert [path.name[-1] for path in checkpoint.checkpoints(tmp_path)] == ["1", "5", "6"]
    assert checkpoint.best(tmp_path) == tmp_path / "step_000000001"
    assert checkpoint.find(tmp_path) == tmp_path / "step_000000006"
    restored, _ = checkpoint.restore(tmp_path, small())
    assert bits(restored) == bits(small(6))


def test_steps_are_ordered_as_numbers(tmp_path: Path) -> None:
    for step in (999_999_999, 1_000_000_000, 5):
        checkpoint.save(tmp_path, small(), step=step)
    assert checkpoint.find(tmp_path).name == "step_1000000000"


def test_same_step_is_replaced(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, small(1), step=3)
    checkpoint.save(tmp_path, small(2), step=3)
    assert bits(checkpoint.restore(tmp_path, small())[0]) == bits(small(2))
    assert [entry.name for entry in tmp_path.iterdir()] == ["step_000000003"]


def test_what_a_killed_save_left_is_removed(tmp_path: Path) -> None:
    for name in (".saving-step_000000001", ".removing-step_000000000"):
        (tmp_path / name / "arrays").mkdir(parents=True)
        (tmp_path / name / "arrays" / "half").write_text("...")
    assert checkpoint.checkpoints(tmp_path) == []
    checkpoint.save(tmp_path, small(), step=2)
    assert [entry.name for entry in tmp_path.iterdir()] == ["step_000000002"]


# Refused


def truncate(path: Path) -> Path:
    file = largest_file(path)
    file.write_bytes(file.read_bytes()[:-1])
    return file


def flip(path: Path) -> Path:
    file = largest_file(path)
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    return file


def remove(path: Path) -> Path:
    file = largest_file(path)
    file.unlink()
    return file


def link(path: Path) -> Path:
    file = largest_file(path)
    other = path.parent / "elsewhere"
    shutil.move(file, other)
    file.symlink_to(other)
    return file


def smuggle(path: Path) -> Path:
    file = path / "arrays" / "weights.pkl"
    file.write_bytes(pickle.dumps({"x": 1}))
    return file


def remove_manifest(path: Path) -> Path:
    (path / "manifest.json").unlink()
    return path / "manifest.json"


def truncate_manifest(path: Path) -> Path:
    file = path / "manifest.json"
    file.write_bytes(file.read_bytes()[:100])
    return file


def edit_manifest(path: Path) -> Path:
    file = path / "manifest.json"
    file.write_text(file.read_text().replace('"step": 2', '"step": 7'))
    return file


def deepen_manifest(path: Path) -> Path:
    file = path / "manifest.json"
    file.write_text("[" * 100_000)
    return file


def forge_manifest(path: Path) -> Path:
    sign_again(path, lambda document: document.pop("leaves"))
    return path / "manifest.json"


def pipe(path: Path) -> Path:
    file = largest_file(path)
    file.unlink()
    os.mkfifo(file)
    return file


def pipe_manifest(path: Path) -> Path:
    (path / "manifest.json").unlink()
    os.mkfifo(path / "manifest.json")
    return path / "manifest.json"


def endless_manifest(path: Path) -> Path:
    (path / "manifest.json").unlink()
    (path / "manifest.json").symlink_to("/dev/zero")
    return path / "manifest.json"


def long_manifest(path: Path) -> Path:
    with (path / "manifest.json").open("a") as stream:
        stream.truncate(2**33)  # a hole, which takes no room on the disk
    return path / "manifest.json"


def duplicate_key(path: Path) -> Path:
    file = path / "manifest.json"
    file.write_text(file.read_text().replace("{", '{"kind": "state",', 1))
    return file


DAMAGES = [
    (pipe, "not a plain file"),
    (pipe_manifest, "not a plain file"),
    (endless_manifest, "not a plain file"),
    (long_manifest, "expected at most 33554432 bytes"),
    (duplicate_key, "the key 'kind' is there twice"),
    (truncate, r"expected \d+ bytes, found \d+"),
    (flip, r"expected SHA-256 [0-9a-f]{64}, found [0-9a-f]{64}"),
    (remove, "missing"),
    (link, "not a plain file"),
    (smuggle, "not one of the checkpoint's"),
    (remove_manifest, "missing"),
    (truncate_manifest, "found 100 bytes"),
    (edit_manifest, "SHA-256"),
    (deepen_manifest, "not JSON"),
    (forge_manifest, "leaves is missing"),
]


@pytest.mark.parametrize(("damage", "said"), DAMAGES, ids=[d.__name__ for d, _ in DAMAGES])
def test_damage_is_refused_and_the_previous_offered(
    tmp_path: Path, damage: Callable[[Path], Path], said: str
) -> None:
    for step in range(3):
        checkpoint.save(tmp_path, small(step), step=step)
    flip(tmp_path / "step_000000001")  # the one before is damaged as well
    file = damage(tmp_path / "step_000000002")
    with pytest.raises(CheckpointCorrupt, match=said) as caught:
        checkpoint.restore(tmp_path, small())
    assert str(file) in str(caught.value)
    assert f"beside it is {tmp_path / 'step_000000000'}:" in str(caught.value)
    restored, _ = checkpoint.restore(tmp_path / "step_000000000", small())
    assert bits(restored) == bits(small(0))


def changed(keys: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(document: dict[str, Any]) -> None:
        *path, last = keys.split(".")
        for key in path:
            document = document[int(key)] if isinstance(document, list) else document[key]
        if value is REMOVED:
            del document[last]
        else:
            document[last] = value

    return change


REMOVED: Any = object()
WRONG = [
    ("format_version", 0, "format_version must be a whole number of at least 1, got 0"),
    ("format_version", True, "format_version must be a whole number of at least 1, got True"),
    ("kind", "thing", "kind must be 'state' or 'policy'"),
    ("step", "1", "step must be null or a whole number of 0 to .*, got '1'"),
    ("metric", float("nan"), "metric must be null or a finite number, got nan"),
    ("metadata", [], "metadata must be an object, got a list of 0"),
    ("versions", {"jax": 1}, r"versions\.jax must be a string.*, got 1"),
    ("device", REMOVED, "device is missing"),
    ("leaves", {}, "leaves must be a list"),
    ("leaves", [None] * 100_001, "leaves must be a list of 0 to at most 100000"),
    ("leaves.0.path", [1], r"leaves\[0\]\.path\[0\] must be a string"),
    ("leaves.0.shape", [-1], r"leaves\[0\]\.shape\[0\] must be a whole number"),
    ("leaves.0.shape", [10**12], r"float32\[1000000000000\] by the manifest|does not fit"),
    ("leaves.0.shape", [0, 2**48, 2**48], "cannot be read|does not fit"),
    ("leaves.0.dtype", None, r"leaves\[0\]\.dtype must be a dtype"),
    ("leaves.2.key_impl", "made-up", r"leaves\[2\]\.key_impl must be null or a name"),
    ("leaves.2.key_impl", "made_up", "cannot be read|is no key|does not fit"),
    ("files", None, "files must be an object, got None"),
    ("files", {"../x": {}}, r"files names '\.\./x'"),
    ("files", {"arrays/x": {"size": "1", "sha256": "0" * 64}}, r"size must be a whole number"),
]


@pytest.mark.parametrize(("keys", "value", "said"), WRONG)
def test_a_manifest_of_wrong_types_is_refused_by_name(
    tmp_path: Path, keys: str, value: Any, said: str
) -> None:
    """Its digest in order: what another program, or somebody malicious, would write."""
    path = checkpoint.save(tmp_path, small(), step=2)
    sign_again(path, changed(keys, value))
    with pytest.raises(CheckpointError, match=said):
        checkpoint.restore(path, small())
    assert checkpoint.best(tmp_path) is None


def test_a_listed_file_is_not_read_if_it_is_too_large(tmp_path: Path) -> None:
    path = checkpoint.save_policy(tmp_path / "policy", small(), {})
    file = largest_file(path)
    name = file.relative_to(path).as_posix()
    size = file.stat().st_size
    os.truncate(file, 2**40)  # a hole, which takes no room on the disk, but hours to read
    with pytest.raises(CheckpointCorrupt, match=f"expected {size} bytes, found {2**40}"):
        checkpoint.load_policy_arrays(path)

    def listed(document: dict[str, Any]) -> None:
        document["files"][name]["size"] = 2**40

    sign_again(path, listed)
    with pytest.raises(CheckpointCorrupt, match=rf"size must be at most {2**28}, got {2**40}"):
        checkpoint.load_policy_arrays(path)


def test_damage_without_another_checkpoint(tmp_path: Path) -> None:
    truncate(checkpoint.save(tmp_path, small(), step=0))
    with pytest.raises(CheckpointCorrupt, match="no other good checkpoint"):
        checkpoint.verify(tmp_path / "step_000000000")


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(CheckpointMissing, match="nowhere does not exist"):
        checkpoint.restore(tmp_path / "nowhere", small())
    with pytest.raises(CheckpointMissing, match="holds no checkpoint"):
        checkpoint.restore(tmp_path, small())
    checkpoint.save(tmp_path, small(), step=5)
    with pytest.raises(CheckpointMissing, match=r"step_000000006; beside it: step_000000005"):
        checkpoint.restore(tmp_path / "step_000000006", small())
    with pytest.raises(CheckpointMissing):
        checkpoint.load_policy_arrays(tmp_path)


def other_shape(learner: Learner) -> Learner:
    return learner._replace(params={"Dense_0": {"kernel": jnp.ones((2, 4)), "bias": jnp.ones(3)}})


MISFITS = [
    (other_shape, r"params/Dense_0/kernel is float32\[2, 3\].*float32\[2, 4\] was expected"),
    (lambda t: t._replace(updates=jnp.ones(())), r"updates is int32\[\].*float32\[\]"),
    (lambda t: t._replace(key=jax.random.key(0, impl="rbg")), r"key is key<fry>\[\].*key<rbg>"),
    (lambda t: t._replace(params={"Dense_1": t.params["Dense_0"]}), "no leaf params/Dense_1/bias"),
    (lambda t: t._replace(updates=()), r"its leaf updates \(int32\[\]\) was not expected"),
]


@pytest.mark.parametrize(("change", "said"), MISFITS, ids=range(len(MISFITS)))
def test_another_state_is_refused(tmp_path: Path, change: Any, said: str) -> None:
    checkpoint.save(tmp_path, small(), step=0)
    with pytest.raises(CheckpointIncompatible, match=said):
        checkpoint.restore(tmp_path, change(small()))


def test_newer_format_is_refused(tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path, small(), step=0)
    sign_again(path, lambda document: document.update(format_version=2))
    with pytest.raises(CheckpointIncompatible, match=r"format version 2.*up to 1"):
        checkpoint.restore(path, small())


def test_other_library_versions_are_a_warning(tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path, small(), step=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        checkpoint.restore(path, small())
    sign_again(path, lambda document: document["versions"].update(jax="0.1.2"))
    with pytest.warns(UserWarning, match=r"saved with jax 0\.1\.2 \(here "):
        restored, _ = checkpoint.restore(path, small(1))
    assert bits(restored) == bits(small(0))


# Whole or not there


def full_disk(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def denied(*_: Any, **__: Any) -> None:
    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


@pytest.mark.parametrize("fails", ["os.fsync", "os.rename", "pathlib.Path.mkdir", "orbax"])
@pytest.mark.parametrize("failure", [full_disk, denied])
def test_failed_save_leaves_the_previous_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str, failure: Any
) -> None:
    previous = checkpoint.save(tmp_path, small(1), step=1)
    name = "orbax.checkpoint.Checkpointer.save" if fails == "orbax" else fails
    with monkeypatch.context() as patch:
        patch.setattr(name, failure)
        with pytest.raises(CheckpointNotSaved) as caught:
            checkpoint.save(tmp_path, small(2), step=2)
        with pytest.raises(CheckpointNotSaved):  # nor is one of the same step lost
            checkpoint.save(tmp_path, small(2), step=1)
    assert "step_000000002" in str(caught.value)
    assert os.strerror(errno.ENOSPC if failure is full_disk else errno.EACCES) in str(caught.value)
    assert f"{previous}, is untouched" in str(caught.value)
    assert [entry.name for entry in tmp_path.iterdir()] == ["step_000000001"]
    assert bits(checkpoint.restore(tmp_path, small())[0]) == bits(small(1))


def test_interrupted_replacement_leaves_the_previous_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint.save(tmp_path, small(1), step=1)

    def interrupted(*_: Any) -> bool:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(files, "_exchange", interrupted)
        with pytest.raises(KeyboardInterrupt):
            checkpoint.save(tmp_path, small(2), step=1)
    assert [entry.name for entry in tmp_path.iterdir()] == ["step_000000001"]
    assert bits(checkpoint.restore(tmp_path, small())[0]) == bits(small(1))


@pytest.mark.parametrize("exchange", [True, False])
@pytest.mark.parametrize("kind", ["state", "policy"])
def test_a_good_one_stands_at_every_point_of_a_save(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, exchange: bool
) -> None:
    """What a kill leaves: the old one or the new one, found by the names that they go by."""

    def save(number: int) -> None:
        if kind == "policy":
            checkpoint.save_policy(tmp_path / "policy", small(number), {})
        else:
            checkpoint.save(tmp_path, small(number), step=7, keep=1)

    found = []

    def check() -> None:
        path = tmp_path / "policy" if kind == "policy" else checkpoint.find(tmp_path)
        found.append(int(checkpoint.restore(path, small())[0].updates))

    save(1)
    with monkeypatch.context() as patch:
        steps = AtEveryChange(patch, check, exchange)
        save(2)
    assert steps.count > 20 and found == sorted(found) and {*found} == {1, 2}
    assert len(list(tmp_path.iterdir())) == 1


def test_a_good_one_stands_at_every_point_of_removing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint.save(tmp_path, small(1), step=1)
    with monkeypatch.context() as patch:
        AtEveryChange(patch, lambda: checkpoint.restore(tmp_path, small()), True)
        checkpoint.save(tmp_path, small(2), step=2, keep=1)
    assert [entry.name for entry in tmp_path.iterdir()] == ["step_000000002"]


@pytest.mark.parametrize("exchange", [True, False])
def test_readers_never_fail_nor_mix_while_a_policy_is_saved_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchange: bool
) -> None:
    if not exchange:
        monkeypatch.setattr(files, "_exchange", lambda *_: False)
    path, stop = tmp_path / "policy", threading.Event()

    def save(number: int) -> None:
        checkpoint.save_policy(path, {"x": np.full(3, number)}, {"number": number})

    def write() -> None:
        for number in itertools.count(1):
            if stop.is_set():
                return
            save(number)

    save(0)
    writer = threading.Thread(target=write)
    writer.start()
    try:
        seen = set()
        while len(seen) < 5:
            arrays, manifest = checkpoint.load_policy_arrays(path)
            assert set(arrays["x"].tolist()) == {manifest.metadata["number"]}
            seen.add(manifest.metadata["number"])
    finally:
        stop.set()
        writer.join()


ODD = ["lr[1]", "a\\b", "[", "a*b?", "a b", "new\nline", "größe", "\udcff", "%20#&", "{a,b}"]


@pytest.mark.parametrize("name", ODD)
def test_any_name_of_a_folder_will_do(tmp_path: Path, name: str) -> None:
    """People name folders after sweeps; Orbax and TensorStore read some names as patterns."""
    folder = tmp_path / name / name
    path = checkpoint.save(folder, small(1), step=1)
    assert bits(checkpoint.restore(folder, small())[0]) == bits(small(1))
    assert checkpoint.best(folder) is None and checkpoint.find(folder) == path
    policy = checkpoint.save_policy(folder / name, small(2), {})
    assert bits(checkpoint.restore(policy, small())[0]) == bits(small(2))
    assert os.listdir(tmp_path) == [name] and os.listdir(tmp_path / name) == [name]


def test_what_cannot_be_read_back_is_not_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Orbax only warns where it finds no part to join, and leaves what nobody can read."""
    monkeypatch.setattr(checkpoint, "_under_a_plain_name", contextlib.nullcontext)
    with pytest.raises(CheckpointNotSaved, match="could not save"):
        checkpoint.save(tmp_path / "lr[1]", small(1), step=1)
    assert list((tmp_path / "lr[1]").iterdir()) == []


def test_a_write_that_really_fails(tmp_path: Path) -> None:
    """The limit on a file's size stands for a full disk: the writes of Orbax's own fail."""
    checkpoint.save(tmp_path, small(1), step=1)
    large = small(2)._replace(params={"x": np.random.default_rng(0).normal(size=100_000)})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        with pytest.raises(CheckpointNotSaved, match="File too large"):
            checkpoint.save(tmp_path, large, step=2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [entry.name for entry in tmp_path.iterdir()] == ["step_000000001"]
    checkpoint.verify(tmp_path / "step_000000001")


FULL = """
import resource, sys
import numpy as np
from jaxmec.training import checkpoint
tree = {str(i): np.random.default_rng(i).normal(size=3000) for i in range(8)}
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
for limit in (10, 150, 1_000, 10_000):  # an array has 24,000 bytes
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        checkpoint.save(sys.argv[1], tree, step=1)
    except checkpoint.CheckpointNotSaved as error:
        print(error)
"""


def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    """Orbax logs a traceback for every array that it cannot write, and some come late."""
    ended = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path)],
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ended.stderr == ""
    lines = ended.stdout.splitlines()
    assert len(lines) == 4
    for line in lines:
        assert line.startswith(f"could not save the checkpoint {tmp_path / 'step_000000001'}: ")
        assert "File too large" in line and "tensorstore_spec" not in line
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("mine")
    with pytest.raises(CheckpointNotSaved, match="run"):
        checkpoint.save(tmp_path / "run", small(), step=0)


# Policies


def test_policy_needs_no_template(tmp_path: Path) -> None:
    params = {"params": {"Dense_0": {"kernel": jnp.arange(6.0).reshape(2, 3)}, "list": [1.5]}}
    checkpoint.save_policy(tmp_path / "policy", small(1), {"old": True})
    path = checkpoint.save_policy(tmp_path / "policy", params, {"hidden": (4, 4), "cap": None})
    arrays, manifest = checkpoint.load_policy_arrays(path)
    assert manifest.metadata == {"hidden": [4, 4], "cap": None}
    assert type(arrays["params"]["Dense_0"]["kernel"]) is np.ndarray
    np.testing.assert_array_equal(arrays["params"]["Dense_0"]["kernel"], [[0, 1, 2], [3, 4, 5]])
    assert arrays["params"]["list"]["0"] == 1.5
    restored, _ = checkpoint.restore(path, params)
    assert bits(restored) == bits(params)


def test_policy_damage_is_refused(tmp_path: Path) -> None:
    path = checkpoint.save_policy(tmp_path / "policy", small(1), {})
    file = flip(path)
    with pytest.raises(CheckpointCorrupt, match=str(file)):
        checkpoint.load_policy_arrays(path)


def test_a_training_state_is_not_a_policy(tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path, small(), step=0)
    with pytest.raises(CheckpointIncompatible, match="not a policy"):
        checkpoint.load_policy_arrays(path)


def test_policy_never_replaces_other_files(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("all of it")
    with pytest.raises(CheckpointNotSaved, match=r"thesis\.tex.*another path"):
        checkpoint.save_policy(tmp_path, small(), {})
    assert (tmp_path / "thesis.tex").read_text() == "all of it"


# Devices

MANY_DEVICES = """
import sys
from pathlib import Path
import jax, jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
from jaxmec.training import checkpoint
assert jax.device_count() == 8
folder = Path(sys.argv[1])
tree = {"x": jnp.zeros(16), "key": jax.random.split(jax.random.key(0), 8), "n": jnp.zeros((), int)}
saved = "one"
for devices in (8, 2, 8):
    mesh = jax.make_mesh((devices,), ("e",), axis_types=(jax.sharding.AxisType.Auto,),
                         devices=jax.devices()[:devices])
    split, same = NamedSharding(mesh, PartitionSpec("e")), NamedSharding(mesh, PartitionSpec())
    places = {"x": split, "key": split, "n": same}
    state, _ = checkpoint.restore(folder / saved, tree, sharding=places)
    assert state["x"].sharding == split and len(state["key"].sharding.device_set) == devices
    state = {"x": state["x"] + 1, "key": state["key"], "n": state["n"] + 1}
    assert len(state["x"].sharding.device_set) == devices
    saved += f"-{devices}"
    checkpoint.save(folder / saved, state, step=1)
one, _ = checkpoint.restore(folder / saved, tree, sharding=jax.devices()[5])
assert one["x"].devices() == {jax.devices()[5]}
"""


def test_one_device_to_eight_to_two_and_back(tmp_path: Path) -> None:
    keys = jax.random.split(jax.random.key(9), 8)
    tree = {"x": jnp.arange(16.0), "key": keys, "n": jnp.asarray(4)}
    checkpoint.save(tmp_path / "one", tree, step=0)
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": "8", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", MANY_DEVICES, str(tmp_path)]
    subprocess.run(command, env=environment, check=True, timeout=300)
    for times, saved in enumerate(("one-8", "one-8-2", "one-8-2-8"), start=1):
        restored, _ = checkpoint.restore(tmp_path / saved, tree)
        expected = {"x": jnp.arange(16.0) + times, "key": keys, "n": jnp.asarray(4 + times)}
        assert bits(restored) == bits(expected)
        assert restored["x"].devices() == {jax.devices()[0]}


def test_what_could_not_be_read_back_is_not_written(tmp_path: Path) -> None:
    checkpoint.save_policy(tmp_path / "policy", {"a": np.ones(3)}, {"n": 1})
    with pytest.raises(CheckpointNotSaved, match="metadata"):
        checkpoint.save_policy(
            tmp_path / "policy", {"a": np.ones(3)}, {str(i): i for i in range(5_000)}
        )
    assert checkpoint.load_policy_arrays(tmp_path / "policy")[1].metadata == {"n": 1}
