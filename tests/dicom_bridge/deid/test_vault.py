"""The vault gives back what was put in, to the right key only, and shows nothing outside."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dicom_bridge.errors import VaultError
from dicom_bridge.vault import Vault

KEY = bytes(range(32))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


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
    vault = Vault(folder, KEY)
    for name, document in records.items():
        vault.put(name, document)
    again = Vault(folder, KEY)
    assert again.names() == sorted(records)
    assert {name: again.get(name) for name in records} == records


def test_files_show_neither_name_nor_content(tmp_path: Path) -> None:
    vault = Vault(tmp_path / "vault", KEY)
    vault.put("Zykowiak^Eve", {"PatientID": "PAT-7731"})
    files = list((tmp_path / "vault").iterdir())
    shown = "".join(f.name for f in files).encode() + b"".join(f.read_bytes() for f in files)
    for word in (b"Zykowiak", b"PAT-7731", b"PatientID"):
        assert word not in shown
    assert len(files) == 1
    assert files[0].stat().st_mode & 0o077 == 0


def test_replacing_and_deleting(tmp_path: Path) -> None:
    vault = Vault(tmp_path, KEY)
    vault.put("a", {"n": 1})
    vault.put("a", {"n": 2})
    assert vault.get("a") == {"n": 2}
    vault.delete("a")
    vault.delete("a")
    assert vault.names() == []
    with pytest.raises(VaultError, match="no such record"):
        vault.get("a")


def test_another_key_damage_and_exchange_are_refused(tmp_path: Path) -> None:
    vault = Vault(tmp_path, KEY)
    vault.put("a", {"n": 1})
    first = next(tmp_path.iterdir())
    vault.put("b", {"n": 2})
    second = next(p for p in tmp_path.iterdir() if p != first)
    with pytest.raises(VaultError, match="no such record"):
        Vault(tmp_path, bytes(32)).get("a")
    with pytest.raises(VaultError, match="cannot be opened"):
        Vault(tmp_path, bytes(32)).names()
    good = first.read_bytes()
    first.write_bytes(second.read_bytes())
    with pytest.raises(VaultError, match="cannot be opened"):
        vault.get("a")
    first.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    with pytest.raises(VaultError, match="cannot be opened"):
        vault.get("a")
    first.write_bytes(b"CLVT\x02" + good[5:])
    with pytest.raises(VaultError, match="format"):
        vault.get("a")
    first.write_bytes(good)
    assert vault.get("a") == {"n": 1}


def test_wrong_keys_and_documents(tmp_path: Path) -> None:
    with pytest.raises(VaultError, match="32 bytes"):
        Vault(tmp_path, b"short")
    with pytest.raises(VaultError, match="plain JSON"):
        Vault(tmp_path, KEY).put("a", {"n": object()})


def test_every_nonce_is_fresh(tmp_path: Path) -> None:
    asked: list[int] = []

    def random(count: int) -> bytes:
        asked.append(count)
        return bytes([len(asked)]) * count

    vault = Vault(tmp_path, KEY, random=random)
    vault.put("a", {})
    before = next(tmp_path.iterdir()).read_bytes()
    vault.put("a", {})
    assert next(tmp_path.iterdir()).read_bytes() != before
    assert asked.count(12) == 2
