"""OHIF in headless Chromium shows our results at the right places (`make test-long`).

The picture with the segmentation is compared with the picture without it, pixel by pixel of the
source series, and with the mask that was written.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dicom_bridge.net import PacsClient, RemoteAE
from dicom_bridge.seg import check_seg
from tests.pacs import LOOPBACK, QUICK, running_orthanc
from tests.tools import REPOSITORY, free_port, shared_dir
from tests.viewer.browser import find_chromium, running_chromium
from tests.viewer.ohif import Ohif
from tests.viewer.overlay import dice, drawn_labels, likest_slice
from tests.viewer.scenes import (
    RIGHT,
    Scene,
    add_report_and_captures,
    add_seg,
    enhanced_scene,
    name_other_sources,
    oblique_scene,
    phantom_scene,
)
from tests.viewer.serving import find_ohif, serving

pytestmark = [pytest.mark.long, pytest.mark.timeout(300)]

ENOUGH = 0.9
OURS = re.compile(r"segment|labelmap|\bSEG\b|structured|MeasurementReport", re.IGNORECASE)
NODE = "NODE"
WRONG = ("shifted", "mirrored", "sources")
PICTURES = REPOSITORY / "build" / "viewer"


@dataclass
class Archive:
    """An Orthanc with the viewer in front of it."""

    client: PacsClient
    viewer: Ohif
    folder: Path

    def send(self, scene: Scene) -> None:
        """C-STORE all files of a scene."""
        outcomes = self.client.send(scene.files)
        assert all(outcome.ok for outcome in outcomes)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Archive]:
    dist = find_ohif()
    find_chromium()
    folder = tmp_path_factory.mktemp("viewer")
    shutil.rmtree(PICTURES, ignore_errors=True)
    PICTURES.mkdir(parents=True)
    peers = [RemoteAE(NODE, LOOPBACK, free_port())]
    with (
        running_orthanc(folder / "orthanc", peers) as pacs,
        serving(dist, pacs.rest_url) as address,
        running_chromium(folder / "chromium") as page,
    ):
        client = PacsClient(pacs.remote, calling_ae=NODE, timeouts=QUICK)
        yield Archive(client, Ohif(page, address), folder)


@pytest.fixture(scope="module")
def phantom(archive: Archive) -> Scene:
    scene = phantom_scene(archive.folder)
    right = add_seg(scene, archive.folder, RIGHT, scene.mask)
    add_seg(scene, archive.folder, "shifted", np.roll(scene.mask, 1, axis=2))
    add_seg(scene, archive.folder, "mirrored", np.ascontiguousarray(scene.mask[::-1]))
    damaged = archive.folder / "sources.dcm"
    scene.files.append(name_other_sources(right.path, scene.source, damaged, by=1))
    add_report_and_captures(scene, archive.folder, right)
    archive.send(scene)
    return scene


@pytest.fixture(scope="module")
def oblique(archive: Archive) -> Scene:
    scene = oblique_scene(archive.folder)
    add_seg(scene, archive.folder, RIGHT, scene.mask)
    archive.send(scene)
    return scene


@pytest.fixture(scope="module")
def enhanced(archive: Archive) -> Scene:
    scene = enhanced_scene(shared_dir("data", "dicom", "nema_enhanced_brain", "tumour_study"))
    add_seg(scene, archive.folder, RIGHT, scene.mask)
    archive.send(scene)
    return scene


def agreement(viewer: Ohif, scene: Scene, name: str) -> dict[int, float]:
    """Open one SEG of a scene; Dice of what is drawn and what belongs there, by slice."""
    viewer.open_study(scene.source.StudyInstanceUID)
    if scene.first:
        viewer.open_series(scene.first)
    labels = viewer.open_segmentation(f"RESEARCH {name}")
    assert labels == [spec.label for spec in scene.specs]
    found = {}
    for index in scene.slices:
        view = viewer.view(scene.source, index)
        Image.fromarray(view.shown).save(PICTURES / f"{scene.name}-{name}-{index:03}.png")
        assert likest_slice(view, scene.pixels) == index, "the viewer shows another slice's image"
        found[index] = dice(drawn_labels(view, scene.colours), scene.mask[:, :, index])
    print(scene.name, name, {index: round(value, 3) for index, value in found.items()})  # noqa: T201
    return found


def complaints(viewer: Ohif) -> list[str]:
    """The page's errors about what we wrote; OHIF has others of its own, thumbnails for one."""
    return [text for text in viewer.page.messages if OURS.search(text)]


@pytest.mark.parametrize("name", ["phantom", "oblique", "enhanced"])
def test_the_overlay_lies_where_the_mask_is(
    archive: Archive, name: str, request: pytest.FixtureRequest
) -> None:
    scene: Scene = request.getfixturevalue(name)
    assert sum(bool(scene.mask[:, :, index].any()) for index in scene.slices) >= 3

    found = agreement(archive.viewer, scene, RIGHT)

    assert min(found.values()) >= ENOUGH, found
    assert complaints(archive.viewer) == []


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_segmentation_fails_the_same_comparison(
    archive: Archive, phantom: Scene, name: str
) -> None:
    found = agreement(archive.viewer, phantom, name)

    assert min(found.values()) < ENOUGH, found


def test_the_check_of_references_finds_what_this_viewer_shows_wrong(
    archive: Archive, phantom: Scene
) -> None:
    assert check_seg(phantom.source, archive.folder / "phantom-right.dcm") == []
    assert check_seg(phantom.source, archive.folder / "sources.dcm") != []


def test_report_and_captures_are_listed_beside_it(archive: Archive, phantom: Scene) -> None:
    viewer = archive.viewer
    viewer.open_study(phantom.source.StudyInstanceUID)
    viewer.page.await_box('[data-cy="study-browser-thumbnail-no-image"]', "Measurements", what="SR")
    listed = viewer.thumbnails()
    for text in ("RESEARCH Measurements", "RESEARCH Contours", "RESEARCH right"):
        assert text in listed
    assert complaints(viewer) == []
