"""Every shared series has the kind that the data's own table says, or is not sure of itself."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydicom.dataset import Dataset

from dicom_bridge.classify import Classification, SeriesKind, classify_series, scan_study
from dicom_bridge.classify.choice import MINIMUM_CONFIDENCE
from dicom_bridge.convert.frames import VOLUME_CLASSES, read_dataset
from dicom_bridge.errors import DataRefused
from tests.dicom_bridge.real import files_of, packed_series
from tests.tools import shared_dir

K = SeriesKind
D, O_ = K.DERIVED, K.OTHER
# Truth by folder: kinds in the order of the scan (series number, then UID).
# Compressed sets: 2 CT; a 3-D image of ImageType DERIVED; a spin echo T1; the real part of a STIR.
COMPRESSED = [K.CT, K.CT, D, K.T1W, O_]
LOOSE: dict[str, list[SeriesKind]] = {
    "dicom/agfa_private_tags/agfa": [O_],  # perfusion
    "dicom/agfa_private_tags/original": [O_],
    **{f"dicom/compressed_nema/{s}": COMPRESSED for s in ("REF", "JPLL", "JLSL", "JLSN")},
    **{f"dicom/compressed_nema/{s}": COMPRESSED for s in ("J2KR", "J2KI")},
    "dicom/compressed_nema/JPLY": COMPRESSED[2:],
    "dicom/compressed_nema/RLE": [K.CT, K.CT, D, D, O_],  # its tool wrote DERIVED\SECONDARY
    "dicom/ct_siemens_jpeg2000": [],  # no UIDs: refused
    "dicom/dicom2nifti_samples/failing__notavolume__001": [K.CT],
    "dicom/dicom2nifti_samples/failing__slicecount__001": [K.FLAIR],
    "dicom/dicom2nifti_samples/failing__sliceincrement__001": [K.CT],
    "dicom/dicom2nifti_samples/failing__sliceorientation__001": [O_],  # two planes, two contrasts
    "dicom/dicom2nifti_samples/ge__anatomical__001": [K.T1W],
    "dicom/dicom2nifti_samples/ge__anatomical__001_single_slice": [K.T1W],
    "dicom/dicom2nifti_samples/ge__dti__001": [K.DWI],
    "dicom/dicom2nifti_samples/generic__anatomical__001": [K.FLAIR],
    "dicom/dicom2nifti_samples/generic__anatomical__001_implicit": [K.FLAIR],
    "dicom/dicom2nifti_samples/generic__anatomical__002_non_isotropic": [D],  # ImageType MPR
    "dicom/dicom2nifti_samples/generic__compressed__001": [K.FLAIR],
    "dicom/dicom2nifti_samples/generic__compressed_j2k__001": [K.FLAIR],
    "dicom/dicom2nifti_samples/generic__compressed_jpeg__001": [K.FLAIR],
    "dicom/dicom2nifti_samples/generic__compressed_jpegls__001": [K.FLAIR],
    "dicom/dicom2nifti_samples/generic__compressed_rle__001": [K.FLAIR],
    "dicom/dicom2nifti_samples/generic__rgb__001": [K.SECONDARY_CAPTURE],
    "dicom/dicom2nifti_samples/hitachi__anatomical__001": [K.PDW],  # TE 12, TR 4000, spin echo
    "dicom/dicom2nifti_samples/hyperfine__anatomical__001": [K.FLAIR],
    "dicom/dicom2nifti_samples/philips__anatomical__001": [K.FLAIR],
    "dicom/dicom2nifti_samples/philips_enhanced__anatomical__001": [K.T1W],
    "dicom/dicom2nifti_samples/philips_enhanced__dti__001": [K.DWI],
    "dicom/dicom2nifti_samples/philips_enhanced__fmri__001": [K.BOLD],
    "dicom/dicom2nifti_samples/siemens__anatomical__001": [K.FLAIR],
    "dicom/dicom2nifti_samples/siemens_multiframe__anatomical__001": [K.T1W],
    "dicom/ge_discovery_epi": [K.BOLD],
    # Mixed contrasts and projections; spectroscopy; a resampled single frame.
    "dicom/nema_enhanced_brain/other": [O_, O_, D],
    # Localiser, FLAIR, T2, T1, T1 with agent, spectroscopy, metabolite map.
    "dicom/nema_enhanced_brain/tumour_study": [
        *(K.LOCALISER, K.FLAIR, K.T2W, K.T1W, K.T1W_CE, O_, D)
    ],
    "dicom/siemens_mosaic/skyra_epi_ap": [K.BOLD],
    "dicom/siemens_mosaic/trio_mb_jpeg2000": [K.BOLD],
    "dicom/siemens_mosaic/trio_mb_jpeg_lossless": [K.BOLD],
    # T1, field map (magnitude, phase), ADC, colour map, report.
    "dicom/siemens_xa30_enhanced": [K.T1W, O_, O_, K.ADC, D, K.SR],
    "dicom/uih_dti_ap": [K.DWI],
    "seg/dcmqi/23x38x3": [K.SEG, K.CT, K.CT],
    "seg/dcmqi/24x38x3": [K.SEG, K.CT, K.CT],
    "seg/dcmqi/ct-3slice": [K.CT],
    "seg/dcmqi_sr_example": [O_, K.SEG, K.SR],  # the first: value mapping
    "seg/highdicom": [K.CT, K.SR, *[K.SEG] * 8],
    "seg/slicer_qin_headneck": [K.SEG],
    "phi/dicom_cookies": [K.SECONDARY_CAPTURE, K.SECONDARY_CAPTURE],
    "phi/fictional_names_ct": [K.SECONDARY_CAPTURE],
    "phi/pseudo_phi": [K.LOCALISER, K.SECONDARY_CAPTURE, O_],  # CT scout, screenshot, X-ray
}
PACKED: dict[str, list[SeriesKind]] = {
    "ct_ge_gantry_tilt": [K.CT],
    "ct_philips_head": [K.CT],
    "ge_pioneer_mprage_phantom": [K.T1W],
    # Each enhanced object with its raw data; the classic series.
    "philips_phantom": [K.T1W, O_, K.T1W, O_, K.T1W],
    "prostatex/ProstateX-0000": [K.T2W, K.T2W, K.ADC, K.DWI],
    "prostatex/ProstateX-0000_missing_slice": [K.DWI],
    "prostatex/ProstateX-0001": [K.T2W, K.ADC],
    "siemens_prisma_mprage": [K.T1W],
    "siemens_prisma_positions": [K.T1W, K.T1W],
}
# Headers that hold too little (no repetition time, no name): the truth cannot be told from them.
UNSURE = {"dicom/dicom2nifti_samples/siemens_multiframe__anatomical__001"}
NAMES = ("SeriesDescription", "ProtocolName", "StudyDescription", "BodyPartExamined")


def told(folder: Path) -> list[Classification]:
    """What the scan says, order aside for series of one number."""
    return [series.classification for series in scan_study(folder).series]


def is_right(found: Classification, truth: SeriesKind) -> bool:
    return found.kind is truth or found.confidence < MINIMUM_CONFIDENCE


def check(found: list[Classification], truth: list[SeriesKind], *, sure: bool) -> None:
    kinds = sorted(item.kind for item in found)
    if sure:
        assert kinds == sorted(truth), [(item.kind.value, item.rule) for item in found]
        assert all(item.confidence >= MINIMUM_CONFIDENCE for item in found)
    else:
        pairs = zip(found, truth, strict=True)
        assert all(is_right(item, kind) for item, kind in pairs), found


@pytest.mark.parametrize("name", LOOSE)
def test_shared_series(name: str) -> None:
    found = told(shared_dir("data", *name.split("/")))
    check(found, LOOSE[name], sure=name not in UNSURE)


@pytest.mark.integration
@pytest.mark.parametrize("name", PACKED)
def test_packed_series(name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    archive, _, below = name.partition("/")
    check(told(packed_series(archive, tmp_path_factory) / below), PACKED[name], sure=True)


def test_no_folder_of_series_is_left_out() -> None:
    """A new folder of shared DICOM data must get its row."""
    root = shared_dir("data")
    rows = [*LOOSE, *(f"dicom/{name}" for name in PACKED)]
    for family in ("dicom", "seg", "phi"):
        for entry in sorted((root / family).iterdir()):
            stem = f"{family}/{entry.name.removesuffix('.tar.xz')}"
            assert any(row == stem or row.startswith(f"{stem}/") for row in rows) or (
                stem in {"seg/README.md", "seg/dcmqi"}
            ), stem


def nameless(folder: Path) -> list[Classification]:
    """What the image series of a folder are without any description; every n-th file is read."""
    groups: dict[str, list[Dataset]] = {}
    files = files_of(folder)
    for path in files[:: max(1, len(files) // 20)]:
        try:
            header = read_dataset(path, pixels=False)
        except DataRefused:
            continue
        if header.SOPClassUID not in VOLUME_CLASSES or not header.SeriesInstanceUID:
            continue
        for keyword in NAMES:
            header.pop(keyword, None)
        groups.setdefault(str(header.SeriesInstanceUID), []).append(header)
    return [classify_series(headers) for headers in groups.values()]


BLIND = [n for n in LOOSE if n.startswith("dicom/")]


@pytest.mark.parametrize("name", BLIND)
def test_without_any_name_nothing_is_confidently_wrong(name: str) -> None:
    found = nameless(shared_dir("data", *name.split("/")))
    truth = list(LOOSE[name])
    if name.endswith("tumour_study"):
        truth[0] = K.T1W  # the localiser: a T1 by its statement, a localiser only by its name
    for item in found:
        assert item.kind in truth or item.confidence < MINIMUM_CONFIDENCE, item


@pytest.mark.integration
@pytest.mark.parametrize("name", PACKED)
def test_packed_series_without_any_name(
    name: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    archive, _, below = name.partition("/")
    found = nameless(packed_series(archive, tmp_path_factory) / below)
    assert found
    for item in found:
        assert item.kind in PACKED[name], item


LIES = (
    *("T1 MPRAGE", "T1 post Gd", "FLAIR axial", "T2 TSE", "PD", "STIR", "DWI b1000", "ADC", "SWI"),
    *("loc", "MPR cor", "TOF 3D", "perfusion", "field map", "T1 map", "bold rest", "DIR"),
)
WITHHELD = {K.LOCALISER, K.DERIVED, K.OTHER}
ECHO_PLANAR = {K.BOLD, K.DWI, K.ADC}
LIED_ABOUT = (
    *("siemens__anatomical__001", "ge__anatomical__001", "hitachi__anatomical__001"),
    *("philips_enhanced__dti__001", "philips_enhanced__fmri__001", "hyperfine__anatomical__001"),
)


@pytest.mark.parametrize("name", LIED_ABOUT)
def test_a_lying_name_never_makes_another_contrast(name: str) -> None:
    """It may withhold a series, add the agent that no header denies, or tell echo-planar kinds."""
    (truth,) = LOOSE[f"dicom/dicom2nifti_samples/{name}"]
    folder = shared_dir("data", "dicom", "dicom2nifti_samples", name)
    headers = [read_dataset(path, pixels=False) for path in files_of(folder)]
    for lie in LIES:
        for header in headers:
            header.SeriesDescription = lie
        found = classify_series(headers)
        allowed = WITHHELD | {truth} | ({K.T1W_CE} if truth is K.T1W else set())
        allowed |= ECHO_PLANAR if truth in ECHO_PLANAR else set()
        assert found.kind in allowed or found.confidence < MINIMUM_CONFIDENCE, (lie, found)
        assert found.kind is truth or found.confidence <= 0.7, (lie, found)
