"""The runs' folders: plan, rounds, finished model and TensorBoard events, for people and tools.

Everything here follows from the state and the objects; what a kill left out is made again when the
coordinator starts.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any, cast

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from federation.canonical import JSON, write_atomically, write_json
from federation.clock import parse_stamp
from federation.coordinator.objects import ObjectStore
from federation.coordinator.publication import published_manifest
from federation.coordinator.schema import RunRow
from federation.coordinator.states import RoundState
from federation.coordinator.store import Store
from federation.coordinator.views import fingerprint_view, round_view, run_detail
from federation.errors import RunRefused
from federation.manifest import ModelManifest
from federation.plan import SignedPlan


class RunRecords:
    """Writes ``runs/<run id>/{plan.json, rounds/, model/, tensorboard/}``.

    Args:
        folder: the folder ``runs``.
        store: the state.
        objects: the models.
    """

    def __init__(self, folder: Path, store: Store, objects: ObjectStore) -> None:
        self._folder = folder
        self._store = store
        self._objects = objects
        self._writers: dict[str, EventFileWriter] = {}

    def folder(self, run_id: str) -> Path:
        """A run's folder."""
        return self._folder / run_id

    def restore(self, run: RunRow) -> None:
        """Make a run's folder anew from the state; its events are written from the beginning."""
        folder = self.folder(run.run_id)
        (folder / "rounds").mkdir(parents=True, exist_ok=True)
        write_atomically(folder / "plan.json", run.signed_plan)
        shutil.rmtree(folder / "tensorboard", ignore_errors=True)
        self._writers.pop(run.run_id, None)
        rounds = self._store.rounds(run.run_id)
        for at in rounds:
            if at.state is RoundState.CLOSED:
                self.round_closed(run, at.number)
        if run.model_id and rounds:
            self.model_made(run, self._manifest(run))

    def submitted(self, run: RunRow) -> None:
        """Make the folder of a new run."""
        self.restore(run)

    def round_closed(self, run: RunRow, number: int) -> None:
        """Keep a round's model, its numbers and its events."""
        at = next(row for row in self._store.rounds(run.run_id) if row.number == number)
        view = round_view(at, self._store.tasks(run.run_id))
        rounds = self.folder(run.run_id) / "rounds"
        rounds.mkdir(parents=True, exist_ok=True)
        write_json(rounds / f"{number:05d}.json", {"format": 1, **view})
        if at.weights_sha256:
            self._link(at.weights_sha256, rounds / f"{number:05d}.safetensors")
        told = fingerprint_view(self._store.tasks(run.run_id, kind="fingerprint"))
        if told is not None and told["merged"] is not None:
            merged = self.folder(run.run_id) / "fingerprint.json"
            write_json(merged, {"format": 1, **cast("dict[str, JSON]", told)})
        self._events(run, view)

    def model_made(self, run: RunRow, manifest: ModelManifest) -> None:
        """Keep the finished model."""
        folder = self.folder(run.run_id) / "model"
        folder.mkdir(parents=True, exist_ok=True)
        self._link(manifest.weights_name, folder / "weights.safetensors")
        write_atomically(folder / "manifest.json", manifest.to_json())

    def export(self, run: RunRow, folder: Path) -> dict[str, JSON]:
        """Copy the finished model, its plan and its numbers to ``folder``.

        Raises:
            RunRefused: no finished model, or the folder is not empty.
        """
        if run.model_id is None:
            raise RunRefused(f"run {run.run_id} is {run.state}: it has no finished model yet")
        if not folder.is_absolute():
            raise RunRefused("give the export folder as an absolute path")
        if folder.exists() and any(folder.iterdir()):
            raise RunRefused("the export folder is not empty: give a new one")
        folder.mkdir(parents=True, exist_ok=True)
        manifest = self._manifest(run)
        shutil.copyfile(self._objects.path(manifest.weights_name), folder / "weights.safetensors")
        (folder / "manifest.json").write_bytes(manifest.to_json())
        (folder / "plan.json").write_bytes(run.signed_plan)
        write_json(folder / "run.json", cast("JSON", run_detail(self._store, run)))
        return {
            "folder": str(folder),
            "model_id": manifest.id,
            "files": ["manifest.json", "plan.json", "run.json", "weights.safetensors"],
        }

    def close(self) -> None:
        """Close the event files."""
        for writer in self._writers.values():
            writer.close()
        self._writers.clear()

    def _manifest(self, run: RunRow) -> ModelManifest:
        last, before = self._store.rounds(run.run_id)[-1], self._store.rounds(run.run_id)[-2]
        plan = SignedPlan.from_json(run.signed_plan).plan
        return published_manifest(self._objects, plan, last, before)

    def _link(self, sha256: str, path: Path) -> None:
        source = self._objects.path(sha256)
        if path.exists() and path.samefile(source):
            return
        temporary = path.with_name(f".{path.name}.tmp")
        temporary.unlink(missing_ok=True)
        os.link(source, temporary)
        temporary.replace(path)

    def _events(self, run: RunRow, view: dict[str, Any]) -> None:
        writer = self._writers.get(run.run_id)
        if writer is None:
            writer = EventFileWriter(str(self.folder(run.run_id) / "tensorboard"))
            self._writers[run.run_id] = writer
        values = [Summary.Value(tag=tag, simple_value=value) for tag, value in scalars(view)]
        wall = parse_stamp(view["closed_at"] or view["opened_at"]).timestamp()
        event = Event(wall_time=wall, step=view["round"], summary=Summary(value=values))
        writer.add_event(event)
        writer.flush()


def scalars(view: dict[str, Any]) -> list[tuple[str, float]]:
    """TensorBoard's tags and values of one round (see :func:`round_view`)."""
    found = [("time/aggregate_s", float(view["times"]["aggregate_s"]))]
    found.append(("time/round_s", float(view["times"]["total_s"])))
    for site in view["sites"]:
        name = site["site"]
        found += [
            (f"{tag}/{name}", float(value))
            for tag, value in (
                ("train/loss", site["loss"]),
                ("train/cases", site["cases"]),
                ("train/update_norm", site["norm"]),
                ("time/train_s", site["times"]["train_s"]),
                ("time/wait_s", site["times"]["wait_s"]),
                ("time/transfer_s", site["times"]["transfer_s"]),
            )
            if value is not None
        ]
    found += [
        (f"{row['split']}/{row['metric']}/{row['site']}", float(row["mean"]))
        for row in view["metrics"]
        if row["cases"]
    ]
    found += [
        (f"{row['split']}/{row['metric']}/mean_of_sites", float(row["mean"]))
        for row in view["means"]
    ]
    return found
