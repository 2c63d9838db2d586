"""Every real series: what `docs/conversion.md` says of it is what runs."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import dcm2niix
import numpy as np
import pytest
from pydicom.dataset import Dataset

from appliance.tools.conversion import sidecar_by
from dicom_bridge.convert.frames import (
    PICTURE_CLASSES,
    READ_ERRORS,
    VOLUME_CLASSES,
    read_dataset,
)
from dicom_bridge.convert.mosaic import image_frames
from dicom_bridge.convert.pixels import Pixels
from dicom_bridge.errors import DataRefused
from tests.dicom_bridge.convert.rivals import shared_series
from tests.dicom_bridge.convert.table import Row, documented, groups, ours, outcome, row_of
from tests.dicom_bridge.real import packed_series
from tests.tools import require_tool, shared_dir

PACKED = (
    "ct_ge_gantry_tilt",
    "ct_philips_head",
    "ge_pioneer_mprage_phantom",
    "philips_phantom",
    "prostatex",
    "siemens_prisma_mprage",
    "siemens_prisma_positions",
)


def every_series(factory: pytest.TempPathFactory) -> dict[str, list[Path]]:
    """All series of the shared data, packed ones unpacked."""
    here = shared_dir("data", "dicom")
    assert {path.name for path in here.glob("*.tar.xz")} == {f"{name}.tar.xz" for name in PACKED}
    roots = {packed_series(name, factory).parent for name in PACKED}
    return shared_series(roots.pop())


@pytest.mark.integration
def test_what_becomes_of_every_series(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    rows = []
    for name, files in every_series(tmp_path_factory).items():
        made, reason = ours(files, tmp_path)
        said = documented()
        row = Row(name, *outcome(made, reason), "", "")
        rows.append(row)
        if name in said:
            assert (said[name].clinode, said[name].engine) == (row.clinode, row.engine), name
    singles = {f"{row.series}" for row in rows if row.series.startswith("compressed_nema/")}
    assert {row.series for row in rows} - singles == {
        name for name in documented() if not name.startswith("compressed_nema/")
    }
    assert len(singles) == 38
    assert {row.clinode for row in rows if row.series in singles} == {
        row.clinode for row in documented().values() if row.series.startswith("compressed_nema/")
    }


@pytest.mark.long
def test_both_converters_on_every_series(tmp_path_factory: pytest.TempPathFactory) -> None:
    every = every_series(tmp_path_factory)
    said = documented()
    found = groups([row_of(name, files) for name, files in every.items()])
    for row in found:
        facts = (row.clinode, row.engine, row.dicom2nifti, row.dcm2niix)
        here = said[row.series]
        assert (here.clinode, here.engine, here.dicom2nifti, here.dcm2niix) == facts, row.series
        if row.engine != "-":
            assert "same" in (row.dicom2nifti, row.dcm2niix), row.series
        if (row.dicom2nifti, row.dcm2niix) != ("same", "same"):
            assert here.why, row.series
    assert {row.series for row in found} == set(said)


COMPARED = (
    *("MagneticFieldStrength", "MRAcquisitionType", "EchoTime", "RepetitionTime", "InversionTime"),
    *("FlipAngle", "SliceThickness", "SpacingBetweenSlices", "EchoTrainLength", "PixelBandwidth"),
    *("PercentPhaseFOV", "PercentSampling", "NumberOfAverages", "ScanningSequence"),
)


def their_sidecars(files: Sequence[Path], work: Path) -> list[dict[str, Any]]:
    """dcm2niix' own JSON; what is no JSON (it quotes names badly) is left out."""
    source, target = work / "in", work / "out"
    source.mkdir(parents=True)
    target.mkdir()
    for number, path in enumerate(files):
        (source / f"{number}.dcm").symlink_to(path.resolve())
    command = [dcm2niix.bin, "-b", "o", "-ba", "y", "-f", "v", "-o", str(target), str(source)]
    subprocess.run(command, capture_output=True, check=False)
    found = []
    for path in sorted(target.glob("*.json")):
        try:
            found.append(json.loads(path.read_text(errors="replace"), strict=False))
        except ValueError:
            continue
    return found


def disagreements(ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, Any]:
    """Fields of the comparison that dcm2niix fills differently."""
    wrong = {}
    for name in COMPARED:
        if name not in theirs or theirs[name] == 0:
            continue
        if name == "MagneticFieldStrength" and theirs[name] > 25:  # written in gauss
            continue
        one, other = ours.get(name), theirs[name]
        if isinstance(other, int | float) and isinstance(one, int | float):
            if abs(one - other) > 1e-4 * max(1.0, abs(other)):
                wrong[name] = (one, other)
        elif name == "ScanningSequence":
            if one is not None and set(str(one).split("_")) != set(re.split(r"[_\\]", str(other))):
                wrong[name] = (one, other)
        elif one != other:
            wrong[name] = (one, other)
    maker, their_maker = str(ours.get("Manufacturer", "")), str(theirs.get("Manufacturer", ""))
    if maker and their_maker and not maker.lower().startswith(their_maker.lower()):
        wrong["Manufacturer"] = (maker, their_maker)
    return wrong


def sidecars_agree(name: str, files: Sequence[Path], work: Path) -> int:
    """How many side-cars of a series could be compared; all that could agree."""
    make = sidecar_by(b"\7" * 32)
    headers: list[Dataset] = []
    for path in files:
        try:
            header = read_dataset(path, pixels=False, named=False)
        except DataRefused:
            continue
        if header.SOPClassUID in VOLUME_CLASSES | PICTURE_CLASSES:
            headers.append(header)
    mine = [dict(make(header)) for header in (headers if len(headers) < 3 else headers[:1])]
    mine = [fields for fields in mine if "SidecarRefused" not in fields]
    compared = 0
    for theirs in their_sidecars(files, work) if mine else ():
        wrong = [disagreements(fields, theirs) for fields in mine]
        assert {} in wrong, (name, wrong)
        compared += 1
    return compared


@pytest.mark.integration
@pytest.mark.parametrize(
    "name",
    [
        "dicom2nifti_samples/ge__anatomical__001",
        "dicom2nifti_samples/philips_enhanced__anatomical__001",
        "siemens_xa30_enhanced/8_gre_field_mapping",
        "siemens_xa30_enhanced/5_anat-T1w_acq-tfl",
        "nema_enhanced_brain/tumour_study/BRTUM003",
    ],
)
def test_sidecars_agree_with_dcm2niix(tmp_path: Path, name: str) -> None:
    path = shared_dir("data", "dicom", *name.split("/"))
    files = [path] if path.is_file() else sorted(path.iterdir())
    assert sidecars_agree(name, files, tmp_path) >= 1


@pytest.mark.long
def test_all_sidecars_agree_with_dcm2niix(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    compared = 0
    for number, (name, files) in enumerate(every_series(tmp_path_factory).items()):
        if name.endswith("failing__sliceorientation__001"):  # two acquisitions in one series
            continue
        compared += sidecars_agree(name, files, tmp_path / str(number))
    assert compared >= 60


SYNTAXES = ["RLE", "JPLL", "JLSL", "J2KR"]


@pytest.mark.parametrize("name", ["CT1", "MR4"])
@pytest.mark.parametrize("syntax", SYNTAXES)
def test_lossless_syntaxes_decode_to_the_reference(syntax: str, name: str) -> None:
    decoded = []
    for folder, ending in (("REF", "UNC"), (syntax, syntax)):
        path = shared_dir("data", "dicom", "compressed_nema", folder, f"{name}_{ending}")
        dataset = read_dataset(path, pixels=True)
        decoded.append(Pixels().of_frame(image_frames(dataset, path)[0]))
    assert np.array_equal(*decoded)


@pytest.mark.parametrize("name", ["MR1", "MR3", "MR4"])
def test_dcmtk_decodes_what_the_pixel_library_cannot(tmp_path: Path, name: str) -> None:
    require_tool("dcmdjpeg")
    path = shared_dir("data", "dicom", "compressed_nema", "JPLY", f"{name}_JPLY")
    reference = shared_dir("data", "dicom", "compressed_nema", "REF", f"{name}_UNC")
    dataset = read_dataset(path, pixels=True)
    with pytest.raises(DataRefused, match="cannot be decoded"):
        Pixels().of_instance(dataset, path)
    made = Pixels(tmp_path).of_instance(dataset, path).astype(np.int64)
    kept = Pixels().of_instance(read_dataset(reference, pixels=True), reference).astype(np.int64)
    assert np.corrcoef(made.ravel(), kept.ravel())[0, 1] > 0.999
    assert list(tmp_path.iterdir()) == []


def test_without_dcmtk_it_is_refused_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    path = shared_dir("data", "dicom", "compressed_nema", "JPLY", "MR1_JPLY")
    with pytest.raises(DataRefused, match=r"JPEG Extended.*truncated or damaged"):
        Pixels(tmp_path).of_instance(read_dataset(path, pixels=True), path)


@pytest.mark.parametrize("name", ["skyra_epi_ap", "trio_mb_jpeg2000"])
def test_mosaics_lie_where_nibabel_and_the_protocol_put_them(name: str) -> None:
    """Two other readings: nibabel's, and the slice centres that the scanner's protocol planned."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from nibabel.nicom import csareader, dicomwrappers
    path = sorted(shared_dir("data", "dicom", "siemens_mosaic", name).iterdir())[0]
    dataset = read_dataset(path, pixels=True)
    frames = image_frames(dataset, path)
    wrapper: Any = dicomwrappers.wrapper_from_data(dataset)
    affine = wrapper.affine  # LPS, indices (row, column, slice)
    assert wrapper.image_shape[2] == len(frames)
    for k, frame in enumerate(frames):
        there = (affine @ [0, 0, k, 1])[:3]
        assert np.allclose([float(value) for value in frame.position], there, atol=1e-3)
    try:
        series: Any = csareader.get_csa_header(dataset, "series")
        protocol = series["tags"]["MrPhoenixProtocol"]["items"][0]
    except (*READ_ERRORS, KeyError):
        pytest.skip("the file keeps no protocol")
    centre = _protocol_centre(protocol, 0)
    first = frames[0]
    rows, columns = first.size
    turn = np.array([float(value) for value in first.orientation])
    apart = [float(value) for value in first.spacing]
    middle = np.array([float(value) for value in first.position])
    middle = middle + turn[:3] * apart[1] * columns / 2 + turn[3:] * apart[0] * rows / 2
    ends = [middle, middle + _step(frames) * (len(frames) - 1)]
    assert min(float(np.linalg.norm(end - centre)) for end in ends) < 0.75 * max(apart)


def _step(frames: Sequence[Any]) -> Any:  # noqa: ANN401
    one, two = (np.array([float(v) for v in frame.position]) for frame in frames[:2])
    return two - one


def _protocol_centre(protocol: str, number: int) -> Any:  # noqa: ANN401
    found = np.zeros(3)
    for line in protocol.splitlines():
        for axis, name in enumerate(("dSag", "dCor", "dTra")):
            if line.startswith(f"sSliceArray.asSlice[{number}].sPosition.{name}"):
                found[axis] = float(line.split("=")[1])
    return found
