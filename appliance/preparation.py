"""Cases prepared for one plan: ``derivatives/prepared-<hash>/``, made once, read by the trainer.

The folder's name hashes what shapes its content (the plan's preparation, inputs, labels and share
of validation cases) together with the frozen data set. Case files are written one by one, each by
rename, and ``manifest.json`` last, so a killed node goes on where it was.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from appliance.datasets import INFER, TEST, Datasets
from appliance.errors import ImageRefused
from appliance.home import Home, remove_tree
from appliance.keying import validation_rank
from appliance.labels.regions import innermost
from appliance.pipeline.pool import WorkerPool
from appliance.pipeline.worker import Answer
from appliance.research import CACHE, REFERENCE, CaseFiles, case_hash
from appliance.store import DatasetState, Member, NodeState, PlanRow
from federation.errors import PreparedDataRefused, SiteFailed
from federation.learning.prepared import (
    CaseEntry,
    PreparedManifest,
    Split,
    read_manifest,
    write_manifest,
)
from federation.node.site_port import DataSummary
from federation.plan import Plan, Preparation, SignedPlan, preparation_hash

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class CaseWork:
    """One case to prepare, as it travels to a worker.

    Attributes:
        research: the project's research folder.
        files: the case.
        inputs: the plan's modalities in channel order.
        preparation: the plan's preparation section.
        labels: local label value to the plan's; None for a case without label.
        out: the prepared folder.
        threads: threads of the imaging filters.
        cache_bytes: largest size of the project's kept results.
    """

    research: Path
    files: CaseFiles
    inputs: tuple[str, ...]
    preparation: Preparation
    labels: Mapping[int, int] | None
    out: Path
    threads: int
    cache_bytes: int = 0


def prepare_case(work: CaseWork) -> None:
    """Prepare one case and write its file; runs in a worker process.

    Raises:
        ImageRefused: the images cannot be prepared.
    """
    import numpy as np

    from appliance.imaging.itk import load_matrix
    from appliance.imaging.preparation import StudyImages, prepare_study
    from appliance.imaging.sources import file_source, load_grid
    from appliance.imaging.volume import load_volume
    from appliance.step_cache import StepCache
    from federation.learning.prepared import PreparedCase, write_case

    reference = work.files.found_image(work.research, work.files.reference)
    if not reference.exists():
        raise ImageRefused(f"the case has no {work.files.reference}, the reference of this site")
    images = {kind: work.files.found_image(work.research, kind) for kind in work.inputs}
    brain = work.research / work.files.mask(work.files.reference)
    transforms = {}
    for kind in work.inputs:
        path = work.research / work.files.transform(kind)
        if path.exists():
            transforms[kind] = load_matrix(path)
    label = None
    if work.labels is not None:
        label = load_volume(work.research / work.files.label())
        table = np.zeros(256, dtype=np.uint8)
        for local, planned in work.labels.items():
            table[local] = planned
        label = label.with_data(table[label.data.astype(np.uint8)])
    study = StudyImages(
        inputs={k: file_source(path) if path.exists() else None for k, path in images.items()},
        reference=load_grid(reference),
        brain=file_source(brain) if brain.exists() else None,
        transforms=transforms,
        label=label,
    )
    kept = StepCache(work.research / "derivatives", work.files.case, work.cache_bytes)
    done = prepare_study(study, work.preparation, results=kept, threads=work.threads)
    _log.info("case_prepared", computed=dict(kept.made), found=dict(kept.found))
    work.out.mkdir(parents=True, exist_ok=True)
    case = PreparedCase(work.files.case, done.image, done.brain, done.label, done.affine)
    write_case(work.out, case)


def planned_labels(
    plan: Plan, codes: Mapping[str, int], merge: Mapping[str, Sequence[int]] | None = None
) -> dict[int, int]:
    """Local label value to the plan's, by the code of the property type.

    A plan's label that the site keeps in parts (two prostate zones for the whole gland) takes all
    of them; of nested ones (whole tumour, core, enhancing) a part goes to the smallest that holds
    it (`appliance.labels.regions.innermost`).

    Args:
        plan: the plan.
        codes: ``SCHEME:VALUE`` to the local value (settings).
        merge: ``SCHEME:VALUE`` to the local values of its parts (settings).
    """
    regions: dict[int, set[int]] = {}
    for label in plan.labels:
        code = f"{label.type.scheme}:{label.type.value}"
        parts = set((merge or {}).get(code, ()))
        regions[label.value] = parts | ({codes[code]} if code in codes else set())
    return innermost(regions)


def divide(
    members: Sequence[tuple[Member, str]], plan: Plan, secret: bytes, *, salt: str, labels: bool
) -> list[tuple[Member, Split]]:
    """What each usable member is for under a plan.

    The site's test cases stay test cases; of the other labelled patients the plan's share is for
    validation, drawn by keyed hash, at least one patient where there are three or more and the
    share is positive.

    Args:
        members: members of the data set with their patient keys.
        plan: the plan.
        secret: the site's secret.
        salt: names the prepared folder, so that the draw is stable for it.
        labels: whether the site maps any label of the plan; without, cases are for inference.

    Returns:
        Members that have the required inputs, with their use.
    """
    required = {entry.modality for entry in plan.inputs if entry.required}
    fitting = [(m, patient) for m, patient in members if required <= set(m.inputs)]
    rest = sorted(
        {patient for m, patient in fitting if m.split not in (INFER, TEST)},
        key=lambda patient: validation_rank(secret, salt, patient),
    )
    share = plan.evaluation.validation_fraction
    count = round(share * len(rest))
    if share > 0 and len(rest) >= 3:
        count = max(1, count)
    chosen = set(rest[: min(count, max(0, len(rest) - 1))])
    uses = []
    for member, patient in fitting:
        if member.split == INFER or not labels:
            use = Split.INFER
        elif member.split == TEST:
            use = Split.TEST
        else:
            use = Split.VALIDATION if patient in chosen else Split.TRAIN
        uses.append((member, use))
    return uses


class Preparer:
    """Makes prepared folders in the worker pool.

    Args:
        state: the node's state.
        home: the node home.
        datasets: frozen data sets.
        pool: the worker processes.
        options: site secret, label codes and threads.
    """

    def __init__(
        self,
        state: NodeState,
        home: Home,
        datasets: Datasets,
        pool: WorkerPool,
        options: PreparerOptions,
    ) -> None:
        self._state = state
        self._home = home
        self._datasets = datasets
        self._pool = pool
        self._options = options
        self._mutex = threading.Lock()

    def folder(self, row: PlanRow) -> Path:
        """The prepared folder of an approved plan (it may not exist yet).

        Raises:
            SiteFailed: the plan is not approved for a data set.
        """
        return self._home.derivatives / f"prepared-{self._salt(row)}"

    def _salt(self, row: PlanRow) -> str:
        if row.dataset is None:
            raise SiteFailed("the plan is not approved for a data set of this site")
        plan = SignedPlan.from_json(row.document.encode()).plan
        content = self._state.datasets.get(row.dataset).hash
        text = f"{preparation_hash(plan)} {content}"
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def uses(self, row: PlanRow) -> list[tuple[Member, Split]]:
        """The usable members of the plan's data set and what each is for."""
        salt = self._salt(row)
        plan = SignedPlan.from_json(row.document.encode()).plan
        members = [
            (member, self._state.studies.get(member.study_key).patient_key)
            for member in self._datasets.usable(row.dataset or "")
        ]
        labels = bool(self._planned(plan))
        return divide(members, plan, self._options.secret, salt=salt, labels=labels)

    def _planned(self, plan: Plan) -> dict[int, int]:
        return planned_labels(plan, self._options.codes, self._options.merge)

    def summary(self, row: PlanRow) -> DataSummary:
        """The plan's data in numbers, from the manifest where the folder is ready."""
        folder = self.folder(row)
        dataset = self._state.datasets.get(row.dataset or "")
        try:
            splits = [entry.split for entry in read_manifest(folder).cases]
        except PreparedDataRefused:
            splits = [use for _, use in self.uses(row)]
        return DataSummary(
            training=splits.count(Split.TRAIN),
            validation=splits.count(Split.VALIDATION),
            test=splits.count(Split.TEST),
            unlabelled=splits.count(Split.INFER),
            dataset_hash=dataset.hash,
        )

    def prepare(self, row: PlanRow) -> Path:
        """Make the folder of an approved plan, or what of it is missing.

        Raises:
            SiteFailed: no case can be used, or a case changed since the freeze.
        """
        with self._mutex:
            return self._prepare(row)

    def _prepare(self, row: PlanRow) -> Path:
        folder = self.folder(row)
        if self._state.datasets.get(row.dataset or "").state is not DatasetState.APPROVED:
            raise SiteFailed("the data set of this plan is not approved (any more)")
        plan = SignedPlan.from_json(row.document.encode()).plan
        uses = self.uses(row)
        wanted = {member.case for member, _ in uses}
        try:
            present = read_manifest(folder)
            if {entry.case for entry in present.cases} <= wanted:
                return folder
        except PreparedDataRefused:
            pass
        folder.mkdir(parents=True, exist_ok=True)
        jobs = {
            member.case: self._submit(member, use, plan, folder)
            for member, use in uses
            if not (folder / f"{member.case}.safetensors").exists()
        }
        refused = {case for case, job in jobs.items() if not self._done(case, job)}
        entries = tuple(
            CaseEntry(member.case, use, use is not Split.INFER)
            for member, use in uses
            if member.case not in refused
        )
        if not entries:
            raise SiteFailed("no case of the data set can be prepared for this plan")
        channels = tuple(entry.modality for entry in plan.inputs)
        write_manifest(folder, PreparedManifest(plan.preparation, entries, channels))
        _log.info("plan_prepared", cases=len(entries), refused=len(refused))
        return folder

    def _submit(self, member: Member, use: Split, plan: Plan, folder: Path) -> Future[Answer]:
        files = CaseFiles.of(member.case, self._options.reference)
        if case_hash(self._home, files) != member.content:
            raise SiteFailed("a case changed since the data set was frozen: freeze a new one")
        labels = self._planned(plan) if use is not Split.INFER else None
        work = CaseWork(
            research=self._home.research,
            files=files,
            inputs=tuple(entry.modality for entry in plan.inputs),
            preparation=plan.preparation,
            labels=labels,
            out=folder,
            threads=self._options.threads,
            cache_bytes=self._options.cache_bytes,
        )
        return self._pool.submit(prepare_case, work)

    def _done(self, case: str, job: Future[Answer]) -> bool:
        answer = job.result()
        if answer.failed is not None:
            raise SiteFailed(f"a case could not be prepared: {answer.failed}")
        if answer.refused is not None:
            _log.warning("case_not_prepared", reason=answer.refused)
            self._state.activity.record(
                "case.not_prepared", {"case": case, "reason": answer.refused}
            )
        return answer.refused is None

    def remove_case(self, case: str) -> None:
        """Take a withdrawn case out of every prepared folder."""
        with self._mutex:
            remove_prepared(self._home, case)


def remove_prepared(home: Home, case: str) -> None:
    """Take a case out of every prepared folder of the home's project, and its kept results."""
    remove_tree(home.derivatives / CACHE / case)
    for folder in home.derivatives.glob("prepared-*"):
        (folder / f"{case}.safetensors").unlink(missing_ok=True)
        try:
            manifest = read_manifest(folder)
        except PreparedDataRefused:
            continue
        kept = tuple(entry for entry in manifest.cases if entry.case != case)
        if kept != manifest.cases:
            write_manifest(folder, PreparedManifest(manifest.preparation, kept, manifest.channels))


@dataclass(frozen=True, slots=True)
class PreparerOptions:
    """What of settings and secrets preparation needs.

    Attributes:
        secret: the site's secret; keys the draw of validation patients.
        codes: ``SCHEME:VALUE`` of a segment's property type to the local label value.
        threads: threads per worker.
        merge: ``SCHEME:VALUE`` of a plan's label to the local values that it consists of.
        reference: canonical modality of the reference image.
        cache_bytes: largest size of kept results; 0 keeps nothing.
    """

    secret: bytes
    codes: Mapping[str, int]
    threads: int
    merge: Mapping[str, Sequence[int]] = field(default_factory=dict)
    reference: str = REFERENCE
    cache_bytes: int = 0

    def __repr__(self) -> str:
        return f"PreparerOptions(codes={len(self.codes)}, threads={self.threads})"
