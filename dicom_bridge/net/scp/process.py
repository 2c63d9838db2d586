"""A receiver process: settings and orders come on standard input, events go to standard output.

The first line is the settings (JSON; nothing identifying or secret is ever an argument), each later
line an order. The end of input means that the node has ended: stop listening at once, settle what
was answered, go. Log lines are JSON objects on standard output, which the node puts into its own
log; standard error stays unused.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import structlog

from dicom_bridge.net.scp.connection import Rules, Surroundings
from dicom_bridge.net.scp.jobs import JobBook
from dicom_bridge.net.scp.journal import Journal
from dicom_bridge.net.scp.place import Placer
from dicom_bridge.net.scp.rooms import Board, Limits, WaitingRoom
from dicom_bridge.net.scp.server import AcceptorServer
from dicom_bridge.net.scp.sink import Titles
from dicom_bridge.net.scp.store import LogSink, StoreOptions, clear_spool
from dicom_bridge.net.scp.wal import WriteAheadLog
from dicom_bridge.net.tls import TlsFiles, server_context

READY = "receiver_ready"
NEWS = "receiver_news"
NO_LOG = 75
DISK_FAILED = 70
_LOCK_S = 30.0
_STOP_S = 10.0
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Layout:
    """Where receiver processes keep their things.

    Attributes:
        root: what the jobs' paths are below: the identified zone.
        folder: logs, journals, jobs and the spool; on the file system of ``root``.
    """

    root: Path
    folder: Path

    @property
    def jobs(self) -> Path:
        """The folder of jobs."""
        return self.folder / "jobs"

    @property
    def spool(self) -> Path:
        """The folder of large objects on their way in."""
        return self.folder / "spool"

    def journal(self, number: int) -> Path:
        """A process's journal."""
        return self.folder / f"journal-{number}.jsonl"

    def create(self) -> None:
        """Make the folders, mode 0700."""
        for folder in (self.folder, self.jobs, self.spool):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            folder.chmod(0o700)


@dataclass(frozen=True, slots=True)
class ProcessSettings:
    """What a receiver process is told.

    Attributes:
        number: which process this is, from 0.
        processes: how many there are.
        listener: descriptor of the listening socket; None settles what is left and ends.
        board: descriptor of the shared counters.
        layout: where things are.
        rules: what connections are held to.
        options: how objects are kept.
        log_segments: segments of the write-ahead log.
        segment_bytes: size of each.
        tls: our certificate, for TLS only.
    """

    number: int
    processes: int
    listener: int | None
    board: int
    layout: Layout
    rules: Rules
    options: StoreOptions
    log_segments: int
    segment_bytes: int
    tls: TlsFiles | None

    def to_json(self) -> dict[str, object]:
        """As JSON values; `from_json` reads them."""
        rules, options = self.rules, self.options
        return {
            "number": self.number,
            "processes": self.processes,
            "listener": self.listener,
            "board": self.board,
            "root": str(self.layout.root),
            "folder": str(self.layout.folder),
            "ours": rules.titles.ours,
            "allowed": sorted(rules.titles.allowed),
            "limits": {name: getattr(rules.limits, name) for name in Limits.__slots__},
            "idle_s": rules.idle_s,
            "pdu_s": rules.pdu_s,
            "association_s": rules.association_s,
            "memory_bytes": options.memory_bytes,
            "instance_bytes": options.instance_bytes,
            "reserve_bytes": options.reserve_bytes,
            "log_segments": self.log_segments,
            "segment_bytes": self.segment_bytes,
            "tls": None
            if self.tls is None
            else {
                "certificate": str(self.tls.certificate.absolute()),
                "key": str(self.tls.key.absolute()),
                "authorities": str(self.tls.authorities.absolute()),
                "profile": self.tls.profile,
            },
        }

    @classmethod
    def from_json(cls, values: Mapping[str, object]) -> ProcessSettings:
        """The settings that `to_json` gave."""
        v: dict[str, object] = dict(values)
        number = int(str(v["number"]))
        layout = Layout(Path(str(v["root"])), Path(str(v["folder"])))
        limits, tls, allowed = v["limits"], v["tls"], v["allowed"]
        if not isinstance(limits, dict) or not isinstance(allowed, list):
            raise TypeError("receiver settings: limits or AE titles have a wrong form")
        rules = Rules(
            Titles(str(v["ours"]), frozenset(allowed)),
            Limits(**limits),
            idle_s=float(str(v["idle_s"])),
            pdu_s=float(str(v["pdu_s"])),
            association_s=float(str(v["association_s"])),
        )
        options = StoreOptions(
            layout.root,
            layout.spool,
            str(number),
            memory_bytes=int(str(v["memory_bytes"])),
            instance_bytes=int(str(v["instance_bytes"])),
            reserve_bytes=int(str(v["reserve_bytes"])),
        )
        files = None
        if isinstance(tls, dict):
            files = TlsFiles(
                certificate=Path(tls["certificate"]),
                key=Path(tls["key"]),
                authorities=Path(tls["authorities"]),
                profile=tls["profile"],
            )
        return cls(
            number,
            int(str(v["processes"])),
            None if v["listener"] is None else int(str(v["listener"])),
            int(str(v["board"])),
            layout,
            rules,
            options,
            int(str(v["log_segments"])),
            int(str(v["segment_bytes"])),
            files,
        )


class Output:
    """Standard output as a stream of JSON lines; a node that has died is no error here."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._lock = threading.Lock()

    def write(self, line: str) -> None:
        """Send one line (one `write` call, so that lines do not mix)."""
        data = line.encode()
        with self._lock:
            try:
                while data:
                    data = data[os.write(self._descriptor, data) :]
            except OSError:
                return

    def flush(self) -> None:
        """Nothing is buffered."""


def _configure_log(output: Output) -> None:
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=lambda *_: structlog.WriteLogger(output),  # type: ignore[arg-type]
        cache_logger_on_first_use=False,
    )


class ReceiverProcess:
    """Everything in one process, from its settings to its end."""

    def __init__(self, settings: ProcessSettings, output: Output) -> None:
        self._settings = settings
        self._output = output
        layout, name = settings.layout, str(settings.number)
        self._board = Board(settings.processes, settings.number, settings.board)
        self._board.clear_seats(settings.number)
        self._journal = Journal(layout.journal(settings.number))
        self._placer = Placer(layout.root, layout.spool, name, self._journal, self._tell)
        self._log = WriteAheadLog(
            layout.folder,
            f"log-{name}",
            segments=settings.log_segments,
            segment_bytes=settings.segment_bytes,
            on_append=self._placer.submit,
        )
        self._server: AcceptorServer | None = None

    def start(self) -> None:
        """Replay the log, then accept in a thread."""
        settings = self._settings
        left = self._log.replay(self._journal.last_seq)
        parts = frozenset(str(r.meta["part"]) for r in left if "part" in r.meta)
        clear_spool(settings.layout.spool, str(settings.number), parts)
        for record in left:
            self._placer.submit(record)
        if left:
            _log.info("receiver_replayed", process=settings.number, records=len(left))
        self._placer.start(self._log)
        if settings.listener is None:
            return
        sink = LogSink(
            settings.options,
            JobBook(settings.layout.jobs),
            self._log,
            self._placer,
            self._board,
            fatal=lambda: os._exit(DISK_FAILED),
        )
        around = Surroundings(
            settings.rules,
            self._board,
            WaitingRoom(settings.rules.limits),
            sink,
            server_context(settings.tls) if settings.tls else None,
        )
        self._server = AcceptorServer(socket.socket(fileno=settings.listener), around)
        threading.Thread(target=self._server.serve, name="accept", daemon=True).start()
        self._output.write(json.dumps({"event": READY}) + "\n")

    def obey(self, orders: BinaryIO) -> None:
        """Take orders until the node closes the pipe or says stop."""
        if self._server is None:
            return
        for line in orders:
            order = json.loads(line)
            if "taken" in order:
                inode, offset = order["taken"]
                try:
                    self._journal.taken(int(inode), int(offset))
                except OSError as error:
                    _log.warning("journal_not_rotated", cause=error.strerror)
            elif "stop" in order:
                return

    def stop(self) -> None:
        """Stop listening, finish what is being recorded, settle it."""
        if self._server is not None:
            self._server.stop(join_s=_STOP_S)
        ending = threading.Thread(target=self._placer.stop, daemon=True)
        ending.start()
        ending.join(_STOP_S)  # a paused placer leaves the rest to the next start

    def _tell(self) -> None:
        self._output.write(json.dumps({"event": NEWS}) + "\n")


def _lock(folder: Path, number: int) -> int:
    """Wait until an earlier process of this number has ended."""
    descriptor = os.open(folder / f"process-{number}.lock", os.O_RDWR | os.O_CREAT, 0o600)
    deadline = time.monotonic() + _LOCK_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return descriptor


def main() -> int:
    """Run until the node ends or says stop."""
    output = Output(os.dup(1))
    _configure_log(output)
    sys.setswitchinterval(0.001)
    orders = sys.stdin.buffer
    settings = ProcessSettings.from_json(json.loads(orders.readline()))
    held = _lock(settings.layout.folder, settings.number)
    try:
        process = ReceiverProcess(settings, output)
        process.start()
    except OSError as error:
        _log.error("receiver_without_log", cause=error.strerror, process=settings.number)
        return NO_LOG
    except Exception as error:  # edge: the text could hold a value; the class says enough
        _log.error("receiver_not_started", cause=type(error).__name__, process=settings.number)
        return 1
    process.obey(orders)
    process.stop()
    os.close(held)
    return 0
