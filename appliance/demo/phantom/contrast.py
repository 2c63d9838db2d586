"""Signals of a patient's head: the template's tissues with the patient's own folds and tones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from appliance.demo.phantom.anatomy import Brain, Head
from appliance.demo.phantom.fields import smooth_noise
from appliance.demo.phantom.lesions import Lesions
from appliance.demo.phantom.mimics import Mimics
from appliance.demo.phantom.tissue import FLAIR_SIGNAL, T1_SIGNAL, Tissue, signal_table

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Signals:
    """T1 and FLAIR signal on the head's box, white matter about 1, axes (X, Y, Z), float32."""

    t1w: Floats
    flair: Floats


def own_tissue(brain: Brain, rng: np.random.Generator, *, spacing: float) -> tuple[Floats, Floats]:
    """Grey and white matter shares with the patient's own cortical folds.

    The template's maps are averages over many people: noise decides where the border between
    tissues runs in this one, and a steep step makes it as sharp as in one person.

    Args:
        brain: The template's maps.
        rng: The patient's stream.
        spacing: Voxel size in mm.

    Returns:
        Grey and white matter shares, 0 to 1, sum at most 1.
    """
    shape = brain.grey.shape
    surface = brain.grey + brain.white + 0.11 * smooth_noise(rng, shape, spacing, 4.0)
    inner = brain.white + 0.11 * smooth_noise(rng, shape, spacing, 4.0)
    solid = np.clip((surface - 0.5) / 0.34 + 0.5, 0.0, 1.0) * brain.mask
    core = np.clip((inner - 0.5) / 0.40 + 0.5, 0.0, 1.0) * solid
    return np.asarray(solid - core, np.float32), np.asarray(core, np.float32)


def make_signals(
    head: Head,
    tissue: tuple[Floats, Floats],
    lesions: Lesions | None,
    mimics: Mimics,
    rng: np.random.Generator,
) -> Signals:
    """T1 and FLAIR of a whole head.

    Args:
        head: The template head.
        tissue: The patient's grey and white matter shares on the brain's box.
        lesions: The patient's lesions, if any.
        mimics: The patient's mimics.
        rng: The patient's stream (tones).

    Returns:
        Signals on the head's box.
    """
    grey, white = tissue
    brain = head.brain
    fluid = np.clip(1.0 - grey - white, 0.0, 1.0)
    table = signal_table(T1_SIGNAL, rng, 0.05)
    t1_grey = float(np.clip(rng.normal(0.70, 0.025), 0.62, 0.78))
    own = white + t1_grey * grey + 0.24 * fluid
    solid = np.clip(grey + white, 0.0, 1.0)
    t1 = own + 0.45 * solid * (brain.t1 - (0.97 * brain.white + 0.72 * brain.grey + 0.2 * fluid))
    flair_table = signal_table(FLAIR_SIGNAL, rng, 0.08)
    flair_grey = float(np.clip(rng.normal(1.2, 0.04), 1.08, 1.32))
    flair = white + flair_grey * grey + float(flair_table[Tissue.FLUID]) * fluid
    flair *= 1.0 - 0.30 * solid * (brain.t1 - brain.white - 0.72 * brain.grey)
    flair += 0.025 * smooth_noise(rng, flair.shape, head.spacing, 7.0) * solid
    flair += mimics.cover * (mimics.brightness - flair)
    if lesions is not None:
        t1 += lesions.cover * (lesions.darkness - t1)
        flair += lesions.cover * (lesions.brightness - flair)
    return Signals(_insert(head, table, t1), _insert(head, flair_table, flair))


def _insert(head: Head, table: Floats, brain_signal: Floats) -> Floats:
    """Tissue signals of the head with the brain's own put in."""
    out = table[head.tissue]
    part = out[head.brain_box]
    part[head.brain.mask] = brain_signal[head.brain.mask]
    return np.asarray(out, dtype=np.float32)
