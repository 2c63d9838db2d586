"""The search for lines of text: what it sees, and that texture alone is none."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from dicom_bridge.deid.glyphs import frames_have_text, has_any_text
from dicom_bridge.deid.pixels import ImageFacts
from dicom_bridge.errors import DataRefused

SHAPE = (140, 260)
SC, MR = "1.2.840.10008.5.1.4.1.1.7", "1.2.840.10008.5.1.4.1.1.4"
Pixels = NDArray[np.uint8]


def lettered(back: NDArray[np.float64], value: int, size: int, *, smooth: bool) -> Pixels:
    """The image with a line of text of this grey value and font size in pixels."""
    canvas = Image.new("L", (SHAPE[1], SHAPE[0]), 0)
    pen = ImageDraw.Draw(canvas)
    pen.fontmode = "L" if smooth else "1"
    font = ImageFont.load_default(size=size)
    pen.text((8, 40), "DOE ANN 12.03.1961", fill=255, font=font)
    share = np.asarray(canvas) / 255.0
    mixed: Pixels = np.clip(back * (1 - share) + value * share, 0, 255).astype(np.uint8)
    return mixed


def backs() -> dict[str, NDArray[np.float64]]:
    """What may lie behind a text, grey values 0 to 255."""
    chance = np.random.default_rng(0)
    speckle = np.clip(ndimage.gaussian_filter(chance.rayleigh(35, SHAPE), 1.0) * 1.5, 0, 200)
    speckle[60:63, 150:190] = 255  # a reflector is brighter than the text
    return {
        "black": np.zeros(SHAPE),
        "noise": chance.integers(0, 60, SHAPE).astype(np.float64),
        "speckle": speckle,
    }


@pytest.mark.parametrize("back", ["black", "noise", "speckle"])
@pytest.mark.parametrize("value", [255, 200])
@pytest.mark.parametrize("size", [10, 14, 22])
def test_bright_text_of_any_size_and_value_is_seen(back: str, value: int, size: int) -> None:
    for smooth in (True, False):
        image = lettered(backs()[back], value, size, smooth=smooth)
        assert has_any_text(image)
    assert not has_any_text(backs()[back].astype(np.uint8))


def test_dark_text_on_paper_and_turned_text_are_seen() -> None:
    paper = lettered(np.full(SHAPE, 240.0), 20, 14, smooth=True)
    assert has_any_text(paper)
    assert has_any_text(np.rot90(paper))
    assert has_any_text(np.rot90(paper, 3))
    assert not has_any_text(np.full(SHAPE, 240, dtype=np.uint8))


def test_textures_are_no_text() -> None:
    chance = np.random.default_rng(5)
    for blur in (0.0, 0.7, 1.0, 1.5):
        for grains in (chance.rayleigh(30, SHAPE), chance.normal(100, 30, SHAPE)):
            texture = np.clip(ndimage.gaussian_filter(grains, blur) * (1 + blur), 0, 255)
            assert not has_any_text(texture.astype(np.uint8))


def facts(**changes: object) -> ImageFacts:
    plain = ImageFacts(
        *(SC, "OT", (), "", "", True, *SHAPE, 1, 1, 8, 8, 7),
        signed=False,
        photometric="MONOCHROME2",
    )
    return replace(plain, **changes)  # type: ignore[arg-type]


def test_every_form_of_native_pixels_is_looked_at() -> None:
    grey = lettered(backs()["black"], 200, 14, smooth=True)
    zero = np.zeros_like(grey)
    red = np.stack([grey, zero, zero], axis=-1)
    half = np.full((*SHAPE, 2), 128, dtype=np.uint8)
    pairs = np.concatenate([grey.reshape(SHAPE[0], -1, 2), half[:, ::2]], axis=-1)
    rgb = {"samples": 3, "photometric": "RGB"}
    forms: list[tuple[bytes, ImageFacts]] = [
        (grey.tobytes(), facts()),
        ((grey.astype("<i2") - 100).tobytes(), facts(allocated=16, stored=16, signed=True)),
        (grey.astype("<u4").tobytes(), facts(allocated=32, stored=32)),
        (np.packbits(grey > 100, bitorder="little").tobytes(), facts(allocated=1, stored=1)),
        (red.tobytes(), facts(**rgb)),
        (red.transpose(2, 0, 1).tobytes(), facts(**rgb, planar=1)),
        (np.stack([zero, grey]).tobytes(), facts(frames=2)),
        (pairs.tobytes(), facts(samples=3, photometric="YBR_FULL_422")),
    ]
    for stored, form in forms:
        assert frames_have_text(stored, (), form), form
    assert not frames_have_text(zero.tobytes(), (), facts())


def test_pixels_that_cannot_be_looked_at_are_refused_where_text_is_usual() -> None:
    odd = facts(allocated=12, stored=12)
    with pytest.raises(DataRefused, match="cannot be looked at"):
        frames_have_text(bytes(odd.expected), (), odd)
    assert not frames_have_text(bytes(odd.expected), (), replace(odd, sop_class=MR))
    with pytest.raises(DataRefused, match="cannot be decoded"):
        frames_have_text(None, (b"no file",), facts())
