"""Worlds of serving that several tests play in."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import serving_oracle as oracle

from jaxmec.serving import (
    Alternating,
    Availability,
    Fleet,
    Mix,
    Poisson,
    Request,
    Requests,
    ServingParams,
    always_up,
)
from jaxmec.struct import pytree, static

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


INF = float("inf")


def random_world(servers: int, seed: int, variants: int = 3, pieces: int = 7) -> oracle.World:
    """A fleet with outages, slowed phases, perhaps a cloud, and memory that holds few variants."""
    rng = np.random.default_rng(seed)
    sizes = rng.uniform(1, 6, variants)

    def speeds() -> list[tuple[float, float]]:
        begins = [0.0, *np.cumsum(rng.exponential(12.0, rng.integers(0, pieces)))]
        values = rng.choice([0.0, 0.0, 0.4, 1.0], len(begins))
        values[-1] = rng.choice([0.5, 1.0])
        return list(zip(map(float, begins), map(float, values), strict=True))

    fleet = [
        oracle.Server(
            step_time=list(rng.uniform(0.02, 0.6, variants)),
            task_time=list(rng.uniform(0.0, 0.3, variants)),
            load_time=list(rng.uniform(0.0, 10.0, variants)),
            memory=float(rng.choice([sizes.max(), sizes.sum() - 0.01, 40.0])),
            rate=float(rng.choice([rng.uniform(5, 500), INF])),
            latency=float(rng.choice([0.0, 3.0])),
            elastic=bool(rng.random() < 0.15),
            phase=0.0,
            pieces=speeds(),
        )
        for _ in range(servers)
    ]
    heartbeat = float(rng.uniform(0.5, 9))
    for server in fleet:
        server.phase = float(rng.uniform(0, heartbeat))
    return oracle.World(
        fleet, list(sizes), heartbeat, float(rng.uniform(0, 2)), [0.0] * max(1, servers // 2)
    )


def in_jax(world: oracle.World, pieces: int | None = None) -> tuple[Fleet, Availability]:
    """The same, as the package takes it, with so many pieces a server."""
    servers = world.servers
    longest = pieces or max(len(server.pieces) for server in servers)

    def padded(part: int, fill: float) -> list[list[float]]:
        return [
            [*(piece[part] for piece in s.pieces), *[fill] * (longest - len(s.pieces))]
            for s in servers
        ]

    fleet = Fleet(
        step_time=[s.step_time for s in servers],
        task_time=[s.task_time for s in servers],
        load_time=[s.load_time for s in servers],
        size=world.sizes,
        memory=[s.memory for s in servers],
        rate=[s.rate for s in servers],
        latency=[s.latency for s in servers],
        elastic=[s.elastic for s in servers],
        heartbeat=world.heartbeat,
        phase=[s.phase for s in servers],
        detect=world.detect,
    )
    return fleet, Availability(padded(0, INF), padded(1, 1.0))


def grid_world(servers: int, seed: int) -> oracle.World:
    """A world whose every time is a multiple of 1/4 s, so that events fall together exactly."""
    rng = np.random.default_rng([seed, 7])
    fleet = []
    for _ in range(servers):
        begins = [0.0, *np.cumsum(rng.integers(2, 9, rng.integers(1, 7))).astype(float)]
        speeds = [1.0, *rng.choice([0.0, 0.5, 1.0], len(begins) - 2), 1.0]
        fleet.append(
            oracle.Server(
                step_time=[0.25, 0.5],
                task_time=[0.25, 0.0],
                load_time=[1.0, 2.0],
                memory=4.0,  # one variant at a time
                rate=INF,
                latency=0.0,
                elastic=False,
                phase=float(rng.integers(0, 4)) / 4,
                pieces=list(zip(begins, speeds, strict=True)),
            )
        )
    return oracle.World(fleet, [3.0, 4.0], 1.0, 1.0, [0.0] * max(1, servers // 2))


@pytree
class Given:
    """Arrivals that are listed."""

    columns: Request  # [N] each
    num_stations: int = static(default=1)

    def most(self, horizon: float) -> int:
        return self.columns.arrival.shape[-1]

    def begin(self, key) -> jnp.ndarray:
        return jnp.zeros((), jnp.int32)

    def next(self, key, time, memory):
        number = self.columns.arrival.shape[-1]
        row = jax.tree.map(lambda column: column[jnp.minimum(memory, number - 1)], self.columns)
        arrival = jnp.where(memory < number, row.arrival, jnp.inf)
        return row._replace(arrival=arrival), memory + 1


def listed(rows: list[dict], stations: int) -> Given:
    columns = {name: np.asarray([row[name] for row in rows]) for name in rows[0]}
    floats = {name: jnp.asarray(v, float) for name, v in columns.items()}
    whole = {name: jnp.asarray(columns[name], jnp.int32) for name in ("origin", "images")}
    return Given(Request(**(floats | whole)), num_stations=stations)
