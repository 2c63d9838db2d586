"""De-identifying a cohort in memory and scoring it."""

from __future__ import annotations

from pathlib import Path

from dicom_bridge.deid import Profile, Pseudonymizer, deidentify_bytes
from dicom_bridge.errors import DataRefused
from tests.dicom_bridge.deid.answers.cohort import as_file, make_cohort
from tests.dicom_bridge.deid.answers.score import Scores

PROFILE = Path(__file__).with_name("profile.toml")
SECRET = b"the key of the answers, 32 bytes"


def score_cohort(patients: int, seed: int = 0) -> Scores:
    """Scores of all objects of a number of invented patients by the documented profile."""
    profile, pseudonymizer = Profile.load(PROFILE), Pseudonymizer(SECRET, "answers")
    scores = Scores()
    for answer in make_cohort(patients, seed):
        try:
            encoded = deidentify_bytes(as_file(answer), profile, pseudonymizer)
        except DataRefused as refused:
            scores.take(answer, None, str(refused))
        else:
            scores.take(answer, b"".join(encoded.parts))
    return scores
