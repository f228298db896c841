"""Worlds of serving that several tests play in."""

from __future__ import annotations

import numpy as np

from jaxmec.serving import (
    Alternating,
    Fleet,
    Mix,
    Poisson,
    Requests,
    ServingParams,
    always_up,
)

STEP = np.array([0.049, 0.072, 0.18, 0.23, 0.55])  # s of the standard variant


def genai5(
    load: float = 0.4,
    heartbeat: float = 10.0,
    seed: int = 0,
    cloud: bool = True,
    outages: bool = True,
    **changes,
) -> ServingParams:
    """Five devices, three variants, seven options, and a cloud as the sixth server."""
    rng = np.random.default_rng(seed)
    servers = 6 if cloud else 5
    factor = rng.uniform(0.7, 1.3, 5)
    phase = rng.uniform(0, heartbeat, servers)

    def with_cloud(values, own):
        return np.concatenate([values, [own]]) if cloud else np.asarray(values)

    fleet = Fleet(
        step_time=with_cloud(STEP[:, None] * [0.9, 1.0, 3.4], [1 / 30] * 3),
        task_time=with_cloud(np.full((5, 3), 0.15), [0.0] * 3),
        load_time=with_cloud(factor[:, None] * [3.0, 8.0, 20.0], [0.0] * 3),
        size=[2.5, 4.0, 8.0],
        memory=with_cloud([24.0, 24.0, 16.0, 8.0, 8.0], 0.0),
        rate=with_cloud([100.0, 200.0, 300.0, 400.0, 500.0], np.inf),
        latency=with_cloud(np.zeros(5), 30.0),
        elastic=with_cloud(np.zeros(5, bool), True),
        heartbeat=heartbeat,
        phase=phase,
        detect=1.0,
    )
    offered = np.ones((servers, 7), bool)
    if cloud:
        offered[5, :6] = False
    mix = Mix(
        share=[0.3, 0.5, 0.2],
        quality=[0.4, 0.7, 0.9],
        limit=[5.0, 15.0, 40.0],
        images=[1, 2, 4, 8],
        images_share=[58, 8, 19, 15],
        size=[0.3, 6.3],
        result=[0.7, 0.7],
        origin_share=np.ones(5),
    )
    rate = load * np.sum(1 / (20 * STEP + 0.15)) / 2.6
    settings = {
        "fleet": fleet,
        "outages": Alternating(180.0, 1.0, 20.0, 0.8) if outages else always_up(servers),
        "arrivals": Requests(Poisson(rate), mix),
        "variant": [0, 0, 1, 1, 1, 2, 2],
        "steps": [1, 4, 10, 20, 30, 20, 30],
        "quality": [0.45, 0.60, 0.72, 0.84, 0.88, 0.95, 1.0],
        "offered": offered,
        "horizon": 600.0,
    }
    return ServingParams(**(settings | changes))
