"""The acceptor without sockets: framing, state table, command sets, heads, conversations."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGLSLossless,
)

from dicom_bridge.net.filemeta import preamble_and_meta
from dicom_bridge.net.guard import MessageBounds, SpillBuffer
from dicom_bridge.net.intake import Delivery, Intake, StoreRefused, Tally, read_head
from dicom_bridge.net.scp.command import CommandInvalid, encode_response, parse_command
from dicom_bridge.net.scp.conversation import Conversation
from dicom_bridge.net.scp.head import scan_head
from dicom_bridge.net.scp.machine import TABLE, Action, Event, Machine, State, event_of
from dicom_bridge.net.scp.negotiation import (
    STORAGE_COMMITMENT,
    Accepted,
    Rejected,
    is_known_syntax,
    is_served,
    negotiate,
)
from dicom_bridge.net.scp.pdu import PduInvalid, check_length, data_pdus, fragments
from dicom_bridge.net.scp.rooms import Board, Limits, WaitingRoom
from dicom_bridge.net.scp.sink import IntakeSink, Titles
from tests.dicom_bridge.net import raw
from tests.dicom_bridge.net.test_receiver import encoded, minimal
from tests.pacs import FolderInbox, StudyForm, write_small_study

TITLES = Titles("NODE", frozenset({"STORESCU"}))


@pytest.mark.parametrize(
    ("kind", "length"), [(4, 1 << 31), (1, 1 << 24), (7, 1 << 20), (4, 131072 + 1025), (99, 5000)]
)
def test_lying_length_is_refused_from_the_header(kind: int, length: int) -> None:
    with pytest.raises(PduInvalid, match="more than was negotiated"):
        check_length(kind, length)


@given(st.lists(st.tuples(st.integers(0, 255), st.integers(0, 3), st.binary(max_size=50))))
def test_fragments_give_back_what_was_packed(items: list[tuple[int, int, bytes]]) -> None:
    body = b"".join(raw.pdv(*item) for item in items)
    if not items:
        with pytest.raises(PduInvalid):
            list(fragments(memoryview(body)))
        return
    assert [(i, c, bytes(d)) for i, c, d in fragments(memoryview(body))] == items


@given(st.binary(max_size=60))
def test_any_bytes_are_fragments_or_refused(body: bytes) -> None:
    try:
        parts = list(fragments(memoryview(body)))
    except PduInvalid:
        return
    assert sum(len(data) + 6 for _, _, data in parts) == len(body)


@given(st.binary(min_size=1, max_size=400), st.integers(64, 200))
def test_a_long_command_is_split_to_the_peers_limit(text: bytes, longest: int) -> None:
    sent = data_pdus(3, text, longest)
    at, back = 0, b""
    while at < len(sent):
        kind, length = struct.unpack_from(">BxL", sent, at)
        assert kind == 4
        assert length <= longest
        for context, control, data in fragments(memoryview(sent)[at + 6 : at + 6 + length]):
            assert context == 3
            back += bytes(data)
            last = control == 3
        at += 6 + length
    assert back == text
    assert last


def test_every_pdu_has_an_entry_in_every_state_that_hears() -> None:
    hearing = set(State) - {State.IDLE}
    heard = {event_of(kind) for kind in range(1, 9)} | {Event.CLOSED, Event.EXPIRED}
    assert {(state, event) for state in hearing for event in heard} <= TABLE.keys()


def test_after_release_or_abort_nothing_is_delivered() -> None:
    for (state, event), (action, after) in TABLE.items():
        if action is Action.DELIVER:
            assert (state, event, after) == (State.OPEN, Event.DATA, State.OPEN)
    machine = Machine()
    for event in (Event.REQUEST, Event.ACCEPTED, Event.RELEASE):
        machine.on(event)
    assert machine.on(Event.DATA) is Action.IGNORE


def test_a_store_command_is_read_and_answered() -> None:
    request = parse_command(raw.command(1, sop_uid="1.2.3"))
    assert (request.field, request.message_id, request.has_data) == (1, 7, True)
    assert (request.sop_class, request.sop_uid) == (raw.MR, "1.2.3")
    answer = encode_response(request, 0xA700, "the disk is full, or nearly so, and " + "x" * 99)
    told = parse_command(answer)
    assert told.field == 0x8001
    (length,) = struct.unpack_from("<L", answer, 8)
    assert length == len(answer) - 12


@given(st.binary(max_size=200))
def test_any_bytes_are_a_command_or_refused(data: bytes) -> None:
    try:
        parse_command(data)
    except CommandInvalid:
        return


SYNTAXES = [
    ImplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
]


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_heads_are_found_as_the_general_reader_finds_them(syntax: UID) -> None:
    content = encoded(minimal(), syntax)
    assert scan_head(memoryview(content), syntax) == read_head(content, syntax)


def nested(depth: int, *, undefined: bool) -> Dataset:
    item = Dataset()
    item.StudyInstanceUID = "9.9.9"
    item.PatientName = "x"
    if depth:
        item.ReferencedStudySequence = [nested(depth - 1, undefined=undefined)] * 2
        item["ReferencedStudySequence"].is_undefined_length = undefined
    for inner in [item]:
        inner.is_undefined_length_sequence_item = undefined
    return item


@pytest.mark.parametrize("undefined", [True, False])
@pytest.mark.parametrize("syntax", SYNTAXES[:2])
def test_heads_are_not_read_from_nested_items(syntax: UID, undefined: bool) -> None:
    ds = minimal()
    ds.ReferencedStudySequence = [nested(3, undefined=undefined), nested(0, undefined=undefined)]
    ds["ReferencedStudySequence"].is_undefined_length = undefined
    content = encoded(ds, syntax)
    head = scan_head(memoryview(content), syntax)
    assert (head.study_uid, head.sop_uid) == ("1.2.4", "1.2.3")


@given(st.data())
def test_a_damaged_head_is_judged_as_by_the_general_reader(data: st.DataObject) -> None:
    syntax = data.draw(st.sampled_from(SYNTAXES[:2]))
    content = bytearray(encoded(minimal(), syntax))
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = scan_head(memoryview(bytes(content)), syntax)
    except StoreRefused:
        return
    # What the quick scanner accepts names four values that really stand in the bytes.
    for uid in (found.sop_uid, found.study_uid, found.series_uid):
        assert uid.encode() in bytes(content)


@pytest.mark.parametrize("sop_uid", ["1.2.3", "1.2.34"])
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, JPEGLSLossless])
def test_files_are_the_same_by_either_way(tmp_path: Path, sop_uid: str, syntax: UID) -> None:
    """The same instance over C-GET and over a receiver process must have one digest."""
    ds = minimal(SOPInstanceUID=sop_uid)
    content = encoded(ds, ExplicitVRLittleEndian)
    buffer = SpillBuffer(MessageBounds(1 << 20, 1 << 20, None))
    buffer.write(content)
    inbox = FolderInbox(tmp_path)
    intake = Intake(inbox, reserve_bytes=0, tally=Tally())
    intake.take(Delivery(buffer, syntax, str(ds.SOPClassUID), sop_uid))
    [path] = inbox.files()
    meta = preamble_and_meta(str(ds.SOPClassUID), sop_uid, str(syntax))
    assert path.read_bytes() == meta + content


def body_of(pdu: bytes) -> memoryview:
    return memoryview(pdu)[6:]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"called": "OTHER"}, 7),
        ({"calling": "STRANGER"}, 3),
        ({"application": "1.2.3"}, 2),
    ],
)
def test_wrong_names_are_rejected_for_good(changes: dict[str, str], reason: int) -> None:
    decision = negotiate(body_of(raw.association_request(**changes)), TITLES)  # type: ignore[arg-type]
    assert isinstance(decision, Rejected)
    assert decision.pdu[7:10] == bytes([1, 1, reason])


def test_no_room_is_rejected_for_the_moment() -> None:
    decision = negotiate(body_of(raw.association_request()), TITLES, lambda: False)
    assert isinstance(decision, Rejected)
    assert decision.pdu[7:10] == bytes([2, 3, 2])


def test_contexts_are_judged_one_by_one() -> None:
    find, private = "1.2.840.10008.5.1.4.1.2.2.1", "1.3.46.670589.5.0.1"
    request = raw.association_request(
        (raw.MR, ["1.2.3.4", str(JPEGLSLossless), raw.EXPLICIT]),
        (find, [raw.EXPLICIT]),
        (private, [raw.EXPLICIT]),
        (raw.MR, ["1.2.3.4"]),
        ("1.2.840.10008.5.1.4.1.1.9999.1", [raw.EXPLICIT]),
        (STORAGE_COMMITMENT, [raw.EXPLICIT]),
        roles=((STORAGE_COMMITMENT, False, True), (raw.MR, True, True)),
    )
    decision = negotiate(body_of(request), TITLES)
    assert isinstance(decision, Accepted)
    assert set(decision.contexts) == {1, 5, 9, 11}
    assert decision.contexts[1].transfer_syntax == JPEGLSLossless
    assert decision.longest == 16382
    answer = decision.pdu
    assert bytes([0x21, 0]) in answer
    roles = [
        (item, answer[at + 1], answer[at + 2])
        for item in (str(STORAGE_COMMITMENT), raw.MR)
        if (at := answer.find(struct.pack(">H", len(item)) + item.encode()) + 1 + len(item))
        and answer.find(bytes([0x54])) >= 0
        and item.encode() in answer[answer.find(bytes([0x54])) :]
    ]
    assert (str(STORAGE_COMMITMENT), 0, 1) in roles


def test_what_is_served() -> None:
    assert is_served(raw.MR)
    assert not is_served("1.2.840.10008.5.1.4.1.2.2.2")
    assert not is_served("1.2.840.10008.5.1.4.31")
    assert is_known_syntax("1.2.840.10008.1.2.4.90")
    assert not is_known_syntax("1.2.840.113619.5.2")
    assert not is_known_syntax(raw.MR)


@given(st.binary(max_size=200))
def test_any_bytes_are_an_association_request_or_refused(body: bytes) -> None:
    try:
        decision = negotiate(memoryview(body), TITLES)
    except PduInvalid:
        return
    assert isinstance(decision, Rejected)


def conversation(inbox: FolderInbox) -> Conversation:
    intake = Intake(inbox, reserve_bytes=0, tally=Tally())
    sink = IntakeSink(intake, MessageBounds(1 << 20, 1 << 24, None))
    return Conversation(lambda body: negotiate(body, TITLES), sink)


def feed(talk: Conversation, stream: bytes) -> bytes:
    """Hand over the whole PDUs of a stream."""
    sent, at = b"", 0
    while len(stream) - at >= 6:
        kind, length = struct.unpack_from(">BxL", stream, at)
        if len(stream) - at < 6 + length:
            break
        sent += talk.on_pdu(kind, memoryview(stream)[at + 6 : at + 6 + length])
        at += 6 + length
    return sent


def test_a_conversation_cut_anywhere_leaves_all_or_nothing(tmp_path: Path) -> None:
    study = write_small_study(tmp_path / "source", StudyForm(slices=1, side=8))
    stream = raw.association_request() + raw.store_messages(study.paths[0]) + raw.RELEASE_RQ
    complete = len(stream) - len(raw.RELEASE_RQ)
    for cut in range(len(stream) + 1):
        inbox = FolderInbox(tmp_path / f"inbox{cut}")
        talk = conversation(inbox)
        feed(talk, stream[:cut])
        talk.on_event(Event.CLOSED)
        assert talk.is_over
        assert len(inbox.files()) == (1 if cut >= complete else 0)


@pytest.mark.parametrize(
    "message",
    [
        raw.p_data(raw.pdv(1, 2, b"data without a command")),
        raw.p_data(raw.pdv(1, 3, b"no command")),
        raw.p_data(raw.pdv(9, 3, raw.command(1, sop_uid="1.2"))),
        raw.p_data(raw.pdv(1, 1, b"\0" * 40_000), raw.pdv(1, 1, b"\0" * 40_000)),
        raw.p_data(raw.pdv(1, 3, raw.command(1, sop_uid="1.2")), raw.pdv(1, 3, b"")),
        struct.pack(">BBL", 4, 0, 0),
        struct.pack(">BBL", 9, 0, 0),
        raw.association_request(),
    ],
)
def test_nonsense_is_aborted(tmp_path: Path, message: bytes) -> None:
    talk = conversation(FolderInbox(tmp_path))
    feed(talk, raw.association_request())
    assert talk.is_open
    sent = feed(talk, message)
    assert sent[-10:-4] == struct.pack(">BBL", 7, 0, 4)
    assert talk.state is State.AWAIT_CLOSE
    assert feed(talk, raw.p_data(raw.pdv(1, 3, raw.command(0x30, data=False)))) == b""


@pytest.mark.parametrize(("field", "status"), [(0x0020, 0x0211), (0x0130, 0x0211)])
def test_other_operations_are_refused_in_words(tmp_path: Path, field: int, status: int) -> None:
    talk = conversation(FolderInbox(tmp_path))
    feed(talk, raw.association_request())
    sent = feed(talk, raw.p_data(raw.pdv(1, 3, raw.command(field, data=False))))
    assert struct.pack("<HHLH", 0, 0x0900, 2, status) in sent
    assert talk.is_open


def test_a_message_in_a_context_of_another_class_is_refused(tmp_path: Path) -> None:
    talk = conversation(FolderInbox(tmp_path))
    feed(talk, raw.association_request())
    ct = raw.command(1, sop_class="1.2.840.10008.5.1.4.1.1.2", sop_uid="1.2.3")
    sent = feed(talk, raw.p_data(raw.pdv(1, 3, ct), raw.pdv(1, 2, b"\0" * 10)))
    assert struct.pack("<HHLH", 0, 0x0900, 2, 0x0122) in sent


def test_seats_are_counted_over_processes_and_addresses() -> None:
    board = Board(1, 0)
    limits = Limits(associations=3, per_address=2)
    assert board.take_seat("10.0.0.1", limits) is not None
    seat = board.take_seat("10.0.0.1", limits)
    assert seat is not None
    assert board.take_seat("10.0.0.1", limits) is None
    assert board.take_seat("10.0.0.2", limits) is not None
    assert board.take_seat("10.0.0.3", limits) is None
    board.leave_seat(seat)
    assert board.take_seat("10.0.0.3", limits) is not None
    board.clear_seats(0)
    assert board.seats(0) == 0


def test_the_waiting_room_has_an_end_for_each_address() -> None:
    room = WaitingRoom(Limits(waiting=3, waiting_per_address=2))
    assert [room.enter("a"), room.enter("a"), room.enter("a")] == [True, True, False]
    assert [room.enter("b"), room.enter("b")] == [True, False]
    room.leave("a")
    assert room.enter("b")
