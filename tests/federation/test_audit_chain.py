"""The audit log: a changed line is seen, a torn one mended, two writers keep one chain."""

from __future__ import annotations

import json
import multiprocessing
from pathlib import Path

import pytest

from federation.audit_chain import AuditChain, ChainWatch, read_entries, tail, verify
from federation.errors import StoreDamaged


def _filled(path: Path, count: int = 5) -> AuditChain:
    chain = AuditChain(path)
    for number in range(count):
        chain.append("operator", "site.added", f"site-{number}", {"number": number, "share": 0.5})
    return chain


def test_whole_log_verifies(tmp_path: Path) -> None:
    chain = _filled(tmp_path / "audit.jsonl")
    found = verify(chain.path)
    assert (found.ok, found.entries, found.last_hash, found.words) == (
        True,
        5,
        chain.last_hash,
        "",
    )
    assert [entry.object for entry in tail(chain.path, 2)] == ["site-3", "site-4"]
    assert (chain.path.stat().st_mode & 0o777) == 0o600


def test_changed_removed_and_reordered_lines_are_seen(tmp_path: Path) -> None:
    path = _filled(tmp_path / "audit.jsonl").path
    lines = path.read_text().splitlines(keepends=True)
    changed = lines[2].replace("site-2", "site-9")
    for broken, words in (
        ([*lines[:2], changed, *lines[3:]], "line 3: its hash"),
        ([*lines[:2], *lines[3:]], "line 3: does not follow"),
        ([*lines[:2], lines[3], lines[2], lines[4]], "line 3: does not follow"),
        ([*lines[:2], "[1]\n", *lines[3:]], "line 3:"),
        ([*lines[:2], "nonsense\n", *lines[3:]], "line 3:"),
    ):
        path.write_text("".join(broken))
        found = verify(path)
        assert not found.ok
        assert found.words.startswith(words)
        assert found.entries == 2


def test_forged_hash_needs_the_whole_tail(tmp_path: Path) -> None:
    path = _filled(tmp_path / "audit.jsonl").path
    lines = path.read_text().splitlines(keepends=True)
    document = json.loads(lines[2])
    document["object"] = "site-9"
    from federation.audit_chain import _entry_hash

    document["hash"] = _entry_hash(document)
    path.write_text("".join([*lines[:2], json.dumps(document) + "\n", *lines[3:]]))
    assert verify(path).words.startswith("line 4: does not follow")


def test_cut_tail_is_seen_by_who_remembers(tmp_path: Path) -> None:
    chain = _filled(tmp_path / "audit.jsonl")
    remembered = chain.last_hash
    lines = chain.path.read_text().splitlines(keepends=True)
    chain.path.write_text("".join(lines[:3]))
    assert verify(chain.path).ok
    assert verify(chain.path, expected_last=remembered).words == (
        "the remembered entry is gone: tail cut off"
    )


def test_torn_last_line_is_cut_and_told(tmp_path: Path) -> None:
    path = _filled(tmp_path / "audit.jsonl").path
    with path.open("ab") as stream:
        stream.write(b'{"format":1,"seq":6,"at":"2026')
    AuditChain(path).append("operator", "site.added", "after", {})
    entries = list(read_entries(path))
    assert [entry.action for entry in entries[-2:]] == ["audit.repaired", "site.added"]
    assert entries[-2].detail == {"torn_bytes": 30}
    assert verify(path).ok


def test_damaged_last_line_is_not_built_upon(tmp_path: Path) -> None:
    path = _filled(tmp_path / "audit.jsonl").path
    path.write_text(path.read_text() + "nonsense\n")
    with pytest.raises(StoreDamaged, match="keep the file as evidence"):
        AuditChain(path)


def _write(path: str, actor: str) -> None:
    chain = AuditChain(Path(path))
    for number in range(25):
        chain.append(actor, "site.added", str(number), {})


def test_two_processes_keep_one_chain(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    context = multiprocessing.get_context("forkserver")
    writers = [context.Process(target=_write, args=(str(path), f"w{i}")) for i in range(2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(30)
        assert writer.exitcode == 0
    found = verify(path)
    assert found.ok, found.words
    assert found.entries == 50


def test_a_watch_checks_each_line_once_and_a_shorter_file_again(tmp_path: Path) -> None:
    chain = AuditChain(tmp_path / "audit.jsonl")
    for number in range(3):
        chain.append("a", "b.c", str(number), {})
    watch = ChainWatch(chain.path)
    assert (watch.check().ok, watch.check().entries) == (True, 3)
    chain.append("a", "b.c", "3", {})
    assert watch.check().entries == 4
    lines = chain.path.read_bytes().splitlines(keepends=True)
    chain.path.write_bytes(b"".join(lines[1:]))
    assert "line 1" in watch.check().words
    assert not watch.check().ok
