"""The OHIF viewer in use: open a study and a segmentation, go to a slice, look with and without."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dicom_bridge.convert import SourceSeries
from tests.viewer.browser import Box, BrowserError, Page
from tests.viewer.serving import VERSION
from tests.waiting import wait_for

CANVAS = ".viewport-element canvas, canvas.cornerstone-canvas"
SERIES = '[data-cy="study-browser-thumbnail"]'
THUMBNAIL = '[data-cy="study-browser-thumbnail-no-image"]'
CONFIRM = '[data-cy="yes-hydrate-btn"]'

# OHIF puts `cornerstone`, `cornerstoneTools` and `services` on the window.
_VIEWPORT = """
  const id = services.viewportGridService.getActiveViewportId();
  const viewport = services.cornerstoneViewportService.getCornerstoneViewport(id);
"""
_REPRESENTATIONS = (
    "() => {"
    + _VIEWPORT
    + """
  if (!viewport) return null;
  const state = cornerstoneTools.segmentation.state;
  return state.getSegmentationRepresentations(id).map(r => {
    const segments = state.getSegmentation(r.segmentationId).segments;
    return Object.values(segments).map(s => s.label);
  });
}"""
)
_SHOWS = (
    "description => {"
    + _VIEWPORT
    + """
  const {displaySetService, viewportGridService} = services;
  const shown = viewportGridService.getDisplaySetsUIDsForViewport(id).map(
    uid => displaySetService.getDisplaySetByUID(uid).SeriesDescription);
  return shown.includes(description) && Boolean(viewport?.getImageData());
}"""
)
_GO_TO = (
    "async (sop, frame) => {"
    + _VIEWPORT
    + """
  const index = viewport.getImageIds().findIndex(image => {
    const [, instance, number] = image.match(/instances\\/([0-9.]+)\\/frames\\/(\\d+)/);
    return instance === sop && Number(number) === frame;
  });
  if (index < 0) return false;
  await cornerstone.utilities.jumpToSlice(viewport.element, {imageIndex: index});
  return viewport.getCurrentImageId() === viewport.getImageIds()[index];
}"""
)
_SHOW = (
    "visible => {"
    + _VIEWPORT
    + """
  for (const r of cornerstoneTools.segmentation.state.getSegmentationRepresentations(id)) {
    cornerstoneTools.segmentation.config.visibility.setSegmentationRepresentationVisibility(
      id, {segmentationId: r.segmentationId, type: r.type}, visible);
  }
  viewport.render();
}"""
)
_TO_CANVAS = (
    "points => {"
    + _VIEWPORT
    + """
  return points.map(point => Array.from(viewport.worldToCanvas(point)));
}"""
)
_CANVAS_BOX = (
    "() => {"
    + _VIEWPORT
    + """
  const r = viewport.canvas.getBoundingClientRect();
  return [r.x, r.y, r.width, r.height];
}"""
)


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """One slice on the screen.

    Attributes:
        shown: (h, w, 3) the viewport with the segmentation.
        hidden: (h, w, 3) the same without it.
        rows: (Rows, Columns) row of `shown` where each image pixel's centre lies.
        columns: (Rows, Columns) the column.
    """

    shown: NDArray[np.uint8]
    hidden: NDArray[np.uint8]
    rows: NDArray[np.intp]
    columns: NDArray[np.intp]


class Ohif:
    """OHIF in a browser's page."""

    def __init__(self, page: Page, address: str) -> None:
        """Take the page and the address that `serving.serving` gave."""
        self.page, self.address = page, address

    def open_study(self, study_uid: str) -> None:
        """Open a study in the basic viewer and wait until a viewport shows an image."""
        self.page.open(f"{self.address}/viewer?StudyInstanceUIDs={study_uid}")
        what = f"OHIF {VERSION} to show the study"
        try:
            self.page.await_box(CANVAS, what=what, seconds=40)
        except BrowserError:
            # This version's start has a race: now and then the page stays blank for good.
            self.page.open(f"{self.address}/viewer?StudyInstanceUIDs={study_uid}")
            self.page.await_box(CANVAS, what=what)

    def thumbnails(self) -> str:
        """The text of the list of series."""
        return str(
            self.page.evaluate("""
            document.querySelector('[data-cy="studyBrowser-panel"]')?.innerText ?? ''""")
        )

    def open_series(self, description: str) -> None:
        """Double-click an image series and wait until the viewport shows its images."""
        thumbnail = self.page.await_box(SERIES, description, what=f"the series {description!r}")
        self.page.click(thumbnail, clicks=2)
        wait_for(
            lambda: self.page.ask(_SHOWS, description), what=f"{description!r} shown", seconds=90
        )

    def open_segmentation(self, description: str) -> list[str]:
        """Do as a reader does: double-click the SEG, answer yes; the segments' labels."""
        thumbnail = self.page.await_box(THUMBNAIL, description, what=f"the SEG {description!r}")
        self.page.click(thumbnail, clicks=2)
        answer = self.page.await_box(CONFIRM, what="the question whether to open the SEG")
        self.page.click(answer)
        self.page.point(2, 2)
        try:
            opened = wait_for(
                lambda: self.page.ask(_REPRESENTATIONS), what="the segmentation", seconds=90
            )
        except AssertionError as error:
            raise BrowserError(f"{error}; {self.page.state()}") from None
        assert isinstance(opened, list)
        assert len(opened) == 1, "one segmentation is open"
        return [str(label) for label in opened[0]]

    def view(self, source: SourceSeries, index: int) -> View:
        """Go to slice ``index`` of the series and look at it with and without the segmentation."""
        frame = source.frames[index]
        number = frame.FrameNumber or 1
        wait_for(
            lambda: self.page.ask(_GO_TO, frame.SOPInstanceUID, number),
            what=f"slice {index} of the series in the viewport",
        )
        box = self._canvas()
        shown = self._look(box, visible=True)
        hidden = self._look(box, visible=False)
        rows, columns = self._places(source, index)
        return View(shown, hidden, rows, columns)

    def _canvas(self) -> Box:
        found = self.page.ask(_CANVAS_BOX)
        assert isinstance(found, list)
        return Box(*found)

    def _look(self, box: Box, *, visible: bool) -> NDArray[np.uint8]:
        self.page.ask(_SHOW, visible)
        return self.page.settled(box)

    def _places(
        self, source: SourceSeries, index: int
    ) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Where the pixels' centres are, by their positions in the DICOM headers (PS3.3 C.7.6.2).

        The viewer's projection is parallel: three corners give it, the fourth must agree.
        """
        across, down = _edges(source)
        origin = np.array([float(v) for v in source.frames[index].ImagePositionPatient])
        corners = [origin, origin + across, origin + down, origin + across + down]
        found = self.page.ask(_TO_CANVAS, [corner.tolist() for corner in corners])
        first, right, below, last = np.asarray(found, dtype=np.float64)
        assert np.allclose(right + below - first, last, atol=0.05), "the projection is not parallel"
        i = np.arange(source.Columns)[None, :, None] / (source.Columns - 1)
        j = np.arange(source.Rows)[:, None, None] / (source.Rows - 1)
        places = first + i * (right - first) + j * (below - first)
        whole = np.floor(places).astype(np.intp)  # a point lies in the pixel that covers it
        return whole[..., 1], whole[..., 0]


def _edges(source: SourceSeries) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """LPS mm from the first pixel's centre to the last of its row and of its column."""
    cosines = np.array([float(v) for v in source.ImageOrientationPatient])
    between_rows, between_columns = (float(v) for v in source.PixelSpacing)
    across = cosines[:3] * between_columns * (source.Columns - 1)
    down = cosines[3:] * between_rows * (source.Rows - 1)
    return across, down
