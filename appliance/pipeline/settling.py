"""What the node itself does with a finished stage before the stage's folder gets its name.

Workers have no key of the vault and do not write into the research zone; both are done here, and
both may be done twice.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path

from appliance.home import Home, remove_tree, sync_folder
from appliance.identity import Identities
from appliance.pipeline.states import Stage
from appliance.pipeline.work import SOURCE_PREFIX, TREE, StageResult, StageWork
from appliance.research import RATERS, CaseFiles, ensure_tree, write_participants

Settle = Callable[[StageWork, StageResult], None]


def settlers(home: Home, identities: Identities) -> Mapping[Stage, Settle]:
    """The node's part of each stage that has one."""

    def keep_sources(work: StageWork, result: StageResult) -> None:
        """Move the original headers into the vault."""
        del result
        files = sorted(work.out.glob(f"{SOURCE_PREFIX}*.json"))
        sources = {
            path.stem.removeprefix(SOURCE_PREFIX): json.loads(path.read_bytes()) for path in files
        }
        identities.keep_sources(work.study_key, sources, version=work.version)
        for path in files:
            path.unlink()

    def cross(work: StageWork, result: StageResult) -> None:
        """Rename the finished session folders into the research zone, the images last."""
        del result
        publish(home, work)

    return {Stage.CONVERT: keep_sources, Stage.PUBLISH: cross}


def publish(home: Home, work: StageWork) -> None:
    """The one crossing from identified to research."""
    ensure_tree(home)
    tree = work.out / TREE
    for folder in CaseFiles(work.subject, work.session).folders():
        source, target = tree / folder, home.research / folder
        if not source.exists():
            remove_tree(target)
            continue
        _make_durable(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        remove_tree(target)
        source.rename(target)
        sync_folder(target.parent)
    _raters(home, tree, CaseFiles(work.subject, work.session))
    write_participants(home)


def _raters(home: Home, tree: Path, files: CaseFiles) -> None:
    """Raters' labels join those that came in other ways: file by file, nothing is removed."""
    root = Path("derivatives") / RATERS / files.folder
    if not (tree / root).exists():
        return
    _make_durable(tree / root)
    for source in sorted((tree / root).rglob("*")):
        if source.is_file():
            target = home.research / source.relative_to(tree)
            target.parent.mkdir(parents=True, exist_ok=True)
            source.replace(target)
    sync_folder(home.research / root)


def _make_durable(folder: os.PathLike[str]) -> None:
    for root, _, names in os.walk(folder):
        for name in names:
            descriptor = os.open(os.path.join(root, name), os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
