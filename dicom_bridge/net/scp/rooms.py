"""How many connections and associations there may be, over all receiver processes.

A connection without an association (a silent peer, a TLS handshake) waits in its process's waiting
room and takes nobody's seat; seats are counted over all processes in a few shared pages, which the
node keeps, so that a dead process's seats are free again at once.
"""

from __future__ import annotations

import fcntl
import hashlib
import mmap
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

COUNTERS = ("stored", "repeated", "conflicts", "refused")
_SEATS = 256
_WORDS = len(COUNTERS) + _SEATS
_WORD_BYTES = 8


@dataclass(frozen=True, slots=True)
class Limits:
    """The most that may be at once.

    Attributes:
        associations: over all processes; one more is rejected with "local limit exceeded".
        per_address: of them from one peer address.
        waiting: connections without an association per process; one more is closed.
        waiting_per_address: of them from one peer address.
    """

    associations: int = 8
    per_address: int = 8
    waiting: int = 64
    waiting_per_address: int = 16


def board_bytes(processes: int) -> int:
    """The size of the shared pages for so many processes."""
    return processes * _WORDS * _WORD_BYTES


class Board:
    """Counters and seats of all processes in shared memory.

    Args:
        processes: how many processes share it.
        own: which of them this is.
        descriptor: an open file of `board_bytes`; None for this process alone.
    """

    def __init__(self, processes: int, own: int, descriptor: int | None = None) -> None:
        size = board_bytes(processes)
        self._map = mmap.mmap(-1 if descriptor is None else descriptor, size)
        self._words = memoryview(self._map).cast("Q")
        self._processes = processes
        self._own = own
        self._descriptor = descriptor
        self._lock = threading.Lock()

    def add(self, name: str) -> None:
        """Count one answer of this process."""
        with self._lock:
            self._words[self._own * _WORDS + COUNTERS.index(name)] += 1

    def total(self, name: str) -> int:
        """What all processes counted."""
        at = COUNTERS.index(name)
        return sum(self._words[number * _WORDS + at] for number in range(self._processes))

    def seats(self, process: int) -> int:
        """Associations of one process."""
        return sum(1 for word in self._seats(process) if word)

    def clear_seats(self, process: int) -> None:
        """Free the seats of a process that has died."""
        first = process * _WORDS + len(COUNTERS)
        self._words[first : first + _SEATS] = memoryview(bytes(_SEATS * _WORD_BYTES)).cast("Q")

    @property
    def has_emptier(self) -> bool:
        """Whether another process has fewer associations."""
        own = self.seats(self._own)
        return any(self.seats(n) < own for n in range(self._processes) if n != self._own)

    def take_seat(self, address: str, limits: Limits) -> int | None:
        """Take a seat for an association; None where there is none left."""
        word = _address_word(address)
        with self._locked():
            taken: Counter[int] = Counter()
            for number in range(self._processes):
                taken.update(self._seats(number))
            del taken[0]
            if taken.total() >= limits.associations or taken[word] >= limits.per_address:
                return None
            first = self._own * _WORDS + len(COUNTERS)
            for seat in range(first, first + _SEATS):
                if not self._words[seat]:
                    self._words[seat] = word
                    return seat
        return None

    def leave_seat(self, seat: int) -> None:
        """Give a seat back."""
        self._words[seat] = 0

    def _seats(self, process: int) -> list[int]:
        first = process * _WORDS + len(COUNTERS)
        return self._words[first : first + _SEATS].tolist()

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """A lock over threads and processes; the kernel frees it when a process dies."""
        with self._lock:
            if self._descriptor is None:
                yield
                return
            fcntl.lockf(self._descriptor, fcntl.LOCK_EX)
            try:
                yield
            finally:
                fcntl.lockf(self._descriptor, fcntl.LOCK_UN)


def _address_word(address: str) -> int:
    return int.from_bytes(hashlib.blake2b(address.encode(), digest_size=8).digest(), "big") | 1


class WaitingRoom:
    """Connections of this process that have no association yet."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._lock = threading.Lock()
        self._present: Counter[str] = Counter()

    def enter(self, address: str) -> bool:
        """Let a connection in, or say that there is no place."""
        limits = self._limits
        with self._lock:
            if (
                self._present.total() >= limits.waiting
                or self._present[address] >= limits.waiting_per_address
            ):
                return False
            self._present[address] += 1
            return True

    def leave(self, address: str) -> None:
        """A connection got its association, or went away."""
        with self._lock:
            self._present[address] -= 1
            if not self._present[address]:
                del self._present[address]
