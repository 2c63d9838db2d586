"""classified -> de-identified: each input's headers through the profile, side-cars from the result.

Pixels are looked at (text, truncation) but not written here: images reach the research zone as
NIfTI that carries no header text, and the only header values that cross are the side-car's, taken
from the de-identified header.
"""

from __future__ import annotations

import json
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset

from appliance.errors import StageFailed
from appliance.home import load_keys, write_atomic
from appliance.participants import Policy, person_of
from appliance.pipeline.stages.selection import read_selection
from appliance.pipeline.work import StageResult, StageWork
from appliance.settings import DeidentificationSection
from dicom_bridge.deid import (
    Identifiers,
    Option,
    Profile,
    Pseudonymizer,
    deidentify_header,
    header_sidecar,
    residual_search,
)
from dicom_bridge.deid.report import SeriesTotals
from dicom_bridge.errors import DataRefused

PERSON_FILE = "person.json"


def run(work: StageWork) -> StageResult:
    """De-identify the headers of every input and write one side-car per input.

    Raises:
        DataRefused: a header cannot be de-identified, or identity is left in a side-car.
    """
    selection = read_selection(work)
    profile = profile_of(work.settings.deidentification)
    pseudonymizer = Pseudonymizer(load_keys(work.home).project_secret, work.home.project)
    originals: list[Dataset] = []
    sidecars: list[Path] = []
    actions = 0
    totals, software = SeriesTotals(), ""
    for kind in selection.inputs:
        first: Dataset | None = None
        for path in selection.files(work, kind):
            cleaned = deidentify_header(path, profile, pseudonymizer)
            proof = cleaned.proof
            actions += sum(proof.actions.values())
            totals.add(proof.study, proof.series, proof.sop_class, dict(proof.actions), proof.codes)
            software = proof.version
            if first is None:
                originals.append(read_header(path))
                first = cleaned.dataset
        if first is None:
            raise StageFailed("an input has no instance: retry classify")
        sidecar = work.out / f"{kind}.json"
        document = json.dumps(header_sidecar(first), indent=2, sort_keys=True)
        write_atomic(sidecar, (document + "\n").encode())
        sidecars.append(sidecar)
    policy = Policy(work.settings.bids.participants, work.settings.bids.age_step_years)
    if policy.traits and originals:
        write_atomic(work.out / PERSON_FILE, json.dumps(person_of(originals[0], policy)).encode())
    hits = residual_search(sidecars, Identifiers.from_datasets(originals))
    if hits:
        raise DataRefused(f"identity was found in {len(hits)} places of the side-cars")
    return StageResult(
        facts={
            "deid_actions": actions,
            "deid_profile": profile.hash,
            "deid_version": software,
            "deid_series": [series.to_json() for series in totals.proofs()],
        },
        detail=f"{actions} attributes removed or replaced",
    )


def profile_of(section: DeidentificationSection) -> Profile:
    """The profile of the settings."""
    if section.profile is not None:
        return Profile.load(section.profile)
    return Profile.basic(options=frozenset(Option(name) for name in section.options))


def read_header(path: Path) -> Dataset:
    """An instance's header without pixel data.

    Raises:
        DataRefused: the file is no readable DICOM.
    """
    try:
        return pydicom.dcmread(path, stop_before_pixels=True)
    except (pydicom.errors.InvalidDicomError, OSError, EOFError, ValueError) as error:
        raise DataRefused("an instance's header cannot be read") from error
