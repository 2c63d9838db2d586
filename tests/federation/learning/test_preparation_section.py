"""The preparation section of a plan: closed, in range, and old plans keep their bytes."""

from __future__ import annotations

import json
from typing import Any, get_args

import pytest
from pydantic import ValidationError

from federation.errors import PlanRefused
from federation.plan import (
    REGISTRY,
    canonical_json,
    ms_lesion_demo_plan,
    parse_plan,
    plan_hash,
    preparation_hash,
)
from federation.preparation import LATER_KEYS, Normalisation, Preparation

CT = {"low": -100, "high": 300, "mean": 50.5, "sd": 40}


def section(**keys: object) -> Preparation:
    return Preparation.model_validate_json(json.dumps(keys))


def plan_with(inputs: list[str], **keys: object) -> dict[str, Any]:
    document = ms_lesion_demo_plan(24).model_dump(mode="json")
    document["preparation"] = keys
    document["inputs"] = [{"modality": name} for name in inputs]
    return document


def test_plans_of_before_keep_their_hash() -> None:
    """Fixed values: a change here breaks the signature of every plan that was ever signed."""
    plan = ms_lesion_demo_plan(24)
    assert plan_hash(plan) == "fa2050e1a3f87b5162976d83ada82050920fe45cbe36d518a12b37db65e82a8f"
    assert preparation_hash(plan) == "cedd80d46cc4e1c9"
    assert not LATER_KEYS & set(json.loads(canonical_json(plan))["preparation"])


def test_later_keys_are_written_where_they_differ_and_come_back() -> None:
    wanted = section(axes="world", crop="centre", size=[320, 320, 16], percentiles=[0, 99.5])
    written = json.loads(canonical_json(wanted))
    assert set(written) & LATER_KEYS == {"axes", "size", "percentiles"}
    assert Preparation.model_validate_json(canonical_json(wanted)) == wanted
    assert section(axes="reference", crop_margin_mm=6) == Preparation()
    assert canonical_json(section(axes="reference")) == canonical_json(Preparation())


def test_the_registry_lists_the_normalisations() -> None:
    assert REGISTRY["normalisation"] == get_args(Normalisation)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"crop": "centre"}, "size is given"),
        ({"size": [32, 32, 32]}, "size is given"),
        ({"crop": "centre", "size": [1024, 1024, 1024]}, "exceeds the limit"),
        ({"crop": "centre", "size": [7, 32, 32]}, "greater than or equal to 8"),
        ({"normalisation": "ct"}, "intensities are given"),
        ({"intensities": CT}, "intensities are given"),
        ({"normalisation": "ct", "intensities": {**CT, "low": 300}}, "below high"),
        ({"normalisation": "ct", "intensities": {**CT, "sd": 0}}, "0.001"),
        ({"percentiles": [50, 50.5]}, "rise"),
        ({"percentiles": [-1, 99]}, "greater than or equal to 0"),
        ({"stripe_width": 0.5}, "0.25"),
        ({"interpolation": "lanczos"}, "linear"),
        ({"normalisation": "histogram"}, "zscore-brain"),
        ({"crop_margin_mm": 1e9}, "100"),
        ({"clip": 3}, "xtra"),
    ],
)
def test_what_does_not_fit_is_refused_in_words(keys: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        section(**keys)


def test_a_normalisation_must_fit_the_inputs() -> None:
    stripe = {"normalisation": "white-stripe"}
    parse_plan(plan_with(["FLAIR", "T1w"], **stripe))
    with pytest.raises(PlanRefused, match="white-stripe is defined for FLAIR, T1w, T2w only"):
        parse_plan(plan_with(["FLAIR", "ADC"], **stripe))
    fixed = {"normalisation": "ct", "intensities": CT}
    parse_plan(plan_with(["CT"], **fixed))
    with pytest.raises(PlanRefused, match="modality CT only"):
        parse_plan(plan_with(["CT", "T2w"], **fixed))


def test_what_a_section_needs_a_brain_for() -> None:
    assert section().needs_brain == ("crop 'brain'", "skull_strip", "normalisation 'zscore-brain'")
    body = section(crop="none", skull_strip=False, normalisation="zscore-image")
    assert body.needs_brain == ()
