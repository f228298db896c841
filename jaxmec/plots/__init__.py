"""Figures: what was measured, and pictures of what a policy does.

Every function returns a ``matplotlib.figure.Figure`` of its own and leaves pyplot's global
state alone, so that it works without a display and in any thread; a film is written to a file.
matplotlib is loaded with the first figure; it is an optional dependency, the extra ``plot``.
"""

from __future__ import annotations

from jaxmec.plots.curves import (
    Curve,
    comparison_bars,
    learning_curves,
    performance_profiles,
    sweep_curves,
)
from jaxmec.plots.decisions import network_map, timeline
from jaxmec.plots.films import animate_cartpole, animate_episode
from jaxmec.plots.policies import denoising, policy_map
from jaxmec.plots.style import DASHES, FORMATS, PALETTE, save

__all__ = [
    "DASHES",
    "FORMATS",
    "PALETTE",
    "Curve",
    "animate_cartpole",
    "animate_episode",
    "comparison_bars",
    "denoising",
    "learning_curves",
    "network_map",
    "performance_profiles",
    "policy_map",
    "save",
    "sweep_curves",
    "timeline",
]
