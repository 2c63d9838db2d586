"""One phantom study from its request: head, lesions, two scans, truth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from appliance.demo.phantom.anatomy import Head, load_head
from appliance.demo.phantom.burn import burn_text
from appliance.demo.phantom.contrast import Signals, make_signals, own_tissue
from appliance.demo.phantom.identity import make_identity
from appliance.demo.phantom.knee import knee_signal
from appliance.demo.phantom.lesions import Lesions, lesion_target, make_lesions
from appliance.demo.phantom.mimics import Mimics, make_mimics
from appliance.demo.phantom.model import Fault, PhantomRequest, PhantomStudy
from appliance.demo.phantom.scan import FieldOfView, expose, shake, soften
from appliance.demo.phantom.styles import Sequence
from appliance.demo.phantom.warp import (
    Bend,
    ScanGrid,
    ScanTarget,
    make_bend,
    make_scan_grid,
    rigid,
)
from appliance.imaging.volume import Volume

Floats = NDArray[np.float32]
Affine = NDArray[np.float64]

FINE_MM = 1.0
"""Voxel size of the template head for full resolution."""
COARSE_MM = 1.25
"""Voxel size of the template head for half resolution."""
LESION_SHARE = 0.42
"""A reader outlines a voxel that is lesion to this share or more."""


@dataclass(frozen=True, slots=True, eq=False)
class _Patient:
    """All that belongs to the patient and not to a scan."""

    head: Head
    bend: Bend
    signals: Signals
    lesions: Lesions | None
    mimics: Mimics


@dataclass(frozen=True, slots=True, eq=False)
class _Scan:
    """One scan's clean signal and grid."""

    view: FieldOfView
    grid: ScanGrid
    signal: Floats


def make_study(request: PhantomRequest) -> PhantomStudy:
    """Make one study.

    Args:
        request: Patient, scanner, resolution, fault.

    Returns:
        Stored images of both series and the truth, equal for equal requests.
    """
    style = request.scanner
    identity = make_identity(
        request.rng("identity"),
        style=style.key,
        index=request.index,
        station_prefix=style.station_prefix,
    )
    patient = _patient(request)
    before, after = _poses(request.rng("pose"))
    t1w = _scan(request, patient, style.t1w, before)
    flair = _scan(request, patient, style.flair, after)
    masks = _masks(patient, flair)
    stored = {
        name: _develop(request, scan, sequence, identity.patient_name)
        for name, scan, sequence in (("flair", flair, style.flair), ("t1w", t1w, style.t1w))
    }
    lesions = patient.lesions
    return PhantomStudy(
        request=request,
        identity=identity,
        flair=Volume(stored["flair"], flair.view.affine),
        t1w=Volume(stored["t1w"], t1w.view.affine),
        lesions=masks["lesions"],
        brain=masks["brain"],
        face=masks["face"],
        mimics=masks["mimics"],
        t1w_to_flair=np.asarray(after @ np.linalg.inv(before)),
        rescale={"flair": style.flair.rescale_slope, "t1w": style.t1w.rescale_slope},
        lesion_count=lesions.count if lesions else 0,
        lesion_ml=lesions.volume_ml if lesions else 0.0,
    )


def _patient(request: PhantomRequest) -> _Patient:
    """Shape, tissue, lesions, mimics and signals."""
    head = load_head(COARSE_MM if request.half_resolution else FINE_MM)
    bend = make_bend(request.rng("shape"))
    tissue = own_tissue(head.brain, request.rng("folds"), spacing=head.spacing)
    lesions = None
    if request.lesions:
        rng = request.rng("lesions")
        lesions = make_lesions(
            head.brain,
            lesion_target(request.scanner.load, request.index, rng),
            rng,
            spacing=head.spacing,
            shrink=float(abs(np.linalg.det(bend.affine[:3, :3]))),
        )
    mimics = make_mimics(head.brain, tissue, request.rng("mimics"), spacing=head.spacing)
    signals = make_signals(head, tissue, lesions, mimics, request.rng("tones"))
    return _Patient(head, bend, signals, lesions, mimics)


def _poses(rng: np.random.Generator) -> tuple[Affine, Affine]:
    """Pose of the head (patient frame to scanner) during T1 and during FLAIR."""
    a, b, c = (float(v) for v in rng.normal(0.0, (4.0, 2.0, 3.0)))
    u, v, w = (float(v) for v in rng.normal(0.0, (2.0, 4.0, 4.0)))
    pose = rigid((a, b, c), (u, v, w))
    d, e, f = (float(v) for v in np.clip(rng.normal(0.0, 1.3, 3), -3.5, 3.5))
    g, h, i = (float(v) for v in np.clip(rng.normal(0.0, 1.6, 3), -4.0, 4.0))
    moved = rigid((d, e, f), (g, h, i), (0.0, -20.0, -40.0))
    return pose, np.asarray(moved @ pose)


def _view(request: PhantomRequest, sequence: Sequence, pose: Affine) -> FieldOfView:
    """Prescribe the scan about the head as it lies, as a radiographer does, not quite exactly."""
    rng = request.rng(f"view-{sequence.series_number}")
    spacing, shape = request.scanner.geometry(half=request.half_resolution)
    middle = (0.0, -6.0, 7.0) if sequence.orientation == "axial" else (0.0, -10.0, -16.0)
    centre = pose @ np.array([*middle, 1.0])
    turn = np.rad2deg(
        [
            np.arctan2(pose[2, 1], pose[2, 2]),
            -np.arcsin(pose[2, 0]),
            np.arctan2(pose[1, 0], pose[0, 0]),
        ]
    )
    tilt = turn + rng.normal(0.0, 1.2, 3)
    if request.fault is Fault.CROPPED:
        keep = 0.62 if sequence.orientation == "axial" else 0.66
        shape = (shape[0], shape[1], int(shape[2] * keep))
        cut = np.array([0.0, 0.0, -32.0]) if sequence.orientation == "axial" else [30.0, 0.0, 0.0]
        centre = centre + np.array([*cut, 0.0])
    return FieldOfView(
        spacing=spacing,
        shape=shape,
        plane=sequence.orientation,
        tilt=(float(tilt[0]), float(tilt[1]), float(tilt[2])),
        centre=(float(centre[0]), float(centre[1]), float(centre[2])),
    )


def _scan(request: PhantomRequest, patient: _Patient, sequence: Sequence, pose: Affine) -> _Scan:
    """Sample one contrast on its grid."""
    view = _view(request, sequence, pose)
    head = patient.head
    target = ScanTarget(head.origin, head.spacing)
    grid = make_scan_grid(view.shape, view.affine, pose, patient.bend, target)
    if request.fault is Fault.WRONG_BODY_PART:
        return _Scan(view, grid, knee_signal(view.shape, view.spacing, view.plane))
    is_flair = sequence is request.scanner.flair
    image = patient.signals.flair if is_flair else patient.signals.t1w
    image = soften(image, view.plane, view.spacing, head.spacing)
    return _Scan(view, grid, grid.sample([image])[0])


def _develop(
    request: PhantomRequest, scan: _Scan, sequence: Sequence, name: str
) -> NDArray[np.int16]:
    """Motion, shading, noise and burned-in text."""
    rng = request.rng(f"scan-{sequence.series_number}")
    signal = scan.signal
    if request.fault is Fault.MOTION:
        signal = shake(signal, rng)
    stored = expose(signal, sequence, scan.view.spacing, rng)
    if request.fault is Fault.BURNED_IN_NAME:
        burn_text(stored, name.replace("^", " "), int(sequence.scale * 1.9))
    return stored


def _masks(patient: _Patient, scan: _Scan) -> dict[str, Volume]:
    """Truth on the FLAIR's grid."""
    head, view = patient.head, scan.view
    shape = head.tissue.shape
    cover = {"lesions": np.zeros(shape, np.float32), "mimics": np.zeros(shape, np.float32)}
    lesion = patient.lesions.cover if patient.lesions else None
    free = 1.0 if lesion is None else 1.0 - lesion
    cover["mimics"][head.brain_box] = patient.mimics.cover * free
    if lesion is not None:
        cover["lesions"][head.brain_box] = lesion
    brain = np.zeros(shape, np.float32)
    brain[head.brain_box] = head.brain.mask
    images = [soften(image, view.plane, view.spacing, head.spacing) for image in cover.values()]
    images += [brain, head.face.astype(np.float32)]
    limits = {"lesions": LESION_SHARE, "mimics": 0.5, "brain": 0.5, "face": 0.5}
    sampled = zip(limits.items(), scan.grid.sample(images), strict=True)
    return {
        name: Volume((values >= limit).astype(np.uint8), view.affine)
        for (name, limit), values in sampled
    }
