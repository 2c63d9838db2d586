"""Ultrasound, radiographs and secondary captures, with text in their pixels or without."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from pydicom.dataset import Dataset
from scipy import ndimage

from tests.dicom_bridge.deid.answers.images import anatomy
from tests.dicom_bridge.deid.answers.key import Answer, Box
from tests.dicom_bridge.deid.answers.modules import Slot, Words, plant_common
from tests.dicom_bridge.deid.answers.planter import Planter

US_CLASS = "1.2.840.10008.5.1.4.1.1.6.1"
CR_CLASS = "1.2.840.10008.5.1.4.1.1.1"
SC_CLASS = "1.2.840.10008.5.1.4.1.1.7"
# Where each device writes: rows, columns of the image, and its box. The profile's masks name the
# device by manufacturer and model; "burned" and "clean" objects come from one without a mask.
US_BOX, US_SIZE = Box(0, 0, 24, 320), (240, 320)
CR_BOX, CR_SIZE = Box(4, 8, 20, 200), (260, 240)
SC_BOX, SC_SIZE = Box(6, 10, 40, 220), (200, 240)
_US = Words(
    "US ABDOMEN COMPLETE", "Liver", "Abdomen", "ABDOMEN", "GE Healthcare", "LOGIQ E9", "gallstones"
)
_CR = Words(
    "XR CHEST 2 VIEWS",
    "CHEST PA",
    "Chest PA",
    "CHEST",
    "FUJIFILM Corporation",
    "FCR CAPSULA",
    "fever and cough",
)
_SC = Words("CT CHEST W CONTRAST", "Dose summary", "", "CHEST", "SIEMENS", "syngo.via", "screening")
UNMASKED = {"US": "Vivid S70", "CR": "DR-ID 600", "SC": "AquariusNET"}


def burn(
    image: NDArray[np.generic], box: Box, text: str, *, value: int, size: int = 13
) -> NDArray[np.generic]:
    """The image with text drawn into a box; axes (row, column) or (row, column, sample)."""
    canvas = Image.new("L", (box.width, box.height), 0)
    ImageDraw.Draw(canvas).text((3, 2), text, fill=255, font=ImageFont.load_default(size=size))
    letters = np.asarray(canvas) > 127
    drawn = image.copy()
    part = drawn[box.top : box.top + box.height, box.left : box.left + box.width]
    part[letters] = value
    return drawn


def make_us(slot: Slot, variant: str) -> Answer:
    """A colour or grey ultrasound image; the device writes name and date in a line at the top."""
    answer = Answer("US", variant, Dataset())
    p = plant_common(answer, US_CLASS, "US", slot, _device(_US, "US", variant))
    p.keep(ImageType=["ORIGINAL", "PRIMARY", "ABDOMINAL", "0001"])
    p.put(PatientOrientation="")
    p.date(ContentDate=slot.person.day(), AcquisitionDateTime=f"{slot.person.day()}101520")
    p.put(ContentTime="101520")
    p.keep(TransducerData="C1-6")
    _annotation(p, variant)
    image = _fan(slot)
    text = f"{slot.person.family}, {slot.person.given[:6]} {slot.person.day()}"
    _finish(p, image, variant, US_BOX, text, 255)
    return answer


def make_cr(slot: Slot, variant: str) -> Answer:
    """A radiograph of the chest; text is burned in at the upper left."""
    answer = Answer("CR", variant, Dataset())
    p = plant_common(answer, CR_CLASS, "CR", slot, _device(_CR, "CR", variant))
    p.keep(ImageType=["ORIGINAL", "PRIMARY"], ViewPosition="PA", PlateType="ST-VI")
    p.keep(KVP="120", Sensitivity="200", ImagerPixelSpacing=[0.2, 0.2])
    p.keep(BodyPartThickness="230")
    p.put(PatientOrientation=["L", "F"])
    p.hide("PlateID", f"PL-{slot.person.serial}", "M", "X")
    p.hide("CassetteID", f"C-{slot.person.serial}", "M", "X")
    p.date(ContentDate=slot.person.day(), AcquisitionDate=slot.person.day())
    p.put(ContentTime="101520")
    p.text("AcquisitionDeviceProcessingDescription", "CHEST PA", ("A", slot.person.operator_family))
    if variant != "burned":
        _annotation(p, variant)
    image = anatomy(slot, *CR_SIZE)
    text = f"{slot.person.family} {slot.person.given[:4]} {slot.person.number}"
    _finish(p, image, variant, CR_BOX, text, 4095)
    return answer


def make_sc(slot: Slot, variant: str) -> Answer:
    """A captured screen; a clean one is a rendered picture."""
    answer = Answer("SC", variant, Dataset())
    p = plant_common(answer, SC_CLASS, "OT", slot, _device(_SC, "SC", variant))
    p.keep(ImageType=["DERIVED", "SECONDARY"], ConversionType="WSD")
    p.put(PatientOrientation="")
    p.date(ContentDate=slot.person.day(), DateOfSecondaryCapture=slot.person.day())
    p.put(ContentTime="101520", TimeOfSecondaryCapture="101520")
    p.hide("SecondaryCaptureDeviceID", slot.person.station, "M", "X")
    p.hide(
        "DerivationDescription",
        f"made by {slot.person.operator_family}",
        "A",
        "X",
        slot.person.operator_family,
    )
    _annotation(p, variant)
    grey = (anatomy(slot, *SC_SIZE) // 16).astype(np.uint8)
    image = np.stack([grey, grey // 2, 255 - grey // 2], axis=2)
    text = f"{slot.person.given} {slot.person.family}\nDOB {slot.person.birth}"
    _finish(p, image, variant, SC_BOX, text, 255)
    return answer


def _device(words: Words, kind: str, variant: str) -> Words:
    if variant == "masked":
        return words
    parts = (words.study, words.series, words.protocol, words.body, words.manufacturer)
    return Words(*parts, UNMASKED[kind], words.comment)


def _annotation(p: Planter, variant: str) -> None:
    p.put(BurnedInAnnotation="NO" if variant == "clean" else "YES")


def _fan(slot: Slot) -> NDArray[np.uint8]:
    rows, columns = US_SIZE
    random = np.random.default_rng(slot.chance.randrange(2**32))
    y, x = np.mgrid[0:rows, 0:columns]
    angle = np.abs(np.arctan2(x - columns / 2, y - 20 + 1e-6))
    radius = np.hypot(x - columns / 2, y - 20)
    inside = (angle < 0.6) & (radius > 30) & (radius < 210)
    fine = ndimage.gaussian_filter(random.rayleigh(35, (rows, columns)), (1.0, 1.8))
    tissue = 60 + 30 * np.cos(x / 37 + random.uniform(0, 3)) * np.cos(y / 29)
    image = inside * tissue * (fine / fine.mean()) * (1.2 - radius / 300)
    return np.asarray(np.clip(image, 0, 220), dtype=np.uint8)


def _finish(
    p: Planter, image: NDArray[np.generic], variant: str, box: Box, text: str, value: int
) -> None:
    boxes: tuple[Box, ...] = ()
    if variant != "clean":
        image = burn(image, box, text, value=value)
        boxes = (box,)
    colour, bits = image.ndim == 3, image.dtype.itemsize * 8
    stored = 12 if bits == 16 else 8
    p.keep(SamplesPerPixel=3 if colour else 1)
    p.keep(PhotometricInterpretation="RGB" if colour else "MONOCHROME2")
    if colour:
        p.put(PlanarConfiguration=0)
    p.keep(Rows=image.shape[0], Columns=image.shape[1], BitsAllocated=bits)
    p.keep(BitsStored=stored, HighBit=stored - 1, PixelRepresentation=0)
    p.ds.PixelData = image.tobytes()
    p.ds["PixelData"].VR = "OB" if bits == 8 else "OW"
    p.pixels(*boxes)
