"""Sites that misbehave: silent, sick, greedy, or pretending to be somebody else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from federation.enrolment.renewal import load_present
from federation.errors import FederationError
from federation.node.connection import CoordinatorConnection, RetryPolicy
from federation.node.journal import Journal
from federation.wire import federation_pb2 as pb
from tests.federation.doubles import small_plan
from tests.federation.resilience.outcome import Outcome
from tests.federation.resilience.rig import Rig, RigOptions, now
from tests.federation.resilience.stage import Stage, Undisturbed, measured, undisturbed
from tests.waiting import wait_for

SITES = {"site-a": 3, "site-b": 4, "site-c": 5}
ROUNDS = 2
SICK = {
    "nan": ("an update with NaN", "NaN or infinity"),
    "shape": ("an update of another shape", "has shape"),
    "dtype": ("an update of another type", "has type"),
    "missing": ("an update without one tensor", "are missing"),
    "norm": ("an update of a huge norm", "moves the model by"),
    "weight-0": ("an update of weight 0", "weight is 0"),
    "weight-huge": ("an update of weight 10^9", "weight is 1000000000"),
    "fail": ("a trainer that raises", "RuntimeError"),
    "words": ("a trainer that says why it fails", "out of memory"),
}
"""What a site's script can plan for a round, and the words due in `run show`."""
INCIDENTS = {"fail": "2", "words": "2, 12"}


def sick_updates(stage: Stage, chosen: tuple[str, ...] = ()) -> list[Outcome]:
    """Site-c's update of round 1 is sick: refused in words, the round goes on, it rejoins."""
    with stage.rig("sick", RigOptions(sites=SITES)) as rig:
        rig.script("site-c", {1: {"spoil": "fail"}})
        calm = undisturbed(rig, "without-site-c", rounds=ROUNDS)
        return [_sick(rig, calm, spoil) for spoil in chosen or SICK]


def _sick(rig: Rig, calm: Undisturbed, spoil: str) -> Outcome:
    what, words = SICK[spoil]
    rig.script("site-c", {1: {"spoil": spoil}})
    before, began = rig.carried(), now()
    run_id = rig.submit(f"sick-{spoil}", rounds=ROUNDS)
    begun = wait_for(
        lambda: rig.moment("site-c", "train-step:fetched:entered", began), what="site-c's training"
    )
    told = rig.told(run_id, words)
    seen = now()
    view = rig.finished(run_id)
    second = {row["site"]: row["state"] for row in view["rounds_done"][2]["sites"]}
    ending = "" if second.get("site-c") == "done" else "let site-c take part again"
    return measured(
        rig,
        run_id,
        calm,
        before,
        name=f"a site answers with {what}",
        fault=f"site-c's answer in round 1 is {what}",
        recovery_s=None,
        told_s=seen - begun,
        words=told,
        cleanup=ending,
        incident=INCIDENTS.get(spoil, ""),
        user="the words stand beside the site in `run show`; the model is that of the others, and "
        "the site takes part in the next round",
    )


def silent_site(stage: Stage) -> list[Outcome]:
    """A site takes its task and never answers: the deadline passes and the quorum goes on."""
    deadline_s = 6
    with stage.rig("silent", RigOptions(sites=SITES)) as rig:
        rig.script("site-c", {number: {"spoil": "fail"} for number in (1, 2)})
        calm = undisturbed(rig, "without-site-c", rounds=ROUNDS)
        rig.script("site-c", {1: {"never": True}})
        plan = small_plan(ROUNDS, deadline_s=deadline_s)
        before = rig.carried()
        run_id = rig.submit("silent", plan)
        wait_for(lambda: rig.trainings("silent") >= 3, what="all to train")
        began = now()
        told = rig.told(run_id, "went on without")
        seen = now()
        # It comes back as a machine does that hung: by a restart.
        rig.agents["site-c"].life.kill()
        rig.script("site-c", {number: {"spoil": "fail"} for number in (1, 2)})
        return [
            measured(
                rig,
                run_id,
                calm,
                before,
                name=f"a site never answers (deadline {deadline_s} s)",
                fault="site-c takes its training task and hangs for ever",
                recovery_s=max(0.0, seen - began - deadline_s),
                told_s=seen - began,
                words=told,
                incident="6",
                user="until the deadline the site is `taken`, then `expired` with words",
            )
        ]


@contextmanager
def rogue(rig: Rig, site: str) -> Iterator[CoordinatorConnection]:
    """A second connection with a site's own certificate, for calls that no agent makes."""
    identity = load_present(rig.folder / site / "keys")
    connection = CoordinatorConnection(
        identity,
        address=rig.relays[site].address,
        retry=RetryPolicy(first_s=0.05, longest_s=0.2),
    )
    try:
        yield connection
    finally:
        connection.close()


def _said(call: Callable[[], object]) -> str:
    """The words with which a call is refused; empty where it is not."""
    try:
        reply = call()
    except FederationError as error:
        return str(error)
    if isinstance(reply, pb.ReportReply) and not reply.accepted:
        return reply.words or "not accepted"
    return ""


def _report(task_id: str) -> pb.TaskReport:
    return pb.TaskReport(format=1, task_id=task_id, outcome=pb.OUTCOME_DONE, cases=4)


def pretenders(stage: Stage) -> list[Outcome]:
    """Calls in somebody else's name, for rounds that are over, and twice."""
    with stage.rig("pretenders", RigOptions(sites=SITES)) as rig:
        calm = undisturbed(rig, rounds=ROUNDS)
        return [
            _somebody_elses_name(rig, calm),
            _somebody_elses_task(rig, calm),
            _finished_round(rig, calm),
            _twice(rig, calm),
        ]


def _during(
    rig: Rig, calm: Undisturbed, name: str, act: Callable[[str], str], **row: str
) -> Outcome:
    """Play a run, act in its second round, and see that nothing came of it."""
    rig.script("site-b", {2: {"seconds": 1.5}})
    before = rig.carried()
    run_id = rig.submit(name.replace("'", "").replace(" ", "-"), rounds=ROUNDS)
    wait_for(lambda: rig.view(run_id).get("round") == 2, what="round 2", seconds=60)
    began = now()
    words = act(run_id)
    told = now() - began
    outcome = measured(
        rig,
        run_id,
        calm,
        before,
        name=name,
        recovery_s=None,
        told_s=told,
        words=words,
        user="nothing in the run; the refusal is in the coordinator's audit log where an identity "
        "is concerned, and is the caller's answer",
        **row,
    )
    rig.script("site-b", {})
    assert words, f"{name} was not refused"
    return outcome


def _somebody_elses_name(rig: Rig, calm: Undisturbed) -> Outcome:
    def _act(run_id: str) -> str:
        with rogue(rig, "site-c") as link:
            link.site = "site-a"
            return _said(link.handshake)

    return _during(rig, calm, "a site gives another's name", _act, fault="site-c greets as site-a")


def _somebody_elses_task(rig: Rig, calm: Undisturbed) -> Outcome:
    def _act(run_id: str) -> str:
        with rogue(rig, "site-c") as link:
            return _said(lambda: link.report(_report(f"{run_id}.00002.train.site-b.1")))

    return _during(
        rig,
        calm,
        "a site reports another's task",
        _act,
        fault="site-c reports the task that site-b is at",
    )


def _finished_round(rig: Rig, calm: Undisturbed) -> Outcome:
    def _act(run_id: str) -> str:
        changed = _report(f"{run_id}.00001.train.site-c.1")
        changed.payloads.add(kind=pb.PAYLOAD_KIND_UPDATE, name="u", sha256="a" * 64, size=9)
        with rogue(rig, "site-c") as link:
            reply = link.report(changed)
        done = rig.view(run_id)["rounds_done"][1]["sites"]
        kept = {row["site"]: row["cases"] for row in done}
        assert kept["site-c"] == SITES["site-c"], "the finished round was changed"
        return reply.words or "the round's report stays what it was"

    return _during(
        rig,
        calm,
        "an update for a finished round",
        _act,
        fault="site-c reports another update for round 1 in round 2",
    )


def _twice(rig: Rig, calm: Undisturbed) -> Outcome:
    def _act(run_id: str) -> str:
        task_id = f"{run_id}.00002.train.site-a.1"
        wait_for(
            lambda: any(
                row["site"] == "site-a" and row["state"] == "done"
                for row in rig.view(run_id)["rounds_done"][2]["sites"]
            ),
            what="site-a's update",
        )
        journal = Journal(rig.folder / "site-a" / "runs" / run_id / "agent" / "tasks")
        entry = wait_for(lambda: journal.read(task_id), what="the agent's own report")
        assert entry.report is not None
        with rogue(rig, "site-a") as link:
            replies = [link.report(entry.report) for _ in range(2)]
        assert all(reply.accepted for reply in replies), [str(reply) for reply in replies]
        return "accepted as the one that is there already"

    return _during(
        rig, calm, "the same update twice", _act, fault="site-a reports its round 2 three times"
    )
