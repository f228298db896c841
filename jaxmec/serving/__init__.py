"""Serving generative models in event time: pure physics on one example, no learning."""

from jaxmec.serving.arrivals import Bursts, Diurnal, Recorded, heavy_tailed
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
from jaxmec.serving.errors import FleetError
from jaxmec.serving.fleet import Fleet
from jaxmec.serving.laws import Alternating, Spot, always_up, given
from jaxmec.serving.outage_files import read_outages, read_spot
from jaxmec.serving.presets import ServingPreset, find_serving_preset
from jaxmec.serving.scenario import Mix, Poisson, Requests, ServingParams

__all__ = [
    "Alternating",
    "Availability",
    "Bursts",
    "Diurnal",
    "Fate",
    "Fleet",
    "FleetError",
    "Mix",
    "Poisson",
    "Queues",
    "Recorded",
    "Request",
    "Requests",
    "ServingParams",
    "ServingPreset",
    "Spot",
    "always_up",
    "dispatch",
    "dispatch_parts",
    "find_serving_preset",
    "given",
    "heavy_tailed",
    "listen",
    "read_outages",
    "read_spot",
    "whole_images",
]
