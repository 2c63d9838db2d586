"""What a DICOMweb server can answer wrongly, each said in words, and who is trusted."""

from __future__ import annotations

import json
import ssl
from pathlib import Path

import pytest
from pydicom import dcmread

from dicom_bridge.errors import (
    AssociationRejected,
    PeerError,
    PeerFailure,
    PeerUnreachable,
    SettingsRefused,
)
from dicom_bridge.net import InstanceRef, RetrievePolicy, RetryPolicy, StudyCriteria, Timeouts
from dicom_bridge.net.intake import Intake, Tally
from dicom_bridge.web import WebAddress, WebClient, WebOptions
from dicom_bridge.web.session import describe_http
from dicom_bridge.web.store import Body
from tests.certificates import Authority
from tests.dicom_bridge.web.servers import Answer, Script, Seen, scripted_web
from tests.pacs import (
    LOOPBACK,
    ONCE,
    FolderInbox,
    StudyForm,
    write_small_study,
)
from tests.tools import free_port

SECRET = "SECRET99"
QUICK = WebOptions(timeouts=Timeouts(connect_s=2, response_s=2))
FAST = RetrievePolicy(rounds=3, settle_s=0.05, first_wait_s=0.01, longest_wait_s=0.02)


def client(port: int, **more: object) -> WebClient:
    address = WebAddress(f"http://{LOOPBACK}:{port}/rs", **more)  # type: ignore[arg-type]
    return WebClient(address, retry=ONCE, options=QUICK)


def found(*studies: dict[str, str]) -> Answer:
    items = [
        {tag: {"vr": "LO", "Value": [value]} for tag, value in study.items()} for study in studies
    ]
    body = json.dumps(items).encode()
    return Answer(body=body, headers={"Content-Type": "application/dicom+json"})


@pytest.mark.parametrize(
    ("status", "error", "said"),
    [
        (401, AssociationRejected, "enter a valid token_file"),
        (403, AssociationRejected, "grant our account"),
        (404, PeerFailure, "check url and prefixes"),
        (301, PeerFailure, "enter the URL"),
        (413, PeerFailure, "raise the limit"),
        (429, PeerUnreachable, "instances_per_second"),
        (500, PeerUnreachable, "its log"),
        (503, PeerUnreachable, "busy or down"),
        (507, PeerFailure, "disk is full"),
    ],
)
def test_each_http_status_is_said_in_words(status: int, error: type[PeerError], said: str) -> None:
    headers = {"Location": "http://elsewhere/"} if status == 301 else {}
    with scripted_web(lambda _: Answer(status, headers=headers)) as port:
        node = client(port)
        for ask in (
            node.echo,
            lambda: node.find_studies(StudyCriteria(patient_ids=(SECRET,))),
            lambda: node.find_instances("1.2.3"),
        ):
            with pytest.raises(error, match=said) as caught:
                ask()
            assert SECRET not in str(caught.value)
            assert "1.2.3" not in str(caught.value)


@pytest.mark.parametrize("status", range(100, 600, 7))
def test_every_http_status_has_words(status: int) -> None:
    assert describe_http(status).startswith(f"HTTP {status}: ")
    assert ";" in describe_http(status)


def test_passing_failures_are_repeated_and_lasting_ones_are_not() -> None:
    counts = {"n": 0}

    def script(_: Seen) -> Answer:
        counts["n"] += 1
        return Answer(503) if counts["n"] < 3 else found()

    waits: list[float] = []
    with scripted_web(script) as port:
        address = WebAddress(f"http://{LOOPBACK}:{port}")
        retry = RetryPolicy(attempts=3, first_wait_s=0.5, sleep=waits.append)
        assert WebClient(address, retry=retry, options=QUICK).find_studies(StudyCriteria()) == []
    assert len(waits) == 2
    with scripted_web(lambda _: Answer(404)) as port:
        address = WebAddress(f"http://{LOOPBACK}:{port}")
        with pytest.raises(PeerFailure):
            WebClient(address, retry=retry, options=QUICK).find_studies(StudyCriteria())
    assert len(waits) == 2


def test_what_answers_no_dicom_json_and_nobody_are_told_apart() -> None:
    page = Answer(body=b"<html>", headers={"Content-Type": "text/html"})
    with scripted_web(lambda _: page) as port, pytest.raises(PeerFailure, match="DICOM JSON"):
        client(port).find_studies(StudyCriteria())
    with pytest.raises(PeerUnreachable, match="connection refused"):
        client(free_port()).echo()
    nowhere = WebAddress("http://nowhere.invalid/")
    with pytest.raises(PeerUnreachable, match=r"no address|ended the connection"):
        WebClient(nowhere, retry=ONCE, options=QUICK).echo()


def test_a_server_that_ignores_the_offset_is_not_believed() -> None:
    page = [{"0020000D": f"1.2.{n}"} for n in range(100)]
    capped = scripted_web(lambda _: found(*page))
    with capped as port, pytest.raises(PeerFailure, match="same answers again"):
        client(port).find_studies(StudyCriteria())
    with scripted_web(lambda _: found(*page[:7])) as port:
        assert len(client(port).find_studies(StudyCriteria())) == 7


def test_credentials_are_read_anew_and_the_host_header_has_its_port(tmp_path: Path) -> None:
    seen: list[Seen] = []

    def script(request: Seen) -> Answer:
        seen.append(request)
        return found()

    token = tmp_path / "token"
    token.write_text("first\n")
    with scripted_web(script) as port:
        node = client(port, token_file=token)
        node.find_studies(StudyCriteria())
        token.write_text("second")
        node.find_studies(StudyCriteria())
        password = tmp_path / "password"
        password.write_text("pässword\n")
        client(port, user="node", password_file=password).echo()
        token.unlink()
        with pytest.raises(SettingsRefused, match="token file token cannot be read"):
            node.echo()
    sent = [request.headers.get("Authorization", "") for request in seen]
    assert sent[0] == "Bearer first"
    assert sent[-2] == "Bearer second"
    assert sent[-1].startswith("Basic ")
    assert {request.headers["Host"] for request in seen} == {f"{LOOPBACK}:{port}"}


@pytest.mark.parametrize(
    "bad",
    [
        {"url": "ftp://x"},
        {"url": "https://user:secret@x/"},
        {"url": "https://x", "user": "u"},
        {"url": "https://x", "user": "u", "password_file": Path("p"), "token_file": Path("t")},
    ],
)
def test_addresses_that_cannot_be_used_are_refused(bad: dict[str, object]) -> None:
    with pytest.raises(SettingsRefused) as caught:
        WebAddress(**bad)  # type: ignore[arg-type]
    assert "secret" not in str(caught.value)


@pytest.mark.integration
def test_only_servers_of_our_authorities_are_believed(tmp_path: Path) -> None:
    ours, stranger = Authority(tmp_path / "a", "Ours"), Authority(tmp_path / "b", "Stranger")
    good = ours.issue("web")
    old = ours.issue("old", days=(-20, -10))
    other = ours.issue("other", hosts=("other.example",))

    def asked(pair_path: tuple[Path, Path], authorities: Path | None) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*pair_path)
        with scripted_web(lambda _: found(), context) as port:
            address = WebAddress(f"https://{LOOPBACK}:{port}", authorities=authorities)
            assert WebClient(address, retry=ONCE, options=QUICK).echo().ok

    asked((good.certificate, good.key), ours.path)
    for pair, authorities, said in (
        (good, stranger.path, "authority that we do not know"),
        (good, None, "authority that we do not know"),
        (old, ours.path, "expired"),
        (other, ours.path, "does not name this IP|another host"),
    ):
        with pytest.raises(PeerUnreachable, match=said):
            asked((pair.certificate, pair.key), authorities)
    empty = tmp_path / "empty.pem"
    empty.write_text("")
    with pytest.raises(SettingsRefused, match="no certificate"):
        WebClient(WebAddress("https://x", authorities=empty))


def multipart(paths: list[Path]) -> Answer:
    body = Body(paths)
    return Answer(body=b"".join(body), headers={"Content-Type": body.content_type})


@pytest.fixture
def inbox(tmp_path: Path) -> FolderInbox:
    return FolderInbox(tmp_path / "inbox")


def pulled(script: Script, paths: list[Path], inbox: FolderInbox) -> tuple[bool, str]:
    heads = [dcmread(path, stop_before_pixels=True) for path in paths]
    expected = [
        InstanceRef(ds.SeriesInstanceUID, ds.SOPInstanceUID, ds.SOPClassUID, "MR") for ds in heads
    ]
    sink = Intake(inbox, reserve_bytes=0, tally=Tally())
    with scripted_web(script) as port:
        report = client(port).retrieve(
            heads[0].StudyInstanceUID, inbox.uids, expected=expected, sink=sink, policy=FAST
        )
    return report.complete, report.words


def test_a_broken_transfer_keeps_what_came_and_asks_only_for_the_rest(
    tmp_path: Path, inbox: FolderInbox
) -> None:
    study = write_small_study(tmp_path / "a", StudyForm(slices=5, side=256))
    asked: list[str] = []

    def script(request: Seen) -> Answer:
        asked.append(request.path)
        if "/instances/" not in request.path:
            answer = multipart(study.paths)
            answer.cut = len(answer.body) * 2 // 3
            return answer
        uid = request.path.rsplit("/", 1)[1]
        [path] = [p for p in study.paths if dcmread(p).SOPInstanceUID == uid]
        return multipart([path])

    complete, words = pulled(script, study.paths, inbox)
    assert complete, words
    single = [path for path in asked if "/instances/" in path]
    assert len(asked) - len(single) == 1
    assert 1 <= len(single) <= 4
    assert all(path.startswith("/rs/studies/") for path in asked)


@pytest.mark.parametrize("status", [404, 405, 501])
def test_a_server_that_refuses_series_is_asked_for_instances(
    status: int, tmp_path: Path, inbox: FolderInbox
) -> None:
    study = write_small_study(tmp_path / "a", StudyForm(slices=3))

    def script(request: Seen) -> Answer:
        if "/instances/" not in request.path:
            return Answer(status)
        uid = request.path.rsplit("/", 1)[1]
        return multipart([p for p in study.paths if dcmread(p).SOPInstanceUID == uid])

    complete, words = pulled(script, study.paths, inbox)
    assert complete, words


def test_an_instance_that_the_server_lost_is_named_with_its_cause(
    tmp_path: Path, inbox: FolderInbox
) -> None:
    study = write_small_study(tmp_path / "a", StudyForm(slices=2))

    def script(request: Seen) -> Answer:
        if "/instances/" in request.path:
            return Answer(404)
        return multipart(study.paths[:1])

    complete, words = pulled(script, study.paths, inbox)
    assert not complete
    assert "1 of 2 instances received" in words
    assert "HTTP 404" in words


def test_any_transfer_syntax_is_asked_for_and_given_up_where_refused(
    tmp_path: Path, inbox: FolderInbox
) -> None:
    study = write_small_study(tmp_path / "a", StudyForm(slices=1))
    accepted: list[str] = []

    def script(request: Seen) -> Answer:
        accepted.append(request.headers["Accept"])
        return Answer(406) if "transfer-syntax" in accepted[-1] else multipart(study.paths)

    complete, words = pulled(script, study.paths, inbox)
    assert complete, words
    assert ["transfer-syntax=*" in accept for accept in accepted] == [True, False]


def stow(status: int, document: object) -> Script:
    body = json.dumps(document).encode()
    headers = {"Content-Type": "application/dicom+json"}
    return lambda _: Answer(status, body, headers)


def test_each_instance_of_a_store_has_its_outcome(tmp_path: Path) -> None:
    study = write_small_study(tmp_path / "a", StudyForm(slices=4))
    uids = [str(dcmread(path).SOPInstanceUID) for path in study.paths]

    def item(uid: str, tag: str = "", code: int = 0) -> dict[str, object]:
        told: dict[str, object] = {"00081155": {"vr": "UI", "Value": [uid]}}
        return told | ({tag: {"vr": "US", "Value": [code]}} if tag else {})

    document = {
        "00081199": {"vr": "SQ", "Value": [item(uids[0]), item(uids[1], "00081196", 0xB006)]},
        "00081198": {"vr": "SQ", "Value": [item(uids[2], "00081197", 0xC122)]},
    }
    with scripted_web(stow(202, document)) as port:
        outcomes = client(port).send(study.paths)
    assert [outcome.status for outcome in outcomes] == [0, 0xB006, 0xC122, None]
    assert [outcome.ok for outcome in outcomes] == [True, True, False, False]
    assert "transfer syntax" in outcomes[2].words
    assert "does not say whether it was stored" in outcomes[3].words
    with scripted_web(stow(409, {"00081198": document["00081198"]})) as port:
        outcomes = client(port).send(study.paths[2:3])
    assert [outcome.ok for outcome in outcomes] == [False]


def test_a_body_has_the_length_that_it_says(tmp_path: Path) -> None:
    study = write_small_study(tmp_path / "a", StudyForm(slices=3))
    body = Body(study.paths)
    assert len(b"".join(body)) == len(body)
    study.paths[0].write_bytes(b"shorter")
    with pytest.raises(OSError, match="became shorter"):
        b"".join(body)
