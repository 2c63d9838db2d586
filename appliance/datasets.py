"""Data sets: frozen membership with a content hash, and the site's own split.

A freeze takes every study that is `ready`. A labelled patient gets her place at her first freeze,
in the training or in the test part, and keeps it for good, for all visits and all projects: test
cases never train. Studies without a label are for inference only.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from appliance.errors import NotAllowed
from appliance.home import Home, write_atomic
from appliance.keying import split_rank
from appliance.pipeline.states import State
from appliance.research import CaseFiles, case_hash, listing_hash
from appliance.settings import SplitSection
from appliance.store import DatasetRow, Member, NodeState, StudyRow
from federation.canonical import JSON

FORMAT = 1
TRAIN, TEST, INFER = "train", "test", "infer"

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")


@dataclass(frozen=True, slots=True)
class SplitRule:
    """How the site draws its test patients.

    Attributes:
        secret: the site's secret; keys the order in which patients are drawn.
        share: wanted share of test patients among the labelled ones.
        minimum_labelled: from this many labelled patients on at least one is a test patient.
    """

    secret: bytes
    share: float
    minimum_labelled: int

    def __repr__(self) -> str:
        return f"SplitRule(share={self.share:.3f}, minimum_labelled={self.minimum_labelled})"

    @classmethod
    def of(cls, secret: bytes, section: SplitSection) -> SplitRule:
        """The rule of the settings."""
        return cls(secret, section.test_share, section.minimum_labelled)


def draw_split(
    labelled: Iterable[str], placed: Mapping[str, str], rule: SplitRule
) -> dict[str, str]:
    """Places of the labelled patients that have none yet.

    The number of test patients is the share of all labelled patients, rounded, at least one from
    `minimum_labelled` on, and never all of them. New patients are drawn in the order of a keyed
    hash; nobody who has a place is moved.

    Args:
        labelled: patient keys of everybody with a label, placed or not.
        placed: places given at earlier freezes.
        rule: the share.

    Returns:
        Patient key to ``train`` or ``test``, new patients only.

    Examples:
        >>> rule = SplitRule(b"k" * 32, 2 / 9, 5)
        >>> sorted(draw_split([f"p{n}" for n in range(9)], {}, rule).values()).count("test")
        2
    """
    everybody = set(labelled)
    new = sorted(
        (key for key in everybody if key not in placed), key=lambda k: split_rank(rule.secret, k)
    )
    wanted = round(rule.share * len(everybody))
    if len(everybody) >= rule.minimum_labelled:
        wanted = max(1, wanted)
    wanted = min(wanted, max(0, len(everybody) - 1))
    present = sum(placed.get(key) == TEST for key in everybody)
    drawn = max(0, wanted - present)
    return {key: TEST if place < drawn else TRAIN for place, key in enumerate(new)}


class Datasets:
    """Creates and freezes data sets of the node.

    Args:
        state: the node's state.
        home: the node home.
        rule: how test patients are drawn.
    """

    def __init__(self, state: NodeState, home: Home, rule: SplitRule) -> None:
        self._state = state
        self._home = home
        self._rule = rule

    def create(self, name: str, tags: Iterable[str] = ()) -> DatasetRow:
        """A new open data set.

        Raises:
            NotAllowed: the name is taken or not a plain lower-case name.
        """
        if not _NAME.fullmatch(name):
            raise NotAllowed("a data set's name has 1 to 63 characters of a-z, 0-9, '.', '_', '-'")
        return self._state.datasets.create(name, tuple(tags))

    def candidates(self) -> list[StudyRow]:
        """The studies that a freeze would take now."""
        return self._state.studies.select(state=State.READY, limit=1_000_000)

    def freeze(self, name: str) -> DatasetRow:
        """Fix the members of an open data set and give new patients their places.

        Raises:
            NotFound: no such data set.
            NotAllowed: it is not open, or no study is ready.
        """
        studies = self.candidates()
        if not studies:
            raise NotAllowed("no study is ready: a data set needs at least one")
        placed = self._state.datasets.splits()
        labelled = {study.patient_key for study in studies if study.labelled}
        new = draw_split(labelled | set(placed), placed, self._rule)
        places = {**placed, **new}
        members = sorted((self._member(s, places) for s in studies), key=lambda m: m.case)
        content = listing_hash(_entry(member) for member in members)
        row = self._state.datasets.freeze(name, members, content_hash=content, splits=new)
        self.write_record(row)
        return row

    def write_record(self, row: DatasetRow) -> None:
        """Write the frozen membership beside the data (JSON, pseudonyms only)."""
        members: list[JSON] = [_entry(m) for m in self._state.datasets.members(row.name)]
        document = {"format": FORMAT, "name": row.name, "hash": row.hash, "cases": members}
        if row.erased:
            document["erased"] = row.erased
        path = self._home.datasets / f"{row.name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, (json.dumps(document, indent=1, sort_keys=True) + "\n").encode())

    def usable(self, name: str) -> list[Member]:
        """The members that may still be used: not withdrawn since the freeze.

        A study that late images reopened stays usable as it was: its files keep their names.
        """
        return usable_members(self._state, name)

    def _member(self, study: StudyRow, places: Mapping[str, str]) -> Member:
        return Member(
            study_key=study.study_key,
            case=study.case,
            split=places[study.patient_key] if study.labelled else INFER,
            labelled=study.labelled,
            inputs=study.inputs,
            content=case_hash(self._home, CaseFiles(study.subject, study.session)),
        )


def usable_members(state: NodeState, name: str) -> list[Member]:
    """The members of a data set that were not withdrawn since the freeze."""
    return [
        member
        for member in state.datasets.members(name)
        if state.studies.get(member.study_key).state is not State.WITHDRAWN
    ]


def _entry(member: Member) -> JSON:
    return {
        "case": member.case,
        "split": member.split,
        "labelled": member.labelled,
        "inputs": list(member.inputs),
        "content": member.content,
    }
