"""A FLAIR slice with the expert's and the model's contours, drawn from what the PACS gave back."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from appliance.demo.outcome import Picture
from appliance.imaging.grid import Grid, resample
from appliance.imaging.volume import Volume, load_volume
from dicom_bridge.convert import Converted, convert_series
from dicom_bridge.seg import read_seg

EXPERT_COLOUR = (230, 159, 0)
MODEL_COLOUR = (60, 170, 255)
TARGET_PIXELS = 560
MARGIN_MM = 12.0


@dataclass(frozen=True, slots=True)
class ReadBack:
    """Files of one study as a PACS returned them."""

    flair: Sequence[Path]
    expert: Path | None
    model: Path


def draw_picture(files: ReadBack, work: Path) -> Picture:
    """Draw the slice on which expert and model mark the most.

    Args:
        files: FLAIR instances and the two segmentation objects.
        work: an empty folder for the conversion.

    Raises:
        DataRefused: the series or a segmentation cannot be read.
    """
    converted = convert_series(files.flair, work / "flair.nii.gz", work=work / "convert")
    volume = load_volume(converted.image)
    expert = _mask(files.expert, converted, volume)
    model = _mask(files.model, converted, volume)
    spacing = np.linalg.norm(volume.affine[:3, :3], axis=0)
    slice_axis = int(np.argmax(spacing))
    number = best_slice(expert, model, slice_axis)
    plane = np.take(np.asarray(volume.data, dtype=np.float32), number, axis=slice_axis)
    pair = [np.take(mask, number, axis=slice_axis) for mask in (expert, model)]
    in_plane = np.delete(spacing, slice_axis)
    picture = overlay(plane, pair[0], pair[1], (float(in_plane[0]), float(in_plane[1])))
    ml = float(np.prod(spacing)) / 1000.0
    both = int(np.count_nonzero(expert & model))
    total = int(np.count_nonzero(expert)) + int(np.count_nonzero(model))
    return Picture(
        png_base64=base64.b64encode(picture).decode("ascii"),
        caption=f"FLAIR slice {number + 1} of {volume.data.shape[slice_axis]}.",
        expert_ml=float(np.count_nonzero(expert)) * ml,
        model_ml=float(np.count_nonzero(model)) * ml,
        dice=2.0 * both / total if total else 1.0,
    )


def best_slice(expert: NDArray[np.bool_], model: NDArray[np.bool_], axis: int) -> int:
    """The slice with the most voxels in either mask; the middle one where both are empty.

    Args:
        expert: mask (I, J, K).
        model: mask (I, J, K).
        axis: 0, 1 or 2.
    """
    others = tuple(a for a in range(3) if a != axis)
    counts = np.count_nonzero(expert | model, axis=others)
    return int(np.argmax(counts)) if counts.any() else expert.shape[axis] // 2


def _mask(path: Path | None, converted: Converted, volume: Volume) -> NDArray[np.bool_]:
    """All segments of a segmentation object on the image's grid."""
    if path is None:
        return np.zeros(volume.data.shape, dtype=bool)
    content = read_seg(path, converted.source)
    union = np.zeros(content.segments[0].mask.shape, dtype=np.uint8)
    for segment in content.segments:
        union |= segment.mask
    grid = Grid(volume.data.shape, volume.affine)
    placed = resample(Volume(union, content.affine), grid, interpolation="nearest")
    return np.asarray(placed.data > 0)


def overlay(
    plane: NDArray[np.float32],
    expert: NDArray[np.bool_],
    model: NDArray[np.bool_],
    spacing: tuple[float, float],
) -> bytes:
    """A PNG of one slice, in radiological view, with two contours.

    Args:
        plane: grey values (I, J), I towards the patient's left and J towards posterior or the
            reverse, as stored (LPS order of a transverse slice).
        expert: mask (I, J).
        model: mask (I, J).
        spacing: mm per voxel along I and J.
    """
    low, high = np.percentile(plane, (1.0, 99.7))
    grey = np.clip((plane - low) / max(float(high - low), 1e-6), 0.0, 1.0)
    factor = TARGET_PIXELS / max(plane.shape[0] * spacing[0], plane.shape[1] * spacing[1])
    zoom = (spacing[0] * factor, spacing[1] * factor)
    image = ndimage.zoom(grey, zoom, order=1)
    rgb = np.repeat((np.clip(image, 0, 1) * 255).astype(np.uint8)[..., None], 3, axis=2)
    for mask, colour in ((expert, EXPERT_COLOUR), (model, MODEL_COLOUR)):
        smooth = ndimage.zoom(mask.astype(np.float32), zoom, order=1) >= 0.5
        edge = smooth & ~ndimage.binary_erosion(smooth, iterations=2)
        rgb[edge] = colour
    stream = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(rgb.transpose(1, 0, 2))).save(stream, "PNG", optimize=True)
    return stream.getvalue()
