"""How a trainer's death is told, and when the job is not tried again; real processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from federation.errors import TrainerLost
from federation.trainer.client import MAX_RESTARTS, Trainer
from federation.trainer.jobs import InitialiseJob, TrainerResources
from tests.federation.learning.tiny import tiny_plan

pytestmark = pytest.mark.integration

MODULE = "tests.federation.learning.dying"
ONCE, OFTEN = 1, MAX_RESTARTS + 1


@pytest.mark.parametrize(
    ("end", "starts", "words"),
    [
        (
            "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB",
            ONCE,
            (
                "the trainer process died with exit status 1:"
                " the memory of the graphics card is too small for this plan (2.00 GiB)"
            ),
        ),
        (
            "OSError: [Errno 28] No space left on device: '/data/sub-q7x2/u.part'",
            ONCE,
            "the trainer process died with exit status 1: the disk of the trainer is full",
        ),
        (
            "RuntimeError: DataLoader worker for sub-q7x2 failed",
            OFTEN,
            (
                "the trainer process died 4 times during one job, last with exit status 1:"
                " RuntimeError: ... for ... failed"
            ),
        ),
        (
            "SIGKILL",
            OFTEN,
            (
                "the trainer process died 4 times during one job, last by SIGKILL:"
                " it may need more memory"
            ),
        ),
    ],
)
def test_a_death_is_told_and_repeated_only_where_it_helps(
    tmp_path: Path, end: str, starts: int, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The kernel's counter belongs to the whole machine: another test's kill must not count here.
    monkeypatch.setattr("federation.trainer.client.memory_kills", lambda: 0)  # edge: the kernel
    (tmp_path / "end").write_text(end)
    with (
        Trainer(tmp_path, TrainerResources(), module=MODULE) as trainer,
        pytest.raises(TrainerLost) as lost,
    ):
        trainer.initialise(InitialiseJob(tiny_plan(), tmp_path / "w"))
    assert str(lost.value) == words
    assert len((tmp_path / "starts").read_text()) == starts


def test_a_kill_for_memory_is_told_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = iter(range(100))
    monkeypatch.setattr("federation.trainer.client.memory_kills", lambda: next(counts))
    (tmp_path / "end").write_text("SIGKILL")
    with (
        Trainer(tmp_path, TrainerResources(), module=MODULE) as trainer,
        pytest.raises(TrainerLost, match="ran out of memory and the kernel ended it"),
    ):
        trainer.initialise(InitialiseJob(tiny_plan(), tmp_path / "w"))
    assert (tmp_path / "starts").read_text() == "x"
