"""Revocation holds at once: at the next chunk of a transfer, and in the middle of a round."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from safetensors.numpy import load_file

from federation.audit_chain import AuditChain, read_entries
from federation.clock import utc_now
from federation.coordinator.control_client import CoordinatorClient
from federation.coordinator.front import FrontSettings, TlsFront
from federation.coordinator.servicer import Gate
from federation.coordinator.settings import Home
from federation.enrolment import SiteIdentity, enrol, load_identity
from federation.enrolment.renewal import Renewal
from federation.errors import IdentityRefused, RunRefused
from federation.node.agent import AgentOptions, SiteAgent
from federation.node.connection import CoordinatorConnection, RetryPolicy
from federation.pki import SERVER_NAME
from federation.trainer import TrainJob, TrainResult
from federation.wire.guard import Guard
from tests.federation.doubles import (
    Federation,
    NumpyTrainer,
    initial_tensors,
    small_plan,
    trained,
)
from tests.waiting import wait_for

pytestmark = pytest.mark.integration
SITE = "site-a"
QUICK = RetryPolicy(first_s=0.02, longest_s=0.1)


@dataclass
class Streams:
    """A service of two bare streams behind the real front, gate and guard."""

    taken: list[bytes] = field(default_factory=list)
    go: threading.Event = field(default_factory=threading.Event)

    def up(self, chunks: Iterator[bytes], _: grpc.ServicerContext) -> bytes:
        for chunk in chunks:
            self.taken.append(chunk)
        return b"all"

    def down(self, _: bytes, __: grpc.ServicerContext) -> Iterator[bytes]:
        yield b"first"
        self.go.wait(20)
        yield b"second"


@dataclass
class Rig:
    """Where a test streams."""

    federation: Federation
    streams: Streams
    address: str

    def channel(self, identity: SiteIdentity) -> grpc.Channel:
        """A channel by mutual TLS as one site."""
        credentials = grpc.ssl_channel_credentials(
            identity.authority_pem, identity.key_pem, identity.certificate_pem
        )
        options = (("grpc.ssl_target_name_override", SERVER_NAME),)
        return grpc.secure_channel(self.address, credentials, options=options)


@pytest.fixture
def rig(federation: Federation, tmp_path: Path) -> Iterator[Rig]:
    home, backend = Home(federation.home), tmp_path / "s"
    front = TlsFront(
        FrontSettings("127.0.0.1", 0, home.server, home.server_key, home.authorities),
        backend,
        lambda *_: None,
    )
    streams = Streams()
    audit = AuditChain(tmp_path / "audit.jsonl", utc_now)
    server = grpc.server(
        ThreadPoolExecutor(4), [], [Guard(Gate(front, federation.coordinator.registry, audit))]
    )
    handlers = {
        "Up": grpc.stream_unary_rpc_method_handler(streams.up),
        "Down": grpc.unary_stream_rpc_method_handler(streams.down),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("t.S", handlers),))
    server.add_insecure_port(f"unix:{backend}")
    server.start()
    yield Rig(federation, streams, f"127.0.0.1:{front.start()}")
    streams.go.set()
    server.stop(1).wait()
    front.stop()
    audit.close()


def revoke(rig: Rig, _: SiteIdentity) -> str:
    rig.federation.coordinator.registry.revoke(SITE, "key stolen")
    return "certificate revoked"


def supersede(rig: Rig, identity: SiteIdentity) -> str:
    """The renewed certificate calls while the old one's stream is open."""
    link = CoordinatorConnection(identity, retry=QUICK)
    keys = rig.federation.folder / SITE / "keys"
    link.use(Renewal(keys).renew(identity, link.renew))
    assert link.handshake().project
    link.close()
    return "certificate not registered for this site"


Bar = Callable[[Rig, SiteIdentity], str]


@pytest.mark.parametrize("bar", [revoke, supersede])
def test_the_chunk_after_it_is_not_taken(rig: Rig, bar: Bar) -> None:
    """Upload and download: what came before stays, the next message ends both in words."""
    identity = rig.federation.enrolled(SITE)
    chunks: queue.Queue[bytes] = queue.Queue()

    def sent() -> Iterator[bytes]:
        while data := chunks.get():
            yield data

    with rig.channel(identity) as channel:
        up = channel.stream_unary("/t.S/Up").future(sent())
        down = channel.unary_stream("/t.S/Down")(b"please")
        assert next(down) == b"first"
        for data in (b"one", b"two"):
            chunks.put(data)
        wait_for(lambda: rig.streams.taken == [b"one", b"two"], what="two chunks", seconds=10)
        words = bar(rig, identity)
        chunks.put(b"three")
        rig.streams.go.set()
        for refused in (lambda: up.result(timeout=20), lambda: next(down)):
            with pytest.raises(grpc.RpcError) as caught:
                refused()
            assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
            assert words in caught.value.details()
        chunks.put(b"")
    assert rig.streams.taken == [b"one", b"two"]


class HeldTrainer(NumpyTrainer):
    """Trains when a test lets it."""

    started = threading.Event()
    released = threading.Event()

    def train(self, job: TrainJob) -> TrainResult:
        self.started.set()
        assert self.released.wait(60)
        return super().train(job)


def _held_agent(federation: Federation) -> tuple[SiteAgent, threading.Thread, list[Exception]]:
    """An agent of `SITE` whose training waits, in a thread; what ends it is kept."""
    HeldTrainer.started.clear()
    HeldTrainer.released.clear()
    site = federation.site(SITE)

    def trainers(folder: Path, resources: Any) -> HeldTrainer:  # noqa: ANN401
        trainer = HeldTrainer(folder, resources)
        trainer.site, trainer.cases = SITE, 3
        return trainer

    link = CoordinatorConnection(federation.enrolled(SITE), retry=QUICK)
    agent = SiteAgent(link, site, AgentOptions(trainers=trainers, deferred_poll_s=0.2))
    ended: list[Exception] = []

    def run() -> None:
        try:
            agent.run(threading.Event())
        except IdentityRefused as error:
            ended.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return agent, thread, ended


def test_in_a_running_round_the_sites_result_is_not_taken(
    federation: Federation, control: CoordinatorClient, tmp_path: Path
) -> None:
    agent, thread, ended = _held_agent(federation)
    for name in ("site-b", "site-c"):
        federation.start(federation.site(name))
    run_id = control.submit(small_plan(1))["run_id"]
    assert HeldTrainer.started.wait(40)
    control.revoke_site(SITE, "laptop stolen")
    HeldTrainer.released.set()
    thread.join(30)
    assert [str(error) for error in ended] == [
        "refused: certificate revoked; ask the coordinator's operator"
    ]
    assert agent.status.words == str(ended[0])
    assert not agent.status.connected
    finished = wait_for(
        lambda: (run := control.run(run_id))["state"] == "finished" and run,
        what="the run to finish without the site",
        seconds=60,
    )
    (site,) = [row for row in finished["sites"] if row["site"] == SITE]
    assert (site["state"], site["words"]) == ("left", "revoked")
    control.export(run_id, tmp_path / "model")
    (weights,) = (tmp_path / "model").glob("*.safetensors")
    begin = initial_tensors()
    expected = np.mean(
        [trained(name, 0, begin)["conv.weight"] for name in ("site-b", "site-c")], axis=0
    )
    np.testing.assert_allclose(load_file(weights)["conv.weight"], expected, rtol=1e-6)
    actions = [entry.action for entry in read_entries(federation.home / "audit.jsonl")]
    assert "site.revoked" in actions
    assert "call.refused" in actions


def test_back_with_a_new_token_and_the_old_certificate_stays_dead(
    federation: Federation, control: CoordinatorClient, tmp_path: Path
) -> None:
    old = federation.enrolled(SITE)
    stale = CoordinatorConnection(old, retry=QUICK)
    assert stale.handshake().project
    with pytest.raises(RunRefused, match="revoke it first"):
        federation.coordinator.registry.add(SITE)
    control.revoke_site(SITE, "left")
    federation.restart()
    token = federation.coordinator.registry.add(SITE)
    with pytest.raises(IdentityRefused, match="revoked"):
        stale.handshake()  # a token alone brings nothing back
    new = enrol(token, tmp_path / "anew", SITE)
    back = CoordinatorConnection(new, retry=QUICK)
    assert back.poll(wait_s=0).format
    with pytest.raises(IdentityRefused, match="not registered for this site"):
        stale.handshake()
    for link in (stale, back):
        link.close()


def test_adding_a_site_touches_no_other(
    federation: Federation, control: CoordinatorClient, tmp_path: Path
) -> None:
    """Connections stay the same TCP connections, files the same bytes, identities the same rows."""
    links = [CoordinatorConnection(federation.enrolled(name)) for name in ("site-b", "site-c")]
    for link in links:
        link.handshake()
    front = federation.coordinator._front
    assert front is not None
    open_before = set(front._live)
    assert len(open_before) == 2
    folders = [federation.home / "keys", federation.folder / "site-b", federation.folder / "site-c"]
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in files}
    rows = {s.name: s for s in federation.coordinator.store.sites()}
    enrol(control.add_site("site-new", 0.0), tmp_path / "new", "site-new")
    newcomer = CoordinatorConnection(load_identity(tmp_path / "new"))
    assert newcomer.handshake().project
    assert open_before <= set(front._live)
    for link in links:
        assert link.poll(wait_s=0).format
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in files} == before
    after = {s.name: s for s in federation.coordinator.store.sites()}
    assert all(after[name].serial == row.serial for name, row in rows.items())
    for link in (*links, newcomer):
        link.close()
