"""Asynchronous training with a buffer: no site waits for another.

FedBuff (Nguyen et al., AISTATS 2022, arXiv 2106.06639): every site gets a new task as soon as it
has reported; every ``buffer_size`` updates make a new global model, each as the difference to the
model that it started from, with the weight ``n_k * (1 + staleness) ** -power``. Which updates make
which model is recorded in the order of their arrival before they are folded, so the models can be
made again to the bit.

A round is one model in the making: it is opened when the one before exists, and closed when the
sites have evaluated its model, which nothing waits for but the run's end.
"""

from __future__ import annotations

from collections.abc import Sequence

from federation.coordinator.quorum import MAX_ATTEMPTS, BufferFacts, Verdict, buffer_verdict
from federation.coordinator.rounds import Rounds
from federation.coordinator.schema import RoundRow, RunRow, TaskRow
from federation.coordinator.states import TASK_ENDS, RoundState, TaskState
from federation.coordinator.steps import parts_of
from federation.coordinator.store import Change
from federation.coordinator.tasks import task_for

_BAD = (TaskState.REFUSED, TaskState.FAILED)


class BufferedRounds(Rounds):
    """Takes a run of mode ``asynchronous`` from model to model."""

    def advance(self, run: RunRow) -> bool:
        """See :meth:`Rounds.advance`."""
        rounds = self._store.rounds(run.run_id)
        evaluating = [at for at in rounds if at.state is RoundState.EVALUATING]
        moved = sum(self._await_scores(run, at) for at in evaluating) > 0
        current = rounds[-1]
        if current.state is RoundState.TRAINING:
            return self._await_buffer(run, current) or moved
        if current.state is RoundState.AGGREGATING:
            return self._aggregate(run, current) or moved
        last = self.plan(run).plan.training.rounds
        amended = self._store.plans(run.run_id)[-1].offered_at is None
        if current.number >= last and not amended:
            return moved
        return self._open_round(run, current) or moved

    def evaluate(
        self, change: Change, run: RunRow, current: RoundRow, splits: Sequence[str]
    ) -> None:
        """See :meth:`Rounds.evaluate`; a question that nobody took yet is replaced by the new."""
        replaced = [
            task
            for task in self._store.tasks(run.run_id, kind="evaluate")
            if task.state is TaskState.OPEN and "test" not in task.body["splits"]
        ]
        change.expire(replaced, "a newer model is evaluated instead")
        super().evaluate(change, run, current, splits)

    def _await_buffer(self, run: RunRow, current: RoundRow) -> bool:
        tasks = self._store.tasks(run.run_id, kind="train")
        parts = parts_of(self._store, run)
        at_work = {task.site for task in tasks if task.state not in TASK_ENDS}
        free = [p.site for p in parts if p.able and p.site not in at_work]
        free = [site for site in free if _failures(tasks, current.number, site) < MAX_ATTEMPTS]
        buffered = [u for u in self._store.updates(run.run_id) if u.folded_in is None]
        strategy = self.plan(run).plan.strategy
        facts = BufferFacts(
            buffered=len(buffered),
            size=strategy.buffer_size,
            working=len(at_work),
            able=len(free),
            undecided=sum(part.undecided for part in parts),
            late=self._late(current),
        )
        verdict = buffer_verdict(facts)
        if verdict is Verdict.GO_ON:
            with self._change(run) as change:
                self._fold_into(change, run, current, buffered[: strategy.buffer_size])
                if current.number >= self.plan(run).plan.training.rounds:
                    change.expire(tasks, "the run's last model is being made")
                change.round(current, RoundState.AGGREGATING, trained_at=change.now)
            return True
        if verdict is Verdict.FAIL:
            here = [task for task in tasks if task.round == current.number]
            told = "; ".join(f"{t.site}: {t.words}" for t in here if t.words)
            return self.fail(
                run,
                f"round {current.number}: {len(buffered)} of {strategy.buffer_size} updates have "
                f"come and no site is left that could send one ({told})",
            )
        if verdict is Verdict.EXTEND:
            words = "the deadline passed: waiting on for sites that have not answered"
            return self._extend(run, current, words)
        return self._feed(run, current, tasks, free)

    def _feed(
        self, run: RunRow, current: RoundRow, tasks: Sequence[TaskRow], free: Sequence[str]
    ) -> bool:
        """Give every site that has nothing to train the present model."""
        if not free:
            return False
        before = self._store.rounds(run.run_id)[-2]
        with self._change(run) as change:
            for site in free:
                mine = [task for task in tasks if task.site == site]
                attempt = 1 + sum(task.round == current.number for task in mine)
                body = self._train_body(run, before) | {"turn": len(mine) + 1}
                change.add_task(task_for(run, current.number, site, "train", body, attempt))
        return True


def _failures(tasks: Sequence[TaskRow], number: int, site: str) -> int:
    """How often a site failed in a round: after several it sits the round out."""
    mine = [task for task in tasks if task.site == site and task.round == number]
    return sum(task.state in _BAD for task in mine)
