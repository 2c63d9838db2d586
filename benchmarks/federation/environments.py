"""The peers' own virtual environments, made on first use below ``build/bench``."""

from __future__ import annotations

import re
import subprocess
import sys
import venv
from pathlib import Path
from typing import Final

from benchmarks.federation.case import CACHE, ContenderFailed

PINS: Final = {"nvflare": "nvflare==2.9.0", "flower": "flwr==1.42.0"}
"""The versions that are measured; nowhere else."""
RELAXED: Final = ("certifi",)
"""Demands of a peer that its own index may not meet yet and that no figure depends on."""


def python_of(name: str) -> Path:
    """The interpreter of a peer's environment, which is made where it is not there.

    Raises:
        ContenderFailed: pip could not install the peer.
    """
    folder = CACHE / name
    stamp = folder / "pin"
    if not stamp.exists() or stamp.read_text() != PINS[name]:
        print(f"installing {PINS[name]} into {folder}", flush=True)
        venv.create(folder, with_pip=True, clear=True)
        _install(folder, name)
        stamp.write_text(PINS[name])
    return folder / "bin" / "python"


def _install(folder: Path, name: str) -> None:
    pin = PINS[name]
    if _pip(folder, pin) is None:
        return
    # The index lacks a version that the peer asks for: the same peer with that demand relaxed.
    _pip(folder, "--no-deps", pin)
    words = _pip(folder, *_demands(folder, pin.partition("==")[0]))
    if words is not None:
        raise ContenderFailed(f"pip could not install {pin}: {words}")


def _pip(folder: Path, *arguments: str) -> str | None:
    command = [str(folder / "bin" / "python"), "-m", "pip", "install", "-q", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return None if done.returncode == 0 else (done.stderr.strip().splitlines() or ["?"])[-1]


def _demands(folder: Path, package: str) -> list[str]:
    ask = f"import importlib.metadata as m; print('\\n'.join(m.requires({package!r}) or ()))"
    command = [str(folder / "bin" / "python"), "-c", ask]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    demands = []
    for line in found.splitlines():
        if "extra ==" in line:
            continue
        name = re.split(r"[\s<>=!~;\[(]", line, maxsplit=1)[0]
        demands.append(name if name in RELAXED else line.partition(";")[0].strip())
    return demands


if __name__ == "__main__":
    for peer in sys.argv[1:] or PINS:
        print(python_of(peer))
