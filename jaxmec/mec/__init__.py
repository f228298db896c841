"""The physics of edge offloading: pure equations on one example, no learning."""

from jaxmec.mec.allocation import ALLOCATIONS, AllocationRule, cwa, hecwa, water_filling
from jaxmec.mec.network import EdgeNetwork, QueueState, advance_slot
from jaxmec.mec.offload import (
    Outcome,
    offload,
    offload_fractions,
    service_time,
    waiting_time,
)
from jaxmec.mec.pricing import expected_flow, outlook, price
from jaxmec.mec.workload import (
    BernoulliWorkload,
    Task,
    TaskSizes,
    TraceWorkload,
    UniformCountWorkload,
    trace_workload,
)

__all__ = [
    "ALLOCATIONS",
    "AllocationRule",
    "BernoulliWorkload",
    "EdgeNetwork",
    "Outcome",
    "QueueState",
    "Task",
    "TaskSizes",
    "TraceWorkload",
    "UniformCountWorkload",
    "advance_slot",
    "cwa",
    "expected_flow",
    "hecwa",
    "offload",
    "offload_fractions",
    "outlook",
    "price",
    "service_time",
    "trace_workload",
    "waiting_time",
    "water_filling",
]
