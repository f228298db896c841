"""Serving generative models in event time: pure physics on one example, no learning."""

from jaxmec.serving.availability import Availability
from jaxmec.serving.decision import (
    Fate,
    Queues,
    Request,
    dispatch,
    dispatch_parts,
    listen,
    whole_images,
)
from jaxmec.serving.fleet import Fleet
from jaxmec.serving.laws import Alternating, always_up, given
from jaxmec.serving.presets import FleetError, ServingPreset, find_serving_preset
from jaxmec.serving.scenario import Mix, Poisson, Requests, ServingParams

__all__ = [
    "Alternating",
    "Availability",
    "Fate",
    "Fleet",
    "FleetError",
    "Mix",
    "Poisson",
    "Queues",
    "Request",
    "Requests",
    "ServingParams",
    "ServingPreset",
    "always_up",
    "dispatch",
    "dispatch_parts",
    "find_serving_preset",
    "given",
    "listen",
    "whole_images",
]
