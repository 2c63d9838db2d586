"""Importing a table over the control socket."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.control import node_pb2 as pb
from appliance.errors import NotAllowed
from tests.appliance.control.served import ACTOR, Served, key_of

HEAD = "mask,study,modality\n"


@pytest.fixture
def table(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "table.csv"
    path.write_text(f"{HEAD}a.nii,{key_of(1)},FLAIR\n,x,FLAIR\nb.nii,{key_of(1)},T1w\n")
    return path


def test_rows_come_one_by_one_and_the_import_is_audited(node: Served, table: Path) -> None:
    request = pb.ImportLabelsRequest(table=str(table), accept_empty=True, reason="second reading")
    with node.client() as client:
        rows = list(client.import_labels(request))
        assert [row.line for row in rows] == [2, 3, 4]
        assert [row.outcome for row in rows] == ["taken", "refused", "taken"]
        assert rows[1].reason == "no mask is named"
        assert {row.total for row in rows} == {3}
        (entry,) = node.entries("labels.imported")
        assert entry.actor == ACTOR
        assert entry.detail["taken"] == 2
        assert entry.detail["accepted"] == ["empty"]
        assert entry.detail["reason"] == "second reading"
        assert node.operations.woken == 1
        table.write_text("mask,study\na,b\n")
        with pytest.raises(NotAllowed, match="names no series"):
            list(client.import_labels(pb.ImportLabelsRequest(table=str(table))))
        with pytest.raises(NotAllowed, match="no file"):
            list(client.import_labels(pb.ImportLabelsRequest(table=str(table) + "x")))
    assert len(node.entries("labels.imported")) == 1, "a table that was not taken is no import"


def test_a_caller_that_stops_leaves_an_audit_entry(node: Served, table: Path) -> None:
    with node.client() as client:
        rows = client.import_labels(pb.ImportLabelsRequest(table=str(table)))
        assert next(rows).outcome == "taken"
    with node.client() as client:
        assert len(list(client.import_labels(pb.ImportLabelsRequest(table=str(table))))) == 3
