"""Types that Python cannot say, or not briefly, by what they mean: for signatures to name."""

from __future__ import annotations

from typing import Any

PyTree = Any  # arrays in tuples, dictionaries and registered classes, as deep as you like
EnvParams = Any  # an environment's own pytree of parameters, which gymnax does not type
EnvState = Any  # likewise of where it stands
Memory = Any  # what a policy carries from decision to decision; () for most
Info = dict[str, Any]  # what a step says beside its reward, by name
Document = dict[str, Any]  # a JSON object, read or to be written
Keywords = dict[str, Any]  # arguments by name, for whoever takes and checks them
