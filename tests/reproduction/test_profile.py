"""Profiles: what the chapters run with on another model."""

from __future__ import annotations

import json
from importlib.resources import files

import pytest
from pydantic import ValidationError

from kvsteer_lab.reproduction.costs import Speed, Workload, workload
from kvsteer_lab.reproduction.profile import Profile, read_profile
from kvsteer_lab.reproduction.sizing import Units, parameters_for

FOLDER = files("kvsteer_lab.reproduction").joinpath("profiles")
UNITS = Units(keys=0.5, values=0.4, n_layers=30)


@pytest.mark.parametrize("file", sorted(file.name for file in FOLDER.iterdir()))
def test_every_file_is_a_profile(file):
    profile = Profile.model_validate_json(FOLDER.joinpath(file).read_text())
    assert profile.dose in profile.doses and profile.quick.pairs < profile.full.pairs


def test_a_model_without_one_has_the_default_and_a_path_finds_no_file():
    default = Profile.model_validate_json(FOLDER.joinpath("default.json").read_text())
    assert read_profile("HuggingFaceTB/SmolLM2-360M") == read_profile("../profiles/smollm2-135m") == default


@pytest.mark.parametrize(
    "change", [{"dose": 0}, {"styles": ["stepwise"]}, {"task": 1}, {"outcome": "length"}, {"unknown": 1}, {"quick": {}}]
)
def test_what_is_no_profile_is_refused(change):
    good = json.loads(FOLDER.joinpath("default.json").read_text())
    with pytest.raises(ValidationError):
        Profile.model_validate_json(json.dumps(good | change))


def test_strengths_are_relative_and_layers_are_thinned_out():
    values = parameters_for(read_profile("smollm2-135m"), "quick", UNITS)
    assert values[""]["CV"] * UNITS.values == pytest.approx(1.2, rel=0.01)
    assert values["05"]["CK"] * UNITS.keys == pytest.approx(1, rel=0.01)
    looked_at = range(0, UNITS.n_layers, values[""]["EVERY"])
    assert 3 <= len(looked_at) <= 4
    assert all(0 < layer < UNITS.n_layers for layer in values["12"]["LAYERS"])
    assert parameters_for(read_profile("smollm2-135m"), "quick", Units(0.5, 0.4, 4))[""]["EVERY"] == 1
    halved = parameters_for(read_profile("smollm2-135m"), "quick", Units(0.5, 0.8, 30))
    assert halved[""]["CV"] == pytest.approx(values[""]["CV"] / 2)


def test_costs_grow_with_what_is_asked_for():
    quick, full = (parameters_for(read_profile("smollm2-135m"), size, UNITS) for size in ("quick", "full"))
    speed = Speed(prompt=0.5, token=0.005)
    for number in ("00", "02", "03", "04", "05", "06", "07", "08", "09a", "09b", "09c", "11", "12", "13"):
        little, much = (
            workload(number, {**values[""], **values.get(number, {})}, 30, 9, 3).minutes(speed, 24)
            for values in (quick, full)
        )
        assert 0 < little < much, number
    assert Workload(60, 100).minutes(speed, 24) == pytest.approx((30 + 12) / 60)
