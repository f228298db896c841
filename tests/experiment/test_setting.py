"""Settings whose preset is a file: where it is, and that it is what it was."""

from __future__ import annotations

import dataclasses
import json

import pytest

from jaxmec.experiment.setting import Setting
from jaxmec.serving import FleetError

TEXT = 'like = "genai-5"\n[setting]\nload = 0.4\n'


@pytest.fixture
def setting(tmp_path, monkeypatch):
    (tmp_path / "my.toml").write_text(TEXT)
    monkeypatch.chdir(tmp_path)
    return Setting("GenerativeServing-v0", "my.toml")


def rate(setting):
    return float(setting.make()[1].arrivals.times.rate)


def test_a_file_is_found_from_anywhere(setting, tmp_path, monkeypatch):
    monkeypatch.chdir("/")
    assert setting.preset == str(tmp_path / "my.toml")
    assert rate(setting) == rate(
        Setting("GenerativeServing-v0", "genai-5", options=(("load", 0.4),))
    )
    again = Setting.of(json.loads(json.dumps(dataclasses.asdict(setting))))
    assert again == setting and rate(again) == rate(setting)


def test_another_content_is_refused_until_it_is_named(setting, tmp_path):
    (tmp_path / "my.toml").write_text("# as it was\n" + TEXT)
    setting.make()
    (tmp_path / "my.toml").write_text(TEXT.replace("0.4", "0.8"))
    with pytest.raises(FleetError, match=r"my.toml is not the fleet that it was: .*\(--fleet\)"):
        setting.make()
    named = dataclasses.replace(setting, preset="my.toml", fleet=None)
    assert rate(named) == pytest.approx(0.8 / 0.4 * rate(Setting("GenerativeServing-v0", "genai-5",
                                        options=(("load", 0.4),))))  # fmt: skip
    (tmp_path / "my.toml").unlink()
    with pytest.raises(FleetError, match=r"my.toml is not there; name where the fleet is now"):
        setting.make()


def test_what_another_is_like_counts(setting, tmp_path):
    (tmp_path / "like.toml").write_text('like = "my.toml"\n')
    derived = Setting("GenerativeServing-v0", "like.toml")
    (tmp_path / "my.toml").write_text(TEXT.replace("0.4", "0.8"))
    with pytest.raises(FleetError, match=r"like.toml is not the fleet that it was"):
        derived.make()


def test_a_fleet_is_the_same_wherever_it_lies(setting, tmp_path):
    (tmp_path / "deeper").mkdir()
    (tmp_path / "deeper" / "my.toml").write_text(TEXT)
    moved = Setting("GenerativeServing-v0", tmp_path / "deeper" / "my.toml")
    assert moved.identity() == setting.identity()
    assert moved != setting


def test_names_of_presets_have_no_file():
    assert Setting("GenerativeServing-v0", "genai-5").fleet is None
    assert Setting("MultiServerOffloading-v0", "amcoedge").fleet is None
    moved = dataclasses.replace(Setting("GenerativeServing-v0", "genai-5"), fleet=("a", "b"))
    assert moved.fleet is None
