"""Multipart answers, cut at any byte."""

from __future__ import annotations

import io
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import dcmwrite
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

from dicom_bridge.errors import DataRefused
from dicom_bridge.net.guard import MessageBounds, SpillBuffer
from dicom_bridge.web.multipart import DicomPart, boundary_of, parts

BOUNDS = MessageBounds(1 << 20, 1 << 20, None)


class Bytes:
    def __init__(self) -> None:
        self.taken = b""
        self.closed = False

    def write(self, data: bytes) -> None:
        self.taken += data

    def close(self) -> None:
        self.closed = True


def message(contents: list[bytes], boundary: bytes = b"edge") -> bytes:
    body = b"".join(
        b"--" + boundary + b"\r\nContent-Type: application/dicom\r\n\r\n" + content + b"\r\n"
        for content in contents
    )
    return body + b"--" + boundary + b"--\r\n"


def cut(data: bytes, sizes: list[int]) -> Iterator[bytes]:
    at = 0
    for size in sizes:
        yield data[at : at + size]
        at += size
    yield data[at:]


@given(
    st.lists(st.binary(max_size=60).filter(lambda b: b"--edge" not in b), max_size=5),
    st.lists(st.integers(0, 20), max_size=30),
    st.booleans(),
)
def test_every_part_comes_back_however_it_is_cut(
    contents: list[bytes], sizes: list[int], preamble: bool
) -> None:
    data = (b"ignored\r\n" if preamble else b"") + message(contents)
    found = [part.taken for part in parts(cut(data, sizes), b"edge", Bytes)]
    assert found == contents


@given(st.integers(0, 200))
def test_an_answer_that_ends_early_is_never_taken_as_whole(length: int) -> None:
    data = message([b"first part", b"second part"])
    closing = data.index(b"--edge--") + len(b"--edge-")
    got: list[bytes] = []

    def read() -> None:
        for part in parts(iter([data[: min(length, closing)]]), b"edge", Bytes):
            got.append(part.taken)

    with pytest.raises(DataRefused, match="ended before"):
        read()
    assert got == [b"first part", b"second part"][: len(got)]


@pytest.mark.parametrize(
    "header", ["application/dicom+json", "multipart/related", "text/html; boundary=x", ""]
)
def test_an_answer_that_is_not_multipart_is_refused(header: str) -> None:
    with pytest.raises(DataRefused, match="multipart"):
        boundary_of(header)


def part_of(data: bytes, size: int) -> DicomPart:
    part = DicomPart(SpillBuffer(BOUNDS))
    for at in range(0, len(data), size):
        part.write(data[at : at + size])
    return part


def dicom_file() -> tuple[bytes, Dataset]:
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = MRImageStorage
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    ds.StudyInstanceUID, ds.SeriesInstanceUID = generate_uid(), generate_uid()
    buffer = io.BytesIO()
    dcmwrite(buffer, ds, enforce_file_format=True)
    return buffer.getvalue(), ds


@pytest.mark.parametrize("size", [1, 7, 131, 4096])
def test_a_part_is_split_into_meta_and_data_set(size: int) -> None:
    data, ds = dicom_file()
    delivery = part_of(data, size).delivery()
    assert delivery.sop_uid == ds.SOPInstanceUID
    assert delivery.sop_class == MRImageStorage
    assert delivery.syntax == ExplicitVRLittleEndian
    content = b"".join(bytes(piece) for piece in delivery.content.pieces())
    assert data.endswith(content)
    assert content[:4] == b"\x08\x00\x16\x00"


@pytest.mark.parametrize("size", [1, 50])
@pytest.mark.parametrize("junk", [b"<html>" * 60, b"\0" * 400])
def test_what_is_no_dicom_file_is_refused(junk: bytes, size: int) -> None:
    with pytest.raises(DataRefused, match="no DICOM file"):
        part_of(junk, size).delivery()


def test_a_part_larger_than_allowed_is_refused() -> None:
    data, _ = dicom_file()
    part = DicomPart(SpillBuffer(MessageBounds(64, 64, None)))
    with pytest.raises(DataRefused, match="larger than allowed"):
        part.write(data + b"\0" * 100)
