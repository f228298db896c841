"""The script that trains the application's networks: it goes on where it was stopped."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from jaxmec_testbed import network, robots
from jaxmec_testbed.network import Size

SCRIPT = Path(__file__).parents[2] / "train" / "inpainting.py"
pytestmark = pytest.mark.skipif(not SCRIPT.exists(), reason="the scripts are not installed")


@pytest.fixture
def script(monkeypatch):
    spec = importlib.util.spec_from_file_location("train_inpainting", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "EVERY", 2)
    small = {name: Size(8, blocks, heads=2) for name, blocks in (("S", 1), ("M", 2), ("L", 2))}
    monkeypatch.setattr(network, "SIZES", small)
    parts = np.random.default_rng(0).random((10, 5, 10, 32, 32, 4), np.float32)
    parts[..., :3] *= parts[..., 3:]
    monkeypatch.setattr(module.robots, "load", lambda: robots.Robots(parts))
    return module


class Killed(Exception):
    pass


def test_a_training_that_was_killed_ends_with_the_same_weights(script, tmp_path, monkeypatch):
    def options(name, updates=(5, 0, 0)):
        return script.Options(
            out=tmp_path / name / "runs",
            weights=tmp_path / name / "weights",
            updates=updates,
            batch=2,
            progress=False,
        )

    def digests(name):
        entries = json.loads((tmp_path / name / "weights" / "index.json").read_text())
        assert list(entries) == ["S", "M", "L"]
        return {variant: entry["sha256"] for variant, entry in entries.items()}, entries

    script.main(options("whole"))
    wanted, entries = digests("whole")
    assert [entry["updates"] for entry in entries.values()] == [5, 0, 0]
    assert entries["S"]["command"] == (
        "python train/inpainting.py --updates 5 0 0 --batch 2 --learning-rate 0.003 --seed 0"
    )

    images, masks = robots.examples(tmp_path / "whole" / "weights" / "examples.npz")
    assert images.shape == (script.EXAMPLES, 32, 32, 3) and masks.shape == images.shape[:3]

    written, left = script.files.write_whole, [3]

    def until_killed(path, data):
        written(path, data)
        left[0] -= 1
        if not left[0]:
            raise Killed

    monkeypatch.setattr(script.files, "write_whole", until_killed)
    with pytest.raises(Killed):
        script.main(options("killed"))
    monkeypatch.setattr(script.files, "write_whole", written)
    script.main(options("killed"))
    assert digests("killed")[0] == wanted

    script.main(options("killed"))
    assert digests("killed")[0] == wanted  # what is trained is not trained again
    with pytest.raises(ValueError, match=r"S.msgpack is of a training with other settings"):
        script.main(options("killed", updates=(6, 0, 0)))
