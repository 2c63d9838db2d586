"""``python -m federation.trainer FOLDER``: the trainer process.

It reads one line from standard input for each change of the inbox, does the jobs that have no
result yet in the order of their numbers, and ends with its input. The network is left before torch
is loaded.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import structlog

from federation.trainer.isolation import interfaces, isolate


def main(observer: Callable[[str], None] | None = None) -> int:
    """Isolate the process, record how, then serve the inbox.

    Args:
        observer: sees every step of every job (see ``federation.trainer.states``).
    """
    parser = argparse.ArgumentParser(prog="federation.trainer")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--parent", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.threads < 1:
        parser.error("--threads must be at least 1")
    isolation = isolate(arguments.parent)
    log_to_stderr()

    from federation.learning.prepared import write_atomically  # loads numpy, which starts threads

    record = {
        "format": 1,
        "pid": os.getpid(),
        "network": isolation.network,
        "reason": isolation.reason,
        "interfaces": list(interfaces()),
        "dies_with_parent": isolation.dies_with_parent,
        "threads": arguments.threads,
        "device": arguments.device,
    }
    write_atomically(arguments.folder / "process.json", json.dumps(record).encode())

    from federation.trainer.serve import Server, unseen  # loads torch, after the record is written

    server = Server(
        arguments.folder,
        threads=arguments.threads,
        device=arguments.device,
        observer=observer or unseen,
    )
    server.serve(sys.stdin.buffer, sys.stdout.buffer)
    return 0


def log_to_stderr() -> None:
    """Log JSON lines to standard error (standard output carries answers), without local values."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


if __name__ == "__main__":
    raise SystemExit(main())
