"""A small file system that can be full and get room again."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path


def why_not(folder: Path) -> str:
    """Why nothing can be mounted here, in words; empty where it can."""
    probe = folder / "probe-mount"
    probe.mkdir()
    done = _mount(probe, 1)
    if done.returncode == 0:
        subprocess.run(["umount", str(probe)], check=True)
    probe.rmdir()
    return "" if done.returncode == 0 else f"mounting is not permitted ({done.stderr.strip()})"


def _mount(path: Path, mebibytes: int) -> subprocess.CompletedProcess[str]:
    command = ["mount", "-t", "tmpfs", "-o", f"size={mebibytes}m", "tmpfs", str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


class Volume:
    """A file system in memory, mounted at ``path``.

    Args:
        path: the mount point, created.
        mebibytes: its size.
    """

    def __init__(self, path: Path, mebibytes: int) -> None:
        self.path = path
        path.mkdir(parents=True, exist_ok=True)
        done = _mount(path, mebibytes)
        if done.returncode != 0:
            raise OSError(done.stderr.strip())

    @property
    def free(self) -> int:
        """Bytes that are free."""
        found = os.statvfs(self.path)
        return found.f_bavail * found.f_frsize

    def fill(self, leave: int = 0) -> None:
        """Take all room but ``leave`` bytes."""
        with (self.path / "ballast").open("ab") as stream:
            length = stream.tell()
            while (left := self.free - leave) > 0:
                try:
                    os.posix_fallocate(stream.fileno(), length, left)
                except OSError:
                    # Somebody took room meanwhile: ask again for what is left.
                    continue
                length += left

    def room(self) -> None:
        """Give the room back."""
        (self.path / "ballast").unlink()

    def close(self) -> None:
        """Unmount it."""
        subprocess.run(["umount", "-l", str(self.path)], check=False)
