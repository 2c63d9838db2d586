"""Objects between a site and its coordinator, chunk by chunk.

Whoever receives says which chunks it lacks; what arrived before a cut or a restart is hashed again
and not sent again. A transfer ends by itself only when nothing moves: there is no limit on its
whole time.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast

import grpc
import structlog

from federation.chunks import ChunkList, indices
from federation.errors import CoordinatorUnreachable, TransferFailed
from federation.node.bulk import BulkDialler, BulkDownload, BulkUpload
from federation.spares import Spares
from federation.staging import PartFile
from federation.wire import federation_pb2 as pb
from federation.wire.federation_pb2_grpc import FederationStub
from federation.wire.frames import (
    GET_METHOD,
    IDLE_S,
    PUT_METHOD,
    Coded,
    Piece,
    decode,
    encode,
    pieces,
)
from federation.wire.versions import MESSAGE_FORMAT

OFFER_S: Final = 30.0
TRIES: Final = 3
"""How often an object may arrive spoiled before the task fails."""
_log = structlog.get_logger(__name__)

Repeated = Callable[[Callable[[], None]], None]
"""Makes a call again and again while the coordinator cannot be reached."""


@dataclass(frozen=True, slots=True)
class Transfer:
    """What a transfer took; the bytes are those that went over the line, repeated ones too."""

    seconds: float
    bytes: int


class ChunkCalls:
    """The calls of one channel that move objects.

    Args:
        channel: to the coordinator.
        stub: the channel's other calls.
        bulk: opens connections for chunks alone; where the coordinator has none, the channel does.
    """

    def __init__(self, channel: grpc.Channel, stub: FederationStub, bulk: BulkDialler) -> None:
        self._bulk = bulk
        self._get = channel.unary_stream(
            GET_METHOD,
            request_serializer=pb.GetChunksRequest.SerializeToString,
            response_deserializer=decode,
        )
        self._put = channel.stream_unary(
            PUT_METHOD,
            request_serializer=encode,
            response_deserializer=pb.ObjectStatus.FromString,
        )
        self._stub = stub

    def get(self, request: pb.GetChunksRequest) -> grpc.CallIterator[Piece] | BulkDownload:
        """Ask for chunks."""
        link = self._bulk.dial()
        if link is not None:
            return BulkDownload(self._bulk, link, request)
        return cast("grpc.CallIterator[Piece]", self._get(request))

    def offer(self, request: pb.OfferRequest) -> pb.ObjectStatus:
        """Announce an upload."""
        return self._stub.OfferObject(request, timeout=OFFER_S)

    def put(self, frames: Iterator[Coded]) -> grpc.CallFuture[pb.ObjectStatus] | BulkUpload:
        """Send chunks."""
        link = self._bulk.dial()
        if link is not None:
            return BulkUpload(self._bulk, link, frames)
        return cast("grpc.CallFuture[pb.ObjectStatus]", self._put.future(frames))


class ObjectMover:
    """Moves objects in both directions.

    Args:
        calls: gives the calls of the channel in use.
        repeated: repeats a call while the coordinator cannot be reached.

    Attributes:
        unwanted: set while an upload must not go on: it ends with its next piece.
    """

    def __init__(self, calls: Callable[[], ChunkCalls], repeated: Repeated) -> None:
        self._calls = calls
        self._repeated = repeated
        self.unwanted = threading.Event()
        self._known: dict[Path, tuple[str, int, int, int]] = {}
        self._spares: dict[Path, Spares] = {}

    def download(self, task_id: str, payload: pb.Payload, target: Path) -> Transfer:
        """Fetch an object into ``target``; what is there of it already is not sent again.

        Raises:
            TransferFailed: chunks came spoiled again and again, or the object is gone.
        """
        started = time.monotonic()
        if payload.size and not payload.digests:
            raise TransferFailed("the coordinator does not have this object any more")
        chunks = ChunkList.announced(payload.sha256, payload.size, payload.digests)
        if self._is_here(target, chunks):
            return Transfer(time.monotonic() - started, 0)
        unfinished = target.with_name(f"{chunks.name}.part")
        part = PartFile(unfinished, chunks, spares=self._spares_of(target))
        fetch = _Fetch(task_id, part)
        try:
            for left in reversed(range(TRIES)):
                try:
                    self._repeated(lambda: fetch(self._calls()))
                except TransferFailed:
                    if not left:
                        raise
                else:
                    break
            # Not synced: after a power cut the file is hashed before it is used, and fetched anew.
            part.finish(sync=False)
        finally:
            part.close()
        part.path.replace(target)
        self._known[target] = _signature(target, chunks)
        return Transfer(time.monotonic() - started, fetch.moved)

    def upload(self, task_id: str, payload: pb.Payload, source: Path) -> Transfer:
        """Send the chunks of an object that the coordinator lacks.

        Raises:
            TransferFailed: the coordinator found another hash than announced, or ``unwanted`` was
                set.
            FileNotFoundError: there is no such file.
        """
        started = time.monotonic()
        digests = payload.digests or ChunkList.of_file(source).digests
        chunks = ChunkList.announced(payload.sha256, payload.size, digests)
        send = _Send(task_id, chunks, source, self.unwanted)
        self._repeated(lambda: send(self._calls()))
        return Transfer(time.monotonic() - started, send.moved)

    def retire(self, target: Path) -> None:
        """Give up an object that was downloaded: its file serves a later download."""
        self._known.pop(target, None)
        self._spares_of(target).retire(target)

    def make_room(self) -> None:
        """Delete what waits to be written over."""
        for spares in self._spares.values():
            spares.clear()

    def _spares_of(self, target: Path) -> Spares:
        folder = target.parent.with_name("spare")
        if folder not in self._spares:
            # A file is hashed before it is believed, so its former name need not be gone for good.
            self._spares[folder] = Spares(folder, durable=False)
        return self._spares[folder]

    def _is_here(self, target: Path, chunks: ChunkList) -> bool:
        """Whether the object is here; a file is hashed once in this process's life."""
        if not target.exists() or target.stat().st_size != chunks.size:
            return False
        signature = _signature(target, chunks)
        if self._known.get(target) != signature:
            if ChunkList.of_file(target).name != chunks.name:
                return False
            self._known[target] = signature
        return True


def _signature(path: Path, chunks: ChunkList) -> tuple[str, int, int, int]:
    facts = path.stat()
    return chunks.name, facts.st_ino, facts.st_mtime_ns, facts.st_size


class _Fetch:
    """One download; called again after each cut."""

    def __init__(self, task_id: str, part: PartFile) -> None:
        self._task_id = task_id
        self._part = part
        self.moved = 0

    def __call__(self, calls: ChunkCalls) -> None:
        part = self._part
        missing = [pb.ChunkRange(first=first, count=count) for first, count in part.missing()]
        if not missing:
            return
        part.begin()
        request = pb.GetChunksRequest(
            format=MESSAGE_FORMAT, task_id=self._task_id, object=part.chunks.name, ranges=missing
        )
        stream = calls.get(request)
        try:
            with _Watch(stream.cancel) as watch:
                for piece in stream:
                    watch.moved()
                    self.moved += len(piece.data)
                    part.take(piece.chunk, piece.offset, piece.data)
        finally:
            stream.cancel()
        if not part.complete:
            raise CoordinatorUnreachable("the object's stream ended early")


class _Send:
    """One upload; called again after each cut."""

    def __init__(
        self, task_id: str, chunks: ChunkList, source: Path, unwanted: threading.Event
    ) -> None:
        self._task_id = task_id
        self._chunks = chunks
        self._source = source
        self._unwanted = unwanted
        self.moved = 0

    def _go_on(self) -> None:
        if self._unwanted.is_set():
            raise TransferFailed("the site broke the upload off")

    def __call__(self, calls: ChunkCalls) -> None:
        self._go_on()
        chunks = self._chunks
        offer = pb.OfferRequest(
            format=MESSAGE_FORMAT,
            task_id=self._task_id,
            object=chunks.name,
            size=chunks.size,
            digests=chunks.digests,
        )
        status = calls.offer(offer)
        if status.complete:
            return
        missing = [(entry.first, entry.count) for entry in status.missing]
        with _Watch(lambda: None) as watch:
            call = calls.put(self._frames(missing, watch))
            watch.ends = call.cancel
            result = call.result()
        if not result.complete:
            raise CoordinatorUnreachable("the upload ended early")

    def _frames(self, missing: list[tuple[int, int]], watch: _Watch) -> Iterator[Coded]:
        """The call's frames; gRPC takes them in a thread of its own, which owns the file."""
        chunks = self._chunks
        yield pb.PutFrame(format=MESSAGE_FORMAT, task_id=self._task_id, object=chunks.name)
        with self._source.open("rb", buffering=0) as stream:
            for piece in pieces(stream.fileno(), chunks, indices(missing, chunks.count)):
                self._go_on()
                watch.moved()
                yield piece
                self.moved += len(piece.data)


class _Watch:
    """Breaks a transfer off in which nothing moves: progress is the limit, not the whole time."""

    def __init__(self, ends: Callable[[], object]) -> None:
        self.ends = ends
        self._last = time.monotonic()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="transfer-watch", daemon=True)

    def __enter__(self) -> _Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def moved(self) -> None:
        """Bytes moved just now."""
        self._last = time.monotonic()

    def _run(self) -> None:
        while not self._over.wait(1.0):
            if time.monotonic() - self._last > IDLE_S:
                _log.warning("transfer_stalled", idle_s=IDLE_S)
                self.ends()
                return


def payload_of(kind: pb.PayloadKind.ValueType, name: str, path: Path) -> pb.Payload:
    """The payload entry of a file, which is hashed here."""
    chunks = ChunkList.of_file(path)
    return pb.Payload(
        kind=kind, name=name, sha256=chunks.name, size=chunks.size, digests=chunks.digests
    )
