"""The settings of labels, and how local values become a plan's."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from appliance.preparation import planned_labels
from appliance.settings_imaging import LabelsSection
from federation.plan import Plan, ms_lesion_demo_plan

ZONES = {"SCT:399384005": 1, "SCT:279706003": 2}
GLAND = "SCT:41216001"


def plan_of(*codes: str) -> Plan:
    """The demonstration's plan with other labels, values 1, 2, ..."""
    plan = ms_lesion_demo_plan()
    labels = []
    for value, code in enumerate(codes, start=1):
        scheme, _, number = code.partition(":")
        kind = plan.labels[0].type.model_copy(update={"scheme": scheme, "value": number})
        labels.append(
            plan.labels[0].model_copy(update={"value": value, "name": f"l{value}", "type": kind})
        )
    return plan.model_copy(update={"labels": tuple(labels)})


def test_defaults_are_todays() -> None:
    section = LabelsSection()
    assert (section.consensus, section.rois, section.merge) == ("newest", {}, {})
    assert section.values() == {1}


def test_values_that_nothing_has_are_refused() -> None:
    for changed in ({"precedence": [2]}, {"merge": {GLAND: [1, 7]}}):
        with pytest.raises(ValidationError, match="do not have"):
            LabelsSection.model_validate(changed)
    section = LabelsSection.model_validate(
        {"rois": {"GTV": 2}, "precedence": [2, 1], "merge": {GLAND: [1, 2]}}
    )
    assert section.values() == {1, 2}


def test_two_prostate_zones_are_one_gland() -> None:
    assert planned_labels(plan_of(GLAND), ZONES) == {}
    assert planned_labels(plan_of(GLAND), ZONES, {GLAND: (1, 2)}) == {1: 1, 2: 1}
    both = plan_of(GLAND, "SCT:279706003")
    assert planned_labels(both, ZONES, {GLAND: (1, 2)}) == {1: 1, 2: 2}, "the smallest holds it"


def test_tumour_parts_go_to_the_innermost_region() -> None:
    parts = {"SCT:necrosis": 1, "SCT:oedema": 2, "SCT:enhancing": 4}
    merge = {"X:WT": (1, 2, 4), "X:TC": (1, 4), "X:ET": (4,)}
    assert planned_labels(plan_of("X:WT", "X:TC", "X:ET"), parts, merge) == {1: 2, 2: 1, 4: 3}
    assert planned_labels(plan_of("X:WT"), parts, merge) == {1: 1, 2: 1, 4: 1}
