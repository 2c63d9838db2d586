"""A phantom with a face through the real defacing: its face is in no picture of the report."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from appliance.demo.phantom import PhantomRequest, make_study
from appliance.imaging.brain import fit_brain
from appliance.imaging.defacing import deface
from appliance.reports.planes import Scene, facing, mosaic_cuts, three_planes
from appliance.reports.study import MOSAIC_ROWS, TILE, StudyContent, render_study
from appliance.reports.views import WIDTH, Drawn, Input
from tests.appliance.reports.bodies import Page


@pytest.mark.long
def test_the_face_of_a_phantom_does_not_appear() -> None:
    made = make_study(PhantomRequest(index=3, style="siemens", seed=11))
    fit = fit_brain(made.flair, profile="quick")
    clean = deface(made.flair, fit.mask, alignment=fit.alignment)
    face = facing(made.face).data > 0
    face = ndimage.binary_erosion(face)  # partial volume at its border is no face
    given = Input("FLAIR", clean, fit.mask)
    drawn, before = Drawn.of(given), Drawn.of(Input("FLAIR", made.flair, fit.mask))
    scene = Scene.of(clean, fit.mask)
    cuts = [
        *three_planes(scene, height=300, width=WIDTH),
        *mosaic_cuts(scene, width=WIDTH, tile=TILE, rows=MOSAIC_ROWS),
    ]
    seen, left = 0, 0.0
    for cut, tile, faced in zip(cuts, drawn.tiles(cuts), before.tiles(cuts), strict=True):
        region = scene.mask(cut, face.astype(np.uint8))
        if region.any():
            seen += int((faced[region] > 40).sum())
            left = max(left, float((tile[region] > 20).mean()))
    assert seen > 500, "the face would be seen"
    assert left < 0.002, "no more than single pixels at its border"
    page = Page(render_study(StudyContent(title="phantom", inputs=(given,))))
    page.assert_sound()
    assert len(page.text) < 2_000_000
