"""Objects resume at the byte where they broke, in both directions and across restarts."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from federation.coordinator.objects import ObjectStore
from federation.coordinator.schema import TaskRow
from federation.coordinator.states import TaskState
from federation.errors import RequestRefused, TransferFailed, TransferMoved
from federation.node.connection import CoordinatorConnection, RetryPolicy, payload_of
from federation.wire import federation_pb2 as pb
from federation.wire.versions import CHUNK_BYTES
from tests.federation.cutting_proxy import CuttingProxy
from tests.federation.doubles import Federation

SIZE = 12 * CHUNK_BYTES + 12_345


class Rig:
    """A site with one training task whose model is a large object."""

    def __init__(self, federation: Federation) -> None:
        self.federation = federation
        self.identity = federation.enrolled("site-a")
        self.objects = federation.coordinator.objects
        self.data = os.urandom(SIZE)
        self.sha = self.objects.put_bytes(self.data)
        self.payload = pb.Payload(
            kind=pb.PAYLOAD_KIND_WEIGHTS, name="w", sha256=self.sha, size=SIZE
        )
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


def test_download_resumes_at_the_byte(rig: Rig, tmp_path: Path) -> None:
    proxy = rig.proxy(3 * CHUNK_BYTES, upward=False)
    link = rig.connection(proxy.address)
    target = tmp_path / "object"
    moved = link.download(rig.task.task_id, rig.payload, target)
    assert target.read_bytes() == rig.data
    assert proxy.cuts >= 3
    # What a cut wastes is at most what was in flight, never the object from its beginning.
    assert moved.bytes <= SIZE
    assert proxy.carried < 1.6 * SIZE
    assert link.download(rig.task.task_id, rig.payload, target).bytes == 0
    link.close()
    proxy.close()


def test_download_goes_on_from_a_part_of_an_earlier_process(rig: Rig, tmp_path: Path) -> None:
    target = tmp_path / "object"
    have = 7 * CHUNK_BYTES + 11
    (tmp_path / f"{rig.sha}.part").write_bytes(rig.data[:have])
    link = rig.connection()
    assert link.download(rig.task.task_id, rig.payload, target).bytes == SIZE - have
    assert target.read_bytes() == rig.data
    link.close()


def test_spoiled_part_is_fetched_anew(rig: Rig, tmp_path: Path) -> None:
    (tmp_path / f"{rig.sha}.part").write_bytes(b"\0" * (SIZE - 100))
    link = rig.connection()
    moved = link.download(rig.task.task_id, rig.payload, tmp_path / "object")
    assert moved.bytes == 100 + SIZE
    (tmp_path / f"{rig.sha}.part").write_bytes(b"\0" * (SIZE + 5))
    link.download(rig.task.task_id, rig.payload, tmp_path / "second")
    assert (tmp_path / "second").read_bytes() == rig.data
    link.close()


def test_upload_resumes_at_the_byte(rig: Rig, tmp_path: Path) -> None:
    source = tmp_path / "update"
    source.write_bytes(os.urandom(SIZE))
    payload = payload_of(pb.PAYLOAD_KIND_UPDATE, "u", source)
    proxy = rig.proxy(3 * CHUNK_BYTES, upward=True)
    link = rig.connection(proxy.address)
    link.upload(rig.task.task_id, payload, source)
    assert rig.objects.path(payload.sha256).read_bytes() == source.read_bytes()
    assert proxy.cuts >= 2
    assert proxy.carried < 2 * SIZE
    assert link.upload(rig.task.task_id, payload, source).bytes == 0
    link.close()
    proxy.close()


def test_upload_goes_on_where_an_earlier_process_stopped(rig: Rig, tmp_path: Path) -> None:
    source = tmp_path / "update"
    source.write_bytes(os.urandom(SIZE))
    payload = payload_of(pb.PAYLOAD_KIND_UPDATE, "u", source)
    have = 5 * CHUNK_BYTES + 77
    part = rig.federation.home / "objects" / "incoming" / "site-a" / f"{payload.sha256}.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(source.read_bytes()[:have])
    link = rig.connection()
    assert link.upload(rig.task.task_id, payload, source).bytes == SIZE - have
    assert rig.objects.has(payload.sha256)
    link.close()


def test_wrong_hash_is_thrown_away_and_named(rig: Rig, tmp_path: Path) -> None:
    source = tmp_path / "update"
    source.write_bytes(b"other bytes than announced")
    payload = pb.Payload(sha256="a" * 64, size=source.stat().st_size)
    link = rig.connection()
    with pytest.raises(TransferFailed, match="announced SHA-256"):
        link.upload(rig.task.task_id, payload, source)
    assert rig.objects.arrived("site-a", "a" * 64) == (0, False)
    link.close()


def test_limits_of_a_task(rig: Rig, tmp_path: Path) -> None:
    link = rig.connection()
    large = pb.Payload(sha256="b" * 64, size=3 * SIZE)
    with pytest.raises(RequestRefused, match="this task takes"):
        link.upload(rig.task.task_id, large, Path("/dev/zero"))
    other = rig.objects.put_bytes(b"another site's update")
    with pytest.raises(RequestRefused, match="does not name such an object"):
        link.download(rig.task.task_id, pb.Payload(sha256=other, size=21), tmp_path / "x")
    with pytest.raises(TransferFailed, match="64 lower-case"):
        link.upload(rig.task.task_id, pb.Payload(sha256="../../x", size=1), Path("/dev/null"))
    link.close()


def test_store_takes_chunks_only_where_it_stands(tmp_path: Path) -> None:
    store = ObjectStore(tmp_path)
    data = b"0123456789"
    sha = hashlib.sha256(data).hexdigest()
    assert store.receive("s", (sha, 10), iter([(0, data[:4])])) == (4, False)
    with pytest.raises(TransferMoved, match="a chunk at 0, expected 4"):
        store.receive("s", (sha, 10), iter([(0, data)]))
    with pytest.raises(TransferFailed, match="more bytes than the 10"):
        store.receive("s", (sha, 10), iter([(4, data)]))
    assert store.receive("s", (sha, 10), iter([(4, data[4:])])) == (10, True)
    assert store.receive("s", (sha, 10), iter([(0, b"ignored")])) == (10, True)
    assert b"".join(part for _, part in store.read(sha, 3)) == data[3:]
    with pytest.raises(TransferFailed, match="behind the object"):
        list(store.read(sha, 11))
    with pytest.raises(TransferFailed, match="not here"):
        list(store.read("0" * 64, 0))


def test_later_try_ends_a_hanging_one(tmp_path: Path) -> None:
    store = ObjectStore(tmp_path)
    data = b"0123456789"
    sha = hashlib.sha256(data).hexdigest()

    def hanging() -> Iterator[tuple[int, bytes]]:
        yield 0, data[:2]
        store.receive("s", (sha, 10), iter([(2, data[2:5])]))
        yield 2, data[2:]

    with pytest.raises(TransferMoved, match="begun this upload again"):
        store.receive("s", (sha, 10), hanging())
    assert store.arrived("s", sha) == (5, False)
