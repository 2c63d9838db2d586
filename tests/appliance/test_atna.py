"""The audit chain in ATNA form: one line per entry, also after a crash, and at a repository."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

from lxml import etree

from appliance.atna import AtnaFeed, AtnaParts, TlsSender, UdpSender
from dicom_bridge.net.tls import TlsFiles, client_context, server_context
from federation.audit_chain import AuditChain
from tests.certificates import Authority
from tests.dicom_bridge.test_atna import assert_valid
from tests.waiting import wait_for


def parts(folder: Path, sender: UdpSender | None = None) -> AtnaParts:
    return AtnaParts(
        folder / "audit.jsonl", folder / "atna.log", "CLINODE", "hospital-a", "node-a", sender
    )


def messages(folder: Path) -> list[etree._Element]:
    lines = (folder / "atna.log").read_text(encoding="utf-8").splitlines()
    return [etree.fromstring(line.partition("\ufeff")[2]) for line in lines]


def test_every_entry_is_told_once(tmp_path: Path) -> None:
    chain = AuditChain(tmp_path / "audit.jsonl")
    chain.append("node", "node.started", "hospital-a", {})
    chain.append("custodian", "study.withdraw", "st1", {"reason": "asked to"})
    feed = AtnaFeed(parts(tmp_path))
    assert (feed.catch_up(), feed.catch_up()) == (2, 0)
    chain.append("node", "result.sent", "rs1", {"destination": "main"})
    chain.append("node", "something.new", "x", {})
    assert feed.catch_up() == 2
    assert AtnaFeed(parts(tmp_path)).catch_up() == 0
    found = messages(tmp_path)
    for line in found:
        assert_valid(etree.tostring(line, encoding="unicode"))
    events = [line.find("EventIdentification/EventID").get("csd-code") for line in found]
    assert events == ["110100", "110105", "110104", "110100"]
    assert found[1].find("ActiveParticipant").attrib["UserIsRequestor"] == "true"
    assert (tmp_path / "atna.log").stat().st_mode & 0o777 == 0o600


def test_a_torn_line_is_written_again(tmp_path: Path) -> None:
    chain = AuditChain(tmp_path / "audit.jsonl")
    for number in range(3):
        chain.append("node", "study.received", f"st{number}", {})
    AtnaFeed(parts(tmp_path)).catch_up()
    log = tmp_path / "atna.log"
    whole = log.read_bytes()
    for cut in (1, 40, len(whole.splitlines()[-1])):
        log.write_bytes(whole[:-cut])
        assert AtnaFeed(parts(tmp_path)).catch_up() == 1
        assert log.read_bytes() == whole


def test_messages_reach_a_repository(tmp_path: Path) -> None:
    chain = AuditChain(tmp_path / "audit.jsonl")
    chain.append("node", "node.started", "hospital-a", {})
    got: list[bytes] = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as repository:
        repository.bind(("127.0.0.1", 0))
        repository.settimeout(20.0)
        sender = UdpSender("127.0.0.1", repository.getsockname()[1])
        feed = AtnaFeed(parts(tmp_path, sender))
        feed.catch_up()
        assert feed.forward()
        got.append(repository.recv(65535))
        again = AtnaFeed(parts(tmp_path, sender))
        again.catch_up()
        chain.append("node", "node.stopped", "hospital-a", {})
        again.catch_up()
        assert again.forward()
        got.append(repository.recv(65535))
    assert [b"110120" in line for line in got] == [True, False]
    assert [b"110121" in line for line in got] == [False, True]


def test_messages_reach_a_repository_over_tls(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "certificates", "authority")
    ours, theirs = authority.issue("node"), authority.issue("repository")
    chain = AuditChain(tmp_path / "audit.jsonl")
    chain.append("node", "node.started", "hospital-a", {})
    chain.append("node", "node.stopped", "hospital-a", {})
    got: list[bytes] = []
    server = server_context(TlsFiles(theirs.certificate, theirs.key, authority.path))
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def repository() -> None:
            """Take both frames (RFC 5425), then end."""
            plain, _ = listener.accept()
            with server.wrap_socket(plain, server_side=True) as connection:
                stream = connection.makefile("rb")
                for _ in range(2):
                    length = b""
                    while not length.endswith(b" "):
                        length += stream.read(1)
                    got.append(stream.read(int(length)))

        thread = threading.Thread(target=repository, daemon=True)
        thread.start()
        files = TlsFiles(ours.certificate, ours.key, authority.path)
        port = listener.getsockname()[1]
        sender = TlsSender("127.0.0.1", port, lambda: client_context(files))
        feed = AtnaFeed(AtnaParts(chain.path, tmp_path / "atna.log", "N", "a", "h", sender))
        feed.catch_up()
        assert feed.forward()
        thread.join(timeout=20.0)
        sender.close()
    lines = (tmp_path / "atna.log").read_bytes().splitlines()
    assert got == lines


class _Away:
    """A repository that is away."""

    def send(self, line: str) -> None:
        raise ConnectionRefusedError("nobody listens")


def test_a_repository_that_is_away_loses_nothing(tmp_path: Path) -> None:
    chain = AuditChain(tmp_path / "audit.jsonl")
    chain.append("node", "node.started", "hospital-a", {})
    feed = AtnaFeed(AtnaParts(chain.path, tmp_path / "atna.log", "N", "a", "h", _Away()))
    feed.catch_up()
    assert not feed.forward()
    assert "does not take messages" in feed.problem


def test_the_thread_follows(tmp_path: Path) -> None:
    chain = AuditChain(tmp_path / "audit.jsonl")
    stop = threading.Event()
    thread = threading.Thread(target=AtnaFeed(parts(tmp_path)).run, args=(stop,))
    thread.start()
    chain.append("node", "node.started", "hospital-a", {})
    wait_for(lambda: (tmp_path / "atna.log").exists() and messages(tmp_path), what="a message")
    stop.set()
    thread.join()
