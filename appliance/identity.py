"""Between original identity and pseudonym: the one place that reads and writes the vault.

A vault record per study (named by its key) holds what the PACS said about it and, once converted,
the original headers of each input series, which a result needs on its way back.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from appliance.home import Home, NodeKeys
from appliance.keying import instance_key, patient_key, result_uid
from appliance.store import NewStudy
from dicom_bridge.convert.source import SourceSeries
from dicom_bridge.deid.pseudonym import Pseudonymizer
from dicom_bridge.errors import VaultError
from dicom_bridge.net.model import StudyMatch
from dicom_bridge.vault import Vault

FORMAT = 1


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
    """

    def __init__(self, home: Home, keys: NodeKeys) -> None:
        self._keys = keys
        self._vault = Vault(home.vault, keys.vault_key)
        self._mutex = threading.Lock()
        self.pseudonymizer = Pseudonymizer(keys.project_secret, home.project)

    def __repr__(self) -> str:
        return "Identities(***)"

    def study_key(self, study_uid: str) -> str:
        """The study's internal key."""
        return self.pseudonymizer.study_key(study_uid)

    def instance_key(self, uid: str) -> str:
        """The name of an instance or a series in the spool and the state."""
        return instance_key(self._keys.project_secret, uid)

    def result_uid(self, study_key: str, model_id: str, purpose: str) -> str:
        """The UID of a result object; the same for the same study, model and purpose."""
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

    def keep(self, match: StudyMatch, pacs: str) -> None:
        """Keep what the PACS said about a study; the headers kept before stay."""
        key = self.study_key(match.StudyInstanceUID)
        with self._mutex:
            record = self._record(key)
            record.update(format=FORMAT, pacs=pacs, study=asdict(match))
            self._vault.put(key, record)

    def keep_sources(self, study_key: str, sources: Mapping[str, Any]) -> None:
        """Keep the original headers of a study's inputs.

        Args:
            study_key: the study.
            sources: canonical modality to `SourceSeries.to_json`.
        """
        with self._mutex:
            record = self._record(study_key)
            record.update(format=FORMAT, sources={**record.get("sources", {}), **sources})
            self._vault.put(study_key, record)

    def original(self, study_key: str) -> Original:
        """The study's original identity.

        Raises:
            VaultError: the vault has none.
        """
        record = self._vault.get(study_key)
        known = {field.name for field in fields(StudyMatch)}
        values = {name: value for name, value in record["study"].items() if name in known}
        values["ModalitiesInStudy"] = tuple(values["ModalitiesInStudy"])
        return Original(record["pacs"], StudyMatch(**values))

    def source(self, study_key: str, kind: str) -> SourceSeries:
        """The original headers of one input series.

        Raises:
            VaultError: the vault has none.
        """
        sources = self._vault.get(study_key).get("sources", {})
        if kind not in sources:
            raise VaultError(f"the vault has no headers of the study's {kind} series")
        return SourceSeries.from_json(sources[kind])

    def forget(self, study_key: str) -> None:
        """Erase a study's record."""
        with self._mutex:
            self._vault.delete(study_key)

    def _record(self, study_key: str) -> dict[str, Any]:
        try:
            return self._vault.get(study_key)
        except VaultError:
            return {}
