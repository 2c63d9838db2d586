"""A small pool of worker processes that can be interrupted at once and survives their death."""

from __future__ import annotations

import multiprocessing
import os
import queue
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import structlog

from appliance.errors import ApplianceError
from appliance.pipeline.worker import Answer, Job, serve

_log = structlog.get_logger(__name__)
_CONTEXT = multiprocessing.get_context("spawn")


class WorkerDied(ApplianceError):
    """A worker process ended in the middle of a job (out of memory, killed, crashed)."""


@dataclass(slots=True)
class _Worker:
    process: multiprocessing.process.BaseProcess
    connection: Connection


class WorkerPool:
    """Worker processes, started by spawn when first needed, one thread watching each.

    Args:
        workers: number of processes.
        threads: threads that each may use.
    """

    def __init__(self, *, workers: int, threads: int) -> None:
        self._threads = threads
        self._jobs: queue.SimpleQueue[tuple[Job, Future[Answer]] | None] = queue.SimpleQueue()
        self._closing = threading.Event()
        self._mutex = threading.Lock()
        self._running: dict[int, _Worker] = {}
        self._watchers = [
            threading.Thread(target=self._watch, args=(n,), name=f"worker-{n}", daemon=True)
            for n in range(workers)
        ]
        for watcher in self._watchers:
            watcher.start()

    @property
    def workers(self) -> int:
        """Number of worker processes."""
        return len(self._watchers)

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Answer]:  # noqa: ANN401
        """Queue a call of a module-level function.

        The future gives an `Answer`, raises `WorkerDied`, or is cancelled when the pool closes.
        """
        future: Future[Answer] = Future()
        if self._closing.is_set():
            future.cancel()
            return future
        self._jobs.put((Job(function, arguments), future))
        return future

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:  # noqa: ANN401
        """Run a function in a worker and wait for its value.

        Raises:
            ApplianceError: the function refused or failed, in words.
            CancelledError: the pool was closed meanwhile.
        """
        answer = self.submit(function, *arguments).result()
        if answer.refused is not None or answer.failed is not None:
            raise ApplianceError(answer.refused or answer.failed)
        return answer.value

    def close(self) -> None:
        """End all processes at once; running jobs are given up."""
        self._closing.set()
        with self._mutex:
            for worker in self._running.values():
                worker.process.kill()
        for _ in self._watchers:
            self._jobs.put(None)
        for watcher in self._watchers:
            watcher.join(timeout=10.0)
        while not self._jobs.empty():
            entry = self._jobs.get()
            if entry is not None:
                entry[1].cancel()

    def _watch(self, number: int) -> None:
        while (entry := self._jobs.get()) is not None:
            job, future = entry
            if self._closing.is_set() or not future.set_running_or_notify_cancel():
                future.cancel()
                continue
            try:
                future.set_result(self._run(number, job))
            except (EOFError, OSError) as error:
                self._drop(number)
                if self._closing.is_set():
                    future.set_exception(CancelledError())
                else:
                    _log.warning("worker_died", worker=number)
                    died = WorkerDied("the worker process ended in the middle of the stage")
                    died.__cause__ = error
                    future.set_exception(died)
            except Exception as error:  # edge: the future carries it to the caller
                future.set_exception(error)
        self._drop(number)

    def _run(self, number: int, job: Job) -> Answer:
        worker = self._running.get(number) or self._start(number)
        worker.connection.send(job)
        answer: Answer = worker.connection.recv()
        return answer

    def _start(self, number: int) -> _Worker:
        ours, theirs = _CONTEXT.Pipe()
        process = _CONTEXT.Process(
            target=serve, args=(theirs, os.getpid(), self._threads), daemon=True
        )
        process.start()
        theirs.close()
        worker = _Worker(process, ours)
        with self._mutex:
            self._running[number] = worker
            if self._closing.is_set():
                process.kill()
        return worker

    def _drop(self, number: int) -> None:
        with self._mutex:
            worker = self._running.pop(number, None)
        if worker is not None:
            worker.process.kill()
            worker.process.join(timeout=10.0)
            worker.connection.close()
