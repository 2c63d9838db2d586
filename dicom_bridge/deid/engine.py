"""De-identification of one object by PS3.15 Annex E, default deny, closed on any failure."""

from __future__ import annotations

import io
import os
import uuid
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from operator import itemgetter
from pathlib import Path
from types import MappingProxyType

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset

from dicom_bridge.deid import codec, marks
from dicom_bridge.deid.codec import DicomFile, Element
from dicom_bridge.deid.glyphs import frames_have_text
from dicom_bridge.deid.header import (
    FLOAT_PIXELS,
    ISSUER,
    PATIENT_ID,
    PIXEL_DATA,
    ROWS,
    SERIES,
    SOP_CLASS,
    SOP_INSTANCE,
    STUDY,
    Reader,
    image_facts,
)
from dicom_bridge.deid.identifiers import Identifiers
from dicom_bridge.deid.marks import Insertion
from dicom_bridge.deid.masks import blank_area
from dicom_bridge.deid.painting import Painted, paint_compressed, paint_native
from dicom_bridge.deid.pixels import (
    ENCODINGS,
    NO_TEXT,
    ImageFacts,
    burned_in_reason,
    native_pixels,
)
from dicom_bridge.deid.profile import Profile
from dicom_bridge.deid.pseudonym import Pseudonymizer
from dicom_bridge.deid.rules import DOCUMENT, ENCAPSULATED_PDF, Node, compile_rules
from dicom_bridge.deid.table import BASIC_CODE, Option
from dicom_bridge.deid.walker import Memory, Patient, Walker
from dicom_bridge.errors import DataRefused, DicomBridgeError

RT_DOSE = "1.2.840.10008.5.1.4.1.1.481.2"
_SPECTRA = 0x56000020


@dataclass(frozen=True, slots=True)
class Proof:
    """What was done to one object; holds nothing of the original.

    Attributes:
        actions: how many elements met each action (K, C, U, Z, D, X), and under ``found`` how many
            values that had passed their rule were taken back because they held an identifier.
        profile_hash: hash of the profile that ran.
        version: version of this software.
        codes: codes of CID 7050 that ran on this object: the Basic Profile, and every option that
            decided about at least one of its elements or blanked its pixels.
        sop_class: SOPClassUID.
        sop_instance: the new SOPInstanceUID.
        series: the new SeriesInstanceUID.
        study: the new StudyInstanceUID.
    """

    actions: Mapping[str, int]
    profile_hash: str
    version: str
    codes: tuple[str, ...]
    sop_class: str
    sop_instance: str
    series: str
    study: str


@dataclass(frozen=True, slots=True)
class Deidentified:
    """A de-identified data set with its proof."""

    dataset: Dataset
    proof: Proof


@dataclass(frozen=True, slots=True)
class Encoded:
    """A de-identified object as the bytes of a PS3.10 file, with its proof.

    Attributes:
        parts: the file, in pieces.
        proof: what was done.
        identifiers: the original's names, numbers and dates, for a search of what comes out.
    """

    parts: tuple[bytes | memoryview, ...]
    proof: Proof
    identifiers: Identifiers = field(repr=False)


def deidentify_dataset(ds: Dataset, profile: Profile, pseudonymizer: Pseudonymizer) -> Deidentified:
    """De-identify a data set, for instance a header without pixels; the input is not changed.

    Raises:
        DataRefused: it cannot be de-identified; the reason holds no value of the patient.
    """
    try:
        source = _encoded(ds)
        encoded = engine_for(profile, pseudonymizer).run(source, whole=False)
        dataset = dcmread(io.BytesIO(b"".join(encoded.parts)))
    except DicomBridgeError:
        raise
    except Exception as error:  # edge: whatever the input provokes must end in quarantine
        raise DataRefused(f"cannot be de-identified: {type(error).__name__}") from None
    return Deidentified(dataset, encoded.proof)


def deidentify_file(
    source: Path, destination: Path, profile: Profile, pseudonymizer: Pseudonymizer
) -> Proof:
    """De-identify one file; the destination appears whole or not at all.

    Args:
        source: a PS3.10 file.
        destination: the file to write; its folder is made.
        profile: what to do.
        pseudonymizer: the project's mapping.

    Raises:
        DataRefused: it cannot be de-identified; nothing is written.
    """
    encoded = deidentify_bytes(read_source(source), profile, pseudonymizer)
    write_encoded(encoded, destination)
    return encoded.proof


def deidentify_header(source: Path, profile: Profile, pseudonymizer: Pseudonymizer) -> Deidentified:
    """De-identify a file with all checks of its pixels, and give only the new header.

    Faster than :func:`deidentify_dataset`, and it sees text in the pixels and truncated files,
    which a header alone does not show.

    Raises:
        DataRefused: it cannot be de-identified.
    """
    encoded = deidentify_bytes(read_source(source), profile, pseudonymizer)
    content = io.BytesIO(b"".join(encoded.parts))
    return Deidentified(dcmread(content, stop_before_pixels=True), encoded.proof)


def deidentify_bytes(content: bytes, profile: Profile, pseudonymizer: Pseudonymizer) -> Encoded:
    """De-identify the bytes of one PS3.10 file.

    Raises:
        DataRefused: it cannot be de-identified.
    """
    try:
        return engine_for(profile, pseudonymizer).run(codec.split_file(content), whole=True)
    except DicomBridgeError:
        raise
    except Exception as error:  # edge: whatever the input provokes must end in quarantine
        raise DataRefused(f"cannot be de-identified: {type(error).__name__}") from None


def write_encoded(encoded: Encoded, destination: Path) -> None:
    """Write a file beside its place and rename it.

    Raises:
        OSError: the disk refuses.
    """
    destination.parent.mkdir(parents=True, exist_ok=True)
    part = destination.with_name(f".{uuid.uuid4().hex}.part")
    try:
        with part.open("wb") as stream:
            stream.writelines(encoded.parts)
        os.replace(part, destination)
    finally:
        part.unlink(missing_ok=True)


def read_source(source: Path) -> bytes:
    """The bytes of a file of reasonable size.

    Raises:
        DataRefused: it is too large or cannot be read.
    """
    try:
        size = source.stat().st_size
        if size > codec.LARGEST_FILE:
            raise DataRefused(f"the file has {size} bytes, {codec.LARGEST_FILE} are allowed")
        return source.read_bytes()
    except OSError as error:
        raise DataRefused(f"the file cannot be read: {error.strerror}") from None


def _encoded(ds: Dataset) -> DicomFile:
    """A data set as encoded bytes in explicit VR little endian."""
    meta = getattr(ds, "file_meta", None)
    syntax = str(getattr(meta, "TransferSyntaxUID", codec.EXPLICIT_LE))
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, False
    write_dataset(buffer, ds)
    known = syntax if syntax in ENCODINGS else codec.EXPLICIT_LE
    return DicomFile(known, buffer.getvalue(), explicit=True)


@lru_cache(maxsize=8)
def engine_for(profile: Profile, pseudonymizer: Pseudonymizer) -> Engine:
    """The engine for a profile and a project; compiled rules are kept per SOP class."""
    return Engine(profile, pseudonymizer)


class Engine:
    """De-identifies objects of one project by one profile; remembers compiled rules."""

    def __init__(self, profile: Profile, pseudonymizer: Pseudonymizer) -> None:
        self._profile = profile
        self._pseudonymizer = pseudonymizer
        self._nodes: dict[str, Node] = {}
        safe_private = Option.RETAIN_SAFE_PRIVATE in profile.options
        keep_places = Option.RETAIN_INSTITUTION_IDENTITY in profile.options
        self._memory = Memory(pseudonymizer, safe_private, keep_places)
        self._patients: dict[tuple[str, str], Patient] = {}

    def run(self, source: DicomFile, *, whole: bool) -> Encoded:
        """De-identify one object.

        Args:
            source: the object.
            whole: it is a complete file: an image without pixel data is then truncated.

        Raises:
            DataRefused: it cannot be de-identified.
        """
        body = source.body
        elements = codec.parse(body, 0, len(body), explicit=source.explicit)
        reader = Reader(body, elements)
        node = self._node(reader.text(SOP_CLASS))
        self._refuse_unusable(reader, source, whole=whole)
        facts = image_facts(reader)
        painted = self._painted(reader, facts, source.syntax)
        if painted is None and facts.sop_class != ENCAPSULATED_PDF:
            self._refuse_by_header(facts)
        stored = painted.stored if painted is not None else None
        walker = Walker(body, self._memory, self._patient(reader), facts, source.syntax, stored)
        insertions = self._insertions(reader, facts, painted, source.syntax)
        places = _walk_around(walker, node, elements, insertions)
        encoded = self._finished(walker, reader, source.syntax, painted, places)
        self._refuse_text(walker, encoded, facts, painted)
        return encoded

    def _painted(self, reader: Reader, facts: ImageFacts, syntax: str) -> Painted | None:
        """The pixels after the profile's masks; None where no mask is for this device."""
        tags = (PIXEL_DATA, *FLOAT_PIXELS)
        element = next((reader.elements[tag] for tag in tags if tag in reader.elements), None)
        if not self._profile.masks or element is None:
            return None
        area = blank_area(self._profile.masks, facts, reader.regions)
        if area is None:
            return None
        raw = memoryview(reader.body)[element.start : element.end]
        if element.undefined:
            if syntax not in ENCODINGS:
                raise DataRefused(
                    "this compression of pixel data is not supported: video or unknown"
                )
            return paint_compressed(bytes(raw), syntax, facts, area)
        return paint_native(memoryview(native_pixels(raw, facts))[: facts.expected], facts, area)

    def _refuse_by_header(self, facts: ImageFacts) -> None:
        """Refuse what by its header may carry text and no mask was made for."""
        profile = self._profile
        reason = burned_in_reason(
            facts,
            trust_annotation_no=profile.trust_annotation_no,
            trust_text_detection=profile.trust_text_detection,
        )
        if reason is not None:
            raise DataRefused(reason)

    def _insertions(
        self, reader: Reader, facts: ImageFacts, painted: Painted | None, syntax: str
    ) -> list[Insertion]:
        """What we write ourselves, in the order of tags; what ran is known only afterwards."""
        found = [
            Insertion(marks.IDENTITY_REMOVED, b"", "X"),
            Insertion(marks.TEMPORAL, b"", "X"),
        ]
        if painted is not None:
            element = reader.elements.get(PIXEL_DATA)
            size = element.end - element.start if element is not None else 0
            found += marks.painted_marks(painted, facts, syntax, size)
        elif facts.sop_class == ENCAPSULATED_PDF and DOCUMENT in reader.elements:
            found += marks.document_marks()
        return sorted(i for i in found if i.letter or i.tag not in reader.elements)

    def _node(self, sop_class: str) -> Node:
        node = self._nodes.get(sop_class)
        if node is None:
            node = self._nodes[sop_class] = compile_rules(self._profile, sop_class)
        return node

    def _refuse_unusable(self, reader: Reader, source: DicomFile, *, whole: bool) -> None:
        for tag, name in ((SOP_INSTANCE, "SOP"), (STUDY, "Study"), (SERIES, "Series")):
            if not reader.text(tag):
                raise DataRefused(f"the {name} Instance UID is missing or empty")
        pixels = any(t in reader.elements for t in (PIXEL_DATA, _SPECTRA, *FLOAT_PIXELS))
        sop_class = reader.text(SOP_CLASS)
        image = ROWS in reader.elements or (
            PIXEL_DATA in self._node(sop_class).rules and sop_class != RT_DOSE
        )
        if whole and image and not pixels:
            raise DataRefused("the image has no pixel data: the file is truncated")
        if whole and sop_class == ENCAPSULATED_PDF and DOCUMENT not in reader.elements:
            raise DataRefused("the object has no document: the file is truncated")
        native = source.syntax in (codec.EXPLICIT_LE, codec.IMPLICIT_LE)
        if not native and source.syntax not in ENCODINGS:
            raise DataRefused("this transfer syntax is not supported: video or unknown encoding")

    def _refuse_text(
        self, walker: Walker, encoded: Encoded, facts: ImageFacts, painted: Painted | None
    ) -> None:
        """Refuse images in whose pixels a line of text is seen; masked ones in every frame."""
        if not self._profile.detect_text or not facts.has_pixels or facts.sop_class in NO_TEXT:
            return
        now = facts if painted is None else painted.facts
        if frames_have_text(walker.stored, encoded.parts, now, every=painted is not None):
            where = "beside the mask" if painted is not None else "in the pixels"
            raise DataRefused(f"burned-in text: a line of letters was seen {where}")

    def _patient(self, reader: Reader) -> Patient:
        issuer, number = reader.raw_text(ISSUER), reader.raw_text(PATIENT_ID)
        if not number:
            issuer, number = "study", reader.text(STUDY)
        key = (issuer, number)
        known = self._patients.get(key)
        if known is None:
            pseudonym = self._pseudonymizer.patient(issuer, number).encode()
            known = Patient(pseudonym, self._pseudonymizer.day_offset(issuer, number))
            if len(self._patients) > 10000:
                self._patients.clear()
            self._patients[key] = known
        return known

    def _finished(
        self,
        walker: Walker,
        reader: Reader,
        syntax: str,
        painted: Painted | None,
        places: Mapping[int, int],
    ) -> Encoded:
        found = walker.check()
        actions, ran = marks.counted(walker.letters.items())
        if painted is not None:
            ran.add(marks.CLEAN_PIXELS)
        codes = (BASIC_CODE[0], *sorted(ran))
        walker.out[places[marks.IDENTITY_REMOVED]] = marks.identity_removed(
            codes, self._profile.hash
        )
        walker.out[places[marks.TEMPORAL]] = marks.temporal(codes)
        keep = Option.RETAIN_UIDS in self._profile.options
        new = str if keep else self._pseudonymizer.uid
        proof = Proof(
            actions=MappingProxyType(actions | {"found": found}),
            profile_hash=self._profile.hash,
            version=marks.version(),
            codes=codes,
            sop_class=reader.text(SOP_CLASS),
            sop_instance=new(reader.text(SOP_INSTANCE)),
            series=new(reader.text(SERIES)),
            study=new(reader.text(STUDY)),
        )
        native = syntax == codec.IMPLICIT_LE or (painted is not None and painted.decoded)
        out_syntax = codec.EXPLICIT_LE if native else syntax
        meta = marks.file_meta(proof.sop_class, proof.sop_instance, out_syntax)
        identifiers = Identifiers(
            frozenset(walker.names - walker.standard),
            frozenset(walker.numbers),
            reader.dates(),
            frozenset(walker.places),
        )
        return Encoded((meta, *walker.out), proof, identifiers)


def _walk_around(
    walker: Walker, node: Node, elements: dict[int, Element], insertions: list[Insertion]
) -> dict[int, int]:
    """Walk the top level with our own elements in their places; says where each one lies."""
    places: dict[int, int] = {}
    ordered = list(elements.values())
    begin = 0
    for tag, chunk, letter in insertions:
        end = bisect_left(ordered, tag, lo=begin, key=itemgetter(0))
        walker.walk(ordered[begin:end], node, elements)
        places[tag] = len(walker.out)
        walker.out.append(chunk)
        begin = end
        if end < len(ordered) and ordered[end].tag == tag:
            walker.letters[letter] += 1
            begin = end + 1
    walker.walk(ordered[begin:], node, elements)
    return places
