"""Where a case's files lie in the research zone, and the BIDS files around them.

Names follow BIDS 1.10 (raw data and derivatives). Paths are relative to ``research/PROJECT``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import MappingProxyType

from appliance.home import Home, remove_tree, write_atomic
from appliance.participants import (
    PERSON_SUFFIX,
    SESSION_COLUMNS,
    columns,
    read_person,
    tables,
)
from federation.canonical import JSON, canonical_json, sha256_file

BIDS_VERSION = "1.10.0"
LABELS, MASKS, TRANSFORMS, QC = "labels", "masks", "transforms", "qc"
DERIVATIVES = {
    LABELS: "Labels of experts: DICOM SEG, RT structure sets and imported masks",
    MASKS: "Brain masks",
    TRANSFORMS: "Rigid transforms to the reference (ITK text, fixed to moving points, LPS mm)",
    QC: "Quality metrics and decisions",
}
RATERS = "raters"
REPORT_SUFFIX = "_report.html"
_IGNORED = f"*_xfm.*\n*_qc.json\n*{REPORT_SUFFIX}\n*{PERSON_SUFFIX}\n"
"""What the BIDS validator skips in derived data sets."""
CACHE = "cache"
"""Folder below derivatives: kept results of preparation, one folder per case."""
REFERENCE = "FLAIR"
"""The reference image where the settings name no other."""
RATERS_WORDS = "Labels of experts, one per rater, that the label was made of"


@dataclass(frozen=True, slots=True)
class Name:
    """How one kind of file is named.

    Attributes:
        root: folder below ``research/PROJECT`` that holds the BIDS data set.
        template: file name; ``{case}`` is ``sub-<label>_ses-<label>``, ``{kind}`` the canonical
            modality, ``{reference}`` that of the reference image, ``{suffix}`` its entities and
            suffix, ``{rater}`` a rater's label.
        words: what it is.
        folder: BIDS data type.
    """

    root: str
    template: str
    words: str
    folder: str = "anat"


BEYOND = "beyond-bids"
"""Folder for images that BIDS has no place for: other bodies than the head, CT, ADC, ..."""

BIDS_KINDS = frozenset({"FLAIR", "T1w", "T1wCE", "T2w", "PDw"})
"""Canonical modalities that BIDS 1.10 names among the anatomical images of a head."""

NAMES: Mapping[str, Name] = MappingProxyType(
    {
        "image": Name("bids", "{case}_{suffix}.nii.gz", "defaced image, and its side-car"),
        "beyond": Name(
            BEYOND,
            "{case}_{suffix}.nii.gz",
            "image that BIDS has no place for (other bodies, CT, ADC), and its side-car",
            "images",
        ),
        "label": Name(
            f"derivatives/{LABELS}",
            "{case}_space-{kind}_desc-expert_dseg.nii.gz",
            "label values of the experts (one expert, or the consensus)",
        ),
        "rater_label": Name(
            f"derivatives/{RATERS}",
            "{case}_space-{kind}_desc-rater{rater}_dseg.nii.gz",
            "one rater's label values",
        ),
        "mask": Name(
            f"derivatives/{MASKS}", "{case}_space-{kind}_desc-brain_mask.nii.gz", "brain mask"
        ),
        "transform": Name(
            f"derivatives/{TRANSFORMS}",
            "{case}_from-{kind}_to-{reference}_mode-image_xfm.txt",
            "rigid transform from the reference's points to the image's (ITK, LPS mm)",
        ),
        "qc": Name(f"derivatives/{QC}", "{case}_qc.json", "metrics, decision and reasons"),
        "report": Name(
            f"derivatives/{QC}", "{case}" + REPORT_SUFFIX, "quality report for people (HTML)"
        ),
        "person": Name(
            f"derivatives/{QC}", "{case}" + PERSON_SUFFIX, "what the site's policy lets through"
        ),
    }
)
"""The one table of names; the documentation prints it."""


@dataclass(frozen=True, slots=True)
class CaseFiles:
    """The files of one case.

    Attributes:
        subject: BIDS subject label without ``sub-``.
        session: BIDS session label without ``ses-``.
        reference: canonical modality of the image on whose grid labels stand.
    """

    subject: str
    session: str
    reference: str = REFERENCE

    @classmethod
    def of(cls, case: str, reference: str = REFERENCE) -> CaseFiles:
        """The files of a case by its name.

        Examples:
            >>> CaseFiles.of("sub-a_ses-bv2").session
            'bv2'
        """
        subject, _, session = case.removeprefix("sub-").partition("_ses-")
        return cls(subject, session, reference)

    @property
    def case(self) -> str:
        """``sub-<label>_ses-<label>``."""
        return f"sub-{self.subject}_ses-{self.session}"

    @property
    def folder(self) -> Path:
        """The session's folder below a data set."""
        return Path(f"sub-{self.subject}") / f"ses-{self.session}"

    def image(self, kind: str, *, beyond: bool = False) -> Path:
        """The defaced image of a canonical modality; its side-car has the suffix ``.json``.

        Args:
            kind: canonical modality.
            beyond: whether the body is one that BIDS has no place for.
        """
        return self._named("beyond" if beyond or kind not in BIDS_KINDS else "image", kind)

    def found_image(self, research: Path, kind: str) -> Path:
        """Where the image lies below ``research/PROJECT``; its BIDS place where it lies nowhere."""
        places = [research / self.image(kind, beyond=beyond) for beyond in (False, True)]
        return next((place for place in places if place.exists()), places[0])

    def label(self) -> Path:
        """The experts' label values on the reference's grid."""
        return self._named("label", self.reference)

    def rater_label(self, rater: str) -> Path:
        """One rater's label values on the reference's grid; no part of what a data set freezes."""
        return self._named("rater_label", self.reference, rater)

    def mask(self, kind: str) -> Path:
        """The brain mask on the grid of one image."""
        return self._named("mask", kind)

    def transform(self, kind: str) -> Path:
        """The ITK transform from the reference's points to the points of another image."""
        return self._named("transform", kind)

    def qc(self) -> Path:
        """The quality report."""
        return self._named("qc")

    def report(self) -> Path:
        """The quality report for people (HTML), drawn from the defaced images.

        No part of what a data set freezes: it also shows how the site's other studies lie.
        """
        return self._named("report")

    def person(self) -> Path:
        """Sex and age as far as the site's policy lets them through; often absent."""
        return self._named("person")

    def folders(self) -> tuple[Path, ...]:
        """The session's folders, derived data first and the images last."""
        derived = tuple(Path("derivatives") / name / self.folder for name in DERIVATIVES)
        return (*derived, Path(BEYOND) / self.folder, Path("bids") / self.folder)

    def _named(self, what: str, kind: str = "", rater: str = "") -> Path:
        name = NAMES[what]
        file = name.template.format(
            case=self.case,
            kind=kind,
            suffix=bids_suffix(kind),
            rater=rater,
            reference=self.reference,
        )
        return Path(name.root) / self.folder / name.folder / file


def bids_suffix(kind: str) -> str:
    """The BIDS suffix (with entities) of a canonical modality.

    Examples:
        >>> bids_suffix("FLAIR"), bids_suffix("T1wCE")
        ('FLAIR', 'ce-contrast_T1w')
    """
    return "ce-contrast_T1w" if kind == "T1wCE" else kind


def image_uri(image: Path) -> str:
    """How a side-car of a derived image names the image that it stands on.

    Args:
        image: path relative to ``research/PROJECT``.

    Examples:
        >>> image_uri(Path("bids/sub-a/ses-b/anat/sub-a_ses-b_FLAIR.nii.gz"))
        'bids:raw:sub-a/ses-b/anat/sub-a_ses-b_FLAIR.nii.gz'
        >>> image_uri(Path("beyond-bids/sub-a/ses-b/images/sub-a_ses-b_ADC.nii.gz"))
        '../../beyond-bids/sub-a/ses-b/images/sub-a_ses-b_ADC.nii.gz'
    """
    if image.parts[0] == "bids":
        return f"bids:raw:{image.relative_to('bids').as_posix()}"
    return f"../../{image.as_posix()}"


def sidecar(path: Path) -> Path:
    """The JSON file beside an image.

    Examples:
        >>> sidecar(Path("a_T1w.nii.gz")).name
        'a_T1w.json'
    """
    return path.with_name(path.name.removesuffix(".nii.gz").removesuffix(".txt") + ".json")


def case_files(home: Home, files: CaseFiles) -> list[Path]:
    """Every file of a case, relative to the project's research folder, sorted."""
    found = []
    for folder in files.folders():
        root = home.research / folder
        found += [path.relative_to(home.research) for path in root.rglob("*") if path.is_file()]
    return sorted(found)


def case_hash(home: Home, files: CaseFiles) -> str:
    """SHA-256 over the names and contents of a case's files, but for the report for people."""
    listing: dict[str, JSON] = {
        path.as_posix(): sha256_file(home.research / path)
        for path in case_files(home, files)
        if path != files.report()
    }
    return hashlib.sha256(canonical_json(listing)).hexdigest()


def erase_case(home: Home, files: CaseFiles) -> None:
    """Remove all files of a case, prepared arrays included, and empty subject folders."""
    folders = (*files.folders(), Path("derivatives") / RATERS / files.folder)
    for folder in folders:
        remove_tree(home.research / folder)
    for prepared in home.derivatives.glob(f"prepared-*/{files.case}.safetensors"):
        prepared.unlink()
    remove_tree(home.derivatives / CACHE / files.case)
    write_participants(home)
    for subject in {(home.research / folder).parent for folder in folders}:
        if subject.is_dir() and not any(subject.iterdir()):
            subject.rmdir()


def software_version() -> str:
    """The version of the installed product."""
    try:
        return version("clinode")
    except PackageNotFoundError:
        return "0"


def ensure_tree(home: Home) -> None:
    """Write the descriptions of the BIDS data set and its derivatives where they are absent."""
    home.create()
    _write_json(home.bids / "dataset_description.json", _description("raw", home.project))
    _write_text(home.bids / "README", _readme(home.project))
    for name, words in {**DERIVATIVES, RATERS: RATERS_WORDS}.items():
        root = home.derivatives / name
        root.mkdir(parents=True, exist_ok=True)
        _write_json(root / "dataset_description.json", _description(name, home.project))
        _write_text(root / "README", _readme_of(words))
        if name in (TRANSFORMS, QC):
            _write_text(root / ".bidsignore", _IGNORED)
    if not (home.bids / "participants.tsv").exists():
        write_participants(home)


def write_participants(home: Home) -> None:
    """Rewrite ``participants.tsv`` and the sessions' tables from the sessions that are present."""
    persons = {
        subject.name: {
            session.name: read_person(home.research / CaseFiles.of(case).person())
            for session in sorted(subject.glob("ses-*"))
            if (case := f"{subject.name}_{session.name}")
        }
        for subject in sorted(home.bids.glob("sub-*"))
        if any(subject.glob("ses-*"))
    }
    made = tables(persons)
    for place, text in made.items():
        _write_text(home.bids / place, text)
    for stale in set(home.bids.glob("sub-*/*_sessions.tsv")) - {home.bids / p for p in made}:
        stale.unlink()
    present = made[Path("participants.tsv")].split("\n", 1)[0].split("\t")
    described = {name: words for name, words in columns().items() if name in present}
    _write_json(home.bids / "participants.json", described)
    if len(made) > 1:
        _write_json(home.bids / "sessions.json", dict(SESSION_COLUMNS))


def _readme(project: str) -> str:
    return (
        f"Defaced brain MR images of the project {project}, made by clinode from clinical\n"
        "studies. Identity was removed after DICOM PS3.15 Annex E; side-cars hold a fixed list of\n"
        "acquisition parameters only. The data are pseudonymised, not anonymous: they stay inside\n"
        "the hospital. Derived data lie in ../derivatives.\n"
    )


def _readme_of(words: str) -> str:
    return (
        f"{words}.\nMade by clinode from the images in ../../bids, which BIDS URIs of the data\n"
        "set `raw` name. Like those the files are pseudonymised, not anonymous, and stay inside\n"
        "the hospital.\n"
    )


AUTHORS = ("the site's data custodian", "clinode")
"""Who made the data set; BIDS asks for two or more names, and persons are not named here."""

LICENCE = "none: the data stay inside the hospital"


def _description(name: str, project: str) -> JSON:
    generated: JSON = [{"Name": "clinode", "Version": software_version()}]
    common: dict[str, JSON] = {
        "Authors": list(AUTHORS),
        "BIDSVersion": BIDS_VERSION,
        "GeneratedBy": generated,
        "License": LICENCE,
    }
    if name == "raw":
        return {"Name": f"clinode {project}", "DatasetType": "raw", **common}
    return {
        "Name": f"clinode {project}: {DERIVATIVES.get(name, RATERS_WORDS)}",
        "DatasetType": "derivative",
        "DatasetLinks": {"raw": "../../bids"},
        "SourceDatasets": [{"URL": "../../bids"}],
        **common,
    }


def _write_json(path: Path, document: JSON) -> None:
    _write_text(path, json.dumps(document, indent=2, sort_keys=True) + "\n")


def _write_text(path: Path, text: str) -> None:
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        write_atomic(path, text.encode())


def listing_hash(entries: Iterable[JSON]) -> str:
    """SHA-256 of the canonical JSON of a list."""
    return hashlib.sha256(canonical_json(list(entries))).hexdigest()
