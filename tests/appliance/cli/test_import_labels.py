"""``clinode dataset import-labels``: what it prints and how it ends."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.appliance.cli.conftest import Run
from tests.appliance.control.served import key_of

HEAD = "mask,study,modality\n"


@pytest.mark.usefixtures("node")
def test_the_command(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = tmp_path / "table.csv"
    table.write_text(f"{HEAD}a.nii,{key_of(1)},FLAIR\n,x,FLAIR\nb.nii,{key_of(1)},T1w\n")
    monkeypatch.chdir(tmp_path)
    said = run("dataset", "import-labels", "table.csv", "--accept-empty")
    assert said.code == 1
    assert "no mask is named" in said.out
    assert "1 refused, 2 taken" in said.out
    assert said.sentence == "clinode: 1 of 3 rows gave no label: the column `why` says it"
    said = run("dataset", "import-labels", table, "--json", "--dry-run")
    document = json.loads(said.out)
    assert (said.code, document["counts"]) == (1, {"fits": 2, "refused": 1})
    assert document["rows"][0]["study"] == key_of(1)
    table.write_text(f"{HEAD}a.nii,{key_of(1)},FLAIR\n")
    said = run("dataset", "import-labels", table)
    assert (said.code, said.err) == (0, "")
    said = run("dataset", "import-labels", "absent.csv")
    assert said.code == 1
    assert said.sentence.startswith("clinode: the table is no file")
