"""A node home: folders, secrets, and the parts' threads."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from appliance.home import (
    Home,
    HomeInvalid,
    create_keys,
    load_keys,
    remove_tree,
    write_atomic,
    write_private,
)
from appliance.keying import instance_key, patient_key, split_rank, validation_rank
from appliance.parts import Part
from tests.waiting import wait_for


def test_folders_and_their_modes(tmp_path: Path) -> None:
    home = Home(tmp_path / "home", "ms")
    home.create()
    home.create()
    for folder in (home.keys, home.identified, home.vault, home.studies, home.results):
        assert folder.stat().st_mode & 0o777 == 0o700
    for folder in (home.bids, home.derivatives, home.datasets, home.models):
        assert folder.is_dir()
        assert home.identified not in folder.parents
    assert home.with_project("other").bids != home.bids


@pytest.mark.parametrize("name", ["../../etc", "st12", "stZZZZZZZZZZZZ", ""])
def test_foreign_study_keys_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(HomeInvalid):
        Home(tmp_path).study(name)


@pytest.mark.parametrize("name", ["../x", "", ".hidden", "a/b", "a" * 200])
def test_foreign_run_ids_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(HomeInvalid):
        Home(tmp_path).run(name)


def test_secrets_are_made_once_and_kept_private(tmp_path: Path) -> None:
    home = Home(tmp_path, "ms")
    with pytest.raises(HomeInvalid, match="node init"):
        load_keys(home)
    keys = create_keys(home)
    assert create_keys(home) == keys == load_keys(home)
    assert len({keys.project_secret, keys.site_secret, keys.vault_key}) == 3
    assert repr(keys) == "NodeKeys(***)"
    for path in home.keys.iterdir():
        assert path.stat().st_mode & 0o777 == 0o600
    other = create_keys(Home(tmp_path, "other"))
    assert other.site_secret == keys.site_secret
    assert other.project_secret != keys.project_secret


def test_bad_secrets_are_refused(tmp_path: Path) -> None:
    home = Home(tmp_path, "ms")
    create_keys(home)
    path = home.keys / "vault.key"
    path.chmod(0o644)
    with pytest.raises(HomeInvalid, match="chmod 600"):
        load_keys(home)
    path.chmod(0o600)
    path.write_bytes(b"short")
    with pytest.raises(HomeInvalid, match="32 bytes"):
        load_keys(home)


def test_writing_is_whole_or_not_at_all(tmp_path: Path) -> None:
    write_private(tmp_path / "k", b"1")
    write_private(tmp_path / "k", b"2")
    assert (tmp_path / "k").read_bytes() == b"2"
    write_atomic(tmp_path / "a", b"1")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "k"]
    remove_tree(tmp_path / "absent")


def test_keyed_names_differ_by_secret_and_purpose() -> None:
    one, two = b"1" * 32, b"2" * 32
    assert patient_key(one, "i", "1") != patient_key(two, "i", "1")
    assert patient_key(one, "i1", "") != patient_key(one, "i", "1")
    assert instance_key(one, "1.2") != instance_key(two, "1.2")
    assert split_rank(one, "p") != validation_rank(one, "", "p")


def test_a_failing_part_is_shown_and_starts_again() -> None:
    stop, calls = threading.Event(), []

    def work(ended: threading.Event) -> None:
        calls.append(1)
        if len(calls) == 1:
            raise ValueError("DOE^JANE")
        ended.wait()

    part = Part("intake", work, stop, restart_s=0.01)
    assert part.shown.state == "stopped"
    assert part.join(0.0)
    part.start()
    wait_for(lambda: len(calls) == 2 and part.shown.state == "running", what="the second start")
    assert "ValueError" in part.shown.detail
    assert "DOE" not in part.shown.detail
    stop.set()
    assert part.join(10.0)
    assert part.shown.state == "stopped"
