"""Real masks: multiple sclerosis lesions with their brain masks, read, carried and agreed on."""

from __future__ import annotations

import numpy as np
import pytest

from appliance.imaging.grid import Grid, grid_of
from appliance.labels.checks import check_carried, site_values, whole_values
from appliance.labels.consensus import consensus, dice
from appliance.labels.masks import load_mask
from appliance.labels.plausibility import label_metrics
from appliance.labels.resampling import carry
from tests.tools import shared_dir

pytestmark = pytest.mark.integration

PATIENTS = (
    "patient20",
    *(
        pytest.param(name, marks=pytest.mark.long)
        for name in ("patient01", "patient05", "patient12")
    ),
)


def lesions(patient: str) -> tuple[Grid, np.ndarray, np.ndarray]:
    folder = shared_dir("data", "ms", "flair_1mm_masks", patient)
    label, brain = (load_mask(folder / f"{n}.nii.gz") for n in ("consensus_gt", "brainmask"))
    values = site_values(whole_values(label.data), None, {1})
    return grid_of(label), values, whole_values(brain.data)


def thick(grid: Grid, degrees: float) -> Grid:
    """Slices of 3 mm over the same head, turned about x."""
    angle = np.radians(degrees)
    turn = np.eye(4)
    turn[1:3, 1:3] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    centre = grid.affine @ np.array([*(np.array(grid.shape) - 1) / 2, 1])
    shape = (200, 250, 70)
    affine = turn @ np.diag([0.9, 0.9, 3.0, 1.0])
    affine[:3, 3] = centre[:3] - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return Grid(shape, affine)


@pytest.mark.parametrize("patient", PATIENTS)
def test_lesions_keep_their_volume_on_thick_turned_slices(patient: str) -> None:
    grid, values, brain = lesions(patient)
    figures = label_metrics(values, brain, grid.spacing)
    assert 0.1 < figures["volume_ml"] < 60
    assert figures["lesions"] >= 5
    assert figures["outside_brain"] < 0.02
    assert figures["touches_border"] == 0
    carried = carry(values, grid.affine, thick(grid, 12.0))
    check_carried(carried, where="the FLAIR")
    assert carried.change == pytest.approx(1.0, abs=0.06)


def test_mni_masks_with_only_a_qform_are_read() -> None:
    folder = shared_dir("data", "ms", "mni_lesion_masks")
    path = sorted(folder.rglob("*.nii.gz"))[0]
    label = load_mask(path)
    assert set(np.unique(whole_values(label.data))) == {0, 1}


@pytest.mark.long
def test_three_readings_of_real_lesions_agree_on_the_consensus() -> None:
    _, values, brain = lesions("patient05")
    random = np.random.default_rng(3)
    readings = []
    for share in (0.05, 0.05, 0.45):
        reading = values.copy()
        reading[(values > 0) & (random.random(values.shape) < share)] = 0
        reading[(brain > 0) & (random.random(values.shape) < share / 1000)] = 1
        readings.append(reading)
    made = consensus(readings, "staple")
    assert made.rule == "staple"
    assert dice(made.values > 0, values > 0) > 0.95
    assert made.agreement.least < 0.8 < made.agreement.mean + 0.1
