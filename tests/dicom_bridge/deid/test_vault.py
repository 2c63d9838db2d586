"""The vault gives back what was put in, to the right key only, shows nothing, erases for good."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dicom_bridge.errors import VaultError
from dicom_bridge.vault import FILE, FORMAT, Vault

KEY = bytes(range(32))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@pytest.fixture
def vault(tmp_path: Path) -> Iterator[Vault]:
    made = Vault(tmp_path / "vault", KEY)
    yield made
    made.close()


def everything(folder: Path) -> bytes:
    """All bytes of all files: database, log and its index."""
    return b"".join(path.read_bytes() for path in sorted(folder.iterdir()))


def sealed(folder: Path) -> dict[int, bytes]:
    """The ciphertexts as an outsider sees them, by row number."""
    with closing(sqlite3.connect(folder / FILE)) as connection:
        return dict(connection.execute("SELECT id, sealed FROM records").fetchall())


def change(folder: Path, statement: str, *values: object) -> None:
    with closing(sqlite3.connect(folder / FILE)) as connection, connection:
        connection.execute(statement, values)


@given(
    st.dictionaries(st.text(max_size=20), st.dictionaries(st.text(), JSON, max_size=4), max_size=4)
)
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_what_goes_in_comes_out(
    tmp_path_factory: pytest.TempPathFactory, records: dict[str, dict[str, object]]
) -> None:
    folder = tmp_path_factory.mktemp("vault")
    with closing(Vault(folder, KEY)) as vault:
        for name, document in records.items():
            vault.put(name, document)
    with closing(Vault(folder, KEY)) as again:
        assert again.names() == sorted(records)
        assert {name: again.get(name) for name in records} == records
        assert again.check().ok


def test_files_show_neither_name_nor_content(vault: Vault, tmp_path: Path) -> None:
    vault.put("Zykowiak^Eve", {"PatientID": "PAT-7731"}, owner="Zykowiak")
    files = list((tmp_path / "vault").iterdir())
    shown = everything(tmp_path / "vault")
    for word in (b"Zykowiak", b"PAT-7731", b"PatientID"):
        assert word not in shown
    assert {path.name for path in files} == {FILE, f"{FILE}-wal", f"{FILE}-shm"}
    assert all(path.stat().st_mode & 0o077 == 0 for path in files)


def test_replacing_and_deleting(vault: Vault) -> None:
    vault.put("a", {"n": 1})
    vault.put("a", {"n": 2})
    assert vault.get("a") == {"n": 2}
    vault.delete("a")
    vault.delete("a")
    assert vault.names() == []
    with pytest.raises(VaultError, match="no such record"):
        vault.get("a")


def test_an_erased_record_leaves_no_byte_of_its_ciphertext(vault: Vault, tmp_path: Path) -> None:
    folder = tmp_path / "vault"
    vault.put_all({f"her-{n}": {"pixels": "x" * 9000 * n} for n in range(1, 6)}, owner="her")
    vault.put("small", {"n": 1}, owner="her")
    vault.put("other", {"n": 2}, owner="him")
    ciphertexts = sealed(folder)
    pieces = [blob[at : at + 16] for blob in ciphertexts.values() for at in (20, len(blob) - 16)]
    before = everything(folder)
    assert all(piece in before for piece in pieces), "the search finds what is there"
    assert vault.erase(["her"], [b"m" * 32], made_at="2026-03-01T00:00:00Z") == 6
    after = everything(folder)
    (kept,) = sealed(folder).values()
    left = [piece for piece in pieces if piece in after]
    assert left == [kept[20:36], kept[-16:]]
    assert (folder / f"{FILE}-wal").stat().st_size == 0
    assert vault.get("other") == {"n": 2}
    assert vault.names(owner="her") == []
    assert vault.tombstones() == {b"m" * 32}


def test_a_deleted_record_leaves_no_byte_either(vault: Vault, tmp_path: Path) -> None:
    vault.put("a", {"text": "y" * 20_000})
    (blob,) = sealed(tmp_path / "vault").values()
    vault.delete("a")
    assert blob[100:132] not in everything(tmp_path / "vault")


def test_an_erasure_that_a_reader_hinders_says_so(vault: Vault, tmp_path: Path) -> None:
    vault.put("a", {"n": 1})
    vault._connection.execute("PRAGMA busy_timeout=50")
    with closing(sqlite3.connect(tmp_path / "vault" / FILE, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM records").fetchone()
        with pytest.raises(VaultError, match="another program reads"):
            vault.erase(["a"])
    vault.erase(["a"])
    assert vault.names() == []


def test_another_key_damage_and_exchange_are_refused(tmp_path: Path) -> None:
    with closing(Vault(tmp_path, KEY)) as vault:
        vault.put("a", {"n": 1})
        vault.put("b", {"n": 2})
        with pytest.raises(VaultError, match="another key"):
            Vault(tmp_path, bytes(32))
        blobs = sealed(tmp_path)
        change(tmp_path, "UPDATE records SET sealed = ? WHERE id = 1", blobs[2])
        with pytest.raises(VaultError, match="cannot be opened"):
            vault.get("a")
        assert "1 records were altered" in vault.check().problems[0]
        changed = blobs[1][:-1] + bytes([blobs[1][-1] ^ 1])
        change(tmp_path, "UPDATE records SET sealed = ? WHERE id = 1", changed)
        with pytest.raises(VaultError, match="cannot be opened"):
            vault.names()
        change(tmp_path, "UPDATE records SET sealed = ? WHERE id = 1", b"CLVT\x03" + blobs[1][5:])
        with pytest.raises(VaultError, match="format"):
            vault.get("a")
        change(tmp_path, "UPDATE records SET sealed = ? WHERE id = 1", blobs[1])
        assert vault.get("a") == {"n": 1}
        assert vault.check() == vault.check()
        assert vault.check().ok


def test_a_later_format_and_other_files_are_refused_in_words(tmp_path: Path) -> None:
    Vault(tmp_path / "later", KEY).close()
    change(tmp_path / "later", f"PRAGMA user_version={FORMAT + 1}")
    with pytest.raises(VaultError, match=f"format {FORMAT + 1}"):
        Vault(tmp_path / "later", KEY)
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / FILE).write_bytes(b"no database at all" * 100)
    with pytest.raises(VaultError, match="damaged"):
        Vault(tmp_path / "text", KEY)
    (tmp_path / "foreign").mkdir()
    change(tmp_path / "foreign", "CREATE TABLE records (n)")
    with pytest.raises(VaultError, match="no vault"):
        Vault(tmp_path / "foreign", KEY)


def test_a_damaged_page_is_told_in_words(tmp_path: Path) -> None:
    with closing(Vault(tmp_path, KEY)) as vault:
        vault.put_all({f"r{n}": {"text": "z" * 3000} for n in range(20)})
        vault.delete("none")
    content = bytearray((tmp_path / FILE).read_bytes())
    content[8 * 4096 : 9 * 4096] = os.urandom(4096)
    (tmp_path / FILE).write_bytes(bytes(content))
    with closing(Vault(tmp_path, KEY)) as damaged:
        found = damaged.check()
    assert not found.ok
    assert "restore a backup" in found.problems[-1] or "damaged" in found.problems[0]


def test_wrong_keys_documents_and_sizes(vault: Vault, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(VaultError, match="32 bytes"):
        Vault(Path("nowhere"), b"short")
    with pytest.raises(VaultError, match="plain JSON"):
        vault.put("a", {"n": object()})
    with pytest.raises(VaultError, match="name may have"):
        vault.put("a" * 513, {})
    monkeypatch.setattr("dicom_bridge.vault.LARGEST", 100)
    with pytest.raises(VaultError, match="may have 100 bytes"):
        vault.put("a", {"n": "x" * 100})
    vault.close()
    vault.close()
    with pytest.raises(VaultError, match="closed"):
        vault.get("a")


def test_every_nonce_is_fresh(tmp_path: Path) -> None:
    asked: list[int] = []

    def random(count: int) -> bytes:
        asked.append(count)
        return bytes([len(asked)]) * count

    with closing(Vault(tmp_path, KEY, random=random)) as vault:
        vault.put("a", {})
        before = sealed(tmp_path)
        vault.put("a", {})
        assert sealed(tmp_path) != before
    assert asked == [12, 12, 12]


def test_threads_write_and_read_at_once(vault: Vault) -> None:
    failures: list[Exception] = []

    def work(thread: int) -> None:
        try:
            for n in range(10):
                vault.put(f"{thread}-{n}", {"n": n}, owner=f"o{thread}")
                assert vault.get(f"{thread}-{n}") == {"n": n}
            vault.erase([f"o{thread}"] if thread % 2 else [])
        except (VaultError, AssertionError) as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(vault.names()) == 20


def old_record(folder: Path, name: str, document: dict[str, object]) -> Path:
    """A record file as the first format wrote it."""
    secret = hmac.digest(KEY, b"clinode vault file names", hashlib.sha256)
    path = folder / (hmac.digest(secret, name.encode(), hashlib.sha256).hex()[:40] + ".rec")
    head, nonce = b"CLVT\x01", os.urandom(12)
    plain = json.dumps({"name": name, "document": document}).encode()
    path.write_bytes(head + nonce + AESGCM(KEY).encrypt(nonce, plain, head + path.name.encode()))
    return path


def test_a_vault_of_files_is_taken_over(tmp_path: Path) -> None:
    for n in range(250):
        old_record(tmp_path, f"st{n}", {"n": n})
    (tmp_path / "abc.rec.0011.part").write_bytes(b"half")
    with closing(Vault(tmp_path, KEY)) as vault:
        assert len(vault.names()) == 250
        assert vault.get("st77") == {"n": 77}
        assert vault.erase(["st77"]) == 1, "a record without an owner is its own"
    assert {path.name for path in tmp_path.iterdir()} == {FILE}


def test_a_take_over_removes_only_what_it_could_read(tmp_path: Path) -> None:
    paths = [old_record(tmp_path, f"st{n}", {"n": n}) for n in range(3)]
    damaged = min(paths)
    content = damaged.read_bytes()
    damaged.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(VaultError, match="old vault cannot be opened"):
        Vault(tmp_path, KEY)
    assert all(path.exists() for path in paths)
    damaged.write_bytes(content)
    with closing(Vault(tmp_path, KEY)) as vault:
        assert len(vault.names()) == 3


_KILLED = """
import os, signal, sys
from pathlib import Path
import dicom_bridge.vault as v
folder, instant = Path(sys.argv[1]), sys.argv[2]
def die(*_): os.kill(os.getpid(), signal.SIGKILL)
if instant == "written":
    v.OldVault.remove = die
elif instant == "half removed":
    def remove(self, paths):
        paths[0].unlink()
        die()
    v.OldVault.remove = remove
else:
    v.Vault.put_all = die
v.Vault(folder, bytes(range(32)))
"""


@pytest.mark.parametrize("instant", ["read", "written", "half removed"])
def test_a_killed_take_over_is_repeated(tmp_path: Path, instant: str) -> None:
    for n in range(5):
        old_record(tmp_path, f"st{n}", {"n": n})
    done = subprocess.run([sys.executable, "-c", _KILLED, str(tmp_path), instant], check=False)
    assert done.returncode == -9
    with closing(Vault(tmp_path, KEY)) as vault:
        assert [vault.get(f"st{n}") for n in range(5)] == [{"n": n} for n in range(5)]
    assert not list(tmp_path.glob("*.rec"))
