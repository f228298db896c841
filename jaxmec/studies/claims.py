"""What the papers claim of the methods, and what we do, as data.

A claim names two entries of a study, a quantity, and how far apart they should be.
"""

from __future__ import annotations

import dataclasses

from jaxmec.core.naming import look_up

SOLVED = 475.0  # Gymnasium's threshold for CartPole-v1
NEAR = 0.05  # how far, as a share, "near" a published figure is
EXPECTED = {
    "less": "ours is less, by at least the margin",
    "more": "ours is more, by at least the margin",
    "no more": "ours is at most (1 + margin) of theirs",
    "near": f"ours over theirs is within {100 * NEAR:g} % of the margin",
}
QUANTITIES = {
    "makespan": "make-span",
    "failed": "failure rate",
    "return": "return after training",
    "area": "area under the learning curve",
    "steps": f"steps to {SOLVED:g}",
    "equal time": "return at equal wall clock",
}


@dataclasses.dataclass(frozen=True)
class Claim:
    """That one entry of a study does so much better than another.

    Raises:
        ValueError: a quantity or a relation that is not known.
    """

    text: str
    source: str
    study: str  # in `jaxmec.studies.catalogue`
    ours: str  # label of an entry
    theirs: str  # label of an entry
    quantity: str  # in QUANTITIES
    expected: str  # in EXPECTED
    margin: float = 0.0  # a share of theirs; for "near", the ratio itself

    def __post_init__(self) -> None:
        look_up("quantity", self.quantity, QUANTITIES)
        look_up("relation", self.expected, EXPECTED)


PAPER = "the DDRL abstract of 2024"
RERUN = "published code, run again"


def _cartpole(quantity: str, expected: str, margins: tuple[float, float] = (0, 0)) -> list[Claim]:
    """DSAC against DQN and SAC; ``margins`` are how much more of it the paper claims."""
    return [
        Claim(
            f"DSAC against {theirs.upper()} on CartPole, by {QUANTITIES[quantity]}"
            + (f": {100 * margin:.2f} % {expected}" if margin else ""),
            PAPER, "cartpole", "dsac", theirs, quantity, expected, margin,
        )
        for theirs, margin in zip(("dqn", "sac"), margins, strict=True)
    ]  # fmt: skip


def _amsa(suffix: str) -> list[Claim]:
    terms = "as published" if suffix else "equal terms"
    claims = []
    for theirs, name, margin in (
        ("drlcoedge", "DRLCoEdge", 0.1822),
        ("smcoedge", "SMCoEdge", 0.1354),
    ):
        claims += [
            Claim(
                f"DDRL-AMSA: {100 * margin:.2f} % less delay than {name} ({terms})",
                PAPER, "amcoedge-methods", f"ddrl-amsa{suffix}", f"{theirs}{suffix}",
                "makespan", "less", margin,
            ),
            Claim(
                f"DDRL-AMSA: failure rate no higher than {name}'s ({terms})",
                "ours", "amcoedge-methods", f"ddrl-amsa{suffix}", f"{theirs}{suffix}",
                "failed", "no more",
            ),
        ]  # fmt: skip
    return claims


CLAIMS: tuple[Claim, ...] = (
    *_cartpole("return", "more"),
    *_cartpole("area", "more", (0.0957, 0.1836)),  # the paper's "average reward"
    *_cartpole("steps", "less"),
    *_amsa(""),
    *_amsa(" (published)"),
    *(
        Claim(
            f"{name}: {ratio:.2f} x Optimal",
            RERUN, "amcoedge-methods", label, "optimal", "makespan", "near", ratio,
        )
        for name, label, ratio in (
            ("AMCoEdge", "amcoedge (published)", 1.06),
            ("SMCoEdge", "smcoedge (published)", 1.23),
            ("DRLCoEdge", "drlcoedge (published)", 1.31),
            ("RandCoEdge", "RandCoEdge (published)", 1.39),
        )
    ),
    Claim(
        "DDRL-AMSA, water-filling on what is seen: no more than 1.00 x Optimal",
        "ours", "amcoedge-methods", "ddrl-amsa", "optimal", "makespan", "no more",
    ),
    Claim(
        "DDRL-AMSA: no worse than the best fixed sets",
        "ours", "amcoedge-methods", "ddrl-amsa", "static-sets", "makespan", "no more",
    ),
    *(
        Claim(
            f"{label}: less delay than the shortest expected delay on one server",
            "ours", "amcoedge-methods", label, "shortest-delay-own", "makespan", "less",
        )
        for label in ("ddrl-amsa", "ddrl-amsa-pathwise", "ddrl-amsa-cloned", "ddrl-amsa-taught")
    ),
    *(
        Claim(
            f"{label}: below Optimal with what a station can know",
            "ours", "amcoedge-methods", label, "optimal", "makespan", "less",
        )
        for label in ("ddrl-amsa-pathwise", "ddrl-amsa-taught")
    ),
    Claim(
        "ddrl-amsa-taught: less delay than ddrl-amsa-pathwise, which nobody teaches",
        "ours", "amcoedge-methods", "ddrl-amsa-taught", "ddrl-amsa-pathwise", "makespan", "less",
    ),
    *(
        Claim(
            f"{ours}, {where}: {100 * margin:.2f} % less delay than {name}",
            "ours", study, ours, theirs, "makespan", "less", margin,
        )
        for study, where, labels in (
            ("amcoedge-methods", "5 servers", ("ddrl-amsa-pathwise", "ddrl-amsa-taught")),
            ("amcoedge-many-servers", "20 servers", ("ddrl-amsa", "ddrl-amsa-pathwise")),
        )
        for ours in labels
        for theirs, name, margin in (
            ("drlcoedge", "DRLCoEdge", 0.1822),
            ("smcoedge", "SMCoEdge", 0.1354),
        )
    ),
    *(
        Claim(
            f"{ours}, 20 servers: less delay than {about}",
            "ours", "amcoedge-many-servers", ours, theirs, "makespan", "less",
        )
        for ours in ("ddrl-amsa", "ddrl-amsa-pathwise")
        for theirs, about in (
            ("static-sets, local", "the best fixed sets, with the own queues seen"),
            ("shortest-delay-own", "the shortest expected delay on one server"),
            ("water-filling-full", "greedy water-filling with full information"),
        )
    ),
    *(
        Claim(
            f"DDRL-ATS: less delay than {theirs.upper()} ({terms})",
            PAPER, "lad-ts-methods", f"ddrl-ats{suffix}", f"{theirs}{suffix}", "makespan", "less",
        )
        for terms, suffix in (("equal terms", ""), ("as published", " (published)"))
        for theirs in ("dqn-ts", "sac-ts", "d2sac-ts", "lad-ts")
    ),
    *(
        Claim(
            f"{name}: {ratio:.2f} x Opt-TS",
            RERUN, "lad-ts-methods", f"{name.lower()} (published)", "opt-ts", "makespan", "near",
            ratio,
        )
        for name, ratio in (("DQN-TS", 1.45), ("SAC-TS", 1.52), ("LAD-TS", 1.42))
    ),
    *(
        Claim(
            f"DDRL-ATS: less delay than {about}",
            "ours", "lad-ts-methods", "ddrl-ats", theirs, "makespan", "less",
        )
        for theirs, about in (
            ("weighted-coin", "the coin weighted by capacity"),
            ("stochastic-coordination", "stochastic coordination"),
            ("shortest-delay-all", "the shortest delay with B x the own work"),
            ("marginal-delay", "marginal delay, our own rule on the same prices"),
        )
    ),
    Claim(
        "DDRL-ATS: within 1 % of Opt-TS, or below",
        "ours", "lad-ts-methods", "ddrl-ats", "opt-ts", "makespan", "no more", 0.01,
    ),
    *(
        Claim(
            f"ddrl-ats-pathwise: less delay than {about}",
            "ours", "lad-ts-methods", "ddrl-ats-pathwise", theirs, "makespan", "less",
        )
        for theirs, about in (
            ("opt-ts", "Opt-TS"),
            ("ddrl-ats", "DDRL-ATS, which learns without the simulator's gradient"),
            ("marginal-delay", "marginal delay, our own rule on the same prices"),
        )
    ),
    Claim(
        "DSAC: a higher return than SAC at equal wall clock",
        "ours", "cartpole-ablation", "dsac", "sac, 4 x the steps", "equal time", "more",
    ),
    *(
        Claim(
            f"DSAC (K = 5, x0, soft): a larger area under the curve than {label}",
            "ours", "cartpole-ablation", "dsac", label, "area", "more",
        )
        for label in (
            "sac", "K = 1", "K = 2", "K = 3", "K = 10",
            "x0, hard", "x0, none", "noise, soft", "noise, hard", "noise, none",
        )
    ),
)  # fmt: skip
