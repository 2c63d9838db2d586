"""Results of preparation's steps kept by content: ``derivatives/cache/<case>/<key>.safetensors``.

A step's key is the SHA-256 of its name, version, parameters and the keys of what it read, down to
the files' own SHA-256 (`appliance.imaging.sources.Step`), so a result is never out of date: it is
found or not. Each file carries the SHA-256 of its voxels; one that does not fit is made again. The
folder is research data like the images themselves: a case's part goes when the case is erased.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

import numpy as np
import structlog
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as serialise

from appliance.imaging.sources import Step
from appliance.imaging.volume import MAX_VOXELS, Array, Volume
from appliance.research import CACHE

_log = structlog.get_logger(__name__)

FORMAT: Final = 1
SUFFIX: Final = ".safetensors"
PART: Final = ".part"
MAX_FILE_BYTES: Final = 8 * MAX_VOXELS
ABANDONED_S: Final = 3600
"""A part file this much older than the newest one belongs to a process that died."""


class StepCache:
    """Keeps the results of one case's steps.

    Args:
        derivatives: the project's derivatives folder.
        case: the case's name.
        limit_bytes: largest size of all cases' results together; the least recently used go first.

    Attributes:
        made: how often each step was computed.
        found: how often each step's result was there.
    """

    def __init__(self, derivatives: Path, case: str, limit_bytes: int) -> None:
        self._root = derivatives / CACHE
        self._folder = self._root / case
        self._limit = limit_bytes
        self.made: Counter[str] = Counter()
        self.found: Counter[str] = Counter()

    def volume(self, step: Step, make: Callable[[], Volume]) -> Volume:
        """The step's result: read where it is there and whole, else made and kept.

        What was made of images without a key (in memory) is neither looked for nor kept.
        """
        if not step.key:
            self.made[step.name] += 1
            return make()
        path = self._folder / f"{step.key}{SUFFIX}"
        kept = self._read(path, step)
        if kept is not None:
            self.found[step.name] += 1
            return kept
        made = make()
        self.made[step.name] += 1
        self._keep(path, step, made)
        return made

    def _read(self, path: Path, step: Step) -> Volume | None:
        try:
            if path.stat().st_size > MAX_FILE_BYTES:
                raise ValueError("too large")
            with safe_open(path, framework="np") as stream:
                document = json.loads((stream.metadata() or {})["step"])
                data = stream.get_tensor("data")
            if document["format"] != FORMAT or document["key"] != step.key:
                raise ValueError("another step")
            if document["sha256"] != _digest(data):
                raise ValueError("other voxels")
            found = Volume(data, np.array(document["affine"], dtype=np.float64))
            os.utime(path)
        except FileNotFoundError:
            return None
        except (OSError, SafetensorError, KeyError, ValueError, TypeError) as error:
            _log.warning("kept_result_damaged", step=step.name, reason=type(error).__name__)
            _drop(path)
            return None
        return found

    def _keep(self, path: Path, step: Step, made: Volume) -> None:
        """Write the result; a full disk costs the next run time, not this one its result."""
        data = np.ascontiguousarray(made.data)
        if data.nbytes > self._limit:
            return
        document = {
            "format": FORMAT,
            "key": step.key,
            "sha256": _digest(data),
            "affine": made.affine.tolist(),
        }
        part = path.with_name(f".{path.name}.{os.getpid()}{PART}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            part.write_bytes(serialise({"data": data}, {"step": json.dumps(document)}))
            part.replace(path)
            trim(self._root, self._limit)
        except OSError as error:
            _log.warning("result_not_kept", step=step.name, reason=type(error).__name__)
            _drop(part)


def trim(root: Path, limit_bytes: int) -> None:
    """Remove the least recently used results until the rest is within a size.

    Args:
        root: the cache's folder, one folder per case below it.
        limit_bytes: largest size of all files together.
    """
    files = []
    for path in root.glob("*/*"):
        try:
            files.append((path.stat(), path))
        except FileNotFoundError:
            continue
    newest = max((status.st_mtime for status, _ in files), default=0.0)
    total = 0
    ordered = sorted(files, key=lambda item: (-item[0].st_mtime_ns, item[1].name))
    for status, path in ordered:
        if path.suffix == PART:
            if newest - status.st_mtime > ABANDONED_S:
                path.unlink(missing_ok=True)
            continue
        total += status.st_size
        if total > limit_bytes:
            path.unlink(missing_ok=True)


def _drop(path: Path) -> None:
    with suppress(OSError):
        path.unlink(missing_ok=True)


def _digest(data: Array) -> str:
    """SHA-256 over type, shape and voxels."""
    digest = hashlib.sha256(f"{data.dtype} {data.shape} ".encode())
    digest.update(np.ascontiguousarray(data).data)
    return digest.hexdigest()
