"""The function that is exported decides as the environment does, and as the oracle says."""

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from edge_policies import CASES, MULTI, Case, situations, states, visited

from jaxmec.agents import DQN, Pathwise, TopKDQN
from jaxmec.deploy import export, graph, onnx, schema
from jaxmec.deploy.decision import columns_of, decision_of
from jaxmec.deploy.schema import Network, Packer


def rows_of(policy, queues, tasks):
    """[n, W] what the graph is told, in the network that the policy was trained on."""
    env, params = policy.setting.make()
    network = params.network
    told = Network(
        np.asarray(network.capacity), np.asarray(network.rate), network.uplink_contention,
        float(network.max_wait), float(network.slot_length),
    )  # fmt: skip
    packer = Packer(columns_of(env, params), env.num_servers, masters=env.neighbours is None)
    return packer.rows(packer.network_row(told), told.uplink_contention, queues, tasks)


@pytest.mark.parametrize(
    ("agent", "action"),
    [
        (Pathwise(hidden=(8,), network="servers", denoising_steps=1), "score"),
        (TopKDQN(hidden=(8,), k=3), "top_k"),
    ],
)
def test_with_more_servers_than_are_compared_in_training(agent, action):
    """Beyond 32 servers training fills by a loop, which no graph has."""
    case = Case(
        agent,
        MULTI,
        "amcoedge",
        (("action", action), ("allocate", "water_filling"), ("information", "local"),
         ("features", "times"), ("slots", 2),
         ("capacity", tuple(np.linspace(5, 30, 40))), ("rate", (450.0,) * 40)),
    )  # fmt: skip
    policy = case.policy()
    env, params = policy.setting.make()
    seen, observed = states(policy, 100)
    rows = rows_of(policy, *situations(policy, seen))
    got = onnx.session(export.to_onnx(policy)).run(None, {onnx.INPUT: rows})[0]
    place = jax.jit(jax.vmap(lambda action, state: env.place(action, state, params)[0]))
    outcome = place(policy(observed), seen)
    np.testing.assert_allclose(got[:, 40:80], outcome.fraction, atol=5e-6)
    np.testing.assert_allclose(got[:, 80], outcome.makespan, rtol=1e-5)
    assert np.count_nonzero(got[:, :40], axis=1).max() > 2


@pytest.mark.slow
def test_in_double_precision_too():
    """The same numbers to the precision of what is told, which is float32 in either mode."""
    rows = rows_of(CASES["subset"].policy(), *visited("subset")[2:])[:50]
    single = jax.vmap(decision_of(CASES["subset"].policy()))(rows)
    with jax.enable_x64(True):
        policy = Case(*[getattr(CASES["subset"], n) for n in ("agent", "env", "preset", "options")])
        policy = policy.policy(seed=0)
        double = jax.vmap(decision_of(policy))(rows)
        assert double.dtype == jnp.float32
        exported = onnx.session(export.to_onnx(policy)).run(None, {onnx.INPUT: rows})[0]
    np.testing.assert_allclose(exported, double, rtol=1e-5, atol=2e-6)
    assert single.shape == double.shape


@pytest.mark.parametrize("rule", ["cwa", "hecwa", "water_filling"])
def test_fractions_and_makespan_are_the_oracle_s(rule):
    """Of the set that was chosen, by the waits of the oracle; among them ties and empty queues."""
    policy = Case(
        DQN(hidden=(8,)), MULTI, "amcoedge", (("information", "local"), ("allocate", rule))
    ).policy()
    env, params = policy.setting.make()
    columns = columns_of(env, params)
    manifest = {
        "network": export.describe_network(params),
        "observation": {},
        "decision": export.describe_decision(env, params),
    }
    rng = np.random.default_rng(0)
    rows = export.random_rows(rng, 300, manifest)
    told = schema.split(columns, rows.T, np.split)
    told["backlog"][:, :150] = np.round(told["backlog"][:, :150])  # views: the rows change
    told["backlog"][:, :50] = told["believed"][:, :50] = 0
    model = graph.to_onnx(decision_of(policy), rows.shape[1], onnx.INPUT, onnx.OUTPUT)
    got = onnx.session(model).run(None, {onnx.INPUT: rows})[0]
    capacity, rate = (
        np.asarray(x, np.float64) for x in (params.network.capacity, params.network.rate)
    )
    network = oracle.Network(capacity, rate, 1.0, True)
    for row, result in zip(rows.astype(np.float64), got, strict=True):
        now = schema.split(columns, row, np.split)
        task = oracle.Task(
            int(now["origin"][0]), *(float(now[n][0]) for n in ("size", "work", "result"))
        )
        queues = oracle.Queues(now["backlog"], now["believed"], np.full(5, now["uplink"][0]))
        wait, serve = oracle.waits(network, queues, task), oracle.serves(network, task)
        index = int(result[11:].argmax()) + 1
        chosen = np.array([index >> i & 1 == 1 for i in range(5)])
        fraction = getattr(oracle, rule)(wait, serve, chosen)
        np.testing.assert_allclose(result[5:10], fraction, atol=2e-6)
        if rule != "water_filling":
            np.testing.assert_array_equal(result[:5] == 1, chosen)
        makespan = oracle.makespan_of(rule, wait, serve, chosen, fraction)
        assert result[10] == pytest.approx(makespan, rel=1e-5)
