"""The fingerprint of a frozen data set: from images on disk, training cases only."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from appliance.cli.run import _fingerprint_words
from appliance.errors import ImageRefused, NotAllowed, NotFound
from appliance.fingerprint import case_figures, counted, fingerprint_of, rules_of
from appliance.governance import Governance
from appliance.home import Home
from appliance.imaging.volume import Volume, save_volume
from appliance.research import CaseFiles
from appliance.settings import GovernanceSection, settings_from
from appliance.settings_imaging import FingerprintSection
from appliance.site_work import SiteParts, SiteWork
from appliance.store import DatasetState, Member, NewStudy, NodeState
from federation.audit_chain import AuditChain
from federation.errors import SiteFailed
from federation.fingerprint import Fingerprint, Rules
from federation.plan import ms_lesion_demo_plan, sign

PATIENTS = 6


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path, "p")
    home.create()
    return home


def put(home: Home, path: Path, data: np.ndarray, spacing: tuple[float, float, float]) -> None:
    # Axes stored P, S, R: the figures must come out along R, A, S.
    affine = np.zeros((4, 4))
    affine[1, 0], affine[2, 1], affine[0, 2], affine[3, 3] = -spacing[1], spacing[2], spacing[0], 1
    file = home.research / path
    file.parent.mkdir(parents=True, exist_ok=True)
    save_volume(Volume(np.transpose(data, (1, 2, 0)), affine), file)


def write(home: Home, case: str, kind: str = "FLAIR", *, extra: int = 0) -> None:
    """A block of 10 x 12 x 6 voxels (R, A, S) in a larger image."""
    files, spacing = CaseFiles.of(case), (0.7, 0.8, 3.0)
    mask = np.zeros((20, 24, 16), np.uint8)
    mask[3 : 13 + extra, 4:16, 5:11] = 1
    image = np.where(mask > 0, 50, 7).astype(np.int16)
    image[4, 5, 6] = 90
    put(home, files.image(kind), image, spacing)
    if kind == "CT":
        put(home, files.label(), mask, spacing)
    else:
        put(home, files.mask(kind), mask, spacing)


@pytest.fixture
def state(tmp_path: Path, home: Home) -> Iterator[NodeState]:
    state = NodeState(tmp_path / "state.sqlite")
    members = []
    for number in range(PATIENTS + 1):
        study = NewStudy(f"st{number:012d}", f"pt{number}", f"p{number}", f"v{number}", "main")
        state.studies.add(study)
        case = f"sub-p{number}_ses-v{number}"
        test = number == PATIENTS
        write(home, case, extra=5 if test else 0)
        members.append(
            Member(study.study_key, case, "test" if test else "train", True, ("FLAIR",), "0" * 64)
        )
    state.datasets.create("ms", ())
    state.datasets.freeze("ms", members, content_hash="1" * 64, splits={})
    state.datasets.create("open", ())
    yield state
    state.close()


def test_training_cases_along_r_a_s(state: NodeState, home: Home) -> None:
    found = fingerprint_of(state, home, "ms", Rules(shape_step=1, minimum_patients=5))
    channel = found.channels["FLAIR"]
    assert channel.spacing_um == (((700, 6),), ((800, 6),), ((3000, 6),))
    assert channel.shape == (((10, 6),), ((12, 6),), ((6, 6),))  # the test case has 15
    assert channel.intensities is None
    assert (found.patients, found.cases) == (PATIENTS, PATIENTS)
    few = fingerprint_of(state, home, "ms", Rules(minimum_patients=PATIENTS + 1))
    assert (few.patients, few.cases, few.channels) == (0, 0, {})
    none = fingerprint_of(state, home, "ms", Rules(), modalities=("T1w",))
    assert none.channels == {}


def test_only_frozen_sets_have_one(state: NodeState, home: Home) -> None:
    with pytest.raises(NotAllowed, match="only a frozen one"):
        fingerprint_of(state, home, "open", Rules())
    with pytest.raises(NotFound):
        fingerprint_of(state, home, "absent", Rules())
    state.datasets.decide("ms", DatasetState.REVOKED, actor="me")
    with pytest.raises(NotAllowed, match="revoked"):
        fingerprint_of(state, home, "ms", Rules())


def test_ct_foreground_under_the_label(home: Home) -> None:
    write(home, "sub-a_ses-b", "CT")
    files = CaseFiles.of("sub-a_ses-b")
    found = case_figures(home.research, files, "CT")
    assert found.intensities == {50 * 16: 719, 90 * 16: 1}
    assert found.shape == (20, 24, 16)  # no mask: everything that is not 0
    put(home, files.label(), np.ones((4, 4, 4), np.uint8), (1.0, 1.0, 1.0))
    assert case_figures(home.research, files, "CT").intensities is None
    (home.research / files.label()).unlink()
    assert case_figures(home.research, files, "CT").intensities is None


def test_an_empty_mask_is_refused(home: Home) -> None:
    write(home, "sub-a_ses-b")
    files = CaseFiles.of("sub-a_ses-b")
    put(home, files.mask("FLAIR"), np.zeros((20, 24, 16), np.uint8), (0.7, 0.8, 3.0))
    with pytest.raises(ImageRefused, match="no voxel"):
        case_figures(home.research, files, "FLAIR")


def test_values_are_counted_in_sixteenths() -> None:
    values = np.array([0.0, 1 / 16, -1.0, 1e9, -1e9], np.float32)
    assert counted(values) == {0: 1, 1: 1, -16: 1, 32767 * 16: 1, -32768 * 16: 1}


def test_rules_of_the_settings() -> None:
    assert rules_of(FingerprintSection()) == Rules()
    with pytest.raises(ValueError, match="minimum_patients"):
        FingerprintSection(minimum_patients=1)


def test_a_site_answers_for_an_approved_plan(state: NodeState, home: Home, tmp_path: Path) -> None:
    audit = AuditChain(tmp_path / "audit.jsonl")
    governance = Governance(state, audit, GovernanceSection())
    settings = settings_from(
        {"node": {"site": "a", "project": "p"}, "fingerprint": {"minimum_patients": 6}}
    )
    absent: Any = None  # preparing and results are no part of this
    site = SiteWork(SiteParts(state, home, settings, governance, absent, absent, audit, absent))
    plan = sign(ms_lesion_demo_plan(2), Ed25519PrivateKey.generate())
    governance.offer_plan(plan)
    with pytest.raises(SiteFailed, match="approval"):
        site.fingerprint(plan.hash)
    governance.approve_dataset("ms", actor="anna")
    governance.approve_plan(plan.hash, actor="anna")
    raw = site.fingerprint(plan.hash)
    found = Fingerprint.from_json(raw)
    assert (found.minimum_patients, found.patients) == (6, PATIENTS)
    assert list(found.channels) == ["FLAIR"]
    assert b"sub-" not in raw
    (home.research / CaseFiles.of("sub-p1_ses-v1").image("FLAIR")).unlink()
    with pytest.raises(SiteFailed, match="no fingerprint could be made"):
        site.fingerprint(plan.hash)
    audit.close()


def test_what_the_coordinator_says_of_it() -> None:
    site = {"site": "a", "state": "done", "words": ""}
    other = {"site": "b", "state": "refused", "words": "the approved plan does not list it"}
    merged = {"sites": 1, "patients": 9, "cases": 12}
    assert _fingerprint_words({"sites": [site, other], "merged": merged}) == (
        "data of 1 of 2 sites, merged: 9 patients, 12 cases; b: the approved plan does not list it"
    )
    assert _fingerprint_words({"sites": [other], "merged": None}).startswith("data of 0 of 1")
