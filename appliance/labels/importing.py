"""Masks that a custodian imports: each row of the table to a study, a series, and a rater's label.

Original identifiers of the table are compared with the vault's; what the table says about a study
must agree in all columns. A withdrawn patient's mask is refused like her images. Rows are taken one
by one: what cannot be used is refused with its reason, and the rest goes on.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import structlog

from appliance.errors import ApplianceError, NotFound
from appliance.home import Home, remove_tree
from appliance.identity import REFUSAL, Identities
from appliance.labels.keeping import AS_RATERS, GONE, FreshLabel, LabelKeeper
from appliance.labels.masks import MaskRead, MaskWork, read_mask
from appliance.labels.table import DOUBTFUL, EMPTY, BadRow, Row, read_table
from appliance.pipeline.pool import WorkerPool
from appliance.pipeline.states import State
from appliance.research import CaseFiles
from appliance.settings_imaging import LabelsSection
from appliance.store import NodeState, StudyRow
from dicom_bridge.errors import DicomBridgeError
from dicom_bridge.net.model import StudyMatch

_log = structlog.get_logger(__name__)

TAKEN, KEPT, REVIEW, REFUSED, FITS = "taken", "kept", "review", "refused", "fits"
FOLDER = "label-import"
_ALL = 1_000_000


@dataclass(frozen=True, slots=True)
class Imported:
    """What became of one row; it names the study by its key only.

    Attributes:
        line: the row's line in the table.
        study: the study's key, empty where none was found.
        modality: canonical modality of the series.
        outcome: ``taken`` (it is the study's label, alone or with other raters'), ``kept`` (as a
            rater's label: a frozen data set holds the study), ``review`` (a person decides),
            ``refused``, or ``fits`` in a dry run.
        reason: why, in words.
        notes: what was decided on the way.
        volume_ml: labelled volume on the reference image's grid.
        lesions: connected pieces.
        total: rows of the table.
    """

    line: int
    study: str = ""
    modality: str = ""
    outcome: str = REFUSED
    reason: str = ""
    notes: tuple[str, ...] = ()
    volume_ml: float = 0.0
    lesions: int = 0
    total: int = 0


@dataclass(frozen=True, slots=True)
class ImportOptions:
    """How a table is taken.

    Attributes:
        accept: what a person accepts for all rows: ``empty``, ``doubtful``.
        dry_run: look at everything and keep nothing.
    """

    accept: frozenset[str] = frozenset()
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class ImportParts:
    """What importing works with.

    Attributes:
        state: the node's state.
        home: the node home.
        identities: pseudonyms and vault.
        pool: the worker processes.
        keeper: keeps the labels.
        section: the site's label values.
        reference: canonical modality of the reference image.
    """

    state: NodeState
    home: Home
    identities: Identities
    pool: WorkerPool
    keeper: LabelKeeper
    section: LabelsSection
    reference: str


class _Refused(ApplianceError):
    """A row that cannot be used; the text says why."""


@dataclass(slots=True)
class _Known:
    """The studies of the vault by patient and date, read once per table."""

    by_day: dict[tuple[str, str], list[str]] = field(default_factory=dict)


class LabelImport:
    """Imports tables of masks, one table at a time."""

    def __init__(self, parts: ImportParts) -> None:
        self._parts = parts
        self._mutex = threading.Lock()

    def recover(self) -> None:
        """Remove what a dead process left of a mask."""
        remove_tree(self._parts.home.identified / FOLDER)

    def run(self, table: Path, options: ImportOptions) -> Iterator[Imported]:
        """Import the rows of a table; what was done stays done where the caller stops.

        Raises:
            NotAllowed: the table cannot be read, before any row is taken.
        """
        rows = read_table(table)
        known: _Known | None = None
        seen: dict[tuple[str, str], int] = {}
        for row in rows:
            if isinstance(row, BadRow):
                yield Imported(row.line, reason=row.words, total=len(rows))
                continue
            if known is None and row.PatientID and not (row.StudyInstanceUID or row.study):
                known = self._index()
            with self._mutex:
                done = self._take(row, options, known or _Known(), seen)
            _log.info("label_row", line=row.line, study=done.study, outcome=done.outcome)
            yield replace(done, total=len(rows))

    def _take(
        self,
        row: Row,
        options: ImportOptions,
        known: _Known,
        seen: dict[tuple[str, str], int],
    ) -> Imported:
        done = Imported(row.line)
        try:
            study = self._study(row, known)
            done = replace(done, study=study.study_key)
            kind = self._kind(row, study)
            done = replace(done, modality=kind)
            rater = self._parts.keeper.rater(row.rater)
            if earlier := seen.get((study.study_key, rater)):
                raise _Refused(f"line {earlier} gives this study's label by the same rater")
            done = self._label(row, study, done, options)
            if done.outcome in (TAKEN, KEPT, FITS):
                seen[study.study_key, rater] = row.line
            return done
        except (ApplianceError, DicomBridgeError) as error:
            return replace(done, outcome=REFUSED, reason=str(error))
        finally:
            remove_tree(self._parts.home.identified / FOLDER)

    def _label(self, row: Row, study: StudyRow, done: Imported, options: ImportOptions) -> Imported:
        parts = self._parts
        folder = parts.home.identified / FOLDER / study.study_key
        remove_tree(folder)
        folder.mkdir(mode=0o700, parents=True)
        work = MaskWork(
            mask=row.mask,
            research=parts.home.research,
            files=CaseFiles(study.subject, study.session, parts.reference),
            kind=done.modality,
            reference=parts.reference,
            others=study.inputs,
            values=row.values,
            known=parts.section.values(),
            out=folder / "mask.nii",
        )
        read: MaskRead = parts.pool.call(read_mask, work)
        done = replace(
            done,
            notes=read.notes,
            volume_ml=round(read.figures["volume_ml"], 4),
            lesions=int(read.figures["lesions"]),
        )
        if waits := _waits(read, row.accept | options.accept):
            if not options.dry_run:
                detail = {"study": study.study_key, "what": waits}
                parts.state.activity.record("study.label_review", detail)
            return replace(done, outcome=REVIEW, reason=waits)
        if options.dry_run:
            return replace(done, outcome=FITS)
        fresh = FreshLabel(
            path=work.out,
            rater=row.rater,
            form="NIfTI",
            kind=done.modality,
            voxels=read.voxels,
            notes=read.notes,
        )
        words = parts.keeper.keep(study, [fresh], folder)
        if words is None:
            raise _Refused(GONE)
        return replace(done, outcome=KEPT if words == AS_RATERS else TAKEN, reason=words)

    def _study(self, row: Row, known: _Known) -> StudyRow:
        """The study that a row means.

        Raises:
            _Refused: none, several, a withdrawn or unfinished one, or columns that disagree.
        """
        identities = self._parts.identities
        if row.StudyInstanceUID and identities.refused_study(row.StudyInstanceUID):
            raise _Refused(REFUSAL)
        if row.PatientID and identities.refused(row.IssuerOfPatientID, row.PatientID):
            raise _Refused(REFUSAL)
        keys = {key for key in self._keys(row, known) if key}
        if len(keys) > 1:
            raise _Refused("the row's columns mean different studies, or several: give one")
        study = self._parts.state.studies.find(keys.pop()) if keys else None
        if study is None:
            raise _Refused("no study of this node is meant")
        if study.state is State.WITHDRAWN:
            raise _Refused(REFUSAL)
        self._agrees(row, study)
        if study.state is not State.READY:
            raise _Refused(f"the study is {study.state}: import again once it is ready")
        return study

    def _keys(self, row: Row, known: _Known) -> list[str]:
        """The keys of the studies that the row's columns mean."""
        found = []
        if row.StudyInstanceUID:
            found.append(self._parts.identities.study_key(row.StudyInstanceUID))
        if row.study:
            found.append(self._named(row.study))
        if not found:
            found += known.by_day.get((row.PatientID, row.StudyDate), [])
        return found

    def _named(self, text: str) -> str:
        studies = self._parts.state.studies
        if text.startswith("sub-"):
            case = CaseFiles.of(text)
            try:
                found = studies.of_subject(case.subject)
            except NotFound as error:
                raise _Refused("no study of this node is meant") from error
            keys = [study.study_key for study in found if study.case == text]
            if len(keys) != 1:
                raise _Refused("no present version of a study has this case's name")
            return keys[0]
        return studies.resolve(text)

    def _agrees(self, row: Row, study: StudyRow) -> None:
        """See that everything that the row says about the study is so."""
        if not any((row.PatientID, row.IssuerOfPatientID, row.StudyDate, row.StudyInstanceUID)):
            return
        match = self._parts.identities.original(study.study_key).study
        said = {
            "PatientID": row.PatientID,
            "StudyDate": row.StudyDate,
            "StudyInstanceUID": row.StudyInstanceUID,
        }
        wrong = [name for name, text in said.items() if text and text != _of(match, name)]
        issuer = match.IssuerOfPatientID.strip()
        if row.IssuerOfPatientID and issuer and row.IssuerOfPatientID != issuer:
            wrong.append("IssuerOfPatientID")
        if wrong:
            raise _Refused(f"the study has another {' and '.join(wrong)} than the row says")

    def _kind(self, row: Row, study: StudyRow) -> str:
        """The input that a row means."""
        inputs = {kind.casefold(): kind for kind in study.inputs}
        have = ", ".join(study.inputs) or "none"
        named = inputs.get(row.modality.casefold()) if row.modality else None
        if row.modality and named is None:
            raise _Refused(f"the study has no input of this modality (it has {have})")
        if not row.SeriesInstanceUID:
            return str(named)
        identities = self._parts.identities
        for kind in study.inputs:
            source = identities.source(study.study_key, kind, version=study.version)
            if source.SeriesInstanceUID == row.SeriesInstanceUID:
                if named not in (None, kind):
                    raise _Refused(f"the series is the study's {kind}, not what the row says")
                return kind
        raise _Refused(f"the series is none of the study's inputs (it has {have})")

    def _index(self) -> _Known:
        """Every study of the vault by patient and date."""
        known = _Known()
        for study in self._parts.state.studies.select(limit=_ALL):
            try:
                match = self._parts.identities.original(study.study_key).study
            except DicomBridgeError:
                continue
            day = (_of(match, "PatientID"), _of(match, "StudyDate"))
            known.by_day.setdefault(day, []).append(study.study_key)
        return known


def _of(match: StudyMatch, name: str) -> str:
    return str(getattr(match, name)).strip(" \0")


def _waits(read: MaskRead, accepted: frozenset[str]) -> str:
    """Why a person must decide, or nothing."""
    if read.empty and EMPTY not in accepted:
        return "the mask is empty: where it is a true negative, accept it (--accept-empty)"
    if read.doubtful and DOUBTFUL not in accepted:
        share = read.figures["outside_brain"]
        return (
            f"{share:.0%} of the label lie outside the brain: look at it, and accept it where it "
            "is right (--accept-doubtful)"
        )
    return ""


def summary(rows: Mapping[str, int]) -> str:
    """How many rows had which outcome, in words."""
    order = (TAKEN, KEPT, FITS, REVIEW, REFUSED)
    return ", ".join(f"{rows[name]} {name}" for name in order if rows.get(name)) or "no rows"
