"""Bundles of every case, written once for each file of tests."""

import pytest
from edge_policies import CASES

from jaxmec.deploy import export


@pytest.fixture(scope="session")
def bundle(tmp_path_factory):
    """A function from a case's name to the path of its bundle; do not change what is there."""
    written = {}

    def path(name):
        if name not in written:
            folder = tmp_path_factory.mktemp(name)
            export.export(CASES[name].policy(), folder / "bundle")
            written[name] = folder / "bundle"
        return written[name]

    return path
