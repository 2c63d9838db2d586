"""A withdrawn patient's rows: which wait for their erasure, and the erasure itself.

What refers to a study is found by the schema's own foreign keys, so that a table that is added
later is erased too.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence

from appliance.store.database import Database
from appliance.store.rows import StudyRow


class PatientErasure:
    """Erases all rows of a patient; what stays of her is a number in each frozen data set.

    Args:
        database: the open state file.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def pending(self) -> list[str]:
        """Keys of patients whose withdrawal was begun and is not finished."""
        rows = self._database.rows(
            "SELECT patient_key FROM patients WHERE withdrawn_at IS NOT NULL ORDER BY withdrawn_at"
        )
        return [row[0] for row in rows]

    def datasets(self, studies: Iterable[StudyRow]) -> list[str]:
        """Names of the data sets that hold one of the studies."""
        names: set[str] = set()
        for study in studies:
            rows = self._database.rows(
                "SELECT dataset FROM members WHERE study_key = ?", (study.study_key,)
            )
            names.update(row[0] for row in rows)
        return sorted(names)

    def erase(self, patient_key: str, studies: Sequence[StudyRow]) -> None:
        """Delete the patient and everything that names her or her studies.

        `Database.scrub` overwrites what was deleted.
        """
        with self._database.transaction():
            for study in studies:
                self._count_members(study)
                for version in study.versions():
                    self._forget_case(version.case)
                self._forget_activity(study.study_key)
                self._forget_activity(study.subject)
                self._delete("studies", "study_key", study.study_key)
            self._database.execute("DELETE FROM patients WHERE patient_key = ?", (patient_key,))

    def _count_members(self, study: StudyRow) -> None:
        rows = self._database.rows(
            "SELECT m.dataset, m.split, d.erased FROM members m JOIN datasets d"
            " ON d.name = m.dataset WHERE m.study_key = ?",
            (study.study_key,),
        )
        for row in rows:
            erased = Counter(json.loads(row["erased"]))
            erased[row["split"]] += 1
            self._database.execute(
                "UPDATE datasets SET erased = ? WHERE name = ?",
                (json.dumps(erased, sort_keys=True), row["dataset"]),
            )

    def _forget_case(self, case: str) -> None:
        self._database.execute("DELETE FROM trained WHERE case_name = ?", (case,))

    def _forget_activity(self, word: str) -> None:
        self._database.execute("DELETE FROM activity WHERE instr(detail, ?) > 0", (word,))

    def _delete(self, table: str, column: str, value: str) -> None:
        """Delete rows and, before them, what refers to them. Names come from the schema only."""
        for child, reference, parent in self._children(table):
            rows = self._database.rows(
                f"SELECT DISTINCT {parent} FROM {table} WHERE {column} = ?",  # noqa: S608
                (value,),
            )
            for row in rows:
                self._delete(child, reference, row[0])
        self._database.execute(f"DELETE FROM {table} WHERE {column} = ?", (value,))  # noqa: S608

    def _children(self, table: str) -> list[tuple[str, str, str]]:
        """(table, its column, the column that it refers to) of each reference to `table`."""
        tables = self._database.rows("SELECT name FROM sqlite_master WHERE type = 'table'")
        found = []
        for row in tables:
            keys = self._database.rows(f"PRAGMA foreign_key_list({row[0]})")
            found += [(row[0], key["from"], key["to"]) for key in keys if key["table"] == table]
        return found
