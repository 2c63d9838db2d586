"""What receiver processes put in place comes into the node's state.

Receivers answer a sender once an object is durable, and write a line into their own journal once
it is in its place. This process alone owns the state: it reads the journals' new lines, records
them in one transaction, notes how far it came, and tells the receiver, which then may begin a new
journal. Every step can be repeated: recording the same instance twice changes nothing.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog

from appliance.home import Home, write_private
from appliance.pipeline.states import State
from appliance.settings import Settings
from appliance.store import NodeState
from dicom_bridge.net.model import CommitmentReport
from dicom_bridge.net.receiver import ReceiverCounts, ReceiverSettings
from dicom_bridge.net.scp.jobs import clear_jobs
from dicom_bridge.net.scp.journal import Entry, JournalReader
from dicom_bridge.net.scp.process import Layout
from dicom_bridge.net.scp.supervisor import ReceiverProcesses
from dicom_bridge.net.tls import TlsFiles

_LOOK_S = 1.0
_log = structlog.get_logger(__name__)

OnCommitment = Callable[[CommitmentReport], object]


def layout_of(home: Home) -> Layout:
    """Where this home's receivers keep their things."""
    return Layout(home.identified, home.identified / "receiving")


def receiver_settings(settings: Settings, home: Home, port: int | None = None) -> ReceiverSettings:
    """The receiver as the node's settings describe it.

    Args:
        settings: the node's settings.
        home: the node home.
        port: in place of the settings' port.
    """
    dicom = settings.dicom
    tls = None
    if dicom.tls is not None:
        files = dicom.tls
        tls = TlsFiles(files.certificate, files.key, files.authorities, files.profile)
    return ReceiverSettings(
        ae_title=dicom.ae_title,
        host=dicom.host,
        port=dicom.port if port is None else port,
        allowed_ae=settings.allowed_ae(),
        max_associations=dicom.max_associations,
        spool=home.identified,
        tls=tls,
    )


@dataclass(frozen=True, slots=True)
class Position:
    """How far a journal was taken."""

    inode: int
    offset: int


class JournalIntake:
    """Takes journals into the state; one thread at a time.

    Args:
        state: the node's state.
        folder: where the journals' positions are kept.
        on_commitment: told each storage commitment report at least once.
    """

    def __init__(self, state: NodeState, folder: Path, on_commitment: OnCommitment) -> None:
        self._state = state
        self._positions_file = folder / "taken.json"
        self._on_commitment = on_commitment
        self._positions = _read_positions(self._positions_file)

    def take(self, journals: dict[int, Path]) -> dict[int, Position]:
        """Take what is new.

        Returns:
            The positions of the journals that had something new.
        """
        moved: dict[int, Position] = {}
        for number, path in sorted(journals.items()):
            known = self._positions.get(number, Position(0, 0))
            reader = JournalReader(path, known.inode, known.offset)
            entries = reader.read()
            if not entries:
                continue
            self._record(entries)
            moved[number] = Position(reader.inode, reader.offset)
        if moved:
            self._positions |= moved
            values = {str(n): [p.inode, p.offset] for n, p in self._positions.items()}
            write_private(self._positions_file, json.dumps(values).encode())
        return moved

    def _record(self, entries: Sequence[Entry]) -> None:
        with self._state.database.transaction():
            for entry in entries:
                if entry.kind in ("stored", "conflict"):
                    self._instance(entry)
                elif entry.kind == "dropped":
                    _log.warning("instance_dropped", study=str(entry.values["study"]))
        for entry in entries:
            if entry.kind == "commitment":
                self._on_commitment(_report(entry))

    def _instance(self, entry: Entry) -> None:
        study_key, instance = str(entry.values["study"]), str(entry.values["instance"])
        study = self._state.studies.find(study_key)
        if study is None or study.state is State.WITHDRAWN:
            return  # erased between the answer and now; its folder went with it
        if entry.kind == "conflict":
            self._state.instances.mark_conflict(study_key, instance)
        else:
            self._state.instances.record(study_key, instance, str(entry.values["sha256"]))


def _report(entry: Entry) -> CommitmentReport:
    committed, failed = entry.values["committed"], entry.values["failed"]
    if not isinstance(committed, list) or not isinstance(failed, dict):
        raise TypeError("a commitment entry has a wrong form")
    return CommitmentReport(str(entry.values["transaction"]), frozenset(committed), failed)


def _read_positions(path: Path) -> dict[int, Position]:
    try:
        values = json.loads(path.read_bytes())
        return {int(number): Position(int(p[0]), int(p[1])) for number, p in values.items()}
    except (OSError, ValueError, AttributeError, IndexError, TypeError):
        return {}  # everything is taken once more, which changes nothing


class Receiving:
    """The node's receivers and the thread that takes their journals.

    Args:
        settings: the node's settings.
        home: the node home.
        state: the node's state.
        on_commitment: told each storage commitment report at least once.
        on_taken: called when instances were recorded.
        port: in place of the settings' port.
    """

    def __init__(
        self,
        settings: Settings,
        home: Home,
        state: NodeState,
        *,
        on_commitment: OnCommitment,
        on_taken: Callable[[], None] = lambda: None,
        port: int | None = None,
    ) -> None:
        layout = layout_of(home)
        layout.create()
        clear_jobs(layout.jobs)
        self._news = threading.Event()
        self._stopping = threading.Event()
        self._on_taken = on_taken
        self._intake = JournalIntake(state, layout.folder, on_commitment)
        self._processes = ReceiverProcesses(
            receiver_settings(settings, home, port),
            layout,
            processes=settings.dicom.receiver_processes,
            on_news=self._news.set,
        )
        self._thread = threading.Thread(target=self._run, name="receiving", daemon=True)

    def start(self) -> int:
        """Bind, start the processes and take what they had left.

        Returns:
            The TCP port that is bound.

        Raises:
            SettingsRefused: the address cannot be bound, or the processes do not start.
        """
        port = self._processes.start()
        self._thread.start()
        return port

    def stop(self) -> None:
        """Stop listening; what was answered is settled and taken first."""
        self._processes.stop()
        self._stopping.set()
        self._news.set()
        if self._thread.ident is not None:
            self._thread.join()

    @property
    def counts(self) -> ReceiverCounts:
        """How requests were answered so far."""
        return self._processes.counts

    @property
    def restarts(self) -> int:
        """How often a receiver process died and was started again."""
        return self._processes.restarts

    @property
    def pids(self) -> list[int]:
        """The receivers' process ids."""
        return self._processes.pids

    def _run(self) -> None:
        while True:
            self._news.wait(_LOOK_S)
            self._news.clear()
            last = self._stopping.is_set()
            try:
                moved = self._intake.take(self._processes.journals())
            except Exception as error:  # edge: the journals stay; the next look takes them
                _log.error("journals_not_taken", cause=type(error).__name__)
                moved = {}
            for number, position in moved.items():
                self._processes.taken(number, position.inode, position.offset)
            if moved:
                self._on_taken()
            if last:
                return
