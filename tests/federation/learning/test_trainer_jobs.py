"""The inside of the trainer: jobs, results, errors, repetition. No process is started."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from federation.errors import FederationError, TrainerFailed
from federation.learning.prepared import Split, read_mask
from federation.plan import Plan
from federation.trainer.client import Trainer
from federation.trainer.jobs import (
    CaseScores,
    EvaluateJob,
    EvaluateResult,
    InferJob,
    InferResult,
    InitialiseJob,
    InitialiseResult,
    Job,
    Result,
    TrainerResources,
    TrainJob,
    TrainResult,
    file_sha256,
    job_document,
    job_key,
    outputs_intact,
    parse_job,
    parse_result,
    result_document,
)
from federation.trainer.serve import Server
from tests.federation.learning.tiny import tiny_folder, tiny_plan


class Bench:
    """A trainer folder with data, weights and a server in this process."""

    def __init__(self, root: Path, plan: Plan) -> None:
        self.root = root
        self.plan = plan
        self.data = tiny_folder(root / "data", plan)
        self.weights = root / "w0"
        self.server = Server(root / "trainer")
        self.number = 0
        self.give(InitialiseJob(plan, self.weights))

    def put(self, document: object) -> str:
        """Write an inbox file."""
        self.number += 1
        name = f"{self.number:06d}.json"
        (self.root / "trainer" / "inbox" / name).write_text(json.dumps(document))
        return name

    def answer(self, name: str) -> dict[str, Any]:
        """Read an outbox file."""
        found = json.loads((self.root / "trainer" / "outbox" / name).read_bytes())
        assert isinstance(found, dict)
        return found

    def give(self, job: Job, **changes: object) -> Result:
        """Do a job; errors of the trainer are raised."""
        name = self.put({"key": "k", "job": {**job_document(job), **changes}})
        self.server.do(name)
        answer = self.answer(name)
        if not answer["ok"]:
            raise TrainerFailed(answer["error"])
        return parse_result(job, answer["result"])

    def train(self, number: int, weights: Path | None = None) -> TrainResult:
        """Train a round."""
        out = self.root / f"u{number}"
        result = self.give(TrainJob(self.plan, self.data, weights or self.weights, number, out))
        assert isinstance(result, TrainResult)
        return result


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path, tiny_plan())


def test_initial_weights_are_the_plans(bench: Bench, tmp_path: Path) -> None:
    result = bench.give(InitialiseJob(bench.plan, tmp_path / "again"))
    assert isinstance(result, InitialiseResult)
    assert result.sha256 == file_sha256(bench.weights)


def test_a_round_is_trained_and_described(bench: Bench) -> None:
    result = bench.train(0)
    assert file_sha256(result.update) == result.sha256 != file_sha256(bench.weights)
    assert result.size == result.update.stat().st_size
    assert (result.cases, result.patches, result.steps) == (3, 8, 4)
    assert 0 < result.loss < 10
    assert result.seconds > 0
    progress = Trainer(bench.root / "trainer", TrainerResources()).progress()
    assert progress is not None
    assert (progress.kind, progress.round, progress.done, progress.total) == ("train", 0, 4, 4)
    assert progress.loss == pytest.approx(result.loss)


def test_a_repeated_round_gives_the_identical_update(bench: Bench) -> None:
    first = bench.train(0)
    second = bench.train(1, first.update)
    state = (bench.root / "trainer" / "state" / "after-000001.safetensors").read_bytes()
    again = bench.train(1, first.update)
    assert (again.sha256, again.loss) == (second.sha256, second.loss)
    assert (bench.root / "trainer" / "state" / "after-000001.safetensors").read_bytes() == state
    assert bench.train(0).sha256 == first.sha256


def test_the_state_before_decides_the_round(bench: Bench) -> None:
    first = bench.train(0)
    kept = bench.train(1, first.update)
    for path in (bench.root / "trainer" / "state").iterdir():
        path.unlink()
    assert bench.train(1, first.update).sha256 != kept.sha256


def test_a_damaged_state_is_an_error_in_words(bench: Bench) -> None:
    first = bench.train(0)
    (bench.root / "trainer" / "state" / "after-000000.safetensors").write_bytes(b"")
    with pytest.raises(TrainerFailed, match="optimiser state cannot be read"):
        bench.train(1, first.update)


def test_evaluation_scores_each_case_of_the_split(bench: Bench) -> None:
    result = bench.give(EvaluateJob(bench.plan, bench.data, bench.weights, Split.TEST))
    assert isinstance(result, EvaluateResult)
    assert [case.case for case in result.cases] == ["sub-003_ses-a", "sub-004_ses-a"]
    values = [case.scores["dice"] for case in result.cases]
    assert result.mean()["dice"] == pytest.approx(np.mean(values))
    assert result.deviation()["dice"] == pytest.approx(np.std(values, ddof=1))
    empty = bench.give(EvaluateJob(bench.plan, bench.data, bench.weights, Split.VALIDATION))
    assert isinstance(empty, EvaluateResult)
    assert (empty.cases, empty.mean(), empty.deviation()) == ((), {}, {})


def test_deviation_of_one_case_is_nothing() -> None:
    one = EvaluateResult(Split.TEST, (CaseScores("a", {"dice": 0.5}, 1.0, 1.0),), 0.0)
    assert one.deviation() == {"dice": 0.0}


def test_inference_writes_masks_of_labelled_and_unlabelled_cases(bench: Bench) -> None:
    cases = ("sub-005_ses-a", "sub-000_ses-a")
    result = bench.give(
        InferJob(bench.plan, bench.data, bench.weights, cases, bench.root / "masks")
    )
    assert isinstance(result, InferResult)
    assert tuple(result.masks) == cases
    for path in result.masks.values():
        assert read_mask(path).mask.shape == (24, 24, 24)


def test_evaluation_and_inference_do_not_touch_the_random_state(bench: Bench) -> None:
    first = bench.train(0)
    bench.give(EvaluateJob(bench.plan, bench.data, first.update, Split.TEST))
    torch.manual_seed(1)
    second = bench.train(1, first.update)
    assert bench.train(1, first.update).sha256 == second.sha256


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"format": 2}, "format version"),
        ({"kind": "shell"}, "unknown kind"),
        ({"weights_sha256": "0" * 64}, "changed since"),
        ({"plan": {}}, "plan is refused"),
        ({"split": "train; rm"}, "lacks a field"),
        ({"weights": None}, "lacks a field"),
    ],
)
def test_bad_jobs_end_with_words(bench: Bench, changes: dict[str, Any], words: str) -> None:
    job = EvaluateJob(bench.plan, bench.data, bench.weights, Split.TEST)
    with pytest.raises(TrainerFailed, match=words):
        bench.give(job, **changes)


def test_data_of_another_plan_is_refused(bench: Bench) -> None:
    other = tiny_plan({"preparation": {"n4": True}})
    with pytest.raises(TrainerFailed, match="another plan's preparation"):
        bench.give(EvaluateJob(other, bench.data, bench.weights, Split.TEST))
    fewer = tiny_plan({"inputs": [{"modality": "FLAIR"}]})
    with pytest.raises(TrainerFailed, match="channels FLAIR, T1w"):
        bench.give(EvaluateJob(fewer, bench.data, bench.weights, Split.TEST))


def test_an_unknown_case_is_refused(bench: Bench) -> None:
    job = InferJob(bench.plan, bench.data, bench.weights, ("sub-none",), bench.root / "masks")
    with pytest.raises(TrainerFailed, match="does not list"):
        bench.give(job)


def test_an_unexpected_error_is_answered_by_its_class_alone(bench: Bench) -> None:
    (bench.root / "taken").write_text("a file where a folder should be")
    cases = ("sub-000_ses-a",)
    with pytest.raises(TrainerFailed, match="unexpected FileExistsError") as failure:
        bench.give(InferJob(bench.plan, bench.data, bench.weights, cases, bench.root / "taken"))
    assert str(bench.root) not in str(failure.value)


@pytest.mark.parametrize("content", [[], {}, {"job": 1}, "x", None])
def test_inbox_files_that_hold_no_job_are_answered(bench: Bench, content: object) -> None:
    name = bench.put(content)
    bench.server.do(name)
    assert bench.answer(name)["ok"] is False


def test_serving_does_pending_jobs_in_order_and_once(bench: Bench, tmp_path: Path) -> None:
    done = bench.server.pending()
    assert done == []
    for name in ("a", "b"):
        bench.put({"key": name, "job": job_document(InitialiseJob(bench.plan, tmp_path / name))})
    answers = io.BytesIO()
    bench.server.serve(io.BytesIO(b"\n\n"), answers)
    assert answers.getvalue() == b"000002.json\n000003.json\n"
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert bench.server.pending() == []


@given(
    number=st.integers(0, 5000),
    split=st.sampled_from(Split),
    cases=st.lists(st.from_regex(r"\Asub-[a-z0-9]{1,8}\Z"), max_size=3),
)
def test_jobs_survive_their_document(
    tmp_path_factory: pytest.TempPathFactory, number: int, split: Split, cases: list[str]
) -> None:
    root = tmp_path_factory.mktemp("jobs")
    (root / "manifest.json").write_bytes(b"{}")
    (root / "w").write_bytes(b"")
    plan = tiny_plan()
    jobs: list[Job] = [
        TrainJob(plan, root, root / "w", number, root / "u"),
        EvaluateJob(plan, root, root / "w", split),
        InferJob(plan, root, root / "w", tuple(cases), root / "m"),
        InitialiseJob(plan, root / "w"),
    ]
    documents = [json.loads(json.dumps(job_document(job))) for job in jobs]
    assert [parse_job(document) for document in documents] == jobs
    assert len({job_key(document) for document in documents}) == len(jobs)


def test_a_jobs_key_follows_the_contents_of_its_files(tmp_path: Path) -> None:
    plan = tiny_plan()
    data = tiny_folder(tmp_path / "data", plan)
    (tmp_path / "w").write_bytes(b"1")
    job = EvaluateJob(plan, data, tmp_path / "w", Split.TEST)
    first = job_key(job_document(job))
    (tmp_path / "w").write_bytes(b"2")
    second = job_key(job_document(job))
    with (data / "manifest.json").open("a") as stream:
        stream.write("\n")
    assert len({first, second, job_key(job_document(job))}) == 3
    (tmp_path / "w").unlink()
    with pytest.raises(TrainerFailed, match="cannot be read"):
        job_document(job)


def test_results_survive_their_document_and_notice_changed_files(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"x")
    sha256 = file_sha256(path)
    plan = tiny_plan()
    pairs: list[tuple[Job, Result]] = [
        (
            TrainJob(plan, tmp_path, path, 0, path),
            TrainResult(path, sha256, 1, 6, 40, 20, 0.5, 1e-3, 2.0),
        ),
        (InferJob(plan, tmp_path, path, ("a",), path), InferResult({"a": path}, 1.0)),
        (InitialiseJob(plan, path), InitialiseResult(path, sha256)),
        (
            EvaluateJob(plan, tmp_path, path, Split.TEST),
            EvaluateResult(Split.TEST, (CaseScores("a", {"dice": 0.5}, 1.0, 2.0),), 1.0),
        ),
    ]
    for job, result in pairs:
        assert parse_result(job, json.loads(json.dumps(result_document(result)))) == result
        assert outputs_intact(result)
        with pytest.raises(FederationError):
            parse_result(job, {})
    path.unlink()
    assert [outputs_intact(result) for _, result in pairs] == [False, False, False, True]
