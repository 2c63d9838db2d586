"""Retired files are written over, but never one that somebody still reads, and never believed."""

from __future__ import annotations

import errno
import hashlib
import mmap
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from federation.chunks import CHUNK_BYTES, ChunkList
from federation.coordinator.objects import ObjectStore
from federation.errors import NoRoom
from federation.spares import KEPT, SMALLEST, Spares
from federation.staging import PartFile
from federation.wire.frames import Piece

MIB = 1 << 20


@pytest.fixture
def spares(tmp_path: Path) -> Spares:
    return Spares(tmp_path / "spare", durable=True)


def made(folder: Path, name: str, size: int = SMALLEST) -> Path:
    path = folder / name
    path.write_bytes(os.urandom(size))
    return path


def test_a_retired_file_comes_back_as_another(tmp_path: Path, spares: Spares) -> None:
    old = made(tmp_path, "old")
    inode = old.stat().st_ino
    spares.retire(old)
    assert not old.exists()
    assert spares.reuse(tmp_path / "new", SMALLEST)
    assert (tmp_path / "new").stat().st_ino == inode
    assert not spares.reuse(tmp_path / "another", SMALLEST)


def test_what_somebody_reads_is_not_written_over(tmp_path: Path, spares: Spares) -> None:
    opened, mapped, linked = (made(tmp_path, name) for name in ("opened", "mapped", "linked"))
    os.link(linked, tmp_path / "other-name")
    content = {path.name: path.read_bytes() for path in (opened, mapped, linked)}
    with opened.open("rb") as stream, mapped.open("rb") as source:
        view = mmap.mmap(source.fileno(), 0, prot=mmap.PROT_READ)
        source.close()
        for path in (opened, mapped, linked):
            spares.retire(path)
        assert not spares.reuse(tmp_path / "new", SMALLEST)
        assert stream.read() == content["opened"]
        assert view[:] == content["mapped"]
        view.close()
    assert (tmp_path / "other-name").read_bytes() == content["linked"]
    assert list((tmp_path / "spare").iterdir()) == []


def test_small_absent_and_too_many_files_are_not_kept(tmp_path: Path, spares: Spares) -> None:
    spares.retire(made(tmp_path, "small", SMALLEST - 1))
    spares.retire(tmp_path / "absent")
    assert not spares.reuse(tmp_path / "new", SMALLEST)
    for number in range(KEPT + 1):
        spares.retire(made(tmp_path, str(number)))
    assert len(list((tmp_path / "spare").iterdir())) == KEPT
    spares.clear()
    assert list((tmp_path / "spare").iterdir()) == []
    assert [path.name for path in tmp_path.iterdir()] == ["spare"]


def test_a_disk_without_room_for_a_name_only_loses_the_gain(
    tmp_path: Path, spares: Spares, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "no space left")

    first, second = made(tmp_path, "first"), made(tmp_path, "second")
    spares.retire(first)
    with monkeypatch.context() as disk:
        disk.setattr(Path, "replace", full)
        spares.retire(second)
        assert not spares.reuse(tmp_path / "new", SMALLEST)
    assert [path.name for path in tmp_path.iterdir()] == ["spare"]
    assert list((tmp_path / "spare").iterdir()) == []


def test_the_file_nearest_in_size_is_taken(tmp_path: Path, spares: Spares) -> None:
    sizes = {name: size * MIB for name, size in (("a", 2), ("b", 3), ("c", 9))}
    inodes = {}
    for name, size in sizes.items():
        inodes[name] = made(tmp_path, name, size).stat().st_ino
        spares.retire(tmp_path / name)
    assert not spares.reuse(tmp_path / "too-large", 20 * MIB)
    assert not spares.reuse(tmp_path / "too-small", 512 * 1024)
    assert spares.reuse(tmp_path / "new", 3 * MIB + 1)
    assert (tmp_path / "new").stat().st_ino == inodes["b"]


def test_files_of_an_earlier_process_are_deleted(tmp_path: Path, spares: Spares) -> None:
    spares.retire(made(tmp_path, "old"))
    assert not Spares(tmp_path / "spare", durable=True).reuse(tmp_path / "new", SMALLEST)
    assert not (tmp_path / "spare").exists()


def chunks_of(data: bytes) -> ChunkList:
    return ChunkList.of_bytes(data)


def pieces_of(data: bytes, indices: list[int]) -> list[Piece]:
    found = []
    for index in indices:
        part = data[index * CHUNK_BYTES : (index + 1) * CHUNK_BYTES]
        half = len(part) // 2
        found += [Piece(index, 0, part[:half]), Piece(index, half, part[half:])]
    return found


@given(
    old=st.integers(1, 3 * CHUNK_BYTES),
    new=st.integers(SMALLEST, 3 * CHUNK_BYTES),
    arrived=st.integers(0, 3),
    shared=st.booleans(),
)
@settings(max_examples=25, deadline=None)
def test_what_a_spare_file_held_is_never_believed(
    tmp_path_factory: pytest.TempPathFactory, old: int, new: int, arrived: int, shared: bool
) -> None:
    """Written over, killed after some chunks, and gone on with: the file is the new object."""
    folder = tmp_path_factory.mktemp("part")
    data = os.urandom(new)
    before = data[:old] if shared else os.urandom(old)
    spares = Spares(folder / "spare", durable=False)
    (folder / "old").write_bytes(before)
    spares.retire(folder / "old")
    chunks = chunks_of(data)
    part = PartFile(folder / "new.part", chunks, spares=spares)
    assert sum(count for _, count in part.missing()) == chunks.count
    for piece in pieces_of(data, list(range(min(arrived, chunks.count)))):
        part.take(piece.chunk, piece.offset, piece.data)
    part.close()
    part = PartFile(folder / "new.part", chunks, spares=spares)
    left = [first + n for first, count in part.missing() for n in range(count)]
    assert set(left) <= set(range(min(arrived, chunks.count), chunks.count))
    for piece in pieces_of(data, left):
        part.take(piece.chunk, piece.offset, piece.data)
    part.finish(sync=True)
    assert hashlib.sha256((folder / "new.part").read_bytes()).digest() == (
        hashlib.sha256(data).digest()
    )


def sent(store: ObjectStore, data: bytes) -> Path:
    chunks = chunks_of(data)
    missing = store.offer("site-a", chunks)
    assert missing is not None
    indices = [first + n for first, count in missing for n in range(count)]
    assert store.receive("site-a", chunks.name, pieces_of(data, indices)) is None
    return store.path(chunks.name)


def test_an_upload_takes_the_place_of_a_dropped_object(tmp_path: Path) -> None:
    store = ObjectStore(tmp_path / "objects")
    first, second = os.urandom(5 * MIB), os.urandom(6 * MIB)
    path = sent(store, first)
    inode = path.stat().st_ino
    store.drop(path.name)
    assert store.names() == []
    again = sent(store, second)
    assert again.stat().st_ino == inode
    assert again.read_bytes() == second
    assert store.chunks(again.name).name == again.name
    assert sent(store, first).read_bytes() == first


def test_a_disk_without_room_gives_up_its_spare_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ObjectStore(tmp_path / "objects")
    for _ in range(2):
        store.drop(sent(store, os.urandom(2 * MIB)).name)
    spare = tmp_path / "objects" / "spare"

    def has_room(_folder: Path, needed: int = 0) -> bool:
        return needed == 0 or not list(spare.iterdir())

    monkeypatch.setattr("federation.coordinator.objects.has_room", has_room)
    data = os.urandom(9 * MIB)
    assert sent(store, data).read_bytes() == data
    assert list(spare.iterdir()) == []
    monkeypatch.setattr("federation.coordinator.objects.has_room", lambda *_: False)
    with pytest.raises(NoRoom):
        sent(store, os.urandom(9 * MIB))
