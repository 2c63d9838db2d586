"""The write-ahead log, the journal and jobs: what a crash at any point leaves."""

from __future__ import annotations

import errno
import hashlib
import os
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dicom_bridge.net.scp.jobs import JobBook, clear_jobs, remove_job, write_job
from dicom_bridge.net.scp.journal import Entry, Journal, JournalReader, decode_lines, encode_entry
from dicom_bridge.net.scp.place import Placer
from dicom_bridge.net.scp.wal import LogFull, Record, WriteAheadLog
from tests.waiting import wait_for

SEGMENT = 64 << 10


def log_in(folder: Path, **options: object) -> WriteAheadLog:
    return WriteAheadLog(folder, "log", segments=3, segment_bytes=SEGMENT, **options)  # type: ignore[arg-type]


def append(log: WriteAheadLog, content: bytes) -> Record:
    return log.append({"n": len(content)}, memoryview(content), hashlib.sha256(content).digest())


def test_what_was_committed_is_replayed_in_order(tmp_path: Path) -> None:
    log = log_in(tmp_path)
    assert log.replay(0) == []
    contents = [bytes([n]) * (n * 500) for n in range(20)]
    records = [append(log, content) for content in contents]
    log.commit(records[-1].seq)
    log.close()
    again = log_in(tmp_path)
    replayed = again.replay(records[4].seq)
    assert [r.seq for r in replayed] == [r.seq for r in records[5:]]
    assert [again.content(r) for r in replayed] == contents[5:]
    again.release(records[-1].seq)
    assert append(again, b"x").seq > records[-1].seq


def test_space_is_used_again_and_old_records_stay_gone(tmp_path: Path) -> None:
    log = log_in(tmp_path)
    log.replay(0)
    last = 0
    for number in range(100):
        last = append(log, bytes([number]) * 20_000).seq
        if number % 3 == 2:
            log.release(last)
    log.close()
    assert sum(p.stat().st_size for p in tmp_path.iterdir()) == 3 * SEGMENT
    again = log_in(tmp_path)
    left = again.replay(last - 1)
    assert [r.seq for r in left] == [last]


def test_a_full_log_waits_and_then_says_so(tmp_path: Path) -> None:
    log = log_in(tmp_path)
    log.replay(0)
    for _ in range(3):
        seq = append(log, b"x" * 40_000).seq
    with pytest.raises(LogFull):
        log.append({}, memoryview(b"x" * 40_000), b"\0" * 32, wait_s=0.05)
    freeing = threading.Timer(0.1, log.release, (seq,))
    freeing.start()
    assert append(log, b"x" * 40_000).seq == seq + 1
    freeing.join()


@settings(max_examples=60)
@given(st.integers(0, 2**32), st.integers(0, 255), st.integers(0, 60_000))
def test_a_damaged_record_ends_the_replay_before_it(seed: int, value: int, at: int) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        log = log_in(folder)
        log.replay(0)
        contents = [hashlib.sha256(f"{seed}{n}".encode()).digest() * 200 for n in range(6)]
        records = [append(log, content) for content in contents]
        log.close()
        path = folder / "log-0.log"
        data = bytearray(path.read_bytes())
        before = data[at]
        data[at] = value
        path.write_bytes(data)
        again = log_in(folder)
        replayed = again.replay(0)
        assert [again.content(r) for r in replayed] == contents[: len(replayed)]
        untouched = before == value
        damaged = sum(r.offset + r.length <= at for r in records)
        assert len(replayed) == 6 if untouched else len(replayed) >= min(damaged, 6)
        again.close()


def test_threads_share_a_sync_and_none_returns_too_early(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    real = os.fdatasync

    def counting(descriptor: int) -> None:
        real(descriptor)
        synced.append(descriptor)

    log = WriteAheadLog(tmp_path, "log", segments=2, segment_bytes=4 << 20)
    log.replay(0)
    monkeypatch.setattr(os, "fdatasync", counting)
    gate = threading.Barrier(8)

    def work() -> None:
        gate.wait()
        for _ in range(20):
            log.commit(append(log, b"y" * 5000).seq)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 20 <= len(synced) <= 160
    log.close()
    assert len(WriteAheadLog(tmp_path, "log", segments=2, segment_bytes=4 << 20).replay(0)) == 160


def test_after_a_failed_sync_nothing_is_durable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = log_in(tmp_path)
    log.replay(0)
    seq = append(log, b"x").seq

    def broken(descriptor: int) -> None:
        raise OSError(errno.EIO, "no")

    monkeypatch.setattr(os, "fdatasync", broken)
    with pytest.raises(OSError, match="no"):
        log.commit(seq)
    monkeypatch.undo()
    with pytest.raises(OSError, match="failed before"):
        log.commit(seq)


def test_released_content_is_wiped(tmp_path: Path) -> None:
    log = log_in(tmp_path)
    log.replay(0)
    seq = append(log, b"Doe^Jane" * 100).seq
    log.wipe()
    assert b"Doe^Jane" in (tmp_path / "log-0.log").read_bytes()
    log.release(seq)
    log.wipe()
    assert b"Doe^Jane" not in (tmp_path / "log-0.log").read_bytes()


def entry(seq: int, kind: str = "stored") -> Entry:
    return Entry(seq, kind, {"study": "st1", "instance": "x" * 10, "sha256": "0" * 64})


@given(st.integers(0, 3000))
def test_a_torn_journal_ends_at_its_last_whole_line(cut: int) -> None:
    lines = [encode_entry(entry(n)) for n in range(12)]
    data = b"".join(lines)
    found, end = decode_lines(data[:cut])
    assert data[:end] == b"".join(lines[: len(found)])
    assert len(found) == len([n for n in range(12) if len(b"".join(lines[: n + 1])) <= cut])


def test_a_journal_is_read_over_rotations_without_loss_or_repeat(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    journal, reader = Journal(path), JournalReader(path)
    seen: list[int] = []
    for seq in range(1, 200):
        journal.append([entry(seq)])
        if seq % 7 == 0:
            seen += [e.seq for e in reader.read() if e.kind != "mark"]
            journal.taken(reader.inode, reader.offset, least=500)
        if seq % 11 == 0:
            journal.taken(reader.inode, reader.offset, least=500)  # not all was taken
    seen += [e.seq for e in reader.read() if e.kind != "mark"]
    assert seen == list(range(1, 200))
    assert path.stat().st_size < 3000
    journal.close()
    assert Journal(path).last_seq == 199


def test_a_torn_tail_is_cut_when_the_journal_is_opened(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    Journal(path).append([entry(1), entry(2)])
    with path.open("ab") as stream:
        stream.write(encode_entry(entry(3))[:-9])
    journal = Journal(path)
    assert journal.last_seq == 2
    journal.append([entry(4)])
    assert [e.seq for e in JournalReader(path).read()] == [1, 2, 4]


def test_jobs_are_seen_and_forgotten_at_once(tmp_path: Path) -> None:
    book = JobBook(tmp_path / "jobs")
    assert book.find("1.2") is None
    write_job(tmp_path / "jobs", "st1", "1", {"1.2": ("k", "studies/st1/k.dcm")})
    found = book.find("1.2")
    assert found is not None
    assert (found.study_uid, found.path) == ("1", "studies/st1/k.dcm")
    write_job(tmp_path / "jobs", "st1", "1", {"1.3": ("k", "studies/st1/k.dcm")})
    assert book.find("1.2") is None
    assert book.find("1.3") is not None
    remove_job(tmp_path / "jobs", "st1")
    assert book.find("1.3") is None
    write_job(tmp_path / "jobs", "st2", "2", {"2.2": ("k", "../outside.dcm")})
    assert book.find("2.2") is None
    [path] = (tmp_path / "jobs").iterdir()
    assert path.stat().st_mode & 0o077 == 0
    clear_jobs(tmp_path / "jobs")
    assert list((tmp_path / "jobs").iterdir()) == []


def test_a_full_disk_pauses_and_nothing_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ENOSPC at the files, then at the journal: the log keeps all, and all comes in order."""
    (tmp_path / "study").mkdir()
    journal = Journal(tmp_path / "journal")
    placer = Placer(tmp_path, tmp_path, "0", journal, lambda: None)
    monkeypatch.setattr("dicom_bridge.net.scp.place._RETRY_S", 0.05)
    full = threading.Event()
    full.set()
    real_open, real_pwrite = os.open, os.pwrite

    def no_files(path: object, flags: int, *more: int) -> int:
        if full.is_set() and str(path).endswith(".part"):
            raise OSError(errno.ENOSPC, "No space left on device")
        return real_open(path, flags, *more)  # type: ignore[arg-type]

    lines = threading.Event()

    def no_lines(descriptor: int, data: bytes, at: int) -> int:
        if lines.is_set() and b"stored" in data:
            real_pwrite(descriptor, data[:10], at)
            raise OSError(errno.ENOSPC, "No space left on device")
        return real_pwrite(descriptor, data, at)

    monkeypatch.setattr("dicom_bridge.net.scp.place.os.open", no_files)
    monkeypatch.setattr("dicom_bridge.net.scp.journal.os.pwrite", no_lines)
    log = log_in(tmp_path, on_append=placer.submit)
    log.replay(0)
    placer.start(log)
    for number in range(3):
        content = bytes([number]) * 100
        digest = hashlib.sha256(content)
        meta = {
            "kind": "object",
            "path": f"study/a/{number}.dcm",
            "study": "st",
            "instance": str(number),
            "sha256": digest.hexdigest(),
        }
        last = log.append(meta, memoryview(content), digest.digest()).seq
        log.commit(last)
    wait_for(lambda: placer.full, what="the pause")
    lines.set()
    full.clear()
    wait_for(lambda: len(list(tmp_path.glob("study/a/*.dcm"))) == 3, what="the files")
    assert placer.full or journal.last_seq == 0
    lines.clear()
    wait_for(lambda: journal.last_seq == last, what="the journal")
    wait_for(lambda: not placer.full, what="the end of the pause")
    placer.stop()
    kinds = [(e.seq, e.kind) for e in JournalReader(tmp_path / "journal").read()]
    assert kinds == [(last - 2, "stored"), (last - 1, "stored"), (last, "stored")]
