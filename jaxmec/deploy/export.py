"""A trained policy as a bundle: checkpoint, StableHLO, ONNX and a manifest that explains them.

All three forms compute the agent's ``preferences`` of an observation and nothing else; what a
decision follows from them is in the manifest and is the runtime's affair. The chain of a
diffusion actor starts from fixed noise (the judged chains') or from none, which is part of the
graphs, so that a decision is a function of the observation.
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
from jaxmec.deploy import graph, onnx, runtime, xla
from jaxmec.deploy.distil import distil
from jaxmec.envs.offloading import OffloadingEnvironment, OffloadingParams
from jaxmec.envs.table import find_environment
from jaxmec.experiment import Policy, TrainResult, load_policy
from jaxmec.training import checkpoint, parts
from jaxmec.training.runner import METRICS_FILE

PLATFORMS = ("cpu", "cuda")
MEANINGS = {
    runtime.ONE_SERVER: "the server of the largest preference takes the whole task",
    runtime.SUBSET: "the index of the largest preference, plus 1, has bit i set for each server "
    "i of the set",
    runtime.LOCAL_PLUS_ONE: "the server where the task arrived and the one of the largest "
    "preference",
    runtime.TOP_K: "the k servers of the largest preferences",
    runtime.SCORE: "an offset to each server's wait in units of score_scale s, then a log-factor "
    "on each service time; water-filling on both gives set and fractions",
}
SCALES = {  # what each feature is divided by, in the unit that FEATURES in the runtime names
    "size": "size",
    "work": "work",
    "result": "result",
    **dict.fromkeys(("backlog", "alike", "charge"), "backlog"),
    **dict.fromkeys(("inflight", "uplink", "remaining_work", "wait", "serve", "compute"), "slot"),
}
LIBRARIES = ("jaxmec", "jax", "jaxlib", "flax", "orbax-checkpoint", "numpy", "onnx")
CHECKED = 256  # random observations on which the forms must agree before a bundle is written
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
    policy, summary = _opened(policy)
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
    distilled = None
    if one_step:
        policy, measured = distil(policy)
        distilled = dataclasses.asdict(measured)

    manifest: dict[str, Any] = {
        "method": policy.name,
        "setting": dataclasses.asdict(policy.setting),
        "training": summary,
        "distilled": distilled,
        "network": describe_network(params),
        "observation": describe_observation(env, params),
        "action": action,
        "allocation": describe_allocation(env),
        "noise": describe_noise(policy.agent),
        "forms": {
            "jax": f"{bundles.POLICY}/: an Orbax checkpoint, for jaxmec.load_policy",
            "stablehlo": f"{bundles.STABLEHLO}: [n, {policy.spec.observation_size}] float32 -> "
            f"[n, {policy.spec.num_actions}], n open; for {' and '.join(PLATFORMS)}",
            "onnx": f"{bundles.ONNX}: {onnx.INPUT} [n, {policy.spec.observation_size}] float32 "
            f"-> {onnx.OUTPUT} [n, {policy.spec.num_actions}], n open; opset {graph.OPSET}",
        },
        "versions": _versions(),
    }
    with bundles.writing(to, manifest) as directory:
        saved = checkpoint.read_manifest(policy.save(directory / bundles.POLICY))
        manifest["agent"] = saved.metadata["agent"]
        (directory / bundles.STABLEHLO).write_bytes(to_stablehlo(policy))
        (directory / bundles.ONNX).write_bytes(to_onnx(policy))
        manifest["parity"] = _check(policy, action, directory, manifest)
    return bundles.open_bundle(to)


def _opened(policy: Policy | TrainResult | PathLike) -> tuple[Policy, dict[str, Any]]:
    """The policy, and the summary of the run that it lies in."""
    if isinstance(policy, Policy):
        return policy, {}
    if isinstance(policy, TrainResult):
        return policy.policy, {}
    return load_policy(policy), training_summary(Path(policy))


def to_stablehlo(policy: Policy) -> bytes:
    """The preferences as a serialised StableHLO program, [n, S] float32 -> [n, A], n open."""
    (n,) = jax_export.symbolic_shape("n")
    shape = jax.ShapeDtypeStruct((n, policy.spec.observation_size), np.float32)
    exported = jax_export.export(xla.preferences_of(policy), platforms=PLATFORMS)(shape)
    return bytes(exported.serialize())


def to_onnx(policy: Policy) -> bytes:
    """The preferences as an ONNX model; raises ``NotTranslatable`` where it cannot be."""

    def preferences(observation: jax.Array) -> jax.Array:
        return policy.agent.preferences(policy.learner, observation)

    return graph.to_onnx(preferences, policy.spec.observation_size, onnx.INPUT, onnx.OUTPUT)


# The manifest.


def describe_network(params: OffloadingParams) -> dict[str, Any]:
    """The servers and links that the policy was trained on, with units."""
    network = params.network
    limit = float(network.max_wait)
    return {
        "capacity": _numbers(network.capacity),
        "rate": _numbers(network.rate),
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


def describe_observation(env: OffloadingEnvironment, params: OffloadingParams) -> dict[str, Any]:
    """The features in their order; an entry is its quantity in its unit, over its scale."""
    features: list[dict[str, Any]] = []
    for name, length in env.feature_layout(params):
        if name not in runtime.FEATURES:
            raise NotExportable(f"the runtime does not know the feature {name!r}")
        unit, about = runtime.FEATURES[name]
        scale = 1.0
        if name in SCALES:
            scale = float(getattr(params.scales, SCALES[name]))
        elif name == "remaining_tasks":
            scale = float(params.workload.positions)
        features.append(
            {"name": name, "length": length, "unit": unit, "scale": scale, "about": about}
        )
    size = sum(feature["length"] for feature in features)
    observation = {
        "information": env.information,
        "neighbours": env.neighbours,
        "size": size,
        "features": features,
    }
    if any(feature["name"] == "charge" for feature in features):
        observation["flow"] = describe_flow(params)
    return observation


def describe_flow(params: OffloadingParams) -> dict[str, float]:
    """What the feature "charge" takes for granted: :class:`jaxmec.deploy.runtime.Flow`."""
    workload = params.workload
    moments = workload.moments()
    return {
        "stations": float(params.stations),
        "slots": float(workload.slots),
        "tasks": float(moments.tasks),
        "work": float(moments.work),
    }


def describe_action(env: Any, params: OffloadingParams) -> dict[str, Any]:
    """What the preferences mean.

    Raises:
        NotExportable: an action mode whose preferences name no set.
    """
    about: dict[str, Any] = {"mode": runtime.ONE_SERVER, "num_preferences": env.num_actions}
    if env.splits:
        about["mode"] = env.action
        if env.action not in MEANINGS:
            raise NotExportable(
                f"actions of the mode {env.action!r} cannot be exported; those of "
                f"{', '.join(MEANINGS)} can"
            )
        if env.action == runtime.TOP_K:
            about["k"] = env.k
    mode = about["mode"]
    about["about"] = MEANINGS[mode]
    if mode == runtime.SCORE:
        about["score_scale"] = float(params.scales.slot)
    return about


def describe_allocation(env: Any) -> dict[str, Any]:
    """Who splits a task among a set, and on which waits."""
    if not env.splits:
        return {"rule": "cwa", "information": "seen"}  # one server takes all: any rule says so
    rule = "water_filling" if env.action == "score" else env.allocate.name
    return {"rule": rule, "information": env.allocation_information}


def describe_noise(agent: Agent) -> str:
    """Where the noise of a diffusion actor comes from once it is exported."""
    agent = of_station(agent)
    if not isinstance(agent, DenoisingAgent):
        return "none: the policy has no chain"
    if chains := agent.judged_chains:
        return f"fixed: the same {chains} chains at every decision, their noise part of the graph"
    return "none: x_K = 0 and nothing is added at any step"


def training_summary(run: Path) -> dict[str, Any]:
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


def _numbers(array: Any) -> list[float]:
    # The shortest decimal of a float32 (0.1, not 0.10000000149): what a person wrote.
    return [float(str(number)) for number in np.asarray(array)]


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for name in LIBRARIES:
        versions[name] = (
            jaxmec.__version__ if name == "jaxmec" else importlib.metadata.version(name)
        )
    return versions


# The check before anything is written.


def _check(
    policy: Policy, action: dict[str, Any], directory: Path, manifest: dict[str, Any]
) -> dict[str, Any]:
    """That the three forms agree, and that what the runtime reads is what the agent does.

    Raises:
        NotExportable: they do not.
    """
    seed = 0
    observation = random_observations(np.random.default_rng(seed), CHECKED, manifest)
    wanted = np.asarray(xla.preferences_of(policy)(observation))
    acted = np.asarray(policy(observation))
    mode = action["mode"]
    if acted.shape == wanted.shape:  # the action is scores, from which the environment decides
        same = np.allclose(acted, wanted, atol=TOLERANCE, rtol=TOLERANCE)
    elif mode == runtime.TOP_K:
        best = np.argsort(-wanted, axis=-1, kind="stable")[:, : action["k"]]
        same = np.array_equal(np.sort(acted, axis=-1), np.sort(best, axis=-1))
    else:
        same = np.array_equal(acted, wanted.argmax(axis=-1))
    if not same:
        raise NotExportable(
            f"the greedy action of {type(policy.agent).__name__} is not what its preferences "
            f"say in the action mode {mode}"
        )
    try:
        stablehlo = xla.program((directory / bundles.STABLEHLO).read_bytes())
    except ValueError as error:
        raise NotExportable(f"the stablehlo form would be refused: {error}") from error
    forms = {
        "stablehlo": np.asarray(jax.jit(stablehlo)(observation)),
        "onnx": onnx.session((directory / bundles.ONNX).read_bytes()).run(
            [onnx.OUTPUT], {onnx.INPUT: observation}
        )[0],
    }
    errors = {}
    allowed = TOLERANCE * max(1.0, float(np.abs(wanted).max()))  # rounding grows with the numbers
    for form, preferences in forms.items():
        errors[form] = float(np.abs(preferences - wanted).max())
        if not errors[form] <= allowed:
            raise NotExportable(
                f"the {form} form differs from JAX by {errors[form]:g} in a preference, and at "
                f"most {allowed:g} was expected"
            )
    return {"observations": CHECKED, "largest_difference_to_jax": errors}


def random_observations(
    rng: np.random.Generator, count: int, manifest: dict[str, Any]
) -> np.ndarray:
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
