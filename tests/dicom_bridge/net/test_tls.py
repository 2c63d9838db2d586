"""DICOM TLS: against DCMTK and Orthanc, both ways of failing in words, and the files."""

from __future__ import annotations

import dataclasses
import os
import socket
import ssl
from pathlib import Path

import pytest

from dicom_bridge.errors import PeerUnreachable, SettingsRefused
from dicom_bridge.net import (
    PacsClient,
    PacsOptions,
    RemoteAE,
    StudyCriteria,
    TlsFiles,
    client_context,
    server_context,
)
from dicom_bridge.net.tls import CIPHERS, Profile
from tests.certificates import Authority, Pair
from tests.dicom_bridge.net.peers import scripted_scp
from tests.pacs import (
    LOOPBACK,
    ONCE,
    QUICK,
    StudyForm,
    running_orthanc,
    running_storescp,
    write_small_study,
)
from tests.tools import free_port


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"), "Hospital")


@pytest.fixture(scope="module")
def ours(authority: Authority) -> TlsFiles:
    pair = authority.issue("node")
    return TlsFiles(pair.certificate, pair.key, authority.path)


@pytest.fixture(scope="module")
def theirs(authority: Authority) -> Pair:
    return authority.issue("pacs", use_rsa=True)


def client(remote: RemoteAE, files: TlsFiles | None) -> PacsClient:
    options = PacsOptions(tls=files)
    return PacsClient(remote, calling_ae="NODE", timeouts=QUICK, retry=ONCE, options=options)


def storescp_options(pair: Pair, authority: Authority, *more: str) -> tuple[str, ...]:
    return ("+tls", str(pair.key), str(pair.certificate), "+cf", str(authority.path), *more)


@pytest.mark.integration
@pytest.mark.parametrize("profile", ["bcp195", "non-downgrading"])
@pytest.mark.parametrize("theirs_profile", ["+py", "+px", "+pz"])
def test_dcmtk_takes_our_objects_over_tls(
    tmp_path: Path,
    authority: Authority,
    ours: TlsFiles,
    theirs: Pair,
    profile: Profile,
    theirs_profile: str,
) -> None:
    study = write_small_study(tmp_path / "source", StudyForm(slices=2))
    options = storescp_options(theirs, authority, theirs_profile)
    with running_storescp(tmp_path / "received", options=options) as remote:
        files = dataclasses.replace(ours, profile=profile)
        outcomes = client(remote, files).send(study.paths)
    assert [outcome.ok for outcome in outcomes] == [True, True]


@pytest.mark.integration
def test_what_keeps_us_from_a_tls_pacs_is_said(
    tmp_path: Path, authority: Authority, ours: TlsFiles, theirs: Pair
) -> None:
    stranger = Authority(tmp_path / "stranger", "Stranger")
    unknown = stranger.issue("unknown")
    expired = authority.issue("expired", days=(-20, -10))
    options = storescp_options(theirs, authority)
    with running_storescp(tmp_path / "received", options=options) as remote:
        assert client(remote, ours).echo().ok
        for files, said in (
            (None, "speaks TLS on this port; set tls = true"),
            (TlsFiles(unknown.certificate, unknown.key, authority.path), "authority"),
            (TlsFiles(expired.certificate, expired.key, authority.path), "certificate"),
            (dataclasses.replace(ours, authorities=stranger.path), "we do not know"),
        ):
            with pytest.raises(PeerUnreachable, match=said):
                client(remote, files).echo()


@pytest.mark.integration
def test_a_pacs_whose_certificate_is_wrong_is_not_spoken_to(
    tmp_path: Path, authority: Authority, ours: TlsFiles
) -> None:
    for number, (pair, said) in enumerate(
        (
            (authority.issue("old", days=(-20, -10)), "expired"),
            (authority.issue("early", days=(10, 20)), "not valid yet"),
            (authority.issue("other", hosts=("other.example",)), "does not name this IP"),
        )
    ):
        options = storescp_options(pair, authority)
        with running_storescp(tmp_path / f"received{number}", options=options) as remote:
            with pytest.raises(PeerUnreachable, match=said):
                client(remote, ours).echo()
            if "name" in said:
                named = dataclasses.replace(remote, host="localhost")
                with pytest.raises(PeerUnreachable, match="another host"):
                    client(named, ours).echo()
                assert client(remote, dataclasses.replace(ours, check_name=False)).echo().ok


@pytest.mark.integration
def test_a_pacs_without_tls_is_told_apart_from_one_that_is_away(ours: TlsFiles) -> None:
    with scripted_scp() as remote, pytest.raises(PeerUnreachable, match="no TLS on this port"):
        client(remote, ours).echo()
    nobody = RemoteAE("NOBODY", LOOPBACK, free_port())
    with pytest.raises(PeerUnreachable, match="connection refused"):
        client(nobody, ours).echo()
    silent = socket.create_server((LOOPBACK, 0))
    quick = dataclasses.replace(QUICK, connect_s=0.5)
    with silent, pytest.raises(PeerUnreachable, match="did not answer the handshake"):
        PacsClient(
            RemoteAE("SILENT", LOOPBACK, silent.getsockname()[1]),
            calling_ae="NODE",
            timeouts=quick,
            retry=ONCE,
            options=PacsOptions(tls=ours),
        ).echo()


@pytest.mark.integration
def test_orthanc_over_tls_from_query_to_storing(
    tmp_path: Path, authority: Authority, ours: TlsFiles, theirs: Pair
) -> None:
    extra = {
        "DicomTlsEnabled": True,
        "DicomTlsCertificate": str(theirs.certificate),
        "DicomTlsPrivateKey": str(theirs.key),
        "DicomTlsTrustedCertificates": str(authority.path),
    }
    peers = [RemoteAE("NODE", LOOPBACK, free_port())]
    study = write_small_study(tmp_path / "source", StudyForm(slices=2))
    with running_orthanc(tmp_path / "orthanc", peers, extra=extra) as pacs:
        node = client(pacs.remote, ours)
        assert node.echo().ok
        assert all(outcome.ok for outcome in node.send(study.paths))
        [match] = node.find_studies(StudyCriteria(study_uids=(study.study_uid,)))
        assert len(node.find_instances(match.StudyInstanceUID)) == 2


@pytest.mark.parametrize("profile", ["bcp195", "non-downgrading"])
def test_contexts_ask_for_certificates_and_for_tls_1_2_at_least(
    ours: TlsFiles, profile: Profile
) -> None:
    files = dataclasses.replace(ours, profile=profile)
    for context in (server_context(files), client_context(files)):
        assert context.verify_mode is ssl.CERT_REQUIRED
        assert context.minimum_version is ssl.TLSVersion.TLSv1_2
        offered = [c["name"] for c in context.get_ciphers() if c["protocol"] == "TLSv1.2"]
        assert set(offered) <= set(CIPHERS[profile])
        assert all("DHE" in name for name in offered), "each suite is forward secret"
        weak = [name for name in offered if "GCM" not in name and "CHACHA" not in name]
        assert (weak == []) == (profile == "non-downgrading")
    assert client_context(files).check_hostname


def test_files_that_cannot_be_used_are_refused_in_words(
    tmp_path: Path, authority: Authority, ours: TlsFiles, theirs: Pair
) -> None:
    empty = tmp_path / "empty.pem"
    empty.write_text("")
    empty.chmod(0o600)
    open_key = tmp_path / "open.key"
    open_key.write_bytes(ours.key.read_bytes())
    open_key.chmod(0o640)
    for files, said in (
        (dataclasses.replace(ours, certificate=tmp_path / "none"), "cannot be read"),
        (dataclasses.replace(ours, key=tmp_path / "none"), "our private key"),
        (dataclasses.replace(ours, authorities=empty), "no certificate in PEM"),
        (dataclasses.replace(ours, certificate=empty), "no certificate and key"),
        (dataclasses.replace(ours, key=theirs.key), "does not belong"),
        (dataclasses.replace(ours, key=authority.issue("third").key), "does not belong"),
        (dataclasses.replace(ours, key=open_key), "mode 640.*chmod 600"),
        (dataclasses.replace(ours, profile="ssl3"), "unknown"),  # type: ignore[arg-type]
    ):
        for make in (server_context, client_context):
            with pytest.raises(SettingsRefused, match=said):
                make(files)


def test_a_key_with_a_passphrase_is_refused_without_asking(tmp_path: Path, ours: TlsFiles) -> None:
    from cryptography.hazmat.primitives import serialization

    key = serialization.load_pem_private_key(ours.key.read_bytes(), None)
    locked = tmp_path / "locked.key"
    locked.touch(mode=0o600)
    locked.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    assert os.stat(locked).st_mode & 0o77 == 0
    with pytest.raises(SettingsRefused, match="without passphrase"):
        client_context(dataclasses.replace(ours, key=locked))
