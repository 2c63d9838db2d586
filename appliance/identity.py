"""Between original identity and pseudonym: the one place that reads and writes the vault.

Records, all owned by the study they belong to, so that they are erased with it:

| name | holds |
|---|---|
| study key | what the PACS said about the study; headers of version 1's input series |
| study key and ``v2``, ... | headers of a later version's input series |
| ``uids:`` and study key | new UID to original one: study, series, instances, frames of reference |
| ``way:`` and new StudyInstanceUID | the study's key |

A withdrawn patient or study leaves only keyed marks (`appliance.keying`), which `refused` and
`refused_study` compare with what comes later.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from appliance.home import Home, NodeKeys
from appliance.keying import instance_key, patient_key, patient_marks, result_uid, study_mark
from appliance.store import NewStudy
from appliance.store.rows import version_label
from dicom_bridge.convert.source import SourceSeries
from dicom_bridge.deid.pseudonym import Pseudonymizer
from dicom_bridge.errors import DataRefused, RecordAbsent, VaultError
from dicom_bridge.net.model import StudyMatch
from dicom_bridge.vault import Vault, VaultCheck

FORMAT = 1
REFUSAL = "the patient or the study was withdrawn here: nothing of it is taken again"
_MOST_UIDS = 1_000_000


@dataclass(frozen=True, slots=True, repr=False)
class Original:
    """The original identity of a study.

    Attributes:
        pacs: name of the configured PACS that offered it.
        study: what that PACS said about it.
    """

    pacs: str
    study: StudyMatch

    def __repr__(self) -> str:
        return f"Original(pacs={self.pacs!r}, <values masked>)"


class Identities:
    """Pseudonyms of one project and the vault behind them. Safe for several threads.

    Args:
        home: the node home, with its project.
        keys: the node's secrets.

    Raises:
        VaultError: the vault cannot be opened with this key.
    """

    def __init__(self, home: Home, keys: NodeKeys) -> None:
        self._keys = keys
        self._vault = Vault(home.vault, keys.vault_key)
        self._mutex = threading.Lock()
        self._tombstones = self._vault.tombstones()
        self.pseudonymizer = Pseudonymizer(keys.project_secret, home.project)

    def __repr__(self) -> str:
        return "Identities(***)"

    def close(self) -> None:
        """Close the vault; a second call does nothing."""
        self._vault.close()

    def check(self) -> VaultCheck:
        """Look at the whole vault."""
        return self._vault.check()

    def study_key(self, study_uid: str) -> str:
        """The study's internal key."""
        return self.pseudonymizer.study_key(study_uid)

    def instance_key(self, uid: str) -> str:
        """The name of an instance or a series in the spool and the state."""
        return instance_key(self._keys.project_secret, uid)

    def result_uid(self, study_key: str, model_id: str, purpose: str) -> str:
        """The UID of a result object; the same for the same study, model and purpose.

        Args:
            study_key: the study's key, or its `version_key` for a later version.
            model_id: the model.
            purpose: which object it names.
        """
        return result_uid(self._keys.project_secret, study_key, model_id, purpose)

    def newcomer(self, match: StudyMatch, pacs: str) -> NewStudy:
        """The pseudonymous entry of a study that the PACS offers."""
        issuer, patient = match.IssuerOfPatientID, match.PatientID
        return NewStudy(
            study_key=self.study_key(match.StudyInstanceUID),
            patient_key=patient_key(self._keys.site_secret, issuer, patient),
            subject=self.pseudonymizer.patient(issuer, patient),
            session=self.pseudonymizer.study(match.StudyInstanceUID),
            pacs=pacs,
        )

    def refused(self, issuer: str, patient_id: str) -> bool:
        """Whether this patient was withdrawn: nothing of hers may be taken (`REFUSAL`).

        A number without an issuer is compared with every withdrawn number, and a withdrawn number
        without an issuer with every issuer's: a PACS may or may not give the issuer.
        """
        exact, number = patient_marks(self._keys.site_secret, issuer, patient_id)
        bare, _ = patient_marks(self._keys.site_secret, "", patient_id)
        marks = {exact, bare} if issuer.strip() else {exact, number}
        return not self._tombstones.isdisjoint(marks)

    def refused_study(self, study_uid: str) -> bool:
        """Whether this study was withdrawn, alone or with its patient (`REFUSAL`)."""
        return study_mark(self._keys.site_secret, study_uid) in self._tombstones

    def keep(self, match: StudyMatch, pacs: str) -> None:
        """Keep what the PACS said about a study; the headers kept before stay."""
        key = self.study_key(match.StudyInstanceUID)
        with self._mutex:
            record = self._record(key)
            record.update(format=FORMAT, pacs=pacs, study=asdict(match))
            self._vault.put(key, record, owner=key)

    def keep_sources(self, study_key: str, sources: Mapping[str, Any], *, version: int = 1) -> None:
        """Keep the original headers of a study's inputs and the way back from their new UIDs.

        Args:
            study_key: the study.
            sources: canonical modality to `SourceSeries.to_json`.
            version: the study's version.
        """
        name = version_label(study_key, version)
        with self._mutex:
            record = self._record(name)
            record.update(format=FORMAT, sources={**record.get("sources", {}), **sources})
            documents: dict[str, Mapping[str, Any]] = {name: record}
            new = {self.pseudonymizer.uid(uid): uid for uid in _uids(sources.values())}
            known = self._record(f"uids:{study_key}").get("uids", {})
            documents[f"uids:{study_key}"] = {"format": FORMAT, "uids": {**known, **new}}
            for uid in _study_uids(sources.values()):
                way = f"way:{self.pseudonymizer.uid(uid)}"
                documents[way] = {"format": FORMAT, "study": study_key}
            self._vault.put_all(documents, owner=study_key)

    def original(self, study_key: str) -> Original:
        """The study's original identity.

        Raises:
            VaultError: the vault has none.
        """
        record = self._vault.get(study_key)
        if "study" not in record:
            raise VaultError("the vault has no identity of this study")
        known = {field.name for field in fields(StudyMatch)}
        values = {name: value for name, value in record["study"].items() if name in known}
        values["ModalitiesInStudy"] = tuple(values["ModalitiesInStudy"])
        return Original(record["pacs"], StudyMatch(**values))

    def source(self, study_key: str, kind: str, *, version: int = 1) -> SourceSeries:
        """The original headers of one input series.

        Raises:
            VaultError: the vault has none.
        """
        sources = self._vault.get(version_label(study_key, version)).get("sources", {})
        if kind not in sources:
            raise VaultError(f"the vault has no headers of the study's {kind} series")
        return SourceSeries.from_json(sources[kind])

    def study_of(self, new_study_uid: str) -> str:
        """The key of the study that has this UID after de-identification.

        Raises:
            VaultError: the vault knows none.
        """
        return str(self._vault.get(f"way:{new_study_uid}")["study"])

    def original_uid(self, study_key: str, new_uid: str) -> str:
        """The original UID behind a new one (study, series, instance, frame of reference).

        Raises:
            VaultError: the vault knows none.
        """
        found = self._vault.get(f"uids:{study_key}")["uids"].get(new_uid)
        if found is None:
            raise VaultError("the vault knows no original UID for this one")
        return str(found)

    def forget_version(self, study_key: str, version: int) -> None:
        """Erase the headers of a replaced version; the identity stays."""
        with self._mutex:
            if version > 1:
                self._vault.delete(version_label(study_key, version))
                return
            record = self._record(study_key)
            if record.pop("sources", None) is not None:
                self._vault.put(study_key, record, owner=study_key)

    def forget(self, study_key: str, *, made_at: str = "") -> None:
        """Erase all that is known of a study for good; a mark of its UID refuses it later.

        Raises:
            VaultError: the disk refuses, or another program reads the vault just now.
        """
        with self._mutex:
            self._erase([study_key], self._study_marks([study_key]), made_at)

    def forget_patient(self, study_keys: Iterable[str], *, made_at: str = "") -> None:
        """Erase all that is known of a patient's studies; marks refuse her and them later.

        Args:
            study_keys: all studies of one patient, of every project.
            made_at: UTC ISO 8601.

        Raises:
            VaultError: the disk refuses, or another program reads the vault just now.
        """
        keys = list(study_keys)
        with self._mutex:
            marks = self._study_marks(keys)
            for match in self._known(keys):
                if not match.PatientID.strip():
                    continue
                marks.update(
                    patient_marks(self._keys.site_secret, match.IssuerOfPatientID, match.PatientID)
                )
            self._erase(keys, marks, made_at)

    def _erase(self, keys: Iterable[str], marks: set[bytes], made_at: str) -> None:
        # The marks count from this moment on, also where the erasure must be repeated.
        self._tombstones = self._tombstones | marks
        self._vault.erase(keys, sorted(marks), made_at=made_at)

    def _study_marks(self, keys: Iterable[str]) -> set[bytes]:
        secret = self._keys.site_secret
        return {study_mark(secret, match.StudyInstanceUID) for match in self._known(keys)}

    def _known(self, keys: Iterable[str]) -> list[StudyMatch]:
        found = []
        for key in keys:
            try:
                found.append(self.original(key).study)
            except VaultError:
                continue
        return found

    def _record(self, name: str) -> dict[str, Any]:
        try:
            return self._vault.get(name)
        except RecordAbsent:
            return {}


def _uids(sources: Iterable[Any]) -> set[str]:
    """The original UIDs that source headers name."""
    found = set(_study_uids(sources := list(sources)))
    for source in sources:
        series = source.get("series", {})
        found |= {series.get(k, "") for k in ("SeriesInstanceUID", "FrameOfReferenceUID")}
        found |= {frame.get("SOPInstanceUID", "") for frame in source.get("frames", ())}
    found.discard("")
    if len(found) > _MOST_UIDS:
        raise DataRefused(f"a study names more than {_MOST_UIDS} UIDs: it is not one study")
    return found


def _study_uids(sources: Iterable[Any]) -> list[str]:
    uids = {source.get("study", {}).get("StudyInstanceUID", "") for source in sources}
    return sorted(uids - {""})
