"""Identity look-up: by role, audited, by the kernel's word for who asks; withdrawal, reopening."""

from __future__ import annotations

import os
import pwd
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from appliance.control import node_pb2 as pb
from appliance.control.client import NodeClient
from appliance.control.peers import (
    MOST_TICKETS,
    TICKET_METADATA,
    VALID_S,
    Caller,
    Custodians,
    Tickets,
    fetch_ticket,
    login_uid,
    ticket_socket,
)
from appliance.errors import ControlError, NotAllowed, NotFound, NotRunning
from appliance.pipeline.states import State
from tests.appliance.control.served import Served, key_of, serve
from tests.appliance.core.values import MATCH

ME = pwd.getpwuid(os.getuid()).pw_name


def test_a_custodian_sees_who_a_study_is_and_the_log_says_that_she_looked(node: Served) -> None:
    with node.client(actor="somebody-else") as client:
        found = client.identity(key_of(1)[:14], reason="the ward asks")
    assert (found.patient_name, found.patient_id) == (MATCH.PatientName, MATCH.PatientID)
    assert found.study_uid == MATCH.StudyInstanceUID
    (entry,) = node.entries("identity.revealed")
    assert (entry.actor, entry.object) == (ME, key_of(1)), "the kernel's name, not the stated one"
    assert dict(entry.detail) == {"reason": "the ward asks"}
    log = node.audit.path.read_text(encoding="utf-8")
    assert MATCH.PatientName not in log
    assert MATCH.StudyInstanceUID not in log


def test_a_pseudonym_is_looked_up_too(node: Served) -> None:
    subject = node.state.studies.get(key_of(1)).subject
    with node.client() as client:
        assert client.identity(f"sub-{subject}", reason="x").key == key_of(1)
        with pytest.raises(NotFound):
            client.identity("sub-nobody", reason="x")


def test_no_reason_no_look(node: Served) -> None:
    with node.client() as client, pytest.raises(NotAllowed, match="--reason"):
        client.identity(key_of(1), reason=" ")
    assert not node.entries("identity.revealed")


@pytest.fixture
def strict(runtime: Path, tmp_path: Path) -> Iterator[Served]:
    with serve(tmp_path / "home", accounts=["nobody-of-us", "999999"]) as served:
        yield served


def test_who_is_no_custodian_is_refused_and_written_down(strict: Served) -> None:
    refused = pytest.raises(NotAllowed, match="not a custodian")
    with strict.client(actor="nobody-of-us") as client, refused as caught:
        client.identity(key_of(1), reason="curious")
    assert MATCH.PatientID not in str(caught.value)
    assert [e.object for e in strict.entries("identity.refused")] == [key_of(1)]
    assert not strict.entries("identity.revealed")


@pytest.mark.parametrize("account", [ME, str(os.getuid())])
def test_named_custodians(runtime: Path, tmp_path: Path, account: str) -> None:
    with serve(tmp_path / "home", accounts=[account]) as node, node.client() as client:
        assert client.identity(key_of(1), reason="x").key == key_of(1)


def test_a_ticket_counts_once_and_a_made_up_one_never(node: Served) -> None:
    ticket = fetch_ticket(node.home.root)
    request = pb.ActionRequest(key=key_of(1), reason="x")
    with node.client() as client:
        metadata = ((TICKET_METADATA, ticket),)
        assert client._stub.RevealIdentity(request, metadata=metadata).key == key_of(1)
        for again in (ticket, "0" * 64, ""):
            with pytest.raises(grpc.RpcError) as caught:
                client._stub.RevealIdentity(request, metadata=((TICKET_METADATA, again),))
            assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION


def test_tickets_expire_and_are_bounded(runtime: Path, tmp_path: Path) -> None:
    now = [0.0]
    tickets = Tickets(tmp_path, login=lambda _pid, uid: uid, clock=lambda: now[0])
    tickets.start()
    try:
        first = fetch_ticket(tmp_path)
        assert tickets.redeem(first) == Caller(os.getuid(), os.getuid())
        old = fetch_ticket(tmp_path)
        now[0] = VALID_S + 1.0
        with pytest.raises(NotAllowed):
            tickets.redeem(old)
        flood = [fetch_ticket(tmp_path) for _ in range(MOST_TICKETS + 1)]
        with pytest.raises(NotAllowed):
            tickets.redeem(flood[0])
        assert tickets.redeem(flood[-1]).uid == os.getuid()
        assert ticket_socket(tmp_path).stat().st_mode & 0o077 == 0
    finally:
        tickets.stop()
    with pytest.raises(NotRunning):
        fetch_ticket(tmp_path)


def test_a_silent_peer_gets_its_ticket_and_leaves_the_server_free(
    runtime: Path, tmp_path: Path
) -> None:
    tickets = Tickets(tmp_path)
    tickets.start()
    try:
        with socket.socket(socket.AF_UNIX) as silent:
            silent.connect(str(ticket_socket(tmp_path)))
            assert len(fetch_ticket(tmp_path)) == 64
    finally:
        tickets.stop()


def test_the_login_survives_a_change_of_account() -> None:
    tickets = Custodians(Tickets(Path("/tmp"), login=lambda _pid, _uid: 4242), ["uid-4242"])
    assert Caller(0, 4242).name == "uid-4242"
    assert login_uid(os.getpid(), 7) in (7, int(Path("/proc/self/loginuid").read_text()))
    assert login_uid(2**31 - 1, 7) == 7, "a process that is gone"
    with pytest.raises(NotAllowed):
        tickets.admit("x")


def test_a_patients_withdrawal_and_a_reopening_are_audited(node: Served) -> None:
    with node.client() as client:
        assert "version 2" in client.act("study-reopen", key_of(1), reason="late").message
        said = client.act("patient-withdraw", key_of(2), reason="she asked")
    assert "1 studies erased" in said.message
    assert node.state.studies.get(key_of(2)).state is State.WITHDRAWN
    (entry,) = node.entries("patient.withdrawn")
    assert dict(entry.detail) == {"studies": 1, "reason": "she asked"}


def test_the_command_shows_an_identity_on_a_terminal_only(node: Served) -> None:
    line = [*(sys.executable, "-m", "appliance.cli", "--home", str(node.home.root))]
    line += ["study", "identity", key_of(1), "--reason", "the ward asks"]
    piped = subprocess.run(line, capture_output=True, text=True, check=False)
    assert piped.returncode == 1
    assert "terminal only" in piped.stderr
    assert MATCH.PatientID not in piped.stdout + piped.stderr
    main, terminal = os.openpty()
    with os.fdopen(main, "rb", buffering=0) as seen:
        shown = subprocess.run(line, stdout=terminal, stderr=subprocess.PIPE, check=False)
        os.close(terminal)
        text = seen.read(4096).decode()
    assert shown.returncode == 0, shown.stderr
    assert MATCH.PatientName in text
    assert MATCH.PatientID in text


def test_without_a_node_the_words_are_the_usual_ones(runtime: Path, tmp_path: Path) -> None:
    with NodeClient(tmp_path) as client, pytest.raises(ControlError, match="no node is running"):
        client.identity(key_of(1), reason="x")
