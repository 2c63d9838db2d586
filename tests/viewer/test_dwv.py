"""dwv reads our SEG back, voxel by voxel at its own positions (`make test-long`)."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from dicom_bridge.convert import SourceSeries
from tests.tools import shared_dir
from tests.viewer.browser import Page, running_chromium
from tests.viewer.scenes import RIGHT, add_seg, enhanced_scene, oblique_scene
from tests.viewer.serving import find_viewer
from tests.waiting import wait_for

pytestmark = [pytest.mark.long, pytest.mark.timeout(240)]

PARTS = {
    "dwv": ("dwv-0.36.4", "dist/dwv.min.js"),
    "konva": ("konva-10.2.5", "konva.min.js"),
    "jszip": ("jszip-3.10.2", "dist/jszip.min.js"),
}
CLOSE_MM = 1e-3


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
        """Nothing."""


@contextmanager
def _served(folder: Path) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class Dwv:
    """dwv in a browser's page, and the folder that it is served from."""

    def __init__(self, page: Page, address: str, folder: Path) -> None:
        self.page, self.address, self.folder = page, address, folder

    def read(self, images: Sequence[Path], seg: Path) -> dict[str, Any]:
        """Load the images, then the SEG over them; what dwv made of the SEG."""
        self.page.open(f"{self.address}/dwv.html")
        wait_for(lambda: self.page.evaluate("Boolean(window.load)"), what="dwv", seconds=60)
        for files in (images, [seg]):
            addresses = [f"{self.address}/{path.relative_to(self.folder)}" for path in files]
            found = self.page.ask("urls => window.load(urls)", addresses)
        assert isinstance(found, dict)
        return found


@pytest.fixture(scope="module")
def dwv(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dwv]:
    parts = {name: find_viewer(*where) for name, where in PARTS.items()}
    folder = tmp_path_factory.mktemp("dwv")
    shutil.copy(Path(__file__).with_name("dwv.html"), folder)
    for name, part in parts.items():
        (folder / name).symlink_to(part)
    profile = tmp_path_factory.mktemp("dwv-chromium")
    with _served(folder) as address, running_chromium(profile) as page:
        yield Dwv(page, address, folder)


def on_grid(found: dict[str, Any], source: SourceSeries) -> NDArray[np.uint8]:
    """dwv's label volume on the source's grid: each plane where dwv says that it lies."""
    columns, rows, planes = found["size"]
    values = np.array(found["values"], np.uint8).reshape(planes, rows, columns)
    places = np.array([[float(v) for v in f.ImagePositionPatient] for f in source.frames])
    labels = np.zeros(source.geometry.shape, np.uint8)
    for plane, origin in zip(values, found["origins"], strict=True):
        distances = np.linalg.norm(places - np.array(origin), axis=1)
        assert distances.min() < CLOSE_MM
        labels[:, :, int(distances.argmin())] = plane.T
    return labels


def test_dwv_gives_every_voxel_back(dwv: Dwv) -> None:
    scene = oblique_scene(dwv.folder)
    images = list(scene.files)
    seg = add_seg(scene, dwv.folder, RIGHT, scene.mask)

    found = dwv.read(images, seg.path)

    assert np.array_equal(on_grid(found, scene.source), scene.mask)
    assert [(s["number"], s["label"]) for s in found["segments"]] == [
        (spec.number, spec.label) for spec in scene.specs
    ]
    colours = [tuple(s["displayRGBValue"][part] for part in "rgb") for s in found["segments"]]
    assert colours == [spec.colour for spec in scene.specs]


def test_a_shifted_segmentation_is_seen_as_shifted(dwv: Dwv) -> None:
    scene = oblique_scene(dwv.folder / "again")
    images = list(scene.files)
    seg = add_seg(scene, dwv.folder, "shifted", np.roll(scene.mask, 1, axis=2))

    labels = on_grid(dwv.read(images, seg.path), scene.source)

    assert not np.array_equal(labels, scene.mask)
    assert np.array_equal(labels, np.roll(scene.mask, 1, axis=2))


def test_dwv_knows_no_positions_of_enhanced_frames(dwv: Dwv) -> None:
    # A limit of dwv 0.36.4, not of the SEG: docs/viewers.md tells it, so it is watched here.
    scene = enhanced_scene(shared_dir("data", "dicom", "nema_enhanced_brain", "tumour_study"))
    seg = add_seg(scene, dwv.folder, RIGHT, scene.mask)
    image = dwv.folder / "flair"
    shutil.copy(next(path for path in scene.files if path.name == "BRTUM003"), image)

    found = dwv.read([image], seg.path)

    assert found["problem"] == "No index for first frame origin"
