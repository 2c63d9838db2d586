"""Where a case's files lie in the research zone, and the BIDS files around them.

Names follow BIDS 1.10 (raw data and derivatives). Paths are relative to ``research/PROJECT``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from appliance.home import Home, remove_tree, write_atomic
from federation.canonical import JSON, canonical_json, sha256_file

BIDS_VERSION = "1.10.0"
LABELS, MASKS, TRANSFORMS, QC = "labels", "masks", "transforms", "qc"
DERIVATIVES = {
    LABELS: "Expert segmentations read from DICOM SEG objects",
    MASKS: "Brain masks",
    TRANSFORMS: "Rigid transforms to the FLAIR image (ITK text, fixed to moving points, LPS mm)",
    QC: "Quality metrics and decisions",
}
RATERS = "raters"
RATERS_WORDS = "Later segmentations by experts, one per rater, read from DICOM SEG objects"


@dataclass(frozen=True, slots=True)
class CaseFiles:
    """The files of one case.

    Attributes:
        subject: BIDS subject label without ``sub-``.
        session: BIDS session label without ``ses-``.
    """

    subject: str
    session: str

    @classmethod
    def of(cls, case: str) -> CaseFiles:
        """The files of a case by its name.

        Examples:
            >>> CaseFiles.of("sub-a_ses-bv2").session
            'bv2'
        """
        subject, _, session = case.removeprefix("sub-").partition("_ses-")
        return cls(subject, session)

    @property
    def case(self) -> str:
        """``sub-<label>_ses-<label>``."""
        return f"sub-{self.subject}_ses-{self.session}"

    @property
    def folder(self) -> Path:
        """The session's folder below a data set."""
        return Path(f"sub-{self.subject}") / f"ses-{self.session}"

    def image(self, kind: str) -> Path:
        """The defaced image of a canonical modality; its side-car has the suffix ``.json``."""
        return Path("bids") / self.folder / "anat" / f"{self.case}_{bids_suffix(kind)}.nii.gz"

    def label(self) -> Path:
        """The expert's label values on the FLAIR grid."""
        return self._derived(LABELS) / f"{self.case}_space-FLAIR_desc-expert_dseg.nii.gz"

    def rater_label(self, rater: str) -> Path:
        """One rater's label values on the FLAIR grid; no part of what a data set freezes."""
        return self._derived(RATERS) / f"{self.case}_space-FLAIR_desc-rater{rater}_dseg.nii.gz"

    def mask(self, kind: str) -> Path:
        """The brain mask on the grid of one image."""
        return self._derived(MASKS) / f"{self.case}_space-{kind}_desc-brain_mask.nii.gz"

    def transform(self, kind: str) -> Path:
        """The ITK transform from FLAIR points to the points of another image."""
        return self._derived(TRANSFORMS) / f"{self.case}_from-{kind}_to-FLAIR_mode-image_xfm.txt"

    def qc(self) -> Path:
        """The quality report."""
        return self._derived(QC) / f"{self.case}_qc.json"

    def folders(self) -> tuple[Path, ...]:
        """The session's folders, derived data first and the images last."""
        derived = tuple(Path("derivatives") / name / self.folder for name in DERIVATIVES)
        return (*derived, Path("bids") / self.folder)

    def _derived(self, name: str) -> Path:
        return Path("derivatives") / name / self.folder / "anat"


def bids_suffix(kind: str) -> str:
    """The BIDS suffix (with entities) of a canonical modality.

    Examples:
        >>> bids_suffix("FLAIR"), bids_suffix("T1wCE")
        ('FLAIR', 'ce-contrast_T1w')
    """
    return "ce-contrast_T1w" if kind == "T1wCE" else kind


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
    """SHA-256 over the names and contents of a case's files."""
    listing: dict[str, JSON] = {
        path.as_posix(): sha256_file(home.research / path) for path in case_files(home, files)
    }
    return hashlib.sha256(canonical_json(listing)).hexdigest()


def erase_case(home: Home, files: CaseFiles) -> None:
    """Remove all files of a case, prepared arrays included, and empty subject folders."""
    for folder in (*files.folders(), Path("derivatives") / RATERS / files.folder):
        remove_tree(home.research / folder)
        subject = (home.research / folder).parent
        if subject.is_dir() and not any(subject.iterdir()):
            subject.rmdir()
    for prepared in home.derivatives.glob(f"prepared-*/{files.case}.safetensors"):
        prepared.unlink()
    write_participants(home)


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
    _write_json(home.bids / "participants.json", _PARTICIPANTS)
    for name, words in {**DERIVATIVES, RATERS: RATERS_WORDS}.items():
        root = home.derivatives / name
        root.mkdir(parents=True, exist_ok=True)
        _write_json(root / "dataset_description.json", _description(name, home.project))
        _write_text(root / "README", f"{words}. Made by clinode.\n")
        if name in (TRANSFORMS, QC):
            _write_text(root / ".bidsignore", "*_xfm.*\n*_qc.json\n")
    if not (home.bids / "participants.tsv").exists():
        write_participants(home)


def write_participants(home: Home) -> None:
    """Rewrite ``participants.tsv`` from the subjects that are present."""
    subjects = sorted(path.name for path in home.bids.glob("sub-*") if path.is_dir())
    lines = ["participant_id\tsessions"]
    for subject in subjects:
        sessions = sum(1 for path in (home.bids / subject).glob("ses-*") if path.is_dir())
        lines.append(f"{subject}\t{sessions}")
    write_atomic(home.bids / "participants.tsv", ("\n".join(lines) + "\n").encode())


_PARTICIPANTS: JSON = {
    "participant_id": {"Description": "Pseudonym, valid inside this project only"},
    "sessions": {"Description": "Number of sessions (studies and their kept versions)"},
}


def _readme(project: str) -> str:
    return (
        f"Defaced brain MR images of the project {project}, made by clinode from clinical\n"
        "studies. Identity was removed after DICOM PS3.15 Annex E; side-cars hold a fixed list of\n"
        "acquisition parameters only. The data are pseudonymised, not anonymous: they stay inside\n"
        "the hospital. Derived data lie in ../derivatives.\n"
    )


def _description(name: str, project: str) -> JSON:
    generated: JSON = [{"Name": "clinode", "Version": software_version()}]
    common: dict[str, JSON] = {"BIDSVersion": BIDS_VERSION, "GeneratedBy": generated}
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
