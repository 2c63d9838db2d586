"""De-identification of one object by PS3.15 Annex E, default deny, closed on any failure."""

from __future__ import annotations

import io
import os
import struct
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from types import MappingProxyType

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset

from dicom_bridge.deid import codec
from dicom_bridge.deid.codec import DicomFile, Element
from dicom_bridge.deid.glyphs import frames_have_text
from dicom_bridge.deid.identifiers import DATE_TAGS, Identifiers
from dicom_bridge.deid.pixels import ENCODINGS, NO_TEXT, ImageFacts, burned_in_reason
from dicom_bridge.deid.profile import Profile
from dicom_bridge.deid.pseudonym import Pseudonymizer
from dicom_bridge.deid.rules import Node, compile_rules
from dicom_bridge.deid.table import BASIC_CODE, OPTION_CODES, Option
from dicom_bridge.deid.walker import (
    ITEM_START,
    ITEM_STOP,
    SEQUENCE_STOP,
    Memory,
    Patient,
    Walker,
    encode,
    sequence_head,
)
from dicom_bridge.errors import DataRefused, DicomBridgeError

IMPLEMENTATION_UID = "2.25.93987576925235461578697845355900004475"
IMPLEMENTATION_NAME = "CLINODE_1"
SOP_CLASS, SOP_INSTANCE, STUDY, SERIES = 0x00080016, 0x00080018, 0x0020000D, 0x0020000E
PATIENT_ID, ISSUER, PIXEL_DATA = 0x00100020, 0x00100021, 0x7FE00010
IDENTITY_REMOVED, METHOD, METHOD_CODES = 0x00120062, 0x00120063, 0x00120064
TEMPORAL, ROWS = 0x00280303, 0x00280010
RT_DOSE = "1.2.840.10008.5.1.4.1.1.481.2"
_FLOAT_PIXELS = (0x7FE00008, 0x7FE00009)
_SPECTRA = 0x56000020


@dataclass(frozen=True, slots=True)
class Proof:
    """What was done to one object; holds nothing of the original.

    Attributes:
        actions: how many elements met each action (K, C, U, Z, D, X), and under ``found`` how many
            values that had passed their rule were taken back because they held an identifier.
        profile_hash: hash of the profile that ran.
        version: version of this software.
        codes: codes of CID 7050 that ran on this object.
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


@lru_cache(maxsize=1)
def _version() -> str:
    try:
        return metadata.version("clinode")
    except metadata.PackageNotFoundError:
        return "0"


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
        self._codes = (BASIC_CODE, *(OPTION_CODES[o] for o in sorted(profile.options)))
        self._marks = self._make_marks()

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
        reader = _Reader(body, elements)
        sop_class = reader.text(SOP_CLASS)
        node = self._node(sop_class)
        self._refuse_unusable(reader, source, whole=whole)
        facts = _facts(reader)
        reason = burned_in_reason(facts, self._profile)
        if reason is not None:
            raise DataRefused(reason)
        walker = Walker(body, self._memory, self._patient(reader), facts, source.syntax)
        before = [e for e in elements.values() if e.tag < IDENTITY_REMOVED]
        between = [e for e in elements.values() if IDENTITY_REMOVED <= e.tag < TEMPORAL]
        after = [e for e in elements.values() if e.tag >= TEMPORAL]
        walker.walk(before, node, elements)
        walker.out.append(self._marks[0])
        walker.walk(between, node, elements)
        walker.out.append(self._marks[1])
        walker.walk(after, node, elements)
        encoded = self._finished(walker, reader, source.syntax, walker.check())
        self._refuse_text(walker, encoded, facts)
        return encoded

    def _node(self, sop_class: str) -> Node:
        node = self._nodes.get(sop_class)
        if node is None:
            node = self._nodes[sop_class] = compile_rules(self._profile, sop_class)
        return node

    def _refuse_unusable(self, reader: _Reader, source: DicomFile, *, whole: bool) -> None:
        for tag, name in ((SOP_INSTANCE, "SOP"), (STUDY, "Study"), (SERIES, "Series")):
            if not reader.text(tag):
                raise DataRefused(f"the {name} Instance UID is missing or empty")
        pixels = any(t in reader.elements for t in (PIXEL_DATA, _SPECTRA, *_FLOAT_PIXELS))
        sop_class = reader.text(SOP_CLASS)
        image = ROWS in reader.elements or (
            PIXEL_DATA in self._node(sop_class).rules and sop_class != RT_DOSE
        )
        if whole and image and not pixels:
            raise DataRefused("the image has no pixel data: the file is truncated")
        native = source.syntax in (codec.EXPLICIT_LE, codec.IMPLICIT_LE)
        if not native and source.syntax not in ENCODINGS:
            raise DataRefused("this transfer syntax is not supported: video or unknown encoding")

    def _refuse_text(self, walker: Walker, encoded: Encoded, facts: ImageFacts) -> None:
        """Refuse images in whose pixels a line of text is seen."""
        if not self._profile.detect_text or not facts.has_pixels or facts.sop_class in NO_TEXT:
            return
        if frames_have_text(walker.stored, encoded.parts, facts):
            raise DataRefused("burned-in text: a line of letters was seen in the pixels")

    def _patient(self, reader: _Reader) -> Patient:
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

    def _finished(self, walker: Walker, reader: _Reader, syntax: str, found: int) -> Encoded:
        sop_class = reader.text(SOP_CLASS)
        keep = Option.RETAIN_UIDS in self._profile.options
        new = str if keep else self._pseudonymizer.uid
        sop_instance, series = new(reader.text(SOP_INSTANCE)), new(reader.text(SERIES))
        letters = dict(walker.letters) | {"found": found}
        proof = Proof(
            actions=MappingProxyType(letters),
            profile_hash=self._profile.hash,
            version=_version(),
            codes=tuple(code for code, _ in self._codes),
            sop_class=sop_class,
            sop_instance=sop_instance,
            series=series,
            study=new(reader.text(STUDY)),
        )
        out_syntax = codec.EXPLICIT_LE if syntax == codec.IMPLICIT_LE else syntax
        parts = (_file_meta(sop_class, sop_instance, out_syntax), *walker.out)
        identifiers = Identifiers(
            frozenset(walker.names),
            frozenset(walker.numbers),
            reader.dates(),
            frozenset(walker.places),
        )
        return Encoded(parts, proof, identifiers)

    def _make_marks(self) -> tuple[bytes, bytes]:
        """Group 0012 and (0028,0303): what ran, exactly (PS3.15 E.1.1, PS3.3 C.7.1.1)."""
        options = self._profile.options
        items = b"".join(
            ITEM_START
            + encode(0x00080100, b"SH", code.encode())
            + encode(0x00080102, b"SH", b"DCM")
            + encode(0x00080104, b"LO", meaning.encode()[:64])
            + ITEM_STOP
            for code, meaning in self._codes
        )
        method = f"clinode {_version()}; profile {self._profile.hash[:16]}"
        removed = b"".join(
            (
                encode(IDENTITY_REMOVED, b"CS", b"YES"),
                encode(METHOD, b"LO", method.encode()),
                sequence_head(METHOD_CODES) + items + SEQUENCE_STOP,
            )
        )
        if Option.RETAIN_FULL_DATES in options:
            temporal = b"UNMODIFIED"
        elif Option.RETAIN_MODIFIED_DATES in options:
            temporal = b"MODIFIED"
        else:
            temporal = b"REMOVED"
        return removed, encode(TEMPORAL, b"CS", temporal)


class _Reader:
    """Values of the top level that decide about the whole object."""

    def __init__(self, body: bytes, elements: Mapping[int, Element]) -> None:
        self._body = body
        self.elements = elements

    def raw_text(self, tag: int) -> str:
        """The value as text, stripped; bytes outside UTF-8 by Latin-1."""
        element = self.elements.get(tag)
        if element is None:
            return ""
        raw = self._body[element.start : element.end]
        try:
            return raw.decode("utf-8").strip(" \0")
        except UnicodeDecodeError:
            return raw.decode("latin-1").strip(" \0")

    def text(self, tag: int) -> str:
        """The value as plain text in upper case, stripped."""
        return self.raw_text(tag).upper()

    def dates(self) -> frozenset[str]:
        """Birth date and dates of study, series and image, as YYYYMMDD."""
        found = (self.raw_text(tag)[:8] for tag in DATE_TAGS if tag in self.elements)
        return frozenset(day for day in found if len(day) == 8 and day.isdigit())

    def number(self, tag: int, default: int = 0) -> int:
        """A US value, or an IS value; the default where absent."""
        element = self.elements.get(tag)
        if element is None or element.end == element.start:
            return default
        raw = self._body[element.start : element.end]
        if element.vr == b"IS":
            return int(raw.strip(b" \0"))
        return int.from_bytes(raw[:2], "little")


def _facts(reader: _Reader) -> ImageFacts:
    padding = 0x00280120
    return ImageFacts(
        sop_class=reader.text(SOP_CLASS),
        modality=reader.text(0x00080060),
        image_type=tuple(part.strip() for part in reader.text(0x00080008).split("\\")),
        burned_in=reader.text(0x00280301),
        conversion=reader.text(0x00080064),
        has_pixels=PIXEL_DATA in reader.elements,
        rows=reader.number(ROWS),
        columns=reader.number(0x00280011),
        samples=reader.number(0x00280002, 1),
        frames=max(1, reader.number(0x00280008, 1)),
        allocated=_allocated(reader),
        stored=reader.number(0x00280101),
        high=reader.number(0x00280102),
        signed=reader.number(0x00280103) == 1,
        photometric=reader.text(0x00280004),
        padding=reader.number(padding) if padding in reader.elements else None,
    )


def _allocated(reader: _Reader) -> int:
    if _FLOAT_PIXELS[0] in reader.elements:
        return 32
    return 64 if _FLOAT_PIXELS[1] in reader.elements else reader.number(0x00280100)


def _file_meta(sop_class: str, sop_instance: str, syntax: str) -> bytes:
    """Preamble and file meta information of our own (PS3.10 7.1)."""
    group = b"".join(
        (
            encode(0x00020001, b"OB", b"\0\1"),
            encode(0x00020002, b"UI", sop_class.encode()),
            encode(0x00020003, b"UI", sop_instance.encode()),
            encode(0x00020010, b"UI", syntax.encode()),
            encode(0x00020012, b"UI", IMPLEMENTATION_UID.encode()),
            encode(0x00020013, b"SH", IMPLEMENTATION_NAME.encode()),
        )
    )
    return bytes(128) + b"DICM" + encode(0x00020000, b"UL", struct.pack("<I", len(group))) + group
