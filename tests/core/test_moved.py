"""Modules under their old names."""

import importlib
import sys

import pytest

import jaxmec
from jaxmec.core import moved


@pytest.mark.parametrize("old", sorted(moved.MOVED))
def test_an_old_name_is_the_same_module_and_warns(old):
    new = importlib.import_module(f"jaxmec.{moved.MOVED[old]}")
    sys.modules.pop(f"jaxmec.{old}", None)
    with pytest.warns(DeprecationWarning, match=rf"jaxmec.{old} is jaxmec.{moved.MOVED[old]} now"):
        assert importlib.import_module(f"jaxmec.{old}") is new


def test_short_names_of_parts_do_not_warn(recwarn):
    assert jaxmec.episode.__name__ == "jaxmec.experiment.episode"
    assert jaxmec.comparison.__name__ == "jaxmec.studies.comparison"
    assert not recwarn.list


def test_unknown_modules_stay_unknown():
    with pytest.raises(ModuleNotFoundError, match=r"jaxmec\.nothing"):
        importlib.import_module("jaxmec.nothing")
