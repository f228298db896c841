"""Bundles are whole, or refused by name; nothing in one is ever executed."""

import hashlib
import io
import json
import math
import os
import pickle
import shutil
import threading

import jax
import jax.export
import jax.ffi
import numpy as np
import onnx as onnx_package
import pytest
from changes import AtEveryChange

import jaxmec
from jaxmec.core import bundle as bundles
from jaxmec.core import sealed
from jaxmec.core.bundle import (
    BundleDamaged,
    BundleError,
    BundleIncompatible,
    BundleMissing,
    open_bundle,
)
from jaxmec.deploy import onnx, xla
from jaxmec.training.checkpoint import CheckpointCorrupt, CheckpointError, CheckpointMissing

FILES = ("manifest.json", "policy.onnx", "policy.stablehlo", "policy/manifest.json")


@pytest.fixture
def copy(bundle, tmp_path):
    """A bundle to damage."""
    return shutil.copytree(bundle("top_k"), tmp_path / "bundle")


def rewrite(path, document=None, **changes):
    """The bundle with another manifest, its hashes in order: what somebody malicious would do."""
    document = dict(document or json.loads((path / "manifest.json").read_text()))
    document.pop("sha256")
    document.update(changes)
    document["files"] = {}
    for file in path.rglob("*"):
        if file.is_file() and file != path / "manifest.json":
            content = file.read_bytes()
            document["files"][file.relative_to(path).as_posix()] = {
                "size": len(content),
                "sha256": hashlib.sha256(content).hexdigest(),
            }
    document["sha256"] = sealed.digest_of(document)
    (path / "manifest.json").write_text(json.dumps(document))


def all_ways(path):
    """Every way to open a bundle; each must refuse a damaged one."""
    return (
        lambda: open_bundle(path),
        lambda: onnx.load(path),
        lambda: xla.load(path, form="jax"),
        lambda: xla.load(path, form="stablehlo"),
        lambda: jaxmec.load_policy(path),
    )


@pytest.mark.parametrize("name", [*FILES, "largest"])
@pytest.mark.parametrize("damage", ["flip", "truncate", "lengthen", "remove", "link"])
def test_a_changed_file_is_refused_by_name(copy, name, damage):
    file = copy / name
    if name == "largest":
        inside = [entry for entry in (copy / "policy").rglob("*") if entry.is_file()]
        file = max(inside, key=lambda entry: entry.stat().st_size)
    content = bytearray(file.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    elif damage == "truncate":
        file.write_bytes(content[:-1])
    elif damage == "lengthen":
        file.write_bytes(content + b"\0")
    else:
        file.unlink()
        if damage == "link":
            elsewhere = copy.parent / "elsewhere"
            elsewhere.write_bytes(content)
            file.symlink_to(elsewhere)
    for open_ in all_ways(copy):
        # Without its manifest a bundle is a directory that somebody takes for a checkpoint.
        with pytest.raises((BundleError, CheckpointMissing), match=file.name):
            open_()


def test_every_flipped_byte_of_the_manifest_is_noticed(copy):
    file = copy / "manifest.json"
    whole = file.read_bytes()
    digest = open_bundle(copy).digest
    for place in np.random.default_rng(0).integers(0, len(whole), 200):
        changed = bytearray(whole)
        changed[place] ^= 1 << (place % 7)
        file.write_bytes(changed)
        try:
            opened = open_bundle(copy)
        except BundleError:
            continue
        # Only what JSON does not mean may differ: space between its parts.
        assert opened.digest == digest and json.loads(changed) == json.loads(whole)


def test_a_file_that_does_not_belong_is_refused(copy):
    for name in ("run_me.py", "policy/arrays/weights.pkl"):
        (copy / name).write_bytes(b"")
        with pytest.raises(BundleDamaged, match=f"{name}: the file is not one of the bundle's"):
            open_bundle(copy)
        (copy / name).unlink()
    (copy / "policy" / "outside").symlink_to("/")
    with pytest.raises(BundleDamaged, match="outside: the file is not one"):
        open_bundle(copy)


class Trap:
    """Unpickling it leaves a trace."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return os.mkdir, (str(self.trace),)


@pytest.mark.parametrize("name", ["policy.onnx", "policy.stablehlo", "largest", "new"])
def test_a_pickle_with_the_right_hashes_is_never_unpickled(copy, tmp_path, name):
    trace = tmp_path / "executed"
    poison = pickle.dumps(Trap(trace))
    pickle.loads(pickle.dumps(Trap(tmp_path / "control")))
    assert (tmp_path / "control").is_dir()  # the trap works

    file = copy / name
    if name == "largest":
        inside = [entry for entry in (copy / "policy").rglob("*") if entry.is_file()]
        file = max(inside, key=lambda entry: entry.stat().st_size)
    elif name == "new":
        file = copy / "weights.pkl"
    file.write_bytes(poison)
    rewrite(copy)
    concerned = {
        "policy.onnx": [1], "policy.stablehlo": [3], "largest": [2, 4], "new": range(5),
    }[name]  # fmt: skip
    ways = all_ways(copy)
    for index in concerned:
        with pytest.raises((BundleError, CheckpointError)):
            ways[index]()
    assert not trace.exists()


def test_numpy_arrays_that_hide_a_pickle_are_no_weights(copy, tmp_path):
    trace = tmp_path / "executed"
    content = io.BytesIO()
    np.save(content, np.array([Trap(trace)], dtype=object), allow_pickle=True)
    (copy / "policy" / "arrays" / "extra.npy").write_bytes(content.getvalue())
    rewrite(copy)
    for open_ in (lambda: xla.load(copy), lambda: jaxmec.load_policy(copy)):
        with pytest.raises(CheckpointCorrupt, match=r"extra\.npy"):
            open_()
    assert not trace.exists()


def test_weights_outside_the_graph_are_refused(copy, tmp_path):
    """An ONNX graph may name any file as the home of its weights."""
    secret = tmp_path / "secret"
    secret.write_bytes(np.zeros(1 << 16, np.float32).tobytes())
    model = onnx_package.load(copy / "policy.onnx")
    weights = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    weights.ClearField("raw_data")
    weights.data_location = onnx_package.TensorProto.EXTERNAL
    for key, value in (("location", "../secret"), ("offset", "0")):
        entry = weights.external_data.add()
        entry.key, entry.value = key, value
    (copy / "policy.onnx").write_bytes(model.SerializeToString())
    rewrite(copy)
    with pytest.raises(BundleDamaged, match="refers to other files"):
        onnx.load(copy)


def exported(function, *targets):
    """A program of one's own in the place of a policy's; ``targets`` are calls that it may make."""
    (n,) = jax.export.symbolic_shape("n")
    shape = jax.ShapeDtypeStruct((n, 5), np.float32)
    allowed = [jax.export.DisabledSafetyCheck.custom_call(target) for target in targets]
    return bytes(jax.export.export(jax.jit(function), disabled_checks=allowed)(shape).serialize())


def factored(rows):
    return jax.vmap(lambda row: jax.numpy.linalg.qr(jax.numpy.outer(row, row))[0][0])(rows)


@pytest.mark.parametrize(
    "target", ["xla_ffi_python_cpu_callback", "xla_python_cpu_callback", "lapack_sgeqrf_ffi"]
)
def test_a_program_that_calls_native_code_is_refused(copy, target):
    """A call of a host's function ended in a segmentation fault, one of LAPACK ran."""

    def calling(rows):
        return jax.ffi.ffi_call(target, jax.ShapeDtypeStruct(rows.shape, rows.dtype))(rows)

    function = factored if target.startswith("lapack") else calling
    (copy / "policy.stablehlo").write_bytes(exported(function, target))
    rewrite(copy)
    with pytest.raises(BundleDamaged, match=f"not arithmetic alone: .*a call of {target}"):
        xla.load(copy, form="stablehlo")


def test_all_that_a_policy_computes_is_arithmetic():
    def function(rows):
        numpy, special = jax.numpy, jax.scipy.special
        noise = jax.random.normal(jax.random.key(0), rows.shape[1:])
        looped = jax.lax.scan(lambda c, x: (c + x, c * x), rows, rows[None])[1][0]
        row = numpy.sort(special.erf(rows) + noise) + numpy.cumsum(jax.nn.gelu(looped), axis=1)
        return jax.lax.top_k(row, 3)[0] + numpy.argmax(row, axis=1, keepdims=True) + row[:, :3]

    rows = np.ones((4, 5), np.float32)
    expected = function(rows)
    np.testing.assert_allclose(xla.program(exported(function))(rows), expected, rtol=1e-5)


def node(operator, inputs=("told",), outputs=("decision",), **fields):
    return onnx_package.helper.make_node(operator, list(inputs), list(outputs), **fields)


def branch():
    """A node with a strange one inside it."""
    value = onnx_package.helper.make_tensor_value_info(
        "inside", onnx_package.TensorProto.FLOAT, None
    )
    graph = onnx_package.helper.make_graph(
        [node("RandomNormalLike", outputs=["inside"])], "branch", [], [value]
    )
    return node("If", then_branch=graph, else_branch=graph)


@pytest.mark.parametrize(
    ("strange", "named"),
    [
        (node("Gelu", domain="com.microsoft"), r"com\.microsoft\.Gelu"),
        (node("Anything", domain="my.domain"), r"my\.domain\.Anything"),
        (node("RandomNormalLike"), "RandomNormalLike"),
        (branch(), "If, RandomNormalLike"),
    ],
)
def test_a_graph_of_more_than_arithmetic_is_refused(copy, strange, named):
    model = onnx_package.load(copy / "policy.onnx")
    model.graph.node.append(strange)
    (copy / "policy.onnx").write_bytes(model.SerializeToString())
    rewrite(copy)
    with pytest.raises(BundleDamaged, match=f"not arithmetic alone: the graph has {named}"):
        onnx.load(copy)


def test_a_graph_with_functions_or_of_another_format_is_refused(copy):
    model = onnx_package.load(copy / "policy.onnx")
    model.functions.append(onnx_package.helper.make_function("mine", "F", ["x"], ["y"], [], []))
    for content, message in (
        (model.SerializeToString(), "functions of its own"),
        (b"\x20\0\0\0ORTM" + bytes(64), "ONNX"),
        (b"\xff" * 40, "no ONNX model"),
    ):
        with pytest.raises(ValueError, match=message):
            onnx.session(content)


def test_a_graph_of_other_ports_or_sizes_is_refused(copy):
    model = onnx_package.load(copy / "policy.onnx")
    model.graph.input[0].name = "other"
    for node in model.graph.node:
        node.input[:] = ["other" if name == "told" else name for name in node.input]
    (copy / "policy.onnx").write_bytes(model.SerializeToString())
    rewrite(copy)
    with pytest.raises(BundleDamaged, match="expected the graph's input told"):
        onnx.load(copy)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format_version": 3}, "format version 3, and this jaxmec reads up to 2"),
        ({"format_version": True}, "format_version must be a whole number of at least 1"),
        ({"network": None}, "network must be an object, got None"),
        ({"network": {"capacity": [1, -2], "rate": [1, 2], "uplink_contention": True,
                      "max_wait": None, "slot_length": 1}},
         r"network\.capacity\[1\] must be a finite number above 0, got -2"),
        ({"network": {}}, r"network\.capacity is missing; network\.rate is missing"),
        ({"action": {"mode": "dance", "num_preferences": 5}}, "action.mode must be one of"),
        ({"action": {"mode": "top_k", "num_preferences": 6}},
         r"decisions of shape \(1, 16\), and \(1, 17\) was expected"),
        ({"decision": {"columns": [{"name": "mood", "length": 1, "optional": False}]}},
         "takes a quantity 'mood'"),
        ({"decision": {"columns": [{"name": "capacity", "length": 4, "optional": False}]}},
         "capacity has length 4; expected 5"),
        ({"decision": {"columns": [{"name": "size", "length": 1, "optional": True}]}},
         "size has optional = True"),
        ({"decision": {"columns": [{"name": "size", "length": 1, "optional": False}] * 2}},
         "takes size, size, in another order or less"),
        ({"decision": {"columns": [{"name": "size", "length": 1}]}},
         r"columns\[0\]\.optional is missing"),
        ({"observation": {"information": "local", "size": 1, "features": [
            {"name": "size", "length": 1, "scale": 0.0}]}},
         "scale must be a finite number above 0, got 0"),
        ({"observation": {"information": "local", "size": 5, "features": [
            {"name": "charge", "length": 5, "scale": 1.0}], "flow": {
            "stations": 5, "slots": 9, "tasks": -1, "work": 1}}},
         "flow.tasks must be a finite number above 0, got -1"),
        ({"format_version": 0}, "format_version must be a whole number of at least 1, got 0"),
        ({"method": ["dqn"]}, "method must be a printable name.*, got a list of 1"),
        ({"method": "\x1b[2J"}, r"method must be a printable name.*, got '\\x1b\[2J'"),
        ({"action": {"mode": "score", "num_preferences": 10, "score_scale": float("nan")}},
         "action.score_scale must be a finite number above 0, got nan"),
        ({"network": {"capacity": [1.0] * 400_000, "rate": [1.0] * 400_000,
                      "uplink_contention": True, "max_wait": None, "slot_length": 1}},
         "network.capacity must be a list of 1 to at most 4096, got a list of 400000"),
        ({"network": {"capacity": [10**400], "rate": ["1"], "uplink_contention": "yes",
                      "max_wait": None, "slot_length": 1}},
         r"capacity\[0\] must be .*, got a huge number; .*rate\[0\] must be .*, got '1'; "
         "network.uplink_contention must be True or False, got 'yes'"),
    ],
)  # fmt: skip
def test_a_manifest_that_means_nothing_here_is_refused(copy, changes, message):
    rewrite(copy, **changes)
    with pytest.raises(BundleError, match=message):
        onnx.load(copy)


def changed(document, where, value):
    """The manifest with one value, at a path of keys, replaced or taken out."""
    document = json.loads(json.dumps(document))
    *path, last = where
    inside = document
    for key in path:
        inside = inside[key]
    if value is MISSING:
        del inside[last]
    else:
        inside[last] = value
    return document


MISSING = object()
PLACES = (
    ("network",), ("network", "capacity"), ("network", "capacity", 0), ("network", "rate"),
    ("network", "rate", 4), ("network", "uplink_contention"), ("network", "max_wait"),
    ("network", "slot_length"), ("observation",), ("observation", "information"),
    ("observation", "size"), ("observation", "features"), ("observation", "features", 0),
    ("observation", "features", 0, "name"), ("observation", "features", 0, "length"),
    ("observation", "features", 0, "scale"), ("observation", "neighbours"), ("action",),
    ("action", "mode"), ("action", "num_preferences"), ("action", "k"), ("action", "score_scale"),
    ("allocation",), ("allocation", "rule"), ("allocation", "information"), ("method",),
    ("decision",), ("decision", "columns"), ("decision", "columns", 0),
    ("decision", "columns", 0, "name"), ("decision", "columns", 0, "length"),
    ("decision", "columns", 0, "optional"),
)  # fmt: skip
VALUES = (
    None, True, -1, 0, 1.5, math.nan, math.inf, 1e300, 10**400, "1", "\x1b", [], [[]], [None],
    ["1"], {}, {"a": []}, MISSING,
)  # fmt: skip
MAY_BE = {  # of these, what means something, or is said to people alone
    "max_wait": (None, 0, 1.5, 1e300),
    "neighbours": (None, MISSING, 1),
    "uplink_contention": (True,),
    "scale": (1.5, 1e300),
    "score_scale": (1.5, 1e300, MISSING),
    "slot_length": (1.5,),
    "k": (None, MISSING, 1),
    "information": ("1",),
    "rule": ("1",),
    "features": ([],),
    ("network", "capacity", 0): (1.5,),
    ("network", "rate", 4): (1.5,),
    ("observation", "features", 0): (MISSING,),
    ("observation", "features", 0, "name"): ("1",),
    ("observation", "features", 0, "length"): (True, 1),
    ("observation", "size"): (True, 1),
    "method": ("1",),
    "optional": (0,),  # False
}


@pytest.mark.parametrize("where", PLACES, ids=lambda where: ".".join(map(str, where)))
def test_a_manifest_of_the_wrong_types_is_refused_by_name(bundle, copy, where):
    """One value after the other is something else, its hashes in order: never another error."""
    if where[-1] == "score_scale":
        shutil.rmtree(copy)
        shutil.copytree(bundle("score"), copy)
    document = json.loads((copy / "manifest.json").read_text())
    allowed = MAY_BE.get(where, MAY_BE.get(where[-1], ()))
    for value in VALUES:
        if any(value is entry or value == entry for entry in allowed):
            continue
        try:
            broken = changed(document, where, value)
        except KeyError:
            continue  # nothing to take out
        rewrite(copy, broken)
        with pytest.raises(BundleError):
            pytest.fail(f"taken: {value!r}, {onnx.load(copy)}")


@pytest.mark.parametrize("servers", [25, 400_000])
def test_a_bundle_of_many_servers_is_refused_before_it_takes_memory(copy, servers):
    document = open_bundle(copy).manifest
    rates = {"capacity": [1.0] * servers, "rate": [1.0] * servers}
    rewrite(
        copy,
        network={**document["network"], **rates},
        action={"mode": "subset", "num_preferences": 2**min(servers, 64) - 1},
        observation={"information": "slot_start", "size": servers,
                     "features": [{"name": "backlog", "length": servers, "scale": 1.0}]},
    )  # fmt: skip
    with pytest.raises(BundleError, match=r"from 1 to 65536, got 33554431|at most 4096"):
        onnx.load(copy)


@pytest.mark.parametrize(
    "name", ["../outside", "/etc/passwd", "policy/../../outside", "policy//x", "policy\\x", "other"]
)
def test_a_manifest_that_names_files_outside_is_refused(copy, name):
    document = json.loads((copy / "manifest.json").read_text())
    document.pop("sha256")
    document["files"][name] = {"size": 0, "sha256": ""}
    document["sha256"] = sealed.digest_of(document)
    (copy / "manifest.json").write_text(json.dumps(document))
    with pytest.raises(BundleDamaged, match="which is no file of a bundle"):
        open_bundle(copy)


@pytest.mark.parametrize("kind", ["pipe", "device", "hole", "listed", "twice"])
def test_what_would_take_for_ever_is_refused_unread(copy, kind):
    file = copy / "policy.onnx"
    message = "not a plain file"
    if kind in ("pipe", "device"):
        file.unlink()
        os.mkfifo(file) if kind == "pipe" else file.symlink_to("/dev/zero")
    elif kind == "twice":
        text = (copy / "manifest.json").read_text().replace("{", '{"method": "other",', 1)
        (copy / "manifest.json").write_text(text)
        message = "the key 'method' is there twice"
    else:
        os.truncate(file, 2**40)  # takes no room on the disk, but hours to read
        message = "expected .* bytes, found 1099511627776"
    if kind == "listed":
        document = json.loads((copy / "manifest.json").read_text())
        document.pop("sha256")
        document["files"]["policy.onnx"]["size"] = 2**40
        document["sha256"] = sealed.digest_of(document)
        (copy / "manifest.json").write_text(json.dumps(document))
        message = r"policy\.onnx\.size must be a whole number of 0 to 268435456"
    with pytest.raises(BundleDamaged, match=message):
        open_bundle(copy)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'"text"', b"\xff\xfe", b"[" * 100_000])
def test_a_manifest_that_is_no_manifest(copy, content):
    (copy / "manifest.json").write_bytes(content)
    with pytest.raises(BundleError, match=r"manifest\.json|not a bundle"):
        open_bundle(copy)


def test_a_digest_names_one_bundle(bundle, copy):
    digest = open_bundle(copy).digest
    assert onnx.load(copy, digest=digest).bundle.digest == digest
    with pytest.raises(BundleIncompatible, match="was asked for"):
        onnx.load(bundle("subset"), digest=digest)
    with pytest.raises(BundleIncompatible, match="was asked for"):
        xla.load(bundle("subset"), digest=digest)


def test_nothing_there(tmp_path):
    for path in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(BundleMissing, match="bundle"):
            open_bundle(path)


def test_a_file_changed_after_opening_is_noticed(copy):
    opened = open_bundle(copy)
    with pytest.raises(BundleIncompatible, match=r"has no policy\.exe"):
        opened.read("policy.exe")
    (copy / "policy.onnx").write_bytes(b"")
    with pytest.raises(BundleDamaged, match=r"policy\.onnx"):
        opened.read("policy.onnx")


def export_again(source, target, method):
    """As an export does, but of the files of another bundle."""
    manifest = open_bundle(source).manifest | {"method": method}
    with bundles.writing(target, manifest) as new:
        shutil.copytree(source, new, dirs_exist_ok=True)
        (new / "manifest.json").unlink()


@pytest.mark.parametrize("exchange", [True, False])
def test_a_good_one_stands_at_every_point_of_an_export(bundle, copy, monkeypatch, exchange):
    found, before = [], open_bundle(copy).manifest["method"]
    with monkeypatch.context() as patch:
        steps = AtEveryChange(
            patch, lambda: found.append(open_bundle(copy).manifest["method"]), exchange
        )
        export_again(bundle("top_k"), copy, "new")
    assert steps.count > 20 and set(found[:5]) == {before} and set(found[-5:]) == {"new"}
    assert set(found) == {before, "new"} and os.listdir(copy.parent) == ["bundle"]


@pytest.mark.parametrize("exchange", [True, False])
@pytest.mark.parametrize("open_", [open_bundle, onnx.load, jaxmec.load_policy])
def test_readers_never_fail_while_a_bundle_is_exported_again(
    bundle, copy, monkeypatch, exchange, open_
):
    if not exchange:
        monkeypatch.setattr(bundles.files, "_exchange", lambda *_: False)
    stop, written = threading.Event(), []

    def write():
        while not stop.wait(0.02):
            export_again(bundle("top_k"), copy, str(len(written)))
            written.append(True)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        opened = 0
        while len(written) < 8 or opened < 3:
            open_(copy)
            opened += 1
    finally:
        stop.set()
        writer.join()


@pytest.mark.parametrize("name", ["lr[1]", "a\\b", "a*b?", "new\nline", "größe"])
def test_a_bundle_in_a_folder_of_any_name(bundle, tmp_path, name):
    target = tmp_path / name / name
    export_again(bundle("top_k"), target, "dqn")
    for open_ in all_ways(target):
        open_()
