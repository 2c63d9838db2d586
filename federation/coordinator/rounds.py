"""Synchronous rounds: one update of each site, then a new model; late ones go into the next."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from federation.canonical import JSON
from federation.coordinator.aggregation import new_global_model
from federation.coordinator.quorum import (
    RoundFacts,
    Verdict,
    extension_words,
    lost_mandatory,
    opening_verdict,
    staleness_weight,
    training_verdict,
)
from federation.coordinator.schema import RoundRow, RunRow, TaskRow, UpdateRow
from federation.coordinator.states import TASK_ENDS, PartState, RoundState, TaskState
from federation.coordinator.steps import EngineParts, Steps, parts_of, reasons
from federation.coordinator.store import Change
from federation.coordinator.tasks import (
    evaluate_body,
    fingerprint_body,
    newest_per_site,
    splits_due,
    task_for,
    train_body,
    with_weights,
)
from federation.manifest import manifest_for
from federation.strategies.deltas import DeltaUpdate, fold_deltas
from federation.strategies.fedavg import WeightedUpdate


class Rounds(Steps):
    """Takes a running run from round to round.

    Args:
        parts: what it works with.
    """

    def __init__(self, parts: EngineParts) -> None:
        super().__init__(parts)
        self._extended: set[tuple[str, int]] = set()

    def advance(self, run: RunRow) -> bool:
        """One step; whether there was one. The run's last round is left closed."""
        current = self._store.rounds(run.run_id)[-1]
        if current.state is RoundState.TRAINING:
            return self._await_updates(run, current)
        if current.state is RoundState.AGGREGATING:
            return self._aggregate(run, current)
        if current.state is RoundState.EVALUATING:
            return self._await_scores(run, current)
        return self._open_round(run, current)

    def done(self, run: RunRow) -> bool:
        """Whether every round is closed and no amendment asks for more."""
        rounds = self._store.rounds(run.run_id)
        return (
            rounds[-1].number >= self.plan(run).plan.training.rounds
            and all(at.state is RoundState.CLOSED for at in rounds)
            and self._store.plans(run.run_id)[-1].offered_at is not None
        )

    # -- opening

    def _open_round(self, run: RunRow, before: RoundRow) -> bool:
        if self._put_in_force(run, before):
            return True
        number = before.number + 1
        verdict = self._may_open(run, number)
        if verdict is not Verdict.GO_ON:
            return verdict is Verdict.FAIL
        strategy = self.plan(run).plan.strategy
        with self._change(run) as change:
            if run.words:
                change.set("runs", {"run_id": run.run_id}, {"words": ""})
            change.add_round(
                run.run_id,
                number,
                RoundState.TRAINING,
                deadline=self._deadline(run),
                plan_hash=run.plan_hash,
            )
            self.ask_fingerprints(change, run)
            stale = [
                task
                for task in self._store.tasks(run.run_id, kind="train", states=_AT_WORK)
                if number - task.round > strategy.maximum_staleness
            ]
            change.expire(stale, "the run has gone on too far for this site's update to count")
            if not strategy.asynchronous:
                for site in self._able(run):
                    change.add_task(
                        task_for(run, number, site, "train", self._train_body(run, before))
                    )
        return True

    def _may_open(self, run: RunRow, number: int) -> Verdict:
        """Whether a round opens; where not, the run says why, or fails in words."""
        strategy = self.plan(run).plan.strategy
        parts = parts_of(self._store, run)
        offered = self._store.plans(run.run_id)[-1]
        over = offered.number == 0 or (
            self._seconds_since(offered.offered_at) >= self._parts.patience_s
        )
        verdict = opening_verdict(
            parts, strategy.minimum_sites, strategy.mandatory_sites, patience_over=over
        )
        able = sum(part.able for part in parts)
        if verdict is Verdict.FAIL:
            words = lost_mandatory(strategy.mandatory_sites, parts) or (
                f"{able} sites take part, the plan needs {strategy.minimum_sites}{reasons(parts)}"
            )
            self.fail(run, f"round {number}: {words}")
        elif verdict is Verdict.WAIT:
            names = ", ".join(part.site for part in parts if part.undecided)
            self.say(run, f"round {number} waits for the custodians of {names}")
        return verdict

    def _put_in_force(self, run: RunRow, before: RoundRow) -> bool:
        """Offer a waiting amendment to the sites: from here on it is the run's plan."""
        waiting = self._store.plans(run.run_id)[-1]
        if waiting.offered_at is not None:
            return False
        amended = replace(run, plan_hash=waiting.plan_hash, signed_plan=waiting.signed_plan)
        sites = [
            part.site
            for part in parts_of(self._store, run)
            if part.state in (PartState.JOINED, PartState.INVITED)
        ]
        number = before.number + 1
        with self._change(run) as change:
            fields = {"plan_hash": waiting.plan_hash, "signed_plan": waiting.signed_plan}
            change.set("runs", {"run_id": run.run_id}, fields)
            key = {"run_id": run.run_id, "number": waiting.number}
            change.set("plans", key, {"offered_at": change.now, "from_round": number})
            self.add_offers(change, amended, sites)
        detail: dict[str, JSON] = {
            "plan": waiting.plan_hash,
            "amends": run.plan_hash,
            "from_round": number,
            "changes": waiting.changes,
        }
        self._audit(run, "plan.in_force", detail)
        return True

    def _train_body(self, run: RunRow, before: RoundRow) -> dict[str, Any]:
        return train_body(before, self.plan(run).plan.update)

    def ask_fingerprints(self, change: Change, run: RunRow) -> None:
        """Ask every site once, those that joined late too; no round waits for it."""
        if "fingerprint" in self.plan(run).plan.sends:
            for site in self._able(run):
                change.add_task(task_for(run, 0, site, "fingerprint", fingerprint_body()))

    # -- training

    def _await_updates(self, run: RunRow, current: RoundRow) -> bool:
        strategy = self.plan(run).plan.strategy
        parts = parts_of(self._store, run)
        lost = lost_mandatory(strategy.mandatory_sites, parts)
        if lost:
            return self.fail(run, f"round {current.number}: {lost}")
        newest = newest_per_site(self._store.tasks(run.run_id, current.number, "train"))
        states = {task.site: task.state for task in newest}
        facts = RoundFacts(
            states=list(states.values()),
            minimum=strategy.minimum_sites,
            attempt=current.attempt,
            late=self._late(current),
            mandatory={
                name: states.get(name, TaskState.EXPIRED) for name in strategy.mandatory_sites
            },
            able=sum(part.able for part in parts),
            undecided=sum(part.undecided for part in parts),
        )
        verdict = training_verdict(facts)
        if verdict is Verdict.GO_ON:
            return self._fix(run, current)
        if verdict is Verdict.EXTEND:
            return self._extend(run, current, extension_words(facts))
        if verdict is Verdict.RETRY:
            return self._retry(run, current, newest)
        if verdict is Verdict.FAIL:
            return self._give_up(run, current, newest)
        return False

    def _give_up(self, run: RunRow, current: RoundRow, newest: Sequence[TaskRow]) -> bool:
        told = "; ".join(f"{t.site}: {t.words}" for t in newest if t.words)
        usable = sum(task.state is TaskState.DONE for task in newest)
        strategy = self.plan(run).plan.strategy
        needed = f"the plan needs {strategy.minimum_sites}"
        if strategy.mandatory_sites:
            needed += f", and those of {', '.join(strategy.mandatory_sites)}"
        return self.fail(
            run,
            f"round {current.number}: {usable} usable updates after {current.attempt} tries, "
            f"{needed} ({told})",
        )

    def _fix(self, run: RunRow, current: RoundRow) -> bool:
        """Fix the round's set: the updates that have come, also those of earlier rounds."""
        plan = self.plan(run).plan
        last = current.number >= plan.training.rounds
        keep = plan.strategy.late_updates == "keep" and not last
        with self._change(run) as change:
            lapsed = [
                task
                for task in self._store.tasks(run.run_id, kind="train", states=_AT_WORK)
                if not (keep and task.state is TaskState.TAKEN)
            ]
            change.expire(lapsed, "the round went on without this site")
            waiting = [u for u in self._store.updates(run.run_id) if u.folded_in is None]
            self._fold_into(change, run, current, waiting)
            change.round(current, RoundState.AGGREGATING, trained_at=change.now)
        return True

    def _fold_into(
        self, change: Change, run: RunRow, current: RoundRow, updates: Sequence[UpdateRow]
    ) -> None:
        """Record which updates make a round's model, and with what weights."""
        strategy = self.plan(run).plan.strategy
        reports = self._reports(run)
        for update in updates:
            cases = int(reports[update.task_id]["cases"])
            staleness = current.number - 1 - update.started_from
            weight = staleness_weight(
                cases, strategy.weight_cap, staleness, strategy.staleness_power
            )
            key = {"run_id": run.run_id, "sequence": update.sequence}
            fields = {"folded_in": current.number, "staleness": staleness, "weight": weight}
            change.set("updates", key, fields)

    def _reports(self, run: RunRow) -> dict[str, Mapping[str, Any]]:
        done = self._store.tasks(run.run_id, kind="train", states=(TaskState.DONE,))
        return {task.task_id: task.report or {} for task in done}

    def _extend(self, run: RunRow, current: RoundRow, words: str) -> bool:
        with self._change(run) as change:
            key = {"run_id": run.run_id, "number": current.number}
            change.set("rounds", key, {"deadline": self._deadline(run), "words": words})
        if (run.run_id, current.number) not in self._extended:
            self._extended.add((run.run_id, current.number))
            self._audit(run, "round.extended", {"round": current.number, "words": words})
        return True

    def _retry(self, run: RunRow, current: RoundRow, newest: Sequence[TaskRow]) -> bool:
        before = self._store.rounds(run.run_id)[-2]
        attempt = current.attempt + 1
        asked = {task.site: task for task in newest}
        with self._change(run) as change:
            key = {"run_id": run.run_id, "number": current.number}
            fields = {"attempt": attempt, "deadline": self._deadline(run)}
            change.set("rounds", key, fields)
            for site in self._able(run):
                last = asked.get(site)
                if last is not None and last.state in (TaskState.DONE, *_AT_WORK):
                    continue
                try_ = last.attempt + 1 if last is not None else attempt
                task = task_for(
                    run, current.number, site, "train", self._train_body(run, before), try_
                )
                change.add_task(task)
        self._audit(run, "round.retried", {"round": current.number, "attempt": attempt})
        return True

    # -- the new model

    def _aggregate(self, run: RunRow, current: RoundRow) -> bool:
        plan = self.plan(run).plan
        rounds = self._store.rounds(run.run_id)
        updates = [u for u in self._store.updates(run.run_id) if u.folded_in == current.number]
        started = time.monotonic()
        sha256, size = self._fold(run, current, updates)
        seconds = time.monotonic() - started
        parents = (str(rounds[-2].model_id),)
        manifest = manifest_for(plan, current.number, (sha256, size), parents)
        fields: dict[str, object] = {
            "weights_sha256": sha256,
            "weights_size": size,
            "model_id": manifest.id,
            "aggregate_s": seconds,
        }
        splits = splits_due(current.number, plan.evaluation.every, plan.training.rounds)
        with self._change(run) as change:
            change.set("rounds", {"run_id": run.run_id, "number": current.number}, fields)
            if splits:
                fresh = with_weights(current, sha256, size)
                self.evaluate(change, run, fresh, splits)
            else:
                change.round(current, RoundState.CLOSED)
        detail: dict[str, JSON] = {
            "round": current.number,
            "weights": {update.site: update.weight for update in updates},
            "model": manifest.id,
            "plan": run.plan_hash,
        }
        if any(update.staleness for update in updates):
            late = [[u.site, u.sequence, u.staleness, u.weight] for u in updates]
            detail["updates"] = cast("JSON", late)
        self._audit(run, "round.aggregated", detail)
        if not splits:
            self._closed(run, current)
        return True

    def _fold(
        self, run: RunRow, current: RoundRow, updates: Sequence[UpdateRow]
    ) -> tuple[str, int]:
        """Make the new global model; gives its object's name and size."""
        objects = self._parts.objects
        models = {at.number: at for at in self._store.rounds(run.run_id)}
        reports = self._reports(run)
        out = self._parts.work / f"{run.run_id}-{current.number:05d}.safetensors"

        def _path(update: UpdateRow) -> str:
            return str(reports[update.task_id]["update"])

        if all(update.staleness == 0 for update in updates) and len(
            {update.site for update in updates}
        ) == len(updates):
            plain = [
                WeightedUpdate(u.site, float(u.weight or 0.0), objects.path(_path(u)))
                for u in updates
            ]
            return new_global_model(plain, out, objects)
        deltas = [
            DeltaUpdate(
                site=u.site,
                sequence=u.sequence,
                weight=float(u.weight or 0.0),
                path=objects.path(_path(u)),
                reference=objects.path(str(models[u.started_from].weights_sha256)),
            )
            for u in updates
        ]
        base = objects.path(str(models[current.number - 1].weights_sha256))
        return objects.adopt(out, fold_deltas(base, deltas, out))

    def evaluate(
        self, change: Change, run: RunRow, current: RoundRow, splits: Sequence[str]
    ) -> None:
        """Ask every site how good a round's model is; the round is being evaluated then."""
        body = evaluate_body(current, splits)
        for site in self._able(run):
            change.add_task(task_for(run, current.number, site, "evaluate", body))
        change.round(current, RoundState.EVALUATING, deadline=self._deadline(run))

    def _await_scores(self, run: RunRow, current: RoundRow) -> bool:
        tasks = newest_per_site(self._store.tasks(run.run_id, current.number, "evaluate"))
        if not self._late(current) and any(task.state not in TASK_ENDS for task in tasks):
            return False
        with self._change(run) as change:
            missing = change.expire(tasks, "the evaluation's deadline passed")
            words = f"{missing} sites did not evaluate in time" if missing else current.words
            change.round(current, RoundState.CLOSED, words=words)
        self._closed(run, current)
        return True

    def _closed(self, run: RunRow, current: RoundRow) -> None:
        """Write what people read, then forget the updates: the sum holds them."""
        self._parts.records.round_closed(run, current.number)
        self.forget_updates(run)

    def forget_updates(self, run: RunRow) -> None:
        """Drop a run's updates but those that are a model too or that a round waits for.

        One plan run twice gives the same updates, byte for byte and so by name.
        """
        # An update that is taken between the look and the drop would lose its object.
        with self._store.still():
            for name in self._store.update_objects(run.run_id) - self._store.needed_objects():
                self._parts.objects.drop(name)


_AT_WORK = (TaskState.OPEN, TaskState.TAKEN)
