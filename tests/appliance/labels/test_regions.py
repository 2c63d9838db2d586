"""Label maps and regions on arrays, both ways, and real tumour labels."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from appliance.errors import ImageRefused
from appliance.labels.plausibility import label_metrics
from appliance.labels.regions import (
    BRATS,
    BRATS_2023,
    combine,
    innermost,
    map_of_regions,
    regions_of,
    relabel,
)
from tests.tools import shared_dir

ROW = (1, 1, 5)


def row(*values: int) -> NDArray[np.uint8]:
    return np.array([[values]], dtype=np.uint8)


def test_the_smaller_structure_wins_unless_the_site_says_otherwise() -> None:
    whole, core, enhancing = row(1, 1, 1, 1, 0), row(0, 1, 1, 0, 0), row(0, 0, 1, 0, 0)
    masks = [(3, enhancing), (1, whole), (2, core)]
    assert combine(masks, ROW).tolist() == row(1, 2, 3, 1, 0).tolist()
    assert combine(masks[::-1], ROW).tolist() == row(1, 2, 3, 1, 0).tolist()
    assert combine(masks, ROW, (1,)).tolist() == row(1, 1, 1, 1, 0).tolist()
    assert combine(masks, ROW, (2, 3)).tolist() == row(1, 2, 2, 1, 0).tolist()
    equal = [(5, row(1, 1, 0, 0, 0)), (4, row(0, 1, 1, 0, 0))]
    assert combine(equal, ROW).tolist() == row(5, 4, 4, 0, 0).tolist(), "then the lower value"
    lesions = [(1, row(1, 0, 0, 0, 0)), (2, row(0, 0, 0, 1, 1)), (1, row(0, 0, 0, 1, 0))]
    assert combine(lesions, ROW).tolist() == row(1, 0, 0, 1, 2).tolist(), "one value, one structure"
    assert not combine([], ROW).any()


@given(arrays(np.uint8, (3, 4, 5), elements=st.sampled_from([0, 1, 2, 4])))
def test_maps_and_regions_are_the_same_thing_twice(values: NDArray[np.uint8]) -> None:
    regions = regions_of(values, BRATS)
    assert np.all(regions["ET"] <= regions["TC"])
    assert np.all(regions["TC"] <= regions["WT"])
    assert np.array_equal(map_of_regions(regions, BRATS), values)
    newer = relabel(values, {1: 1, 2: 2, 4: 3})
    assert np.array_equal(map_of_regions(regions, BRATS_2023), newer)
    nested = combine(
        [(1, regions["WT"]), (2, regions["TC"]), (3, regions["ET"])], values.shape, (3, 2, 1)
    )
    assert np.array_equal(nested, relabel(values, {1: 2, 2: 1, 4: 3}))


def test_regions_that_do_not_contain_each_other_are_refused() -> None:
    regions = {"ET": row(1, 0, 0, 0, 0), "TC": row(1, 0, 0, 0, 0), "WT": row(0, 1, 0, 0, 0)}
    with pytest.raises(ImageRefused, match="1 voxels lie in regions"):
        map_of_regions(regions, BRATS)
    with pytest.raises(ImageRefused, match="same regions"):
        map_of_regions({"A": row(1, 0, 0, 0, 0)}, {"A": {1, 2}})


def test_which_region_a_value_becomes() -> None:
    assert innermost({10: BRATS["WT"], 11: BRATS["TC"], 12: BRATS["ET"]}) == {1: 11, 2: 10, 4: 12}
    assert innermost({1: {1, 2}}) == {1: 1, 2: 1}, "two prostate zones, one gland"
    assert innermost({7: {1}, 3: {1}}) == {1: 3}
    assert innermost({}) == {}


def test_figures_of_a_label() -> None:
    label = np.zeros((20, 20, 10), dtype=np.uint8)
    label[5:9, 5:9, 3:5] = 1
    label[9, 9, 5] = 2  # touches at a corner
    label[15, 15, 7] = 1
    brain = np.zeros_like(label)
    brain[:12] = 1
    figures = label_metrics(label, brain, (2.0, 1.0, 3.0))
    assert figures["volume_ml"] == pytest.approx(34 * 6 / 1000)
    assert (figures["lesions"], figures["values"]) == (2.0, 2.0)
    assert figures["largest_ml"] == pytest.approx(33 * 6 / 1000)
    assert figures["smallest_ml"] == pytest.approx(6 / 1000)
    assert figures["outside_brain"] == pytest.approx(1 / 34)
    assert figures["touches_border"] == 0.0
    label[0, 3, 3] = 1
    assert label_metrics(label, None, (1, 1, 1))["touches_border"] == 1.0
    empty = label_metrics(np.zeros_like(label), brain, (1, 1, 1))
    assert set(empty.values()) == {0.0}
    assert "outside_brain" not in label_metrics(label, None, (1, 1, 1))
    with pytest.raises(ValueError, match="shape"):
        label_metrics(label, brain[:5], (1, 1, 1))


@pytest.mark.parametrize("name", ["brain1", "brain2"])
def test_real_tumour_labels_are_one_plausible_piece_or_few(name: str) -> None:
    image = SimpleITK.ReadImage(str(shared_dir("data", "brain_tumour") / f"{name}_label.nrrd"))
    values = SimpleITK.GetArrayFromImage(image).T.astype(np.uint8)
    figures = label_metrics(values, None, image.GetSpacing())
    assert 0.5 < figures["volume_ml"] < 150
    assert figures["largest_ml"] > 0.5 * figures["volume_ml"]
    assert figures["touches_border"] == 0.0
