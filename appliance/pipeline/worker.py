"""The worker process: takes one job after the other from a pipe until the pipe closes.

This module imports nothing heavy, so that the thread counts are set before numpy is loaded.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

_PR_SET_PDEATHSIG = 1
_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS",
)


@dataclass(frozen=True, slots=True)
class Job:
    """A call of a module-level function with arguments that can be pickled."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a job.

    Attributes:
        value: the function's result.
        refused: the data cannot be used; the reason in words.
        failed: the function failed; the cause in words, without any value of the data.
        where: places in the source, for the log.
    """

    value: Any = None
    refused: str | None = None
    failed: str | None = None
    where: tuple[str, ...] = ()


def serve(connection: Connection, parent: int, threads: int) -> None:
    """Run jobs until the node closes the pipe or dies.

    Args:
        connection: jobs come in, answers go out.
        parent: the node's process id; this process dies with it.
        threads: threads that numerical libraries may use.
    """
    die_with_parent(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for name in _THREAD_VARIABLES:
        os.environ[name] = str(threads)
    from appliance.log import configure_log

    configure_log(level="warning")
    while True:
        try:
            job: Job = connection.recv()
        except EOFError:
            return
        connection.send(execute(job))


def execute(job: Job) -> Answer:
    """Run one job and give its result or the reason why there is none."""
    from appliance.errors import ApplianceError, ImageRefused
    from dicom_bridge.errors import DataRefused, DicomBridgeError

    try:
        return Answer(value=job.function(*job.arguments))
    except (DataRefused, ImageRefused) as error:
        return Answer(refused=str(error), where=_places(error))
    except (ApplianceError, DicomBridgeError) as error:
        return Answer(failed=str(error), where=_places(error))
    except MemoryError as error:
        return Answer(failed="not enough memory for this stage", where=_places(error))
    except Exception as error:  # edge: a worker must answer, and foreign texts may hold identifiers
        place = _own_place(error)
        return Answer(failed=f"unexpected {type(error).__name__} at {place}", where=_places(error))


def die_with_parent(parent: int) -> None:
    """Ask the kernel to kill this process when its parent dies (Linux ``prctl(2)``)."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def _places(error: BaseException) -> tuple[str, ...]:
    """File name, line and function of each frame; no values, no folders."""
    frames = traceback.extract_tb(error.__traceback__)
    return tuple(f"{Path(f.filename).name}:{f.lineno} {f.name}" for f in frames) or ("unknown",)


def _own_place(error: BaseException) -> str:
    """The innermost frame inside clinode's own packages."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if {"appliance", "dicom_bridge", "federation"} & set(_folders(f))]
    frame = own[-1] if own else frames[-1]
    return f"{Path(frame.filename).name}:{frame.lineno}"


def _folders(frame: traceback.FrameSummary) -> tuple[str, ...]:
    return Path(frame.filename).parts
