"""``clinode tools``: every verb on the files of one small phantom, against its truth."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK
from numpy.typing import NDArray

from appliance.cli.app import run_command
from federation.learning.model import write_model
from federation.learning.networks import initial_weights
from federation.manifest import manifest_for
from tests.appliance.cli.conftest import Said
from tests.federation.learning.tiny import tiny_plan

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

Tool = Callable[..., Said]
QUICK = ("--profile", "quick", "--threads", "2")


@dataclass(frozen=True)
class Phantom:
    """What ``tools phantom`` wrote, and its images as ``tools convert`` wrote them."""

    study: Path
    truth: Path
    flair: Path
    t1w: Path
    rows: list[dict[str, Any]]

    def document(self) -> dict[str, Any]:
        loaded: dict[str, Any] = json.loads((self.truth / "truth.json").read_text("utf-8"))
        return loaded


@pytest.fixture
def tool(capsys: pytest.CaptureFixture[str]) -> Tool:
    def command(*arguments: object) -> Said:
        capsys.readouterr()
        code = run_command(["tools", *map(str, arguments)])
        said = capsys.readouterr()
        return Said(code, said.out, said.err)

    return command


_MADE: list[Phantom] = []


@pytest.fixture
def phantom(tool: Tool, tmp_path_factory: pytest.TempPathFactory) -> Phantom:
    """One Siemens phantom for the whole module, made by the tools themselves."""
    if not _MADE:
        root = tmp_path_factory.mktemp("phantom")
        made = tool("phantom", root, "--patients", 1, "--style", "siemens", "--half", "--seed", 4)
        assert (made.code, made.err) == (0, "")
        (study,) = (root / "dicom").iterdir()
        converted = tool("convert", study, root / "nifti", "--json")
        assert (converted.code, converted.err) == (0, "")
        (flair,) = (root / "nifti").glob("*_FLAIR.nii.gz")
        (t1w,) = (root / "nifti").glob("*_T1w.nii.gz")
        rows = json.loads(converted.out)
        _MADE.append(Phantom(study, root / "truth" / study.name, flair, t1w, rows))
    return _MADE[0]


def array(path: Path) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Voxels (X, Y, Z) and affine to RAS mm of a NIfTI file."""
    image: Any = nibabel.load(path)
    return np.asarray(image.dataobj, dtype=np.float64), np.asarray(image.affine)


def dice(a: NDArray[Any], b: NDArray[Any]) -> float:
    return float(2.0 * np.count_nonzero(a & b) / (np.count_nonzero(a) + np.count_nonzero(b)))


def test_phantom_is_the_same_by_seed(phantom: Phantom, tool: Tool, tmp_path: Path) -> None:
    options = ("--patients", 1, "--style", "siemens", "--half", "--seed", 4)
    assert tool("phantom", tmp_path / "p", *options).code == 0
    again = sorted((tmp_path / "p" / "dicom").rglob("*.dcm"))
    before = sorted(phantom.study.rglob("*.dcm"))
    assert len(again) == len(before) > 100
    for index in (0, len(again) // 2, -1):
        assert again[index].read_bytes() == before[index].read_bytes()


def test_classify_names_the_series(phantom: Phantom, tool: Tool) -> None:
    said = tool("classify", phantom.study, "--json")
    document = json.loads(said.out)
    (study,) = document["studies"]
    assert sorted(row["kind"] for row in study["series"]) == ["FLAIR", "SEG", "T1w"]
    assert {row["kind"]: row["why"] for row in study["chosen"]} == {
        "FLAIR": "the only one",
        "T1w": "the only one",
    }
    assert document["unreadable"] == 0
    assert "FLAIR" in tool("classify", phantom.study).out


def test_convert_names_images_and_says_why_not(phantom: Phantom) -> None:
    by_kind = {row["kind"]: row for row in phantom.rows}
    assert by_kind["SEG"]["image"] == ""
    assert "no image volume" in by_kind["SEG"]["reason"]
    flair = by_kind["FLAIR"]
    assert phantom.flair.name == f"{flair['series']}_FLAIR.nii.gz" == flair["image"]
    sidecar = json.loads(phantom.flair.with_name(f"{flair['series']}_FLAIR.json").read_text())
    assert sidecar["Manufacturer"] == "SIEMENS"
    assert sidecar["InversionTime"] < 5.0, "seconds"
    text = json.dumps(sidecar, ensure_ascii=False)
    planted = phantom.document()["planted_identifiers"]
    assert planted["names"]
    for kind in ("names", "ids", "dates", "others", "uids"):
        assert not [value for value in planted[kind] if value in text]
    voxels, affine = array(phantom.flair)
    truth, truth_affine = array(phantom.truth / "brain.nii.gz")
    corners = np.array([[0, 0, 0, 1], [*np.array(truth.shape) - 1, 1]], dtype=float).T
    box = np.sort((truth_affine @ corners)[:3], axis=1)
    own = np.array([[0, 0, 0, 1], [*np.array(voxels.shape) - 1, 1]], dtype=float).T
    np.testing.assert_allclose(np.sort((affine @ own)[:3], axis=1), box, atol=0.5)


def test_deidentify_with_a_key_is_stable_and_leaves_nothing(
    phantom: Phantom, tool: Tool, tmp_path: Path
) -> None:
    source = phantom.study / "FLAIR"
    names = []
    for run, key in (("a", "one"), ("b", "one"), ("c", "two")):
        options = ("--key", tmp_path / key, "--report", tmp_path / "r.json", "--workers", 1)
        said = tool("deidentify", source, tmp_path / run, *options, "--json")
        assert said.code == 0
        summary = json.loads(said.out)
        assert summary["written"] == len(list(source.iterdir()))
        assert summary["refused"] in (0, [])
        outputs = list((tmp_path / run).rglob("*.dcm"))
        names.append(sorted(p.name for p in outputs))
    assert names[0] == names[1]
    assert not set(names[0]) & set(names[2])
    assert (tmp_path / "one").stat().st_mode & 0o777 == 0o600
    planted = phantom.document()["planted_identifiers"]
    values = [v.encode() for kind in ("names", "ids", "uids") for v in planted[kind]]
    assert any(value in next(source.iterdir()).read_bytes() for value in values)
    for path in outputs:
        content = path.read_bytes()
        assert not [value for value in values if value in content]
    header = pydicom.dcmread(outputs[0], stop_before_pixels=True)
    assert header.PatientIdentityRemoved == "YES"


def test_register_finds_the_true_shift(phantom: Phantom, tool: Tool, tmp_path: Path) -> None:
    out, transform = tmp_path / "t1.nii.gz", tmp_path / "t1.tfm"
    said = tool(
        *("register", phantom.flair, phantom.t1w, "--out", out, "--transform", transform), *QUICK
    )
    assert said.code == 0
    assert "quality" in said.out
    true = np.linalg.inv(np.array(phantom.document()["t1w_to_flair_ras_mm"]))
    found = SimpleITK.ReadTransform(str(transform))
    flip = np.array([-1.0, -1.0, 1.0])
    shifts, errors = [], []
    for ras in ([60.0, 0, 20], [-60, 0, 20], [0, 60, 20], [0, -60, 20], [0, 0, 70], [0, 0, -30]):
        point = np.array(ras)
        expected = (true @ [*point, 1.0])[:3]
        came = np.array(found.TransformPoint((point * flip).tolist())) * flip
        errors.append(float(np.linalg.norm(came - expected)))
        shifts.append(float(np.linalg.norm(point - expected)))
    assert max(shifts) > 1.0, "the phantom's patient moved"
    assert max(errors) < 1.0
    assert array(out)[0].shape == array(phantom.flair)[0].shape


def test_the_brain_mask_is_the_brain(phantom: Phantom, tool: Tool, tmp_path: Path) -> None:
    out = tmp_path / "mask.nii.gz"
    said = tool("brain-mask", phantom.flair, out, *QUICK)
    assert said.code == 0
    mask, affine = array(out)
    np.testing.assert_allclose(affine, array(phantom.flair)[1], atol=1e-4)
    assert set(np.unique(mask)) == {0.0, 1.0}
    ml = np.count_nonzero(mask) * abs(np.linalg.det(affine[:3, :3])) / 1000.0
    (printed,) = re.findall(r"has (\d+) ml", said.out)
    assert abs(float(printed) - ml) <= 1.0
    truth = on_grid(phantom.truth / "brain.nii.gz", phantom.flair)
    assert dice(mask > 0, truth) > 0.85


def on_grid(mask: Path, image: Path) -> NDArray[np.bool_]:
    """A truth mask on the image's grid (nearest voxel)."""
    reference = SimpleITK.ReadImage(str(image))
    moved = SimpleITK.Resample(
        SimpleITK.ReadImage(str(mask)),
        reference,
        SimpleITK.Transform(3, SimpleITK.sitkIdentity),
        SimpleITK.sitkNearestNeighbor,
    )
    return np.asarray(SimpleITK.GetArrayFromImage(moved)).transpose(2, 1, 0) > 0


def test_deface_takes_the_face_and_leaves_the_brain(
    phantom: Phantom, tool: Tool, tmp_path: Path
) -> None:
    out = tmp_path / "defaced.nii.gz"
    assert tool("deface", phantom.flair, out, *QUICK).code == 0
    before, after = array(phantom.flair)[0], array(out)[0]
    brain = on_grid(phantom.truth / "brain.nii.gz", phantom.flair)
    face = on_grid(phantom.truth / "face.nii.gz", phantom.flair) & (before > 0)
    assert np.count_nonzero(face) > 1000
    assert np.count_nonzero(after[face]) / np.count_nonzero(face) < 0.05
    assert np.count_nonzero(after[brain] != before[brain]) / np.count_nonzero(brain) < 0.001


def test_qc_measures_and_decides(phantom: Phantom, tool: Tool) -> None:
    said = tool("qc", phantom.flair, *QUICK, "--json")
    assert said.code == 0
    report = json.loads(said.out)
    assert report["decision"] in ("pass", "review")
    values = {m["name"]: m["value"] for m in report["metrics"]}
    assert 900.0 < values["flair_brain_volume"] < 2200.0
    assert values["flair_snr"] > 1.0


def test_qc_of_an_empty_image_ends_with_1(tool: Tool, tmp_path: Path) -> None:
    path = tmp_path / "empty.nii.gz"
    nibabel.save(
        nibabel.Nifti1Image(np.zeros((40, 40, 40), np.float32), np.diag([4, 4, 4, 1])), path
    )
    said = tool("qc", path, *QUICK)
    assert said.code == 1
    assert said.err or "fail" in said.out


def test_seg_write_read_and_check(phantom: Phantom, tool: Tool, tmp_path: Path) -> None:
    mask, seg = phantom.truth / "lesions.nii.gz", tmp_path / "out.dcm"
    written = tool("seg-write", phantom.study / "FLAIR", mask, seg)
    assert written.code == 0
    voxels = np.count_nonzero(array(mask)[0])
    assert f"segment 1: {voxels} voxels" in written.out
    read = tool("seg-read", seg, tmp_path / "read")
    assert read.out == f"{tmp_path / 'read' / '1.nii.gz'}\n"
    assert np.count_nonzero(array(tmp_path / "read" / "1.nii.gz")[0]) == voxels
    listing = json.loads((tmp_path / "read" / "segments.json").read_text(encoding="utf-8"))
    assert [s["voxels"] for s in listing["segments"]] == [voxels]
    good = tool("seg-check", phantom.study / "FLAIR", seg)
    assert (good.code, good.out) == (0, "nothing is wrong with it\n")
    other = tool("seg-check", phantom.study / "T1w", seg)
    assert other.code == 1
    assert other.out.strip() or other.sentence


def test_segment_with_an_untrained_model(phantom: Phantom, tool: Tool, tmp_path: Path) -> None:
    plan = tiny_plan({"training": {"patch_size": [32, 32, 32]}})
    sha256 = initial_weights(plan, tmp_path / "weights")
    size = (tmp_path / "weights").stat().st_size
    manifest = manifest_for(plan, 0, (sha256, size), ())
    write_model(tmp_path / "model", manifest, plan, tmp_path / "weights")
    out = tmp_path / "mask.nii.gz"
    said = tool("segment", tmp_path / "model", phantom.flair, phantom.t1w, out, "--threads", 2)
    assert said.code == 0
    mask, affine = array(out)
    voxels, reference = array(phantom.flair)
    assert mask.shape == voxels.shape
    np.testing.assert_allclose(affine, reference, atol=1e-4)
    assert set(np.unique(mask)) <= {0.0, 1.0}
    ml = np.count_nonzero(mask) * abs(np.linalg.det(affine[:3, :3])) / 1000.0
    assert said.out == f"{ml:.2f} ml are segmented\n"


def test_segment_refuses_a_damaged_model_and_too_many_images(
    phantom: Phantom, tool: Tool, tmp_path: Path
) -> None:
    plan = tiny_plan()
    sha256 = initial_weights(plan, tmp_path / "weights")
    size = (tmp_path / "weights").stat().st_size
    model = tmp_path / "model"
    write_model(model, manifest_for(plan, 0, (sha256, size), ()), plan, tmp_path / "weights")
    images = [phantom.flair] * 3
    many = tool("segment", model, *images, tmp_path / "out.nii.gz")
    assert many.code == 1
    assert "takes 2 images" in many.sentence
    weights = model / "weights.safetensors"
    content = bytearray(weights.read_bytes())
    content[-5] ^= 1
    weights.write_bytes(bytes(content))
    damaged = tool("segment", model, phantom.flair, tmp_path / "out.nii.gz")
    assert damaged.code == 1
    assert "weights" in damaged.sentence
    assert not (tmp_path / "out.nii.gz").exists()
