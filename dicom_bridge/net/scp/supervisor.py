"""Receiver processes as the node sees them: one port, N processes, counts, news, restarts.

The node binds the one listening socket and passes it on, so every connection that the kernel has
completed waits in a queue that outlives any process. Processes are started by `subprocess` (never
by fork: gRPC's threads would not survive it) and die with the node, whose end of their standard
input closes. One that dies is started again; it replays its log first.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import structlog

from dicom_bridge.errors import SettingsRefused
from dicom_bridge.net.receiver import ReceiverCounts, ReceiverSettings, listen, rules_of
from dicom_bridge.net.scp.process import NEWS, READY, Layout, ProcessSettings
from dicom_bridge.net.scp.rooms import Board, board_bytes
from dicom_bridge.net.scp.store import StoreOptions

_READY_S = 60.0
_BIND_S = 5.0
_STOP_S = 30.0
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.1, 10.0
_STEADY_S = 30.0
_LARGEST_META = 64 << 10
_JOURNAL = re.compile(r"journal-(\d+)\.jsonl")
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Sizes:
    """What a process may use.

    Attributes:
        memory_bytes: larger objects stream into a file.
        log_segments: segments of its write-ahead log.
        segment_bytes: size of each; four of 16 MiB hold half a second of a fast sender.
    """

    memory_bytes: int = 1 << 20
    log_segments: int = 4
    segment_bytes: int = 16 << 20


class _Child:
    """One process and the threads that listen to it."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.popen: subprocess.Popen[bytes] | None = None
        self.ready = threading.Event()
        self.lock = threading.Lock()

    def order(self, order: dict[str, object]) -> None:
        """Tell the process something; a dead one does not mind."""
        with self.lock, contextlib.suppress(OSError, ValueError):
            if self.popen is not None and self.popen.stdin is not None:
                self.popen.stdin.write(json.dumps(order).encode() + b"\n")
                self.popen.stdin.flush()


class ReceiverProcesses:
    """A Storage, Verification and Storage Commitment SCP in processes of its own.

    Args:
        settings: how to listen.
        layout: where logs, journals and jobs are.
        processes: how many.
        on_news: called when journals have new lines, from several threads.
        sizes: what a process may use.
    """

    def __init__(
        self,
        settings: ReceiverSettings,
        layout: Layout,
        *,
        processes: int = 1,
        on_news: Callable[[], None] = lambda: None,
        sizes: Sizes | None = None,
    ) -> None:
        self._settings = settings
        self._layout = layout
        self._sizes = sizes or Sizes()
        if self._sizes.segment_bytes < self._sizes.memory_bytes + _LARGEST_META:
            raise SettingsRefused(
                "Storage SCP: a segment of the log is smaller than an object in it"
            )
        self._on_news = on_news
        self._children = [_Child(number) for number in range(processes)]
        self._threads: list[threading.Thread] = []
        self._stopping = threading.Event()
        self._listener: socket.socket | None = None
        self._board_file = -1
        self._board: Board | None = None
        self.restarts = 0

    def start(self) -> int:
        """Bind, start the processes and wait until they accept.

        Returns:
            The TCP port that is bound.

        Raises:
            SettingsRefused: the address cannot be bound, or the processes do not start.
        """
        self._layout.create()
        number = len(self._children)
        self._board_file = os.memfd_create("receivers")
        os.ftruncate(self._board_file, board_bytes(number))
        self._board = Board(number, 0, self._board_file)
        self._listener = self._bind()
        self._settle_former(number)
        for child in self._children:
            thread = threading.Thread(
                target=self._watch, args=(child,), name=f"receiver-{child.number}", daemon=True
            )
            thread.start()
            self._threads.append(thread)
        deadline = time.monotonic() + _READY_S
        for child in self._children:
            if not child.ready.wait(max(0.0, deadline - time.monotonic())):
                self.stop()
                raise SettingsRefused(
                    "Storage SCP: a receiver process did not start; the node's log says why"
                )
        port = int(self._listener.getsockname()[1])
        _log.info(
            "storage_scp_listening",
            ae_title=self._settings.ae_title,
            port=port,
            processes=number,
        )
        return port

    def stop(self) -> None:
        """Stop listening; what was answered is settled before the processes end."""
        self._stopping.set()
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        for child in self._children:
            child.order({"stop": True})
        for thread in self._threads:
            thread.join(_STOP_S)
        for child in self._children:
            if child.popen is not None and child.popen.poll() is None:
                child.popen.kill()
        self._threads.clear()
        _log.info("storage_scp_stopped", ae_title=self._settings.ae_title)

    @property
    def counts(self) -> ReceiverCounts:
        """How requests were answered so far, by all processes."""
        board = self._board
        if board is None:
            return ReceiverCounts(0, 0, 0, 0)
        return ReceiverCounts(
            board.total("stored"),
            board.total("repeated"),
            board.total("conflicts"),
            board.total("refused"),
        )

    @property
    def pids(self) -> list[int]:
        """The process ids."""
        return [child.popen.pid for child in self._children if child.popen is not None]

    def journals(self) -> dict[int, Path]:
        """Every journal there is, those of former processes too."""
        found = {number: self._layout.journal(number) for number in range(len(self._children))}
        for path in self._layout.folder.glob("journal-*.jsonl"):
            match = _JOURNAL.fullmatch(path.name)
            if match:
                found[int(match[1])] = path
        return found

    def taken(self, number: int, inode: int, offset: int) -> None:
        """Tell a process how far its journal was taken."""
        if number < len(self._children):
            self._children[number].order({"taken": [inode, offset]})

    def _bind(self) -> socket.socket:
        """Bind; receivers of a node that was killed let the port go within moments."""
        deadline = time.monotonic() + _BIND_S
        while True:
            try:
                return listen(self._settings)
            except SettingsRefused:
                if not self._layout.journal(0).exists() or time.monotonic() > deadline:
                    raise
                time.sleep(0.1)

    def _process_settings(self, number: int, listener: int | None) -> ProcessSettings:
        settings, sizes, layout = self._settings, self._sizes, self._layout
        options = StoreOptions(
            layout.root,
            layout.spool,
            str(number),
            memory_bytes=sizes.memory_bytes,
            instance_bytes=settings.instance_bytes,
            reserve_bytes=settings.reserve_bytes,
        )
        return ProcessSettings(
            number,
            max(len(self._children), number + 1) if listener is None else len(self._children),
            listener,
            self._board_file,
            layout,
            rules_of(settings),
            options,
            sizes.log_segments,
            sizes.segment_bytes,
            settings.tls,
        )

    def _spawn(self, settings: ProcessSettings) -> subprocess.Popen[bytes]:
        descriptors = [settings.board]
        if settings.listener is not None:
            descriptors.append(settings.listener)
        popen = subprocess.Popen(
            [sys.executable, "-m", "dicom_bridge.net.scp"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            pass_fds=descriptors,
            cwd=Path(__file__).parents[3],
        )
        if popen.stdin is not None:
            with contextlib.suppress(OSError):
                popen.stdin.write(json.dumps(settings.to_json()).encode() + b"\n")
                popen.stdin.flush()
        return popen

    def _settle_former(self, number: int) -> None:
        """Settle the logs of processes that there are no more: fewer are configured now."""
        for former in sorted(self.journals()):
            if former < number:
                continue
            descriptor = os.memfd_create("former")
            os.ftruncate(descriptor, board_bytes(former + 1))
            settings = self._process_settings(former, None)
            values = {**settings.to_json(), "board": descriptor}
            try:
                popen = self._spawn(ProcessSettings.from_json(values))
                popen.communicate(timeout=_READY_S)
            finally:
                os.close(descriptor)

    def _watch(self, child: _Child) -> None:
        """Run a process again and again until the node stops."""
        wait = _FIRST_WAIT_S
        while not self._stopping.is_set():
            begun = time.monotonic()
            listener = self._listener
            if listener is None or listener.fileno() < 0:
                return
            settings = self._process_settings(child.number, listener.fileno())
            with child.lock:
                child.popen = popen = self._spawn(settings)
            if self._stopping.is_set():
                child.order({"stop": True})
            if popen.stdout is not None:
                self._listen_to(child, popen.stdout)
            status = popen.wait()
            if self._board is not None:
                self._board.clear_seats(child.number)
            for stream in (popen.stdin, popen.stdout):
                if stream is not None:
                    with contextlib.suppress(OSError):
                        stream.close()
            if self._stopping.is_set():
                return
            self.restarts += 1
            steady = time.monotonic() - begun > _STEADY_S
            wait = _FIRST_WAIT_S if steady else min(wait * 2, _LONGEST_WAIT_S)
            _log.error(
                "receiver_process_died",
                process=child.number,
                status=status,
                killed=status == -signal.SIGKILL,
                again_in_s=wait,
            )
            self._on_news()
            self._stopping.wait(wait)

    def _listen_to(self, child: _Child, stream: IO[bytes]) -> None:
        for line in stream:
            try:
                values = json.loads(line)
                event = str(values.pop("event"))
            except (ValueError, KeyError, AttributeError):
                continue
            if event == READY:
                child.ready.set()
                self._on_news()
            elif event == NEWS:
                self._on_news()
            else:
                level = str(values.pop("level", "info"))
                tell = getattr(_log, level if level in _LEVELS else "info")
                tell(event, **{name: value for name, value in values.items() if name != "event"})


_LEVELS = frozenset({"debug", "info", "warning", "error"})
