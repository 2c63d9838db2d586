"""A study's images as figures: grey pictures with letters and, over them, transparent outlines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy import ndimage

from appliance.imaging.grid import grid_of, resample, same_grid
from appliance.imaging.volume import Affine, Array, Volume
from appliance.reports.page import Html, data_uri, tag
from appliance.reports.pictures import (
    BRAIN_COLOUR,
    LABEL_COLOURS,
    Bytes2D,
    Colour,
    Sheet,
    Window,
    arrange,
    compose,
    grey_webp,
    layer_png,
    lettered,
    outline,
    window_of,
)
from appliance.reports.planes import (
    Bools,
    Box,
    Cut,
    Scene,
    View,
    extent,
    facing,
    sampled,
)

WIDTH = 1150
"""Widest figure in pixels."""
MOST_VALUES = 64
ACROSS = {"axial": 2, "coronal": 1, "sagittal": 0}


@dataclass(frozen=True, slots=True, eq=False)
class Input:
    """One image of a study.

    Attributes:
        kind: canonical modality, such as ``FLAIR``.
        volume: the image (defaced).
        brain: brain mask on the same grid, or None.
        matrix: 4 x 4, RAS points of the reference image to this image's; None for the reference
            itself and where nothing was registered.
        facts: how it was acquired, name and value.
    """

    kind: str
    volume: Volume
    brain: Volume | None = None
    matrix: Affine | None = None
    facts: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Marked:
    """A label image.

    Attributes:
        volume: integer values, 0 is background.
        names: name of each value.
    """

    volume: Volume
    names: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class Drawn:
    """An input ready for drawing."""

    given: Input
    scene: Scene
    window: Window

    @classmethod
    def of(cls, given: Input) -> Drawn:
        """Reorder the image and choose its grey window."""
        scene = Scene.of(given.volume, given.brain)
        return cls(given, scene, window_of(scene.volume.data, scene.brain))

    def tiles(self, cuts: Sequence[Cut]) -> list[Bytes2D]:
        """Grey tiles of the image's own cuts."""
        return [self.window.bytes(self.scene.grey(cut)) for cut in cuts]

    def tiles_at(self, points: Sequence[Array]) -> list[Bytes2D]:
        """Tiles of this image where the reference's cuts lie."""
        matrix = self.given.matrix
        return [self.window.bytes(sampled(self.scene.volume, p, matrix)) for p in points]


@dataclass(frozen=True, slots=True, eq=False)
class LabelView:
    """A label in the order of the reference's RAS array."""

    values: Array
    present: tuple[int, ...]
    names: Mapping[int, str]
    voxel_ml: float

    @classmethod
    def of(cls, label: Marked, reference: Volume) -> LabelView:
        """Bring a label to the reference's grid (nearest voxel) where it stands on another."""
        volume = label.volume
        if not same_grid(grid_of(volume), grid_of(reference)):
            volume = resample(volume, grid_of(reference), interpolation="nearest")
        values = facing(volume).data
        x, y, z = extent(values > 0) or ((0, 0), (0, 0), (0, 0))
        found = np.unique(values[slice(*x), slice(*y), slice(*z)])
        present = tuple(int(v) for v in found if v > 0)[:MOST_VALUES]
        return cls(values, present, label.names, volume.voxel_ml)

    def colour(self, value: int) -> Colour:
        """The colour of a value's outline."""
        return LABEL_COLOURS[self.present.index(value) % len(LABEL_COLOURS)]

    def layer(self, scene: Scene, sheet: Sheet, cuts: Sequence[Cut]) -> bytes:
        """Outlines of all values on the reference's cuts, as a transparent PNG."""
        tiles = []
        for cut in cuts:
            tile = np.zeros((cut.size[1], cut.size[0]), dtype=np.uint8)
            for number, value in enumerate(self.present):
                tile[outline(scene.mask(cut, self.values, value))] = number + 1
            tiles.append(tile)
        colours = [self.colour(value) for value in self.present]
        return layer_png(compose(sheet, tiles), colours)


def figure(
    item: Drawn,
    cuts: Sequence[Cut],
    label: LabelView | None,
    *,
    words: Sequence[str],
    alt: str,
    caption: str,
) -> Html:
    """Tiles of an image with the outlines of the brain and of the label.

    Args:
        item: the image.
        cuts: what to show.
        label: outlined too, or None.
        words: a few characters for each tile's corner.
        alt: what the picture shows, for who cannot see it.
        caption: written below.
    """
    sheet = arrange(cuts, WIDTH)
    base = lettered(compose(sheet, item.tiles(cuts)), sheet, cuts, words)
    layers = []
    if item.scene.brain is not None:
        layers.append(("brain", brain_layer(item.scene, sheet, cuts)))
    if label is not None and label.present:
        layers.append(("label", label.layer(item.scene, sheet, cuts)))
    return stack(base, sheet, layers, alt=alt, caption=caption)


def brain_layer(scene: Scene, sheet: Sheet, cuts: Sequence[Cut]) -> bytes:
    """The outline of the brain mask as a transparent PNG; empty where there is no mask."""
    brain = scene.brain if scene.brain is not None else np.zeros(scene.volume.shape, dtype=bool)
    tiles = [outline(scene.mask(cut, brain)).astype(np.uint8) for cut in cuts]
    return layer_png(compose(sheet, tiles), [BRAIN_COLOUR])


def stack(
    base: Bytes2D,
    sheet: Sheet,
    layers: Sequence[tuple[str, bytes]],
    *,
    alt: str,
    caption: str,
    moving: Bytes2D | None = None,
) -> Html:
    """A picture with transparent layers over it.

    Args:
        base: the picture.
        sheet: its size.
        layers: name (a class of the style sheet) and PNG of each layer, of the picture's size.
        alt: what the picture shows.
        caption: written below.
        moving: another picture of the same size that a check box lays over the first.
    """
    width, height = sheet.size

    def image(content: bytes, kind: str, words: str, css: str) -> Html:
        source = data_uri(content, kind)
        return tag("img", src=source, alt=words, width=width, height=height, class_=css)

    parts = [image(grey_webp(base), "image/webp", alt, "base")]
    if moving is not None:
        parts.append(image(grey_webp(moving), "image/webp", "", "layer moving"))
    parts += [image(content, "image/png", "", f"layer {name}") for name, content in layers]
    return tag("figure", tag("div", *parts, class_="stack"), tag("figcaption", caption))


def near_brain(scene: Scene, cut: Cut) -> Bools | None:
    """The brain on a cut and a few pixels around it."""
    if scene.brain is None:
        return None
    return np.asarray(ndimage.binary_dilation(scene.mask(cut, scene.brain), iterations=6))


def registration_cuts(scene: Scene) -> list[Cut]:
    """Two of the image's own slices (at 40 and 65 % of the brain) and the two other views."""
    box, brain = scene.box(12.0), scene.box(0.0)
    view = scene.view
    low, high = brain[ACROSS[view]]
    views: list[View] = [v for v in ("axial", "coronal", "sagittal") if v != view]
    middle = scene.middle
    wanted: list[tuple[View, int]] = [
        (view, low + int(share * (high - low - 1))) for share in (0.4, 0.65)
    ]
    wanted += [(other, _beside(other, middle, brain)) for other in views]
    edge = [(part[1] - part[0]) * s for part, s in zip(box, scene.volume.spacing, strict=True)]
    scale = max(edge) / 276
    return [scene.cut(v, n, box=box, mm_per_pixel=scale) for v, n in wanted]


def _beside(view: View, middle: tuple[int, int, int], box: Box) -> int:
    """The middle; for sagittal cuts a little beside it, where the ventricle shows."""
    if view != "sagittal":
        return middle[ACROSS[view]]
    low, high = box[0]
    return min(high - 1, middle[0] + (high - low) // 12)
