"""The comparisons of the papers, and ours, as data: each at a short size and at full size.

Short is for two CPU cores and minutes: fewer seeds, shorter training, fewer points of a
sweep. Full is for a GPU. With our settings every method sees what a station can know, and
allocates by that ("seen"); as published it is given the true waits, which no station could
know (`jaxmec.methods`).
"""

from __future__ import annotations

import dataclasses
from typing import Any

from jaxmec.core.naming import look_up
from jaxmec.core.types import Keywords
from jaxmec.studies.study import Entry, Study, sweep_over

SIZES = ("short", "full")
APART = ("amcoedge-many-servers",)  # too long for the half hour that the short ones have together


def _ours(*names: str) -> tuple[Entry, ...]:
    return tuple(Entry(name) for name in names)


def _as_published(*names: str) -> tuple[Entry, ...]:
    return tuple(Entry(name, published=True) for name in names)


def _ablation(label: str, **options: object) -> Entry:
    return Entry("dsac", tuple(sorted(options.items())), label)


RAND_TRUE = Entry(
    "local-plus-random", (("allocation_information", "true"),), "RandCoEdge (published)"
)
AMCOEDGE_RULES = _ours(
    "shortest-delay",
    "shortest-delay-own",
    "static-sets",
    "water-filling",
    "local-plus-random",
    "random-subset",
    "weighted-coin",
)
LAD_TS_RULES = _ours(
    "opt-ts",
    "weighted-coin",
    "stochastic-coordination",
    "marginal-delay",
    "shortest-delay-all",
    "shortest-delay",
    "power-of-two",
    "random",
)
SINGLE = ("ddrl-ats", "dqn-ts", "sac-ts", "d2sac-ts", "lad-ts")
MULTI = ("ddrl-amsa", "drlcoedge", "smcoedge", "amcoedge")

AMCOEDGE_METHODS = Study(
    name="amcoedge-methods",
    about="Every method that splits a task, ours on equal terms and as published",
    env="MultiServerOffloading-v0",
    presets=("amcoedge",),
    methods=(
        *_ours(*MULTI, "ddrl-amsa-pathwise", "ddrl-amsa-cloned", "ddrl-amsa-taught"),
        Entry("ddrl-amsa", (("allocate", "cwa"),), "ddrl-amsa, CWA"),
        Entry("ddrl-amsa", (("allocate", "hecwa"),), "ddrl-amsa, HECWA"),
        *_as_published(*MULTI),
    ),
    schedulers=(Entry("optimal"), RAND_TRUE, *AMCOEDGE_RULES),
    reference="optimal",
)
AMCOEDGE_SWEEP = dataclasses.replace(
    AMCOEDGE_METHODS,
    methods=_ours(*MULTI),
    schedulers=_ours("optimal", "water-filling", "local-plus-random"),
)
SHORT_METHODS = _ours("ddrl-amsa", "drlcoedge", "smcoedge")
TENTHS = tuple(n / 10 for n in range(1, 11))
CAPACITIES = (
    (10, 15, 20, 25, 30),
    (10, 20, 30, 40, 50),
    (10, 25, 40, 55, 70),
    (10, 30, 50, 70, 90),
)

# Many servers: a station decides among its own and the next four.
FIVE_NEAR = ("neighbours", 5)
A_SLOT_OF_20 = (  # its 300 tasks in a window, and three starts
    ("window", 340),
    ("num_envs", 16),
    ("trials", 3),
    ("steps", 11_000_000),
)
MANY_SERVERS = Study(
    name="amcoedge-many-servers",
    about="20 servers at the load of 5: every station decides among its neighbours",
    env="MultiServerOffloading-v0",
    presets=("amcoedge-20",),
    methods=(
        *(Entry(name, (FIVE_NEAR, ("steps", 250_000))) for name in MULTI),
        *(
            Entry(name, (FIVE_NEAR, *A_SLOT_OF_20))
            for name in ("ddrl-amsa-pathwise", "mlp-pathwise")
        ),
    ),
    schedulers=(
        Entry("water-filling-full"),
        *AMCOEDGE_RULES,
        Entry("static-sets", (("information", "local"),), "static-sets, local"),
    ),
    reference="water-filling-full",
)

# A tenth of what the published programs are set to: 50 episodes, about as many as they were run
# again for.
PUBLISHED_SHORT = tuple(
    dataclasses.replace(entry, steps_scale=2 / 15) for entry in _as_published(*SINGLE)
)
LAD_TS_METHODS = Study(
    name="lad-ts-methods",
    about="Every method that gives a task to one server",
    env="SingleServerOffloading-v0",
    presets=("lad-ts",),
    methods=(*_ours(*SINGLE, "ddrl-ats-pathwise"), *_as_published(*SINGLE)),
    schedulers=LAD_TS_RULES,
    reference="opt-ts",
)

CARTPOLE_STUDY = Study(
    name="cartpole",
    about="DSAC, SAC and DQN on CartPole-v1",
    env="CartPole-v1",
    methods=_ours("dsac", "sac", "dqn"),
    reference="dsac",
)
CARTPOLE_ABLATION = dataclasses.replace(
    CARTPOLE_STUDY,
    name="cartpole-ablation",
    about="DSAC on CartPole-v1 against its own parts; dsac is K = 5, x0, soft",
    methods=(
        Entry("dsac"),
        Entry("sac"),
        # Trains on until it has had DSAC's wall clock; the claims compare at equal times.
        Entry("sac", label="sac, 4 x the steps", steps_scale=4.0),
        *(_ablation(f"K = {steps}", denoising_steps=steps) for steps in (1, 2, 3, 10)),
        *(
            _ablation(f"{predict}, {clip}", predict=predict, clip=clip)
            for predict in ("x0", "noise")
            for clip in ("soft", "hard", "none")
            if (predict, clip) != ("x0", "soft")
        ),
    ),
)


def _sweep(
    what: str, about: str, field: str, full: tuple[Any, ...], short: tuple[Any, ...]
) -> dict[str, Study]:
    """By size, the study of make-span and failures against one field of `amcoedge`."""
    study = dataclasses.replace(AMCOEDGE_SWEEP, name=f"amcoedge-{what}", about=about)
    return {
        "full": dataclasses.replace(study, sweep=sweep_over(field, full)),
        "short": dataclasses.replace(
            study, sweep=sweep_over(field, short), methods=SHORT_METHODS, **SHORT_AMCOEDGE
        ),
    }


# The sweeps train for a quarter of the time: they show how things change, and the methods
# study how good they are.
SHORT_AMCOEDGE: Keywords = {"seeds": 3, "steps_scale": 0.25, "episodes": 20}

STUDIES: dict[str, dict[str, Study]] = {
    "amcoedge-methods": {
        "full": AMCOEDGE_METHODS,
        "short": dataclasses.replace(AMCOEDGE_METHODS, seeds=5, episodes=20),
    },
    "lad-ts-methods": {
        "full": LAD_TS_METHODS,
        "short": dataclasses.replace(
            LAD_TS_METHODS,
            methods=(*_ours(*SINGLE, "ddrl-ats-pathwise"), *PUBLISHED_SHORT),
            seeds=3,
            steps_scale=0.75,
            episodes=5,
        ),
    },
    "cartpole": {
        "full": CARTPOLE_STUDY,
        "short": dataclasses.replace(CARTPOLE_STUDY, seeds=3, steps_scale=0.6, episodes=20),
    },
    "cartpole-ablation": {
        "full": CARTPOLE_ABLATION,
        "short": dataclasses.replace(CARTPOLE_ABLATION, seeds=3, steps_scale=0.2, episodes=20),
    },
    "amcoedge-many-servers": {
        "full": MANY_SERVERS,
        "short": dataclasses.replace(MANY_SERVERS, seeds=3, episodes=5),
    },
    "amcoedge-deadline": _sweep(
        "deadline",
        "Make-span and failures against the deadline",
        "deadline",
        TENTHS,
        (0.2, 0.5, 1.0),
    ),
    "amcoedge-probability": _sweep(
        "probability",
        "Make-span and failures against the arrival probability",
        "probability",
        TENTHS,
        (0.1, 0.3, 0.6),
    ),
    "amcoedge-tasks": _sweep(
        "tasks",
        "Make-span and failures against the number of tasks",
        "positions",
        tuple(range(10, 101, 10)),
        (10, 50, 100),
    ),
    "amcoedge-capacities": _sweep(
        "capacities",
        "Make-span and failures against the servers' capacities",
        "capacity",
        CAPACITIES,
        (CAPACITIES[0], CAPACITIES[1], CAPACITIES[3]),
    ),
    "amcoedge-servers": {
        # Sets are enumerated up to 8 servers, and the reference sees the same at any number.
        "full": dataclasses.replace(
            AMCOEDGE_SWEEP,
            name="amcoedge-servers",
            about="Make-span and failures against the number of servers, at equal load",
            methods=_ours("ddrl-amsa", "drlcoedge", "smcoedge"),
            schedulers=(Entry("water-filling-full"), *AMCOEDGE_RULES),
            reference="water-filling-full",
            sweep=sweep_over("servers", (3, 4, 5, 6, 7, 8), "amcoedge"),
        ),
        "short": dataclasses.replace(
            AMCOEDGE_SWEEP,
            name="amcoedge-servers",
            about="Make-span and failures against the number of servers, at equal load",
            methods=SHORT_METHODS,
            schedulers=(Entry("water-filling-full"), *AMCOEDGE_RULES),
            reference="water-filling-full",
            sweep=sweep_over("servers", (3, 5), "amcoedge"),
            **SHORT_AMCOEDGE,
        ),
    },
}


def find_study(name: str, size: str = "full") -> Study:
    """The study of that name at a size in ``SIZES``.

    Raises:
        ValueError: an unknown name or size; the message suggests the nearest one.
    """
    return look_up("size", size, look_up("study", name, STUDIES))
