"""Many patients with an object of every kind each, as files with their keys."""

from __future__ import annotations

import io
import random
from collections.abc import Callable, Iterator

from pydicom.dataset import FileMetaDataset
from pydicom.filewriter import dcmwrite

from tests.dicom_bridge.deid.answers import documents, images, multiframe, screens
from tests.dicom_bridge.deid.answers.key import Answer
from tests.dicom_bridge.deid.answers.modules import Slot
from tests.dicom_bridge.deid.answers.people import make_person

Maker = Callable[[Slot], Answer]


def _screen(maker: Callable[[Slot, str], Answer], variant: str) -> Maker:
    return lambda slot: maker(slot, variant)


# Series number, instance number and maker of the objects of one patient's study.
MAKERS: tuple[tuple[int, int, Maker], ...] = (
    (1, 1, images.make_mr),
    (1, 2, images.make_mr),
    (2, 1, images.make_ct),
    (3, 1, images.make_pet),
    (4, 1, _screen(screens.make_us, "clean")),
    (4, 2, _screen(screens.make_us, "masked")),
    (5, 1, _screen(screens.make_us, "burned")),
    (6, 1, _screen(screens.make_cr, "clean")),
    (6, 2, _screen(screens.make_cr, "masked")),
    (7, 1, _screen(screens.make_cr, "burned")),
    (8, 1, _screen(screens.make_sc, "clean")),
    (8, 2, _screen(screens.make_sc, "masked")),
    (9, 1, _screen(screens.make_sc, "burned")),
    (10, 1, documents.make_text_report),
    (11, 1, documents.make_measurement_report),
    (12, 1, multiframe.make_segmentation),
    (13, 1, documents.make_pdf),
    (14, 1, multiframe.make_enhanced_mr),
)


def make_cohort(patients: int, seed: int = 0) -> Iterator[Answer]:
    """Objects of all kinds for a number of patients; the same seed gives the same objects."""
    for index in range(patients):
        person = make_person(index, seed)
        for series, instance, maker in MAKERS:
            chance = random.Random(f"{seed} {index} {series} {instance}")
            yield maker(Slot(person, series, instance, chance))


def as_file(answer: Answer) -> bytes:
    """The planted object as a PS3.10 file with a planted preamble."""
    ds = answer.dataset
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = ds.SOPClassUID
    meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    meta.TransferSyntaxUID = answer.syntax
    meta.SourceApplicationEntityTitle = "TARNBROOK_MR1"
    ds.file_meta = meta
    ds.preamble = answer.preamble[:128].ljust(128, b"\0")
    buffer = io.BytesIO()
    implicit = answer.syntax == "1.2.840.10008.1.2"
    dcmwrite(buffer, ds, enforce_file_format=True, implicit_vr=implicit, little_endian=True)
    return buffer.getvalue()
