"""The generated documents are what the code gives; links in `docs` lead somewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tools import REPOSITORY

DOCUMENTS = sorted([REPOSITORY / "README.md", *(REPOSITORY / "docs").rglob("*.md")])


def test_generated_documents_are_as_the_code_says() -> None:
    done = subprocess.run(
        [sys.executable, str(REPOSITORY / "packaging" / "generate_docs.py"), "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_a_stale_document_is_found(tmp_path: Path) -> None:
    """The check itself: a changed copy of the repository's documents does not pass."""
    (tmp_path / "packaging").mkdir()
    (tmp_path / "docs").mkdir()
    script = (REPOSITORY / "packaging" / "generate_docs.py").read_text(encoding="utf-8")
    (tmp_path / "packaging" / "generate_docs.py").write_text(script, encoding="utf-8")
    beside = REPOSITORY / "packaging" / "settings_reference.py"
    (tmp_path / "packaging" / beside.name).write_text(beside.read_text(encoding="utf-8"))
    for package in ("appliance", "dicom_bridge", "federation"):
        (tmp_path / package).symlink_to(REPOSITORY / package)
    for name in ("design.md", "commands.md", "federation.md", "imaging.md", "quality.md"):
        text = (REPOSITORY / "docs" / name).read_text(encoding="utf-8")
        (tmp_path / "docs" / name).write_text(text.replace("found", "lost"), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(tmp_path / "packaging" / "generate_docs.py"), "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "design.md" in done.stderr


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_relative_links_lead_to_files(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", text)
    relative = [t for t in targets if "://" not in t and not t.startswith("mailto:")]
    assert not [t for t in relative if not (document.parent / t).exists()]
