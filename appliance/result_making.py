"""Making a result: the objects of one mask, their names, and the check of what was written."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

from appliance.errors import NotAllowed
from appliance.research import CaseFiles
from appliance.result_sending import COMMITTED, SENT, STORED
from appliance.result_states import IN_PACS, UNSENT, Instant, Verb
from appliance.result_writing import (
    SR,
    Predecessor,
    Quality,
    ResultDone,
    ResultUids,
    ResultWork,
    ValidationWork,
    WrittenObject,
    segments_of,
    validate_result,
    write_result,
)
from appliance.store import ResultObject, ResultRow, ResultState, StudyRow
from dicom_bridge.convert.source import SourceSeries
from dicom_bridge.seg.expert import OwnMarks
from federation.clock import stamp
from federation.manifest import ModelManifest
from federation.node.site_port import EVALUATED

if TYPE_CHECKING:
    from appliance.results import ResultsParts

NOTHING = "the model found nothing"


class Maker:
    """Writes results, enters them, and checks them; sends nothing.

    Args:
        parts: see `appliance.results.ResultsParts`.
    """

    def __init__(self, parts: ResultsParts) -> None:
        self._parts = parts
        self._state = parts.state

    def key(self, version_key: str, model_id: str) -> str:
        """The result's key: the same for the same version of a study and the same model."""
        digest = hashlib.sha256(f"{version_key} {model_id}".encode()).hexdigest()
        return f"rs{digest[:12]}"

    def uids(self, version_key: str, model_id: str) -> ResultUids:
        """The UIDs of a result's objects."""
        name = self._parts.identities.result_uid
        purposes = ("sop", "series", "sr-sop", "sr-series", "sc-series")
        return ResultUids(*(name(version_key, model_id, purpose) for purpose in purposes))

    def folder(self, key: str) -> Path:
        """Where a result's objects lie (identified zone)."""
        return self._parts.home.results / key

    def make(self, study: StudyRow, manifest: ModelManifest, mask: Path) -> ResultRow:
        """Write the objects of one mask, enter the result and check it.

        Raises:
            ApplianceError: an object cannot be written; the text is in words.
        """
        key = self.key(study.version_key, manifest.id)
        before = self._predecessor(study.study_key, manifest.plan_name, key)
        work = self._work(study, manifest, mask, before)
        done: ResultDone = self._parts.pool.call(write_result, work)
        self._tell(key, Instant.WRITTEN)
        self._add(study, manifest, done, before)
        self._parts.audit("node", "result.made", key, {"model": manifest.id})
        self._tell(key, Instant.MADE)
        self.validate(self._state.results.get(key))
        return self._state.results.get(key)

    def _work(
        self, study: StudyRow, manifest: ModelManifest, mask: Path, before: ResultRow | None
    ) -> ResultWork:
        research = CaseFiles(study.subject, study.session)
        predecessor = None
        if before is not None:
            uids = self._uids_of(before)
            there = SR in self._in_pacs(before)
            report = (uids.report, uids.report_series) if there else None
            predecessor = Predecessor(before.model_id, report)
        section = self._parts.settings.results
        return ResultWork(
            mask=mask,
            image=research.found_image(
                self._parts.home.research, self._parts.settings.imaging.reference
            ),
            source=self._source(study),
            manifest=manifest,
            folder=self.folder(self.key(study.version_key, manifest.id)),
            uids=self.uids(study.version_key, manifest.id),
            form=section.form,
            disclaimer=section.disclaimer,
            predecessor=predecessor,
            quality=self._quality(manifest),
            written_at=self._state.clock(),
        )

    def _quality(self, manifest: ModelManifest) -> Quality | None:
        """The model's Dice on this site's test cases, else on its validation cases."""
        known = {}
        for event in reversed(self._state.activity.select(action=EVALUATED, limit=1000)):
            detail = event.detail
            if detail.get("weights") == manifest.weights_name:
                known[str(detail["split"])] = detail
        detail = known.get("test") or known.get("validation") or {}
        if not detail:
            return None
        cases = int(str(detail["cases"]))
        deviation = float(str(detail["sd"])) if cases > 1 else None
        return Quality(float(str(detail["mean"])), cases, deviation)

    def _source(self, study: StudyRow) -> SourceSeries:
        identities = self._parts.identities
        reference = self._parts.settings.imaging.reference
        return identities.source(study.study_key, reference, version=study.version)

    def _study_of(self, row: ResultRow) -> StudyRow:
        """The study of a result, in the version that was segmented."""
        study = self._state.studies.get(row.study_key)
        for version in study.versions():
            if self.key(version.version_key, row.model_id) == row.key:
                return version
        return study

    def _uids_of(self, row: ResultRow) -> ResultUids:
        return self.uids(self._study_of(row).version_key, row.model_id)

    def marks(self, study_key: str) -> OwnMarks:
        """What this node's results of a study, and their corrected copies, can be known by."""
        uids: set[str] = set()
        series: set[str] = set()
        algorithms: set[str] = set()
        labels: dict[str, tuple[str, str]] = {}
        for row in self._state.results.select(study_key=study_key):
            made = self._uids_of(row)
            uids |= {made.seg, made.report}
            series.add(made.seg_series)
            algorithms |= {row.algorithm} - {""}
            model = self._state.models.find(row.model_id)
            if model is not None:
                manifest = ModelManifest.from_json(model.manifest.encode())
                for spec in segments_of(manifest):
                    labels[spec.label] = (spec.type.scheme, spec.type.value)
        return OwnMarks(
            frozenset(uids), frozenset(), frozenset(algorithms), labels, frozenset(series)
        )

    def standing(self, study_key: str, algorithm: str, key: str) -> list[ResultRow]:
        """Other results of a study by the same algorithm that nothing has superseded."""
        gone = (ResultState.SUPERSEDED, ResultState.WITHDRAWN)
        return [
            row
            for row in self._state.results.select(study_key=study_key)
            if row.key != key
            and row.state not in gone
            and (row.algorithm == algorithm or not row.algorithm)
        ]

    def _predecessor(self, study_key: str, algorithm: str, key: str) -> ResultRow | None:
        """The newest result of this algorithm that the PACS has."""
        standing = self.standing(study_key, algorithm, key)
        in_pacs = [row for row in standing if row.state in IN_PACS or self._in_pacs(row)]
        return in_pacs[-1] if in_pacs else None

    def _in_pacs(self, row: ResultRow) -> set[str]:
        """The forms of which the PACS has an object of a result."""
        there = (SENT, STORED, COMMITTED)
        return {o.form for o in self._state.results.objects(row.key) if o.state in there}

    def _add(
        self, study: StudyRow, manifest: ModelManifest, done: ResultDone, before: ResultRow | None
    ) -> None:
        """Enter a result; what was not sent of older ones is superseded with the same step."""
        key = self.key(study.version_key, manifest.id)
        now = stamp(self._state.clock())
        row = ResultRow(
            key=key,
            study_key=study.study_key,
            model_id=manifest.id,
            state=ResultState.MADE,
            reason="" if done.found else NOTHING,
            destination="",
            volume_ml=done.volume_ml,
            lesions=done.lesions,
            attempt=0,
            not_before=None,
            created_at=now,
            updated_at=now,
            sent_at=None,
            decided_by="",
            algorithm=manifest.plan_name,
            found=done.found,
            predecessor=before.key if before is not None else "",
            findings=json.dumps([dict(f) for f in done.findings]),
        )
        objects = [self._object(key, item) for item in done.objects]
        with self._state.database.transaction():
            self._state.results.add(row, objects)
            for older in self.standing(study.study_key, manifest.plan_name, key):
                if older.state in UNSENT or older.state is ResultState.NO_FINDING:
                    self.supersede(older, key)

    def _object(self, key: str, item: WrittenObject) -> ResultObject:
        name = self._parts.identities.instance_key(item.sop_instance_uid)
        return ResultObject(key, item.form, item.file, name, item.sha256, item.size)

    def supersede(self, older: ResultRow, key: str) -> None:
        """A newer result stands in the place of an older one."""
        words = f"superseded by {key}"
        self._state.results.step(older.key, Verb.SUPERSEDE, {"reason": words})
        self._parts.audit("node", "result.superseded", older.key, {"by": key})

    def validate(self, row: ResultRow) -> None:
        """Made -> validated or refused: every file read back against the vault's headers."""
        if row.state is not ResultState.MADE:
            return
        objects = self._state.results.objects(row.key)
        found: tuple[str, ...] = ()
        if objects:
            found = self._parts.pool.call(
                validate_result,
                ValidationWork(
                    folder=self.folder(row.key),
                    source=self._source(self._study_of(row)),
                    objects={item.file: item.sha256 for item in objects},
                    uids=self._uids_of(row),
                    found=row.found,
                ),
            )
        if found:
            words = f"not fit to be sent: {'; '.join(found[:3])}"
            self._state.results.step(row.key, Verb.REFUSE, {"reason": words})
            self._parts.audit("node", "result.refused", row.key, {"reason": words})
            return
        self._state.results.step(row.key, Verb.VALIDATE)
        self._tell(row.key, Instant.VALIDATED)

    def recheck(self, row: ResultRow) -> None:
        """Check a refused result once more; it is held afterwards.

        Raises:
            NotAllowed: it is still not fit to be sent.
        """
        self._state.results.step(row.key, Verb.RECHECK, {"reason": ""})
        self.validate(self._state.results.get(row.key))
        checked = self._state.results.get(row.key)
        if checked.state is ResultState.REFUSED:
            raise NotAllowed(checked.reason)
        self._state.results.step(row.key, Verb.HOLD)

    def _tell(self, key: str, instant: Instant) -> None:
        self._parts.observer(key, instant)
