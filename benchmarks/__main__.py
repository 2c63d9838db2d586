"""``make bench``: run the measurements and print a table each."""

from __future__ import annotations

import argparse
import importlib
import sys

from benchmarks.table import print_rows

NAMES = ("averaging", "conversion", "deidentification")


def main() -> int:
    """Run all measurements, or those named on the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", choices=[*NAMES, []], default=[])
    for name in parser.parse_args().names or NAMES:
        module = importlib.import_module(f"benchmarks.{name}")
        print_rows(module.__doc__.splitlines()[0], module.measure())
    return 0


if __name__ == "__main__":
    sys.exit(main())
