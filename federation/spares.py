"""Files that nobody needs any more, kept for a while to be written over.

The kernel fills a new file's pages one by one; writing 124 MB into a new file costs ten times the
processor time of writing them over an old one (docs/benchmarks/federation.md). A round of training
moves many files of one size, so those of the round before serve again.

What a spare file holds is never believed: it has no name that anybody looks for, whoever gets it
hashes every chunk that comes in, and after a restart every chunk that is there.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import threading
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from federation.canonical import sync_folder

SMALLEST: Final = 1 << 20
"""Bytes below which a file is not worth keeping."""
KEPT: Final = 16
"""How many files are kept at most."""


@dataclass(frozen=True, slots=True)
class _Spare:
    path: Path
    size: int
    came_from: Path


class Spares:
    """Spare files in one folder, which is emptied first; safe for several threads.

    Args:
        folder: on the disk of the files that come and go.
        durable: a file's former name must be gone for good, also after a power cut, before the
            file is written over: for files that are believed by their names after a restart.
    """

    def __init__(self, folder: Path, *, durable: bool) -> None:
        self._folder = folder
        self._durable = durable
        self._files: list[_Spare] = []
        self._lock = threading.Lock()
        shutil.rmtree(folder, ignore_errors=True)

    def retire(self, path: Path) -> None:
        """Take a file away from its name; an absent one is away already."""
        with self._lock:
            try:
                size = path.stat().st_size
                if size < SMALLEST or len(self._files) >= KEPT:
                    path.unlink()
                    return
                self._folder.mkdir(exist_ok=True)
                kept = self._folder / uuid.uuid4().hex
                path.replace(kept)
            except FileNotFoundError:
                return
            except OSError:  # a full disk has no room for another name either
                path.unlink(missing_ok=True)
                return
            self._files.append(_Spare(kept, size, path.parent))

    def reuse(self, path: Path, size: int) -> bool:
        """Put a spare file at ``path``, where nothing is yet; whether there was one.

        Args:
            path: on the spares' disk.
            size: bytes that will be written, all of them; the file may be longer or shorter.
        """
        with self._lock:
            fitting = [one for one in self._files if size / 2 <= one.size <= 2 * size]
            for spare in sorted(fitting, key=lambda one: abs(one.size - size)):
                self._files.remove(spare)
                if self._moved(spare, path):
                    return True
                spare.path.unlink(missing_ok=True)
        return False

    def _moved(self, spare: _Spare, path: Path) -> bool:
        if not _is_nobodys(spare.path):
            return False
        try:
            if self._durable:
                sync_folder(spare.came_from)
            spare.path.replace(path)
        except OSError:
            return False
        return True

    def clear(self) -> None:
        """Delete them all."""
        with self._lock:
            for spare in self._files:
                spare.path.unlink(missing_ok=True)
            self._files.clear()


def _is_nobodys(path: Path) -> bool:
    """Whether nobody else has the file open or mapped, and it has no other name.

    A write lease is given for nothing else (fcntl(2), "Leases"); where a file system knows none,
    the answer is no.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        if os.fstat(descriptor).st_nlink != 1:
            return False
        # Who opens the file meanwhile breaks the lease: by a signal that ends nobody (not SIGIO).
        fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError:
        return False
    else:
        return True
    finally:
        os.close(descriptor)
