"""Whatever comes in: a readable file without the marker goes out, or a refusal with a reason."""

from __future__ import annotations

import random
import resource
import struct

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom import dcmread

from dicom_bridge.deid import Option, Profile
from dicom_bridge.deid.identifiers import name_parts
from tests.dicom_bridge.deid.answers.cohort import as_file, make_cohort
from tests.dicom_bridge.deid.answers.fuzz import (
    MARKER,
    Outcomes,
    elements,
    mutations,
    small_files,
)
from tests.dicom_bridge.deid.answers.run import PROFILE
from tests.dicom_bridge.deid.objects import file_bytes, mr_image, pseudonymizer
from tests.tools import shared_dir

PROFILES = (
    Profile.basic(),
    Profile.load(PROFILE),
    Profile.basic({Option.RETAIN_FULL_DATES, Option.RETAIN_UIDS, Option.CLEAN_DESCRIPTORS}),
)
HEALTH = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
GROWTH = 600 * 1024  # KiB that the process may grow by over all damaged files


def base() -> bytes:
    """An image whose patient has the marker as name."""
    ds = mr_image()
    ds.PatientName, ds.PatientID = f"{MARKER}^Eve", MARKER
    ds.SeriesDescription = f"t1 of {MARKER}"
    return file_bytes(ds)


CONTENT = base()
HEAD = 144 + struct.unpack_from("<I", CONTENT, 140)[0]


def generated(extra: bytes, place: int, profile: Profile) -> None:
    body = CONTENT[HEAD:]
    cuts = [i for i in range(len(body) - 8) if body[i : i + 1] in (b"\x08", b"\x10", b"\x28")]
    at = cuts[place % len(cuts)]
    for content in (CONTENT + extra, CONTENT[:HEAD] + extra + body, CONTENT[:HEAD] + extra):
        outcomes = Outcomes()
        outcomes.take(content, MARKER.encode(), profile, pseudonymizer())
        assert outcomes.wrong == []
    outcomes = Outcomes()
    spliced = CONTENT[:HEAD] + body[:at] + extra + body[at:]
    outcomes.take(spliced, MARKER.encode(), profile, pseudonymizer())
    assert outcomes.wrong == []


@given(elements(), st.integers(0, 10_000), st.sampled_from(PROFILES))
@settings(max_examples=60, deadline=None, suppress_health_check=HEALTH)
def test_generated_data_sets(extra: bytes, place: int, profile: Profile) -> None:
    generated(extra, place, profile)


@pytest.mark.long
@pytest.mark.timeout(600)
@given(elements(), st.integers(0, 10_000), st.sampled_from(PROFILES))
@settings(max_examples=1000, deadline=None, suppress_health_check=HEALTH, derandomize=True)
def test_many_generated_data_sets(extra: bytes, place: int, profile: Profile) -> None:
    generated(extra, place, profile)


def damage(rounds: int, seed: int) -> Outcomes:
    """Planted objects of all kinds, damaged and cut off."""
    chance, outcomes = random.Random(seed), Outcomes()
    for answer in make_cohort(1, seed=seed):
        content = as_file(answer)
        secret = str(answer.dataset.PatientID).encode()
        for damaged in mutations(content, chance, rounds):
            outcomes.take(damaged, secret, chance.choice(PROFILES), pseudonymizer())
    return outcomes


def test_damaged_objects_of_all_kinds() -> None:
    outcomes = damage(rounds=12, seed=5)
    assert outcomes.wrong == []
    assert outcomes.refused > 50
    assert outcomes.written > 0


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_many_damaged_objects_and_real_files_in_bounded_memory() -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    outcomes = damage(rounds=150, seed=6)
    chance = random.Random(7)
    folders = [
        shared_dir("data", "dicom", "dicom2nifti_samples"),
        shared_dir("data", "dicom", "compressed_nema"),
    ]
    files = [path for folder in folders for path in small_files(folder, 300_000)]
    assert len(files) > 20
    for path in files:
        content = path.read_bytes()
        secret = _secret(content)
        for damaged in mutations(content, chance, 40):
            outcomes.take(damaged, secret, PROFILES[0], pseudonymizer())
    assert outcomes.wrong == []
    assert outcomes.refused > 1000
    assert outcomes.written > 100
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < GROWTH


def _secret(content: bytes) -> bytes:
    """The longest part of the patient's name in a real file, or the marker where there is none."""
    import io

    ds = dcmread(io.BytesIO(content), stop_before_pixels=True, force=True)
    parts = sorted(name_parts(str(ds.get("PatientName", ""))), key=len)
    return parts[-1].encode() if parts and len(parts[-1]) > 5 else MARKER.encode()
