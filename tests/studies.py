"""Real MS images and arrays written as DICOM studies, for tests and trials.

The raw pairs (FLAIR and T1W of one session, NIfTI, Lesjak et al., CC BY) keep their voxels and
geometry; the header around them is invented. Nothing in it belongs to a person.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from appliance.demo.phantom import header_from, write_mr_series
from appliance.imaging.volume import Volume, load_volume
from tests.tools import shared_dir

FLAIR = {
    "SeriesNumber": 6,
    "SeriesDescription": "t2_tirm_tra_dark-fluid",
    "ScanningSequence": ["SE", "IR"],
    "SequenceVariant": ["SK", "SP", "OSP"],
    "ScanOptions": "IR",
    "RepetitionTime": "5000",
    "EchoTime": "392",
    "InversionTime": "1800",
    "EchoTrainLength": 141,
}
T1W = {
    "SeriesNumber": 3,
    "SeriesDescription": "t1_tse_tra",
    "ScanningSequence": "SE",
    "SequenceVariant": ["SK", "SP"],
    "ScanOptions": "",
    "RepetitionTime": "600",
    "EchoTime": "12",
    "EchoTrainLength": 3,
}
CONTRASTS: dict[str, dict[str, object]] = {"FLAIR": FLAIR, "T1w": T1W}


@dataclass(frozen=True, slots=True)
class RawPair:
    """One session of the raw MS data.

    Attributes:
        patient: Folder name, such as "patient01".
        study: 1 or 2.
        flair: NIfTI of the FLAIR.
        t1w: NIfTI of the T1W.
        transform: ITK affine transform T1W to FLAIR by the authors (LPS).
    """

    patient: str
    study: int
    flair: Path
    t1w: Path
    transform: Path


@dataclass(frozen=True, slots=True)
class TestStudy:
    """A study written for a test: its UIDs, files by contrast, and the source images."""

    __test__ = False

    folder: Path
    StudyInstanceUID: str
    PatientID: str
    series: dict[str, tuple[Path, ...]]
    volumes: dict[str, Volume]

    @property
    def files(self) -> tuple[Path, ...]:
        """All files."""
        return tuple(path for files in self.series.values() for path in files)


def raw_ms_pairs() -> list[RawPair]:
    """All sessions that have both FLAIR and T1W (skips the test where shared data are absent)."""
    root = shared_dir("data", "ms", "longitudinal_raw")
    pairs = []
    for folder in sorted(p for p in root.iterdir() if p.is_dir()):
        for study in (1, 2):
            flair = folder / f"study{study}_FLAIR.nii.gz"
            t1w = folder / f"study{study}_T1W.nii.gz"
            if flair.exists() and t1w.exists():
                transform = folder / f"study{study}_T1W_intrastudy_to_FLAIR.txt"
                pairs.append(RawPair(folder.name, study, flair, t1w, transform))
    return pairs


def write_raw_ms_study(pair: RawPair, out: Path) -> TestStudy:
    """One raw session as a study of two series.

    Args:
        pair: The session.
        out: Folder; `FLAIR/` and `T1w/` are made in it.
    """
    volumes = {"T1w": load_volume(pair.t1w), "FLAIR": load_volume(pair.flair)}
    return write_array_study(volumes, out, name=f"{pair.patient}-{pair.study}")


def write_array_study(volumes: dict[str, Volume], out: Path, *, name: str) -> TestStudy:
    """Any volumes as one brain MR study.

    Args:
        volumes: By contrast, "FLAIR" or "T1w".
        out: Folder; one folder per contrast is made in it.
        name: What UIDs and patient are derived from: equal names give equal UIDs.
    """
    study_uid = generate_uid(entropy_srcs=["test study", name])
    patient = "RAW" + str(generate_uid(entropy_srcs=["test patient", name.split("-")[0]]))[-8:]
    series = {}
    for contrast, volume in volumes.items():
        header = study_header(name, contrast, study_uid, patient)
        series[contrast] = write_mr_series(volume, header, out / contrast)
    return TestStudy(out, study_uid, patient, series, volumes)


def study_header(name: str, contrast: str, study_uid: str, patient: str) -> Dataset:
    """Header of one series, valid for the MR Image IOD."""
    return header_from(
        {
            "SpecificCharacterSet": "ISO_IR 100",
            "ImageType": ["ORIGINAL", "PRIMARY", "M", "ND"],
            "StudyInstanceUID": study_uid,
            "SeriesInstanceUID": generate_uid(entropy_srcs=["test series", name, contrast]),
            "FrameOfReferenceUID": generate_uid(entropy_srcs=["test frame", name]),
            "PositionReferenceIndicator": "",
            "PatientName": f"Rawpairson^{patient}",
            "PatientID": patient,
            "PatientBirthDate": "19800229",
            "PatientSex": "O",
            "StudyDate": "20150612",
            "StudyTime": "101500",
            "SeriesDate": "20150612",
            "SeriesTime": "101730",
            "AcquisitionDate": "20150612",
            "AcquisitionTime": "101730",
            "ContentDate": "20150612",
            "ContentTime": "101730",
            "AccessionNumber": f"A{patient[3:]}",
            "StudyID": "1",
            "StudyDescription": "MRI BRAIN MS",
            "ReferringPhysicianName": "",
            "Manufacturer": "SIEMENS",
            "ManufacturerModelName": "Trio",
            "MagneticFieldStrength": "3",
            "BodyPartExamined": "HEAD",
            "PatientPosition": "HFS",
            "MRAcquisitionType": "2D",
            "FlipAngle": "120",
            "AcquisitionNumber": 1,
        }
        | CONTRASTS[contrast]
    )
