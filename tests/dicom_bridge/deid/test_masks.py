"""Clean Pixel Data: stored values really change, and what a mask cannot decide is refused."""

from __future__ import annotations

import io
import re
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    RLELossless,
)

from dicom_bridge.deid import Option, Profile, deidentify_bytes
from dicom_bridge.deid.masks import Mask, MaskRule
from dicom_bridge.deid.painting import paint_native
from dicom_bridge.deid.pixels import ImageFacts
from dicom_bridge.errors import DataRefused, SettingsRefused
from tests.dicom_bridge.deid.objects import BASIC, file_bytes, mr_image, pseudonymizer
from tests.tools import require_tool

ROWS, COLUMNS = 64, 160
BOX = (0, 0, COLUMNS, 24)
US, US_CINE = "1.2.840.10008.5.1.4.1.1.6.1", "1.2.840.10008.5.1.4.1.1.3.1"
NAME = "DOE JANE 1961"
MASK = Mask(regions=(BOX,), manufacturer="ACME", model="Sono 9", rows=ROWS, columns=COLUMNS)
CLEAN = frozenset({Option.CLEAN_PIXEL_DATA})
MASKED = Profile(options=CLEAN, masks=(MASK,))


def letters(text: str = NAME, top: int = 4) -> NDArray[np.bool_]:
    """Where the letters of a line stand, axes (row, column)."""
    canvas = Image.new("L", (COLUMNS, ROWS), 0)
    ImageDraw.Draw(canvas).text((6, top), text, fill=255, font=ImageFont.load_default(size=13))
    return np.asarray(canvas) > 127


def speckle(seed: int = 1) -> NDArray[np.uint8]:
    """An image without text, axes (row, column)."""
    return np.random.default_rng(seed).integers(20, 70, (ROWS, COLUMNS), dtype=np.uint8)


def ultrasound(frames: int = 1, *, top: int = 4) -> Dataset:
    """A grey ultrasound image with a name in its pixels; text at another place by ``top``."""
    ds = mr_image()
    ds.SOPClassUID, ds.Modality = (US if frames == 1 else US_CINE), "US"
    ds.Manufacturer, ds.ManufacturerModelName, ds.StationName = "Acme", "SONO 9", "US3"
    ds.ImageType = ["ORIGINAL", "PRIMARY", "ABDOMINAL", "0001"]
    ds.Rows, ds.Columns = ROWS, COLUMNS
    ds.BitsAllocated = ds.BitsStored = 8
    ds.HighBit = 7
    if frames > 1:
        ds.NumberOfFrames = frames
    image = speckle()
    image[letters(top=top)] = 220
    ds.PixelData = np.stack([image] * frames).tobytes()
    file_bytes(ds)
    return ds


def coloured(planar: int) -> Dataset:
    ds = ultrasound()
    grey = np.frombuffer(ds.PixelData, np.uint8).reshape(ROWS, COLUMNS)
    colours = np.stack([grey, grey // 2, grey], axis=-1)
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 3, "RGB"
    ds.PlanarConfiguration = planar
    ds.PixelData = (colours.transpose(2, 0, 1) if planar else colours).tobytes()
    return ds


def out(ds: Dataset, profile: Profile = MASKED, syntax: str = ExplicitVRLittleEndian) -> Dataset:
    parts = deidentify_bytes(file_bytes(ds, syntax), profile, pseudonymizer()).parts
    return dcmread(io.BytesIO(b"".join(parts)))


def codes(ds: Dataset) -> list[str]:
    return [item.CodeValue for item in ds.DeidentificationMethodCodeSequence]


def check_claims(after: Dataset) -> None:
    assert codes(after) == ["113100", "113101"]
    assert after.BurnedInAnnotation == "NO"
    assert after.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian


@pytest.mark.parametrize("frames", [1, 3])
def test_grey_images_lose_their_text_and_keep_the_rest(frames: int) -> None:
    before = ultrasound(frames)
    before.BurnedInAnnotation = "YES"
    after = out(before)
    pixels = after.pixel_array.reshape(frames, ROWS, COLUMNS)
    assert not pixels[:, :24].any()
    assert np.array_equal(pixels[:, 24:], before.pixel_array.reshape(pixels.shape)[:, 24:])
    check_claims(after)


@pytest.mark.parametrize("planar", [0, 1])
def test_colours_by_pixel_and_by_plane(planar: int) -> None:
    before = coloured(planar)
    after = out(before)
    assert not after.pixel_array[:24].any()
    assert np.array_equal(after.pixel_array[24:], before.pixel_array[24:])
    assert after.PlanarConfiguration == planar
    check_claims(after)


def test_what_was_compressed_without_loss_is_written_native() -> None:
    for syntax in (RLELossless, JPEG2000Lossless):
        before = coloured(0)
        plain = before.pixel_array
        file_bytes(before)
        before.compress(syntax, generate_instance_uid=False)
        after = out(before, syntax=syntax)
        assert not after.pixel_array[:24].any()
        assert np.array_equal(after.pixel_array[24:], plain[24:])
        assert "LossyImageCompression" not in after
        check_claims(after)


def test_a_lossy_source_stays_marked_as_lossy() -> None:
    before = coloured(0)
    jpeg = io.BytesIO()
    Image.fromarray(before.pixel_array).save(jpeg, "JPEG", quality=95)
    before.PhotometricInterpretation = "YBR_FULL_422"
    before.PixelData = encapsulate([jpeg.getvalue()])
    before["PixelData"].is_undefined_length = True
    after = out(before, syntax=JPEGBaseline8Bit)
    assert after.PhotometricInterpretation == "RGB"
    assert not after.pixel_array[:24].any()
    assert after.pixel_array[24:].any()
    assert (after.LossyImageCompression, after.LossyImageCompressionMethod) == ("01", "ISO_10918_1")
    assert after.LossyImageCompressionRatio > 1
    check_claims(after)
    before.LossyImageCompressionMethod = "ISO_10918_1"
    before.LossyImageCompression, before.LossyImageCompressionRatio = "01", "33.3"
    assert out(before, syntax=JPEGBaseline8Bit).LossyImageCompressionRatio == 33.3


def test_text_beside_the_mask_is_still_seen() -> None:
    with pytest.raises(DataRefused, match="beside the mask"):
        out(ultrasound(top=36))
    cine = ultrasound(40)
    frames = cine.pixel_array.copy()
    frames[21][letters(top=36)] = 220
    cine.PixelData = frames.tobytes()
    with pytest.raises(DataRefused, match="beside the mask"):
        out(cine)


def test_masks_that_do_not_fit_are_no_guess() -> None:
    small = replace(MASK, rows=48)
    with pytest.raises(DataRefused, match="do not fit an image of 64 x 160"):
        out(ultrasound(), Profile(options=CLEAN, masks=(small,)))
    both = Profile(options=CLEAN, masks=(small, MASK))
    assert not out(ultrasound(), both).pixel_array[:24].any()
    for other in (replace(MASK, model="Sono 8"), replace(MASK, station="US4")):
        with pytest.raises(DataRefused, match="ultrasound"):
            out(ultrasound(), Profile(options=CLEAN, masks=(other,)))


def test_objects_that_no_mask_is_for_claim_nothing() -> None:
    after = out(mr_image())
    assert codes(after) == ["113100"]
    assert "BurnedInAnnotation" not in after
    assert after.PixelData == mr_image().PixelData


def region(left: int, top: int, right: int, bottom: int) -> Dataset:
    item = Dataset()
    item.RegionSpatialFormat, item.RegionDataType, item.RegionFlags = 1, 1, 0
    item.RegionLocationMinX0, item.RegionLocationMinY0 = left, top
    item.RegionLocationMaxX1, item.RegionLocationMaxY1 = right, bottom
    return item


def test_calibrated_regions_stay_and_everything_outside_goes() -> None:
    outside = Mask(rule=MaskRule.OUTSIDE_REGIONS, manufacturer="Acme")
    profile = Profile(options=CLEAN, masks=(outside,))
    before = ultrasound()
    before.SequenceOfUltrasoundRegions = [region(10, 30, 99, 59)]
    after = out(before, profile)
    kept = np.zeros((ROWS, COLUMNS), dtype=bool)
    kept[30:60, 10:100] = True
    assert not after.pixel_array[~kept].any()
    assert np.array_equal(after.pixel_array[kept], before.pixel_array[kept])
    check_claims(after)
    before.SequenceOfUltrasoundRegions = [region(10, 30, 99, ROWS)]
    with pytest.raises(DataRefused, match="outside the image"):
        out(before, profile)
    del before.SequenceOfUltrasoundRegions
    with pytest.raises(DataRefused, match="names none"):
        out(before, profile)


def test_compressed_pixels_that_cannot_be_decoded_are_refused() -> None:
    broken = ultrasound()
    broken.PixelData = encapsulate([b"\xff\xd8\xff\xd9" * 20])
    broken["PixelData"].is_undefined_length = True
    with pytest.raises(DataRefused, match="cannot be masked"):
        out(broken, syntax=JPEGBaseline8Bit)


AREA = np.zeros((4, 6), dtype=np.bool_)
AREA[1:3, 1:4] = True


@pytest.mark.parametrize(
    ("kind", "photometric", "signed", "blank"),
    [
        ("<u1", "MONOCHROME2", False, 0),
        ("<u2", "MONOCHROME2", False, 0),
        ("<u2", "MONOCHROME1", False, 65535),
        ("<i2", "MONOCHROME2", True, -5),
        ("<u4", "MONOCHROME2", False, 0),
        ("<f4", "MONOCHROME2", False, -5.0),
        ("<f8", "MONOCHROME2", False, -5.0),
        ("<u1", "PALETTE COLOR", False, 0),
    ],
)
def test_every_depth(kind: str, photometric: str, signed: bool, blank: float) -> None:
    low = -5 if signed or kind[1] == "f" else 3
    pixels = np.arange(48).reshape(2, 4, 6).astype(kind) + np.array(low).astype(kind)
    bits = pixels.dtype.itemsize * 8
    facts = ImageFacts(
        *("", "", (), "", "", True),
        *(4, 6, 1, 2, bits, bits, bits - 1, signed, photometric),
        floating=kind[1] == "f",
    )
    painted = paint_native(memoryview(pixels.tobytes()), facts, AREA)
    after = np.frombuffer(painted.stored, kind).reshape(2, 4, 6)
    assert (after[:, AREA] == blank).all()
    assert np.array_equal(after[:, ~AREA], pixels[:, ~AREA])


def test_single_bits_and_subsampled_colours() -> None:
    facts = ImageFacts("", "", (), "", "", True, 4, 6, 1, 3, 1, 1, 0, False, "MONOCHROME2")
    painted = paint_native(memoryview(b"\xff" * 9), facts, AREA)
    bits = np.unpackbits(np.frombuffer(painted.stored, np.uint8), bitorder="little").reshape(
        3, 4, 6
    )
    assert not bits[:, AREA].any()
    assert bits[:, ~AREA].all()
    colours = replace(facts, allocated=8, samples=3, frames=1, photometric="YBR_FULL_422")
    painted = paint_native(memoryview(bytes([9, 9, 200, 100]) * 12), colours, AREA)
    quads = np.frombuffer(painted.stored, np.uint8).reshape(4, 3, 4)
    luminance = quads[..., :2].reshape(4, 6)
    assert not luminance[AREA].any()
    assert (luminance[~AREA] == 9).all()
    assert (quads[1, 0, 2:] == 128).all()
    assert tuple(quads[0, 0, 2:]) == (200, 100)


TOML = """
options = ["clean-pixel-data"]
documents = "refuse"
[pixels]
trust_annotation_no = true
[[pixels.mask]]
manufacturer = "Acme"
model = "Sono 9"
rows = 64
columns = 160
regions = [[0, 0, 160, 24]]
[[pixels.mask]]
station = "US7"
rule = "outside-regions"
"""


def load(tmp_path: Path, text: str) -> Profile:
    path = tmp_path / "profile.toml"
    path.write_text(text)
    return Profile.load(path)


def test_a_profile_with_masks_is_read_and_counts_in_the_hash(tmp_path: Path) -> None:
    profile = load(tmp_path, TOML)
    assert profile.masks[0] == replace(MASK, manufacturer="Acme")
    assert profile.masks[1].rule is MaskRule.OUTSIDE_REGIONS
    assert profile.documents == "refuse"
    other = load(tmp_path, TOML.replace("160, 24", "160, 25"))
    assert len({profile.hash, other.hash, BASIC.hash}) == 3


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (('options = ["clean-pixel-data"]', ""), "need the option"),
        ((TOML[TOML.index("[[") :], ""), "without masks"),
        (("trust_annotation_no = true", "detect_text = false"), "contradict"),
        (("trust_annotation_no = true", "trust = true"), "unknown keys"),
        (("160, 24]", "160, 65]"), "not inside"),
        (("[[0, 0, 160, 24]]", "[[0, 0, 160]]"), "four whole numbers"),
        (("[[0, 0, 160, 24]]", '"all"'), "four whole numbers"),
        (("rows = 64", ""), "rows and columns"),
        (("rows = 64", 'rows = "64"'), "whole numbers"),
        (("regions = [[0, 0, 160, 24]]", ""), "1 to 1000 regions"),
        (('station = "US7"', ""), "names no device"),
        (('station = "US7"', "station = 7"), "are texts"),
        (('"outside-regions"', '"inside"'), "the rule of a mask"),
        (('rule = "outside-regions"', 'rule = "outside-regions"\nregions = [[0,0,1,1]]'), "no reg"),
        (('station = "US7"', 'stations = "US7"'), "unknown keys"),
        (('"refuse"', '"keep"'), "documents"),
        (('["clean-pixel-data"]', '["clean-pixel-data", "clean-faces"]'), "unknown options"),
        (
            ('["clean-pixel-data"]', '["retain-full-dates", "retain-modified-dates"]'),
            "contradict each other",
        ),
        (('["clean-pixel-data"]', '["clean-recognizable-visual-features"]'), "cannot be claimed"),
        (("trust_annotation_no = true", "trust_annotation_no = 1"), "true or false"),
        (("[[pixels.mask]]\nstation", "[pixels.masks]\nstation"), "unknown keys"),
    ],
)
def test_contradictions_and_wrong_keys_are_refused(
    tmp_path: Path, change: tuple[str, str], words: str
) -> None:
    text = TOML.replace(*change)
    assert text != TOML
    with pytest.raises(SettingsRefused, match=words):
        load(tmp_path, text)


def test_trusting_the_detection_needs_the_detection() -> None:
    with pytest.raises(SettingsRefused, match="nothing to trust"):
        Profile(trust_text_detection=True, detect_text=False)
    clean = ultrasound()
    clean.PixelData = speckle().tobytes()
    trusting = Profile(trust_text_detection=True)
    assert "BurnedInAnnotation" not in out(clean, trusting)
    with pytest.raises(DataRefused, match="line of letters"):
        out(ultrasound(), trusting)
    with pytest.raises(DataRefused, match="ultrasound"):
        out(clean, BASIC)


def _errors(path: Path) -> set[str]:
    """dciodvfy's errors, without values and item numbers."""
    tool = require_tool("dciodvfy")
    done = subprocess.run(
        [str(tool), "-new", str(path)], capture_output=True, text=True, check=False
    )
    lines = (done.stdout + done.stderr).splitlines()
    return {re.sub(r"= <[^>]*>|\[\d+\]", "", line) for line in lines if line.startswith("Error")}


@pytest.mark.integration
def test_masked_objects_are_as_valid_as_they_were(tmp_path: Path) -> None:
    compressed = coloured(0)
    plain = file_bytes(compressed)
    compressed.compress(RLELossless, generate_instance_uid=False)
    contents = (
        plain,
        file_bytes(ultrasound(3)),
        file_bytes(coloured(1)),
        file_bytes(compressed, RLELossless),
    )
    for content in contents:
        before, after = tmp_path / "before.dcm", tmp_path / "after.dcm"
        before.write_bytes(content)
        after.write_bytes(b"".join(deidentify_bytes(content, MASKED, pseudonymizer()).parts))
        assert _errors(after) <= _errors(before)
