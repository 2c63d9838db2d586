"""The node's side of the trainer: start the process, give it jobs, wait, restart it when it dies.

The process is started by a guard thread that lives exactly as long as the process, because
Linux's parent-death signal (prctl(2), PR_SET_PDEATHSIG) follows the thread that forked. Jobs are
announced by a line on the process's standard input, results by a line on its standard output, so
neither side polls.
"""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final, Self

import structlog

from federation.errors import TrainerFailed, TrainerLost
from federation.learning.prepared import write_atomically
from federation.trainer.jobs import (
    EvaluateJob,
    EvaluateResult,
    InferJob,
    InferResult,
    InitialiseJob,
    InitialiseResult,
    Job,
    Result,
    TrainerResources,
    TrainJob,
    TrainResult,
    job_document,
    job_key,
    outputs_intact,
    parse_result,
)
from federation.trainer.words import Cause, last_error, scrubbed

MAX_RESTARTS: Final = 3
"""How often the process may die during one job before the job is given up."""
KEPT_JOBS: Final = 64
"""Finished jobs of which the files are kept in inbox and outbox."""
STOP_SECONDS: Final = 5.0
"""How long the process may take to end by itself before it is killed."""
LOG_TAIL_BYTES: Final = 64 * 1024
"""How much of the end of a dead process's standard error is read."""
_OOM_COUNTERS: Final = (Path("/proc/vmstat"), Path("/sys/fs/cgroup/memory.events"))
_ENVIRONMENT: Final = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "TZ", "VIRTUAL_ENV")
_ENVIRONMENT_PREFIXES: Final = ("PYTHON", "COVERAGE", "COV_CORE", "LD_", "CUDA_", "NVIDIA_")
_THREADS: Final = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the running job is.

    Attributes:
        kind: ``train``, ``evaluate``, ``infer`` or ``initialise``.
        round: Round of a train job, else None.
        done: Steps or cases done.
        total: Steps or cases of the job.
        loss: Mean loss so far of a train job, else None.
    """

    kind: str
    round: int | None
    done: int
    total: int
    loss: float | None


class _Process:
    """One trainer process with its guard thread."""

    def __init__(self, folder: Path, resources: TrainerResources, module: str) -> None:
        self._folder = folder
        self._resources = resources
        self._module = module
        self._changed = threading.Condition()
        self._news = 0
        self._ended: int | None = None
        self._out_of_memory = memory_kills()
        self._failure: OSError | None = None
        self._popen: subprocess.Popen[bytes] | None = None
        self._guard = threading.Thread(target=self._run, name="trainer-guard", daemon=True)
        started = threading.Event()
        self._started = started
        self._guard.start()
        started.wait()
        if self._failure is not None:
            raise TrainerLost(f"the trainer process cannot be started ({self._failure.strerror})")

    def _run(self) -> None:
        try:
            with (self._folder / "trainer.log").open("wb") as log:
                popen = subprocess.Popen(
                    _command(self._module, self._folder, self._resources),
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    env=_environment(self._resources),
                )
        except OSError as error:
            self._failure = error
            self._started.set()
            return
        self._popen = popen
        self._started.set()
        if popen.stdout is not None:
            with popen.stdout:
                for _ in popen.stdout:
                    with self._changed:
                        self._news += 1
                        self._changed.notify_all()
        code = popen.wait()
        _close(popen.stdin)
        with self._changed:
            self._ended = code
            self._changed.notify_all()

    @property
    def ended(self) -> int | None:
        """Exit status, negative for a signal; None while it runs."""
        return self._ended

    @property
    def pid(self) -> int:
        """Process id."""
        return self._popen.pid if self._popen is not None else -1

    def cause(self) -> Cause | None:
        """Why it died: what its standard error ends with, or the kernel's counter of kills."""
        if self._ended == -signal.SIGKILL:
            # The kernel may have ended another process in that time: it says what is likely.
            if memory_kills() > self._out_of_memory:
                return Cause("the machine ran out of memory and the kernel ended it", final=True)
            return None
        try:
            with (self._folder / "trainer.log").open("rb") as log:
                log.seek(max(0, log.seek(0, os.SEEK_END) - LOG_TAIL_BYTES))
                return last_error(log.read())
        except OSError:
            return None

    def announce(self) -> None:
        """Tell the process that the inbox has changed; a dead process is noticed by waiting."""
        if self._popen is not None and self._popen.stdin is not None:
            try:
                self._popen.stdin.write(b"\n")
                self._popen.stdin.flush()
            except (OSError, ValueError):
                _log.debug("trainer_not_listening")

    def wait_for_news(self, seen: int) -> int:
        """Block until the process said something after ``seen`` or ended."""
        with self._changed:
            self._changed.wait_for(lambda: self._news > seen or self._ended is not None)
            return self._news

    def stop(self) -> None:
        """End the process: by end of input, then SIGTERM, then SIGKILL."""
        popen = self._popen
        if popen is None:
            return
        _close(popen.stdin)
        for end in (popen.terminate, popen.kill):
            self._guard.join(STOP_SECONDS if end == popen.kill else 0.5)
            if not self._guard.is_alive():
                return
            end()
        self._guard.join()


def memory_kills(counters: Sequence[Path] = _OOM_COUNTERS) -> int:
    """How many processes the kernel has ended for lack of memory so far (/proc/vmstat, cgroup v2).

    Args:
        counters: files with lines such as ``oom_kill 3``; one that cannot be read counts nothing.
    """
    total = 0
    for path in counters:
        try:
            lines = path.read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))
    return total


def _close(stream: IO[bytes] | None) -> None:
    """Close a pipe whose reader may be gone."""
    if stream is not None:
        try:
            stream.close()
        except OSError:
            _log.debug("trainer_already_gone")


class Trainer:
    """A trainer process of one run at one site, restarted when it dies.

    Args:
        folder: The trainer's folder; it is created. A later ``Trainer`` on the same folder goes on
            with the optimiser and random state found there.
        resources: Threads and device.
        module: What runs as the process; it takes the arguments of ``federation.trainer``.
    """

    def __init__(
        self, folder: Path, resources: TrainerResources, *, module: str = "federation.trainer"
    ) -> None:
        self.folder = folder
        self.resources = resources
        self._module = module
        self._process: _Process | None = None
        self._lock = threading.Lock()
        self._life = threading.RLock()
        self._closed = False

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def pid(self) -> int | None:
        """The process's id, None before :meth:`start` and after :meth:`close`."""
        process = self._process
        return process.pid if process is not None and process.ended is None else None

    def start(self) -> None:
        """Start the process; jobs that an earlier client left unfinished are dropped.

        Raises:
            TrainerLost: when the process cannot be started.
        """
        with self._life:
            if self._process is not None and self._process.ended is None:
                return
            self._closed = False
            for name in ("inbox", "outbox", "state"):
                (self.folder / name).mkdir(parents=True, exist_ok=True)
            for path in self._inbox():
                if not (self.folder / "outbox" / path.name).exists():
                    path.unlink()
            (self.folder / "progress.json").unlink(missing_ok=True)
            self._process = _Process(self.folder, self.resources, self._module)

    def close(self) -> None:
        """Stop the process. A job that waits in another thread ends with ``TrainerLost``."""
        with self._life:
            self._closed = True
            process, self._process = self._process, None
            if process is not None:
                process.stop()

    def train(self, job: TrainJob) -> TrainResult:
        """Train one round; the result of the same job done before is returned at once.

        Raises:
            TrainerFailed: when the job ended with an error.
            TrainerLost: when the process died too often or was closed.
        """
        result = self._do(job)
        assert isinstance(result, TrainResult)  # noqa: S101 - parse_result follows the job's type
        return result

    def evaluate(self, job: EvaluateJob) -> EvaluateResult:
        """Score a model on a split; errors as :meth:`train`."""
        result = self._do(job)
        assert isinstance(result, EvaluateResult)  # noqa: S101 - as above
        return result

    def infer(self, job: InferJob) -> InferResult:
        """Segment cases; errors as :meth:`train`."""
        result = self._do(job)
        assert isinstance(result, InferResult)  # noqa: S101 - as above
        return result

    def initialise(self, job: InitialiseJob) -> InitialiseResult:
        """Write the plan's initial weights; errors as :meth:`train`."""
        result = self._do(job)
        assert isinstance(result, InitialiseResult)  # noqa: S101 - as above
        return result

    def progress(self) -> Progress | None:
        """How far the running job is; None when nothing is known."""
        try:
            found = json.loads((self.folder / "progress.json").read_bytes())
            return Progress(**{name: found[name] for name in Progress.__slots__})
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def isolation(self) -> Mapping[str, Any]:
        """What the process recorded about itself: pid, ``network`` and why; {} before it has."""
        try:
            found = json.loads((self.folder / "process.json").read_bytes())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def _do(self, job: Job) -> Result:
        with self._lock:
            document = job_document(job)
            key = job_key(document)
            known = self._known_result(job, key)
            if known is not None:
                return known
            number = max((int(path.stem) for path in self._inbox()), default=0) + 1
            name = f"{number:06d}.json"
            write_atomically(
                self.folder / "inbox" / name, json.dumps({"key": key, "job": document}).encode()
            )
            result = parse_result(job, self._await(name))
            self._forget_old()
            return result

    def _inbox(self) -> list[Path]:
        return sorted((self.folder / "inbox").glob("[0-9]*.json"))

    def _known_result(self, job: Job, key: str) -> Result | None:
        for path in reversed(self._inbox()):
            answer = _read(self.folder / "outbox" / path.name)
            if answer is None or not answer.get("ok") or answer.get("key") != key:
                continue
            result = parse_result(job, answer["result"])
            if outputs_intact(result):
                return result
        return None

    def _await(self, name: str) -> Mapping[str, Any]:
        answer_path = self.folder / "outbox" / name
        deaths = 0
        while True:
            process = self._process
            if process is None or self._closed:
                raise TrainerLost("the trainer was closed while a job was waiting")
            process.announce()
            news = 0
            while process.ended is None and not answer_path.exists():
                news = process.wait_for_news(news)
            answer = _read(answer_path)
            if answer is not None:
                return _accepted(answer)
            deaths += 1
            self._revive(process, deaths)

    def _revive(self, process: _Process, deaths: int) -> None:
        """Start the process again after its death; whoever closes the trainer meanwhile wins.

        Raises:
            TrainerLost: it died too often, or for a reason that stays.
        """
        with self._life:
            if self._closed:
                raise TrainerLost("the trainer was closed while a job was waiting")
            ending, cause = _words(process.ended), process.cause()
            _log.warning("trainer_died", ending=ending, deaths=deaths)
            if deaths > MAX_RESTARTS or (cause is not None and cause.final):
                times = "" if deaths == 1 else f" {deaths} times during one job, last"
                told = "it may need more memory" if cause is None else cause.words
                raise TrainerLost(f"the trainer process died{times} {ending}: {told}")
            self._process = _Process(self.folder, self.resources, self._module)

    def _forget_old(self) -> None:
        for path in self._inbox()[:-KEPT_JOBS]:
            path.unlink(missing_ok=True)
            (self.folder / "outbox" / path.name).unlink(missing_ok=True)


def _accepted(answer: Mapping[str, Any]) -> Mapping[str, Any]:
    if not answer.get("ok"):
        raise TrainerFailed(scrubbed(str(answer.get("error", "the trainer gave no reason"))))
    result = answer.get("result")
    if not isinstance(result, dict):
        raise TrainerFailed("the trainer's answer holds no result")
    return result


def _read(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _words(code: int | None) -> str:
    if code is not None and code < 0:
        try:
            return f"by {signal.Signals(-code).name}"
        except ValueError:
            return f"by signal {-code}"
    return f"with exit status {code}"


def _command(module: str, folder: Path, resources: TrainerResources) -> list[str]:
    return [
        sys.executable,
        "-m",
        module,
        str(folder.absolute()),
        f"--threads={resources.threads}",
        f"--device={resources.device}",
        f"--parent={os.getpid()}",
    ]


def _environment(resources: TrainerResources) -> dict[str, str]:
    kept = {
        name: value
        for name, value in os.environ.items()
        if name in _ENVIRONMENT or name.startswith(_ENVIRONMENT_PREFIXES)
    }
    return kept | dict.fromkeys(_THREADS, str(resources.threads))
