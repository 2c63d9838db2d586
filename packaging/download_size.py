"""Print what pip would download for this checkout, before it does.

The sizes are those of the wheels at the time the versions were pinned; a package outside the
table (another platform's build, CUDA libraries of torch) is named as such.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path


def planned() -> list[tuple[str, str]]:
    """Names and versions that pip would install now."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        subprocess.run(
            [
                sys.executable,
                "-m",
                "pip",
                "--disable-pip-version-check",
                "install",
                "--quiet",
                "--dry-run",
                "--report",
                str(report),
                "-c",
                "packaging/constraints.txt",
                "torch==2.13.0",
                *requirements(),
            ],
            check=True,
            stderr=subprocess.DEVNULL,
        )
        document = json.loads(report.read_text(encoding="utf-8"))
    return [
        (i["metadata"]["name"].lower().replace("_", "-"), i["metadata"]["version"])
        for i in document["install"]
    ]


def requirements() -> list[str]:
    """The project's own requirement lines, tests included."""
    import tomllib

    project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
    return [*project["dependencies"], *project["optional-dependencies"]["dev"]]


def main() -> int:
    """Print one line for Python's packages and one for what is not in the table."""
    table: dict[str, int] = {}
    for line in Path(sys.argv[1]).read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            name, size = line.split("\t")
            table[name] = int(size)
    try:
        packages = planned()
    except (OSError, subprocess.CalledProcessError):
        total = sum(table.values()) / 1e6
        print(f"  Python packages: about {total:.0f} MB (pip could not resolve them beforehand)")
        return 0
    known = sum(table.get(name, 0) for name, _ in packages)
    unknown = [name for name, _ in packages if name not in table]
    print(f"  Python packages: {len(packages)}, about {known / 1e6:.0f} MB")
    if unknown:
        print(f"  besides, of unmeasured size: {', '.join(sorted(unknown))}")
    if any(name.startswith("nvidia-") or name == "triton" for name in unknown):
        print(
            "  (torch's default build brings CUDA libraries of several GB; the CPU build is enough)"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
