"""Replaced versions of a study: kept while a frozen data set holds them, then erased.

A study that late images reopened gets another session label (``ses-abcdefgh``, then
``ses-abcdefghv2``), so the files of the earlier version keep their names and bytes. Data sets that
were frozen before go on with them; a data set that is frozen later takes the newest version.
"""

from __future__ import annotations

import threading

import structlog

from appliance.home import Home
from appliance.identity import Identities
from appliance.pipeline.states import State
from appliance.preparation import remove_prepared
from appliance.research import CaseFiles, case_files, erase_case
from appliance.store import DatasetState, NodeState, StudyRow
from dicom_bridge.errors import VaultError
from federation.canonical import JSON

_log = structlog.get_logger(__name__)
_HOLDING = (DatasetState.FROZEN, DatasetState.APPROVED)


class Versions:
    """Erases replaced versions that nobody holds.

    Args:
        state: the node's state.
        home: the node home.
        identities: the vault with the versions' headers.
        settling: held while a stage settles (`Runner.settling`).
    """

    def __init__(
        self,
        state: NodeState,
        home: Home,
        identities: Identities,
        *,
        settling: threading.RLock,
    ) -> None:
        self._state = state
        self._home = home
        self._identities = identities
        self._settling = settling
        self._done: set[str] = set()

    def sweep(self) -> int:
        """Erase what no data set holds any more; gives the number of versions.

        An earlier version stays until the newer one is `ready`, and while a data set that was not
        revoked holds it.
        """
        waiting = [
            version
            for study in self._state.studies.reopened()
            if study.state is State.READY
            for version in study.versions()[:-1]
            if version.case not in self._done
        ]
        if not waiting:
            return 0
        held = self._held()
        return sum(self._erase(version) for version in waiting if version.case not in held)

    def _held(self) -> set[str]:
        return {
            member.case
            for dataset in self._state.datasets.select()
            if dataset.state in _HOLDING
            for member in self._state.datasets.members(dataset.name)
        }

    def _erase(self, version: StudyRow) -> bool:
        files = CaseFiles.of(version.case)
        with self._settling:
            found = bool(case_files(self._home, files))
            if found:
                erase_case(self._home, files)
                remove_prepared(self._home, version.case)
            try:
                self._identities.forget_version(version.study_key, version.version)
            except VaultError as error:
                _log.warning("version_not_forgotten", study=version.study_key, reason=str(error))
                return False
        self._done.add(version.case)
        if found:
            detail: dict[str, JSON] = {"study": version.study_key, "version": version.version}
            self._state.activity.record("study.version_erased", detail)
        return found
