"""Objects resume at the missing chunk, in both directions and across restarts."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st

from federation.chunks import (
    CHUNK_BYTES,
    DIGEST_BYTES,
    MAX_CHUNKS,
    ChunkList,
    ChunkListBuilder,
)
from federation.coordinator.objects import ObjectStore
from federation.coordinator.schema import TaskRow
from federation.coordinator.states import TaskState
from federation.errors import RequestRefused, TransferFailed, TransferMoved
from federation.node.connection import CoordinatorConnection, RetryPolicy
from federation.node.transfer import payload_of
from federation.staging import PartFile
from federation.wire import federation_pb2 as pb
from federation.wire.frames import FRAME_BYTES, Piece, decode, decode_put, encode
from tests.federation.cutting_proxy import CuttingProxy
from tests.federation.doubles import Federation

SIZE = 6 * CHUNK_BYTES + 12_345
CUT = 2 * CHUNK_BYTES + CHUNK_BYTES // 2


class Rig:
    """A site with one training task whose model is a large object."""

    def __init__(self, federation: Federation) -> None:
        self.federation = federation
        self.identity = federation.enrolled("site-a")
        self.objects = federation.coordinator.objects
        self.data = os.urandom(SIZE)
        self.sha = self.objects.put_bytes(self.data)
        self.payload = payload_of(pb.PAYLOAD_KIND_WEIGHTS, "w", self.objects.path(self.sha))
        self.task = TaskRow(
            "r.1.train.site-a.1", "r", 1, "site-a", "train", 1, TaskState.OPEN,
            {"payloads": [{"kind": int(pb.PAYLOAD_KIND_WEIGHTS), "name": "w", "sha256": self.sha,
                           "size": SIZE}]},
            None, "", "", None, None,
        )  # fmt: skip
        with federation.coordinator.store.change() as change:
            change.execute(
                "INSERT INTO runs (run_id, number, name, state, plan_hash, signed_plan,"
                " created_at, changed_at) VALUES ('r', 1, 'n', 'paused', 'h', x'00', '', '')"
            )
            change.add_task(self.task)
            change.task(self.task.task_id, TaskState.TAKEN)

    def proxy(self, limit: int | None, *, upward: bool) -> CuttingProxy:
        """A bad line to the coordinator."""
        host, port = self.identity.address.split(":")
        return CuttingProxy((host, int(port)), limit, upward=upward)

    def connection(self, address: str = "") -> CoordinatorConnection:
        """A connection of the site that repeats fast."""
        retry = RetryPolicy(first_s=0.01, longest_s=0.05)
        return CoordinatorConnection(self.identity, address=address, retry=retry)


@pytest.fixture
def rig(federation: Federation) -> Iterator[Rig]:
    return Rig(federation)


def _frames(data: bytes, wanted: list[int] | None = None) -> Iterator[Piece]:
    """The pieces of chunks, all of them by default."""
    total = ChunkList.of_bytes(data).count
    for index in range(total) if wanted is None else wanted:
        chunk = data[index * CHUNK_BYTES : (index + 1) * CHUNK_BYTES]
        for offset in range(0, len(chunk), FRAME_BYTES):
            yield Piece(index, offset, memoryview(chunk)[offset : offset + FRAME_BYTES])


def _update(folder: Path) -> tuple[Path, pb.Payload]:
    source = folder / "update"
    source.write_bytes(os.urandom(SIZE))
    return source, payload_of(pb.PAYLOAD_KIND_UPDATE, "u", source)


def test_download_resumes_at_the_missing_chunk(rig: Rig, tmp_path: Path) -> None:
    proxy = rig.proxy(CUT, upward=False)
    link = rig.connection(proxy.address)
    target = tmp_path / "object"
    moved = link.download(rig.task.task_id, rig.payload, target)
    assert target.read_bytes() == rig.data
    assert proxy.cuts >= 2
    # A cut wastes the chunk that it breaks, never the object from its beginning.
    assert moved.bytes <= SIZE + proxy.cuts * CHUNK_BYTES
    assert link.download(rig.task.task_id, rig.payload, target).bytes == 0
    link.close()
    proxy.close()


def test_download_takes_what_is_sound_of_an_earlier_process(rig: Rig, tmp_path: Path) -> None:
    target = tmp_path / "object"
    part = tmp_path / f"{rig.sha}.part"
    held = bytearray(rig.data[: 4 * CHUNK_BYTES + 11])
    held[2 * CHUNK_BYTES + 5] ^= 1  # one chunk was spoiled meanwhile, one is not complete
    part.write_bytes(held)
    link = rig.connection()
    assert link.download(rig.task.task_id, rig.payload, target).bytes == SIZE - 3 * CHUNK_BYTES
    assert target.read_bytes() == rig.data
    assert not part.exists()
    part.write_bytes(bytes(SIZE + 5))
    assert link.download(rig.task.task_id, rig.payload, tmp_path / "two").bytes == SIZE
    assert (tmp_path / "two").read_bytes() == rig.data
    link.close()


def test_spoiled_target_is_fetched_anew(rig: Rig, tmp_path: Path) -> None:
    target = tmp_path / "object"
    target.write_bytes(bytes(SIZE))
    link = rig.connection()
    assert link.download(rig.task.task_id, rig.payload, target).bytes == SIZE
    assert target.read_bytes() == rig.data
    target.write_bytes(rig.data[:-1] + b"x")
    assert link.download(rig.task.task_id, rig.payload, target).bytes == SIZE
    link.close()


def test_object_spoiled_at_the_coordinator_is_not_taken(rig: Rig, tmp_path: Path) -> None:
    rig.objects.chunks(rig.sha)
    with rig.objects.path(rig.sha).open("r+b") as stream:
        stream.seek(CHUNK_BYTES + 1)
        stream.write(b"other")
    link = rig.connection()
    with pytest.raises(TransferFailed, match="announced SHA-256"):
        link.download(rig.task.task_id, rig.payload, tmp_path / "object")
    assert not (tmp_path / "object").exists()
    rig.objects.drop(rig.sha)
    with pytest.raises(TransferFailed, match="not here"):
        link.download(rig.task.task_id, rig.payload, tmp_path / "object")
    link.close()


def test_upload_resumes_at_the_missing_chunk(rig: Rig, tmp_path: Path) -> None:
    source, payload = _update(tmp_path)
    proxy = rig.proxy(CUT, upward=True)
    link = rig.connection(proxy.address)
    link.upload(rig.task.task_id, payload, source)
    assert rig.objects.path(payload.sha256).read_bytes() == source.read_bytes()
    assert proxy.cuts >= 2
    assert proxy.carried < 2 * SIZE
    # The acknowledgement may have been lost: asking again costs one message.
    before = proxy.carried
    assert link.upload(rig.task.task_id, payload, source).bytes == 0
    assert proxy.carried - before < 10_000
    link.close()
    proxy.close()


def test_upload_goes_on_where_an_earlier_coordinator_stopped(rig: Rig, tmp_path: Path) -> None:
    source, payload = _update(tmp_path)
    held = bytearray(source.read_bytes()[: 3 * CHUNK_BYTES + 77])
    held[CHUNK_BYTES] ^= 1
    incoming = rig.federation.home / "objects" / "incoming" / "site-a"
    incoming.mkdir(parents=True)
    (incoming / f"{payload.sha256}.part").write_bytes(held)
    (incoming / f"{'9' * 64}.part").write_bytes(b"an upload that the site has given up")
    link = rig.connection()
    assert link.upload(rig.task.task_id, payload, source).bytes == SIZE - 2 * CHUNK_BYTES
    assert rig.objects.path(payload.sha256).read_bytes() == source.read_bytes()
    assert not list(incoming.iterdir())
    link.close()


def test_other_bytes_than_announced_are_named(rig: Rig, tmp_path: Path) -> None:
    source, payload = _update(tmp_path)
    with source.open("r+b") as stream:
        stream.seek(2 * CHUNK_BYTES)
        stream.write(b"other bytes")
    link = rig.connection()
    with pytest.raises(TransferFailed, match="announced SHA-256"):
        link.upload(rig.task.task_id, payload, source)
    assert not rig.objects.has(payload.sha256)
    payload.digests = b"x" * len(payload.digests)
    with pytest.raises(TransferFailed, match="does not belong to the object's name"):
        link.upload(rig.task.task_id, payload, source)
    link.close()


def test_limits_of_a_task(rig: Rig, tmp_path: Path) -> None:
    link = rig.connection()
    large = ChunkList(3 * SIZE, bytes(DIGEST_BYTES * (3 * SIZE // CHUNK_BYTES + 1)))
    payload = pb.Payload(sha256=large.name, size=large.size, digests=large.digests)
    with pytest.raises(RequestRefused, match="this task takes"):
        link.upload(rig.task.task_id, payload, Path("/dev/zero"))
    other = rig.federation.folder / "other"
    other.write_bytes(b"another site's update")
    foreign = payload_of(pb.PAYLOAD_KIND_UPDATE, "u", other)
    rig.objects.put_bytes(other.read_bytes())
    with pytest.raises(RequestRefused, match="does not name such an object"):
        link.download(rig.task.task_id, foreign, tmp_path / "x")
    stub = link._stub
    for request, words in (
        (pb.OfferRequest(task_id=rig.task.task_id, object="../../x", size=1), "64 lower-case"),
        (pb.OfferRequest(task_id="r.1.train.site-b.1", object="0" * 64, size=1), "no such task"),
    ):
        with pytest.raises(grpc.RpcError, match=words):
            stub.OfferObject(request, timeout=10)
    with pytest.raises(RequestRefused, match="names task and object"):
        link._chunks.put(iter([Piece(0, 0, b"x")])).result()
    link.close()


def test_upload_that_was_not_offered_is_offered_again(tmp_path: Path) -> None:
    store = ObjectStore(tmp_path)
    data = os.urandom(CHUNK_BYTES + 3)
    chunks = ChunkList.of_bytes(data)
    with pytest.raises(TransferMoved, match="not been offered"):
        store.receive("s", chunks.name, _frames(data))
    assert store.offer("s", chunks) == [(0, 2)]
    assert store.receive("s", chunks.name, _frames(data, [1])) == [(0, 1)]
    assert store.offer("s", chunks) == [(0, 1)]
    with pytest.raises(TransferFailed, match="not asked for"):
        store.receive("s", chunks.name, _frames(data, [1]))
    # Another store on the same folder: what lies there is hashed and believed.
    again = ObjectStore(tmp_path)
    assert again.offer("s", chunks) == [(0, 1)]
    assert again.receive("s", chunks.name, _frames(data, [0])) is None
    assert again.offer("s", chunks) is None
    assert again.receive("s", chunks.name, iter([])) is None
    assert again.path(chunks.name).read_bytes() == data
    assert not list((tmp_path / "incoming" / "s").iterdir())


def test_later_try_ends_a_hanging_one(tmp_path: Path) -> None:
    store = ObjectStore(tmp_path)
    data = os.urandom(3 * CHUNK_BYTES)
    chunks = ChunkList.of_bytes(data)
    store.offer("s", chunks)

    def hanging() -> Iterator[Piece]:
        yield from _frames(data, [0])
        store.receive("s", chunks.name, _frames(data, [1]))
        yield from _frames(bytes(len(data)), [2])

    with pytest.raises(TransferMoved, match="begun this upload again"):
        store.receive("s", chunks.name, hanging())
    assert store.offer("s", chunks) == [(2, 1)]


def test_damaged_list_of_chunks_is_made_again(tmp_path: Path) -> None:
    store = ObjectStore(tmp_path)
    data = os.urandom(CHUNK_BYTES + 9)
    name = store.put_bytes(data)
    beside = store.path(name).with_suffix(".chunks")
    for damage in (b"", b"x" * 64):
        beside.write_bytes(damage)
        assert store.chunks(name) == ChunkList.of_bytes(data)
    assert b"".join(bytes(piece.data) for piece in store.read(name, [(0, 9)])) == data
    store.path(name).write_bytes(data[:-1] + b"!")
    beside.unlink()
    with pytest.raises(TransferFailed, match="damaged"):
        store.chunks(name)
    store.drop(name)
    assert not list(store.path(name).parent.iterdir())


@settings(max_examples=40, deadline=None)
@given(
    cuts=st.lists(st.integers(0, 2 * CHUNK_BYTES + 17), max_size=5),
    size=st.sampled_from([0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, 2 * CHUNK_BYTES + 17]),
)
def test_name_does_not_depend_on_how_the_bytes_came(cuts: list[int], size: int) -> None:
    data = bytes(size)
    builder = ChunkListBuilder()
    edges = [0, *sorted(min(cut, size) for cut in cuts), size]
    for begin, end in itertools.pairwise(edges):
        builder.update(data[begin:end])
    assert builder.finish() == ChunkList.of_bytes(data)


def test_announced_lists_are_checked() -> None:
    chunks = ChunkList.of_bytes(b"abc")
    assert ChunkList.announced(chunks.name, 3, chunks.digests) == chunks
    for size, digests, words in (
        (4, chunks.digests, "does not belong"),
        (3, b"", "bytes of digests"),
        (3, chunks.digests * 2, "bytes of digests"),
        (-1, b"", "at most"),
        (MAX_CHUNKS * CHUNK_BYTES + 1, b"", "at most"),
    ):
        with pytest.raises(TransferFailed, match=words):
            ChunkList.announced(chunks.name, size, digests)


@settings(max_examples=100, deadline=None)
@given(
    chunk=st.integers(0, 2**32 - 1), offset=st.integers(0, 2**32 - 1), data=st.binary(max_size=300)
)
def test_frames_are_coded_as_protobuf_does(chunk: int, offset: int, data: bytes) -> None:
    piece = Piece(chunk, offset, data)
    raw = encode(piece)
    assert pb.Frame.FromString(raw) == pb.Frame(chunk=chunk, offset=offset, data=data)
    for coded in (raw, pb.Frame(chunk=chunk, offset=offset, data=data).SerializeToString()):
        read = decode(coded)
        assert (read.chunk, read.offset, bytes(read.data)) == (chunk, offset, data)
    head = pb.PutFrame(format=1, task_id="t", object="o")
    assert decode_put(encode(head)) == head


@settings(max_examples=200, deadline=None)
@given(raw=st.binary(max_size=60))
def test_random_frames_never_crash(raw: bytes) -> None:
    for read in (decode, decode_put):
        with contextlib.suppress(ValueError, DecodeError):
            read(raw)


def test_part_takes_a_chunk_in_order_only(tmp_path: Path) -> None:
    data = os.urandom(CHUNK_BYTES + 5)
    part = PartFile(tmp_path / "p", ChunkList.of_bytes(data))
    part.take(0, 0, data[:10])
    for index, offset, piece in ((0, 9, b"x"), (0, 11, b"x"), (2, 0, b"x"), (1, 3, b"x")):
        with pytest.raises(TransferFailed):
            part.take(index, offset, piece)
    with pytest.raises(TransferFailed, match="does not continue"):
        part.take(0, 10, bytes(CHUNK_BYTES))
    part.begin()
    for piece in _frames(data):
        part.take(piece.chunk, piece.offset, piece.data)
    part.finish(sync=False)
    assert (tmp_path / "p").read_bytes() == data
