"""A trained policy as a bundle: checkpoint, StableHLO, ONNX and a manifest that explains them.

All three forms compute the whole decision (:mod:`jaxmec.deploy.decision`), from the named
quantities that the manifest lists to set, fractions and make-span. The chain of a diffusion actor
starts from fixed noise (the judged chains') or from none, which is part of the graphs, so that a
decision is a function of what is told.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import json
import math
import platform
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import export as jax_export

import jaxmec
from jaxmec.agents.base import Agent, DenoisingAgent
from jaxmec.agents.per_station import of_station
from jaxmec.core import bundle as bundles
from jaxmec.core.bundle import Bundle, PathLike
from jaxmec.core.types import Document
from jaxmec.deploy import graph, onnx, schema, xla
from jaxmec.deploy.decision import columns_of, decision_of, mode_of
from jaxmec.deploy.distil import distil
from jaxmec.envs import observation
from jaxmec.envs.offloading import OffloadingEnvironment
from jaxmec.envs.state import OffloadingParams
from jaxmec.envs.table import find_environment
from jaxmec.experiment import Policy, TrainResult, load_policy
from jaxmec.training import checkpoint, parts
from jaxmec.training.runner import METRICS_FILE

PLATFORMS = ("cpu", "cuda")
FORMS = {
    "jax": f"{bundles.POLICY}/: an Orbax checkpoint, for jaxmec.load_policy",
    "stablehlo": f"{bundles.STABLEHLO}: [n, W] float32 -> [n, 2 B + 1 + A], n open; "
    f"for {' and '.join(PLATFORMS)}",
    "onnx": f"{bundles.ONNX}: {onnx.INPUT} [n, W] float32 -> {onnx.OUTPUT} [n, 2 B + 1 + A], "
    f"n open; opset {graph.OPSET}",
}
MEANINGS = {
    schema.ONE_SERVER: "the server of the largest preference takes the whole task",
    schema.SUBSET: "the index of the largest preference, plus 1, has bit i set for each server "
    "i of the set",
    schema.LOCAL_PLUS_ONE: "the server where the task arrived and the one of the largest "
    "preference",
    schema.TOP_K: "the k servers of the largest preferences",
    schema.SCORE: "an offset to each server's wait in units of score_scale s, then a log-factor "
    "on each service time; water-filling on both gives set and fractions",
}
HISTORY = ("training", "distilled")  # sections that a bundle made of a bundle takes over
LIBRARIES = ("jaxmec", "jax", "jaxlib", "flax", "orbax-checkpoint", "numpy", "onnx")
CHECKED = 256  # random rows on which the forms must agree before a bundle is written
OTHERWISE = 0.02  # share of the rows on which two forms may decide differently, by rounding
LEAST = 1e-3  # of a random quantity: no task is without work
TOLERANCE = 1e-4  # of preferences between the forms, beside the largest of them if above 1


class NotExportable(ValueError):
    """The policy cannot be exported; the message says why."""


def export(
    policy: Policy | TrainResult | PathLike, to: PathLike, *, one_step: bool = False
) -> Bundle:
    """Write the bundle of a policy.

    Args:
        policy: a policy, a training result (its best seed's), or the path of a run or a
            saved policy.
        to: where the bundle goes; a bundle that is there is replaced.
        one_step: distil a chain of K denoising steps into one step first
            (:func:`jaxmec.deploy.distil.distil`); the loss of quality is measured and written
            into the manifest.

    Raises:
        NotExportable: a policy of an environment without tasks, of an action mode that names
            no set, or whose greedy action is not what its preferences say.
        jaxmec.deploy.graph.NotTranslatable: its network has no translation to ONNX.
        jaxmec.core.bundle.BundleNotWritten: disk full, permission denied, something else there.
    """
    policy, history = _opened(policy)
    env, params = policy.setting.make()
    if not find_environment(policy.setting.env).schedules:
        raise NotExportable(
            f"{policy.name} was trained on {policy.setting.env}, which has no tasks"
        )
    if "workload" in dict(policy.setting.options):
        raise NotExportable(
            "its tasks are in memory alone: save the policy (policy.save(PATH)) and export PATH"
        )
    action = describe_action(env, params)
    if one_step:
        policy, measured = distil(policy)
        history["distilled"] = dataclasses.asdict(measured)

    manifest: Document = {
        "method": policy.name,
        "setting": dataclasses.asdict(policy.setting),
        "training": {},
        "distilled": None,
        **history,
        "network": describe_network(params),
        "observation": describe_observation(env, params),
        "action": action,
        "allocation": describe_allocation(env),
        "decision": describe_decision(env, params),
        "noise": describe_noise(policy.agent),
        "forms": dict(FORMS),
        "versions": _library_versions(),
    }
    with bundles.writing(to, manifest) as directory:
        saved = checkpoint.read_manifest(policy.save(directory / bundles.POLICY))
        manifest["agent"] = saved.metadata["agent"]
        (directory / bundles.STABLEHLO).write_bytes(to_stablehlo(policy))
        (directory / bundles.ONNX).write_bytes(to_onnx(policy))
        manifest["parity"] = _check(policy, action, directory, manifest)
    return bundles.open_bundle(to)


def _opened(policy: Policy | TrainResult | PathLike) -> tuple[Policy, Document]:
    """The policy, and what is known of how it came about, for the manifest."""
    if isinstance(policy, Policy):
        return policy, {}
    if isinstance(policy, TrainResult):
        return policy.policy, {}
    path = Path(policy)
    if bundles.is_bundle(path):  # of an older version, say
        before = bundles.open_bundle(path).manifest
        return load_policy(path), {name: before[name] for name in HISTORY if name in before}
    return load_policy(path), {"training": training_summary(path)}


def to_stablehlo(policy: Policy) -> bytes:
    """The decision as a serialised StableHLO program, [n, W] -> [n, 2 B + 1 + A], n open."""
    (n,) = jax_export.symbolic_shape("n")
    shape = jax.ShapeDtypeStruct((n, _row_size(policy)), np.float32)
    exported = jax_export.export(xla.decisions_of(policy), platforms=PLATFORMS)(shape)
    return bytes(exported.serialize())


def to_onnx(policy: Policy) -> bytes:
    """The decision as an ONNX model; raises ``NotTranslatable`` where it cannot be."""
    return graph.to_onnx(decision_of(policy), _row_size(policy), onnx.INPUT, onnx.OUTPUT)


def _row_size(policy: Policy) -> int:
    return sum(column.length for column in columns_of(*policy.setting.make()))


# The manifest.


def describe_network(params: OffloadingParams) -> Document:
    """The servers and links that the policy was trained on, with units."""
    network = params.network
    limit = float(network.max_wait)
    return {
        "capacity": _as_floats(network.capacity),
        "rate": _as_floats(network.rate),
        "slot_length": float(network.slot_length),
        "stations": params.stations,
        "uplink_contention": network.uplink_contention,
        "max_wait": limit if math.isfinite(limit) else None,
        "deadline": float(params.deadline) if math.isfinite(params.deadline) else None,
        "units": {
            "capacity": "Gcycles/s",
            "rate": "Mbit/s",
            "slot_length": "s",
            "stations": "places where tasks arrive",
            "max_wait": "s, null: unbounded",
            "deadline": "s, null: none",
        },
    }


def describe_observation(env: OffloadingEnvironment, params: OffloadingParams) -> Document:
    """The features in their order; an entry is its quantity in its unit, over its scale."""
    features: list[Document] = []
    chosen = observation.shown_features(env.options, params)
    for feature, (name, length) in zip(chosen, env.feature_layout(params), strict=True):
        scale = 1.0 if feature.scale is None else float(feature.scale(params))
        unit, about = feature.unit, feature.about
        features.append(
            {"name": name, "length": length, "unit": unit, "scale": scale, "about": about}
        )
    size = sum(feature["length"] for feature in features)
    described = {
        "information": env.information,
        "neighbours": env.neighbours,
        "size": size,
        "features": features,
    }
    if any(feature["name"] == "charge" for feature in features):
        described["flow"] = describe_flow(params)
    return described


def describe_flow(params: OffloadingParams) -> dict[str, float]:
    """What the feature "charge" takes for granted of the tasks to come."""
    workload = params.workload
    moments = workload.moments()
    return {
        "stations": float(params.stations),
        "slots": float(workload.slots),
        "tasks": float(moments.tasks),
        "work": float(moments.work),
    }


def describe_action(env: Any, params: OffloadingParams) -> Document:
    """What the preferences mean.

    Raises:
        NotExportable: an action mode whose preferences name no set.
    """
    mode = mode_of(env)
    if mode not in MEANINGS:
        raise NotExportable(
            f"actions of the mode {mode!r} cannot be exported; those of {', '.join(MEANINGS)} can"
        )
    about: Document = {
        "mode": mode,
        "num_preferences": env.num_actions,
        "about": MEANINGS[mode],
    }
    if mode == schema.TOP_K:
        about["k"] = env.k
    if mode == schema.SCORE:
        about["score_scale"] = float(params.scales.slot)
    return about


def describe_allocation(env: Any) -> Document:
    """Who splits a task among a set, and on which waits."""
    if not env.splits:
        return {"rule": "cwa", "information": "seen"}  # one server takes all: any rule says so
    rule = "water_filling" if env.action == "score" else env.allocate.name
    return {"rule": rule, "information": env.allocation_information}


def describe_decision(env: OffloadingEnvironment, params: OffloadingParams) -> Document:
    """What the forms take and give: the columns of a row in their order, and of a result."""
    columns = []
    for name, length, optional in columns_of(env, params):
        unit, about, _ = schema.TABLE[name]
        columns.append(
            {"name": name, "length": length, "optional": optional, "unit": unit, "about": about}
        )
    result = (
        "1 for each server of the set, else 0 [B]; fractions [B]; make-span in s [1]; "
        "preferences [A]"
    )
    return {"columns": columns, "result": result}


def describe_noise(agent: Agent) -> str:
    """Where the noise of a diffusion actor comes from once it is exported."""
    agent = of_station(agent)
    if not isinstance(agent, DenoisingAgent):
        return "none: the policy has no chain"
    if chains := agent.judged_chains:
        return f"fixed: the same {chains} chains at every decision, their noise part of the graph"
    return "none: x_K = 0 and nothing is added at any step"


def training_summary(run: Path) -> Document:
    """How a run ended, from its metrics: {} where there are none."""
    file = run / METRICS_FILE
    if file.is_file():
        points = []
        for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
            with contextlib.suppress(ValueError):  # torn by a kill
                points.append(json.loads(line))
    else:  # one in parts that was made when there were metrics of parts alone
        points = parts.joined_points(parts.begun(run)) if run.is_dir() else []
    if not points:
        return {}
    last = points[-1]
    return {
        "env_steps": last["env_steps"],
        "seconds": last["seconds"],
        "evaluation": last["evaluation"],  # by metric, one number a seed
    }


def _as_floats(array: Any) -> list[float]:
    # The shortest decimal of a float32 (0.1, not 0.10000000149): what a person wrote.
    return [float(str(number)) for number in np.asarray(array)]


def _library_versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for name in LIBRARIES:
        versions[name] = (
            jaxmec.__version__ if name == "jaxmec" else importlib.metadata.version(name)
        )
    return versions


# The check before anything is written.


def _check(policy: Policy, action: Document, directory: Path, manifest: Document) -> Document:
    """That the three forms agree, and that what preferences are taken for is what the agent does.

    Raises:
        NotExportable: they do not.
    """
    rng = np.random.default_rng(0)
    env, _ = policy.setting.make()
    _check_greedy(policy, env, action["mode"], random_observations(rng, CHECKED, manifest))
    rows = random_rows(rng, CHECKED, manifest)
    wanted = np.asarray(xla.decisions_of(policy)(rows))
    try:
        stablehlo = xla.program((directory / bundles.STABLEHLO).read_bytes())
    except ValueError as error:
        raise NotExportable(f"the stablehlo form would be refused: {error}") from error
    forms = {
        "stablehlo": np.asarray(jax.jit(stablehlo)(rows)),
        "onnx": onnx.session((directory / bundles.ONNX).read_bytes()).run(
            [onnx.OUTPUT], {onnx.INPUT: rows}
        )[0],
    }
    preferences = -action["num_preferences"]
    errors = {}
    # Rounding grows with the numbers.
    allowed = TOLERANCE * max(1.0, float(np.abs(wanted[:, preferences:]).max()))
    for form, given in forms.items():
        difference = np.abs(given - wanted)
        errors[form] = float(difference[:, preferences:].max())
        if not errors[form] <= allowed:
            raise NotExportable(
                f"the {form} form differs from JAX by {errors[form]:g} in a preference, and at "
                f"most {allowed:g} was expected"
            )
        # Two preferences that are all but equal may be told apart otherwise by rounding.
        other = np.mean((difference[:, :preferences] > allowed).any(axis=1))
        if other > OTHERWISE:
            raise NotExportable(
                f"the {form} form decides otherwise than JAX on {other:.1%} of random rows"
            )
    return {"rows": CHECKED, "largest_difference_to_jax": errors}


def _check_greedy(policy: Policy, env: OffloadingEnvironment, mode: str, seen: np.ndarray) -> None:
    """That the agent's greedy action is what its preferences are taken for."""
    prefer = jax.vmap(policy.agent.preferences, in_axes=(None, 0))
    preferences = jax.jit(prefer)(policy.learner, seen)
    wanted = np.asarray(jax.vmap(env.preferred)(preferences))
    if not np.allclose(np.asarray(policy(seen)), wanted, atol=TOLERANCE, rtol=TOLERANCE):
        raise NotExportable(
            f"the greedy action of {type(policy.agent).__name__} is not what its preferences "
            f"say in the action mode {mode}"
        )


def random_observations(rng: np.random.Generator, count: int, manifest: Document) -> np.ndarray:
    """[count, S] float32, uniform on [0, 2), but whole numbers where a feature is a label."""
    columns = []
    for feature in manifest["observation"]["features"]:
        shape = (count, feature["length"])
        if feature["name"] == "place":
            columns.append(rng.integers(0, 2**20, shape).astype(np.float64))
        elif feature["name"] == "origin":
            columns.append(np.eye(feature["length"])[rng.integers(0, feature["length"], count)])
        else:
            columns.append(2 * rng.random(shape))
    return np.concatenate(columns, axis=1).astype(np.float32)


def random_rows(rng: np.random.Generator, count: int, manifest: Document) -> np.ndarray:
    """[count, W] float32 of what a station may be told, in the network of the manifest."""
    network, servers = manifest["network"], len(manifest["network"]["capacity"])
    flow = manifest["observation"].get("flow", {})
    masters = network["stations"] == 1
    limit = np.inf if network["max_wait"] is None else network["max_wait"]
    columns = []
    for column in manifest["decision"]["columns"]:
        name, shape = column["name"], (count, column["length"])
        if name in ("capacity", "rate", "slot_length"):
            columns.append(np.broadcast_to(network[name], shape))
        elif name == "max_wait":
            columns.append(np.full(shape, limit))
        elif name == "origin":
            columns.append(np.full(shape, -1) if masters else rng.integers(0, servers, shape))
        elif name == "place":
            columns.append(rng.integers(0, 2**20, shape))
        elif name == "slot":
            columns.append(rng.integers(0, int(flow["slots"]), shape))
        else:
            columns.append(LEAST + 2 * rng.random(shape))
    return np.concatenate(columns, axis=1).astype(np.float32)
