"""How good a schedule could be: exact optima, lower bounds and planners, all tasks known."""

from jaxmec.solvers.bounds import LowerBounds, lower_bounds
from jaxmec.solvers.exact import ExactSolution, solve_exact
from jaxmec.solvers.hindsight import Hindsight, HindsightConfig, plan_in_hindsight
from jaxmec.solvers.planner import Planned, PlannerConfig, plan
from jaxmec.solvers.window import Window, greedy, play, stack, window_of

__all__ = [
    "ExactSolution",
    "Hindsight",
    "HindsightConfig",
    "LowerBounds",
    "Planned",
    "PlannerConfig",
    "Window",
    "greedy",
    "lower_bounds",
    "plan",
    "plan_in_hindsight",
    "play",
    "solve_exact",
    "stack",
    "window_of",
]
