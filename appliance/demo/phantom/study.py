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
from appliance.demo.phantom.model import Fault, PhantomRequest, PhantomStudy, Severity
from appliance.demo.phantom.scan import FieldOfView, expose, shake, soften
from appliance.demo.phantom.styles import Sequence
from appliance.demo.phantom.warp import (
    Bend,
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
LABEL_BITS = {"brain": 1, "face": 2, "mimics": 4}
SHAKE = {Severity.MILD: 0.2, Severity.MEDIUM: 1.0, Severity.SEVERE: 1.6}
"""Strength of the motion by severity."""
CROP = {
    "axial": {
        Severity.MILD: (0.78, 18.0),
        Severity.MEDIUM: (0.62, 32.0),
        Severity.SEVERE: (0.5, 42.0),
    },
    "sagittal": {
        Severity.MILD: (0.78, 20.0),
        Severity.MEDIUM: (0.66, 30.0),
        Severity.SEVERE: (0.5, 45.0),
    },
}
"""Share of the slices that is kept and shift of the stack in mm (down, or to the left)."""
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
    """One scan's clean signal, and the truth on its grid if it is the FLAIR."""

    view: FieldOfView
    signal: Floats
    masks: dict[str, Volume]


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
    masks = flair.masks
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
        keep, shift = CROP[sequence.orientation][request.severity]
        shape = (shape[0], shape[1], int(shape[2] * keep))
        cut = [0.0, 0.0, -shift] if sequence.orientation == "axial" else [shift, 0.0, 0.0]
        centre = centre + np.array([*cut, 0.0])
    return FieldOfView(
        spacing=spacing,
        shape=shape,
        plane=sequence.orientation,
        tilt=(float(tilt[0]), float(tilt[1]), float(tilt[2])),
        centre=(float(centre[0]), float(centre[1]), float(centre[2])),
    )


def _scan(request: PhantomRequest, patient: _Patient, sequence: Sequence, pose: Affine) -> _Scan:
    """Sample one contrast on its grid, and the truth with the FLAIR."""
    view = _view(request, sequence, pose)
    head = patient.head
    target = ScanTarget(head.origin, head.spacing)
    grid = make_scan_grid(view.shape, view.affine, pose, patient.bend, target)
    is_flair = sequence is request.scanner.flair
    image = patient.signals.flair if is_flair else patient.signals.t1w
    images = [soften(image, view.plane, view.spacing, head.spacing)]
    if is_flair and patient.lesions is not None:
        cover = np.zeros(head.tissue.shape, np.float32)
        cover[head.brain_box] = patient.lesions.cover
        images.append(soften(cover, view.plane, view.spacing, head.spacing))
    sampled = grid.sample(images, _labels(patient) if is_flair else None)
    masks = {}
    if sampled.labels is not None:
        masks = {
            name: Volume(((sampled.labels & bit) > 0).astype(np.uint8), view.affine)
            for name, bit in LABEL_BITS.items()
        }
        lesion = sampled.images[1] if len(images) > 1 else np.zeros(view.shape, np.float32)
        masks["lesions"] = Volume((lesion >= LESION_SHARE).astype(np.uint8), view.affine)
        masks["mimics"].data[lesion >= LESION_SHARE] = 0
    signal = sampled.images[0]
    if request.fault is Fault.WRONG_BODY_PART:
        signal = knee_signal(view.shape, view.spacing, view.plane)
        masks = {name: mask.with_data(np.zeros_like(mask.data)) for name, mask in masks.items()}
    return _Scan(view, signal, masks)


def _labels(patient: _Patient) -> NDArray[np.uint8]:
    """Brain, face and mimics as bits on the template head's box."""
    head = patient.head
    out = head.face * np.uint8(LABEL_BITS["face"])
    part = out[head.brain_box]
    part += head.brain.mask * np.uint8(LABEL_BITS["brain"])
    part += (patient.mimics.cover >= 0.5) * np.uint8(LABEL_BITS["mimics"])
    return out


def _develop(
    request: PhantomRequest, scan: _Scan, sequence: Sequence, name: str
) -> NDArray[np.int16]:
    """Motion, shading, noise and burned-in text."""
    rng = request.rng(f"scan-{sequence.series_number}")
    signal = scan.signal
    if request.fault is Fault.MOTION:
        signal = shake(signal, rng, SHAKE[request.severity])
    stored = expose(signal, sequence, scan.view.spacing, rng)
    if request.fault is Fault.BURNED_IN_NAME:
        _burn(stored, name.replace("^", " "), sequence.scale, request.severity)
    return stored


def _burn(stored: NDArray[np.int16], name: str, scale: float, severity: Severity) -> None:
    """The name in the corner of every slice, dim or bright, or over the brain as well."""
    burn_text(stored, name, int(scale * (0.9 if severity is Severity.MILD else 1.9)))
    if severity is Severity.SEVERE:
        middle = stored[:, stored.shape[1] // 2 :]
        burn_text(middle, name, int(scale * 1.9))
