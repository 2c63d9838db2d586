"""``clinode run``: training runs at the coordinator, and a node's part in them."""

from __future__ import annotations

import sys
from json import dumps
from pathlib import Path
from typing import Annotated, Any

import typer

from appliance.cli import run_here
from appliance.cli.output import print_json, print_lines, print_pairs, print_table
from federation.coordinator.control_client import CoordinatorClient

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Run = Annotated[str, typer.Argument(help="Run id, or its unique beginning.")]
Reason = Annotated[str, typer.Option("--reason", help="Why; goes into the audit log.")]


@app.command()
def submit(
    ctx: typer.Context,
    plan: Annotated[Path, typer.Argument(help="The plan, TOML or JSON.")],
    site: Annotated[
        list[str] | None, typer.Option("--site", help="A site; repeat. Default: all enrolled.")
    ] = None,
    json: Json = False,
) -> None:
    """Sign a plan and offer it to the sites; each custodian decides."""
    with CoordinatorClient(ctx.obj) as client:
        answer = client.submit(plan, tuple(site or ()))
    if json:
        print_json(answer)
    else:
        print_lines(f"run {answer['run_id']}: plan {answer['name']} is offered")


@app.command("list")
def list_runs(ctx: typer.Context, json: Json = False) -> None:
    """List the runs; on a node's home those that the node knows of."""
    if run_here.is_node(ctx.obj):
        run_here.list_here(ctx.obj, json=json)
        return
    with CoordinatorClient(ctx.obj) as client:
        answer = client.runs()
    if json:
        print_json(answer)
        return
    print_table(
        ("run", "plan", "state", "round", "sites", ""),
        (
            (
                r["run_id"],
                r["name"],
                r["state"],
                f"{r['round']}/{r['rounds']}",
                len(r["sites"]),
                r["words"] or r["attention"],
            )
            for r in answer
        ),
        empty="no run yet: `clinode run submit PLAN` starts one",
    )


@app.command()
def show(ctx: typer.Context, run: Run, json: Json = False) -> None:
    """Show a run: sites, rounds, times, scores."""
    with CoordinatorClient(ctx.obj) as client:
        detail = client.run(run)
    if json:
        print_json(detail)
        return
    print_pairs(
        (
            ("run", detail["run_id"]),
            ("plan", f"{detail['name']} {detail['plan_hash']}"),
            ("state", f"{detail['state']} {detail['words']}".strip()),
            ("attention", detail["attention"]),
            ("model", detail["model_id"]),
        )
    )
    print_lines("")
    silent = {s["site"] for s in detail["silent"]}
    print_table(
        ("site", "state", "last contact", "published", ""),
        (
            (
                s["site"],
                f"{s['state']}, silent" if s["site"] in silent else s["state"],
                s["last_seen"] or "never",
                s["publish_state"],
                s["words"],
            )
            for s in detail["sites"]
        ),
        empty="no site was invited",
    )
    _print_policy(detail)
    print_lines("")
    print_table(
        ("round", "state", "site", "cases", "loss", "train s", "wait s", "transfer s", "Dice"),
        _round_rows(detail),
        empty="no round has begun",
    )
    told = detail.get("fingerprint")
    if told is not None:
        print_lines("", _fingerprint_words(told))
        columns = ("modality", "figure", "R", "A", "S")
        print_table(columns, told["table"], empty="no figure of the data may be told")


def _print_policy(detail: dict[str, Any]) -> None:
    """Amendments with the sites' answers, updates that were not of their round, and failures."""
    if len(detail["plans"]) > 1:
        print_lines("")
        rows = [
            (
                p["plan_hash"][:12],
                p["changes"] or "as submitted",
                "after this round" if p["from_round"] is None else p["from_round"],
                ", ".join(f"{a['site']} {a['answer']}" for a in p["answers"]),
            )
            for p in detail["plans"]
        ]
        print_table(("plan", "change", "from round", "answers"), rows, empty="")
    late = [u for u in detail["updates"] if u["staleness"]]
    if late:
        print_lines("")
        updates = [
            (u["sequence"], u["site"], u["started_from"], u["folded_in"], f"{u['weight']:.3f}")
            for u in late
        ]
        columns = ("update", "site", "started from model", "went into round", "weight")
        print_table(columns, updates, empty="")
    if detail["troubles"]:
        print_lines("")
        troubles = [
            (t["at"], t["site"], f"{t['state']} {t['kind']}, round {t['round']}", t["words"])
            for t in detail["troubles"][:10]
        ]
        print_table(("at", "site", "what", "the site's words"), troubles, empty="")


def _fingerprint_words(told: dict[str, Any]) -> str:
    """How many sites told of their data, and why others did not."""
    sites, merged = told["sites"], told["merged"]
    done = 0 if merged is None else merged["sites"]
    words = f"data of {done} of {len(sites)} sites, merged"
    if merged is not None:
        words += f": {merged['patients']} patients, {merged['cases']} cases"
    missing = [f"{s['site']}: {s['words'] or s['state']}" for s in sites if s["state"] != "done"]
    return "; ".join([words, *missing])


def _round_rows(detail: dict[str, Any]) -> list[tuple[object, ...]]:
    rows: list[tuple[object, ...]] = []
    for r in detail["rounds_done"]:
        dice = {
            m["site"]: f"{m['split']} {m['mean']:.2f}"
            for m in r["metrics"]
            if m["metric"] == "dice"
        }
        names = sorted({s["site"] for s in r["sites"]} | set(dice))
        parts = {s["site"]: s for s in r["sites"]}
        for name in names:
            part = parts.get(name, {})
            times = part.get("times", {})
            loss = part.get("loss")
            rows.append(
                (
                    r["round"],
                    r["state"],
                    name,
                    part.get("cases") or "",
                    f"{loss:.3f}" if loss is not None else "",
                    f"{times['train_s']:.1f}" if times else "",
                    f"{times['wait_s']:.1f}" if times else "",
                    f"{times['transfer_s']:.2f}" if times else "",
                    dice.get(name, ""),
                )
            )
    return rows


@app.command()
def watch(ctx: typer.Context, run: Run, json: Json = False) -> None:
    """Follow a run until it is over: one line for everything that happens, as it happens.

    Ends with 0 where the run finished, with 1 where it failed or was stopped.
    """
    offset, told = 0, ""
    with CoordinatorClient(ctx.obj) as client:
        while True:
            answer = client.watch(run, offset)
            offset = answer["offset"]
            for event in answer["events"]:
                print_lines(dumps(event) if json else _event_line(event))
            sys.stdout.flush()
            state = answer["run"]["state"]
            if not answer["events"] and state in ("finished", "failed", "stopped"):
                break
            if answer["run"]["attention"] not in ("", told) and not json:
                told = answer["run"]["attention"]
                print_lines(f"  {told}")
    if not json:
        print_lines(f"{state} {answer['run']['words']}".strip())
    if state != "finished":
        raise typer.Exit(1)


def _event_line(event: dict[str, Any]) -> str:
    """One event in words."""
    who = event["site"] or "coordinator"
    if "kind" in event:
        what = f"{event['kind']} of round {event['round']}: {event['state']}"
    elif "round" in event:
        what = f"{event['action']} {event['round']}"
    else:
        what = event["action"]
    return f"{event['at']}  {who}  {what}" + (f"  {event['words']}" if event["words"] else "")


@app.command()
def pause(
    ctx: typer.Context,
    run: Run,
    reason: Reason = "",
    recall: Annotated[
        bool,
        typer.Option("--recall", help="Also end what the sites work at; asked for again later."),
    ] = False,
) -> None:
    """Hand no further tasks out."""
    with CoordinatorClient(ctx.obj) as client:
        print_lines(f"run {run}: {client.pause(run, reason, recall=recall)['state']}")


@app.command()
def resume(
    ctx: typer.Context,
    run: Annotated[str, typer.Argument(help="Run id, or its unique beginning.")] = "",
) -> None:
    """Go on with a paused run; on a node's home with everything that was halted there."""
    if run_here.is_node(ctx.obj):
        run_here.resume_here(ctx.obj)
        return
    if not run:
        raise typer.BadParameter("name the run: `clinode run list` shows them")
    with CoordinatorClient(ctx.obj) as client:
        answer = client.resume(run)
    print_lines(f"run {run}: {answer['state']} {answer['words']}".strip())


@app.command()
def invite(
    ctx: typer.Context,
    run: Run,
    site: Annotated[str, typer.Argument(help="The site's name.")],
) -> None:
    """Invite a site to a run under way; it joins at the next round once it has approved."""
    with CoordinatorClient(ctx.obj) as client:
        client.invite(run, site)
    print_lines(f"run {run}: {site} is invited")


@app.command()
def amend(
    ctx: typer.Context,
    run: Run,
    learning_rate: Annotated[
        float | None, typer.Option("--learning-rate", help="The new learning rate.")
    ] = None,
    rounds: Annotated[
        int | None, typer.Option("--rounds", min=1, help="The new number of rounds.")
    ] = None,
) -> None:
    """Change a run under way from the next round on; each site approves the change or leaves it."""
    with CoordinatorClient(ctx.obj) as client:
        client.amend(run, learning_rate=learning_rate, rounds=rounds)
        plan = client.run(run)["plans"][-1]
    print_lines(f"run {run}: {plan['changes']}, from the next round on: plan {plan['plan_hash']}")


@app.command()
def first(ctx: typer.Context, run: Run) -> None:
    """Put a run before all others in the queue."""
    with CoordinatorClient(ctx.obj) as client:
        answer = client.first(run)
    print_lines(f"run {run}: {answer['state']} {answer['words']}".strip())


@app.command()
def queue(ctx: typer.Context, json: Json = False) -> None:
    """List the runs that train and those that wait for their turn, in order."""
    with CoordinatorClient(ctx.obj) as client:
        runs = [r for r in client.runs() if r["state"] in ("running", "queued")]
    runs.sort(key=lambda r: r["queue_position"])
    if json:
        print_json(runs)
        return
    print_table(
        ("place", "run", "plan", "state", "round", ""),
        (
            (
                r["queue_position"] or "",
                r["run_id"],
                r["name"],
                r["state"],
                f"{r['round']}/{r['rounds']}",
                r["words"] or r["attention"],
            )
            for r in runs
        ),
        empty="no run trains and none waits",
    )


@app.command()
def stop(ctx: typer.Context, run: Run, reason: Reason = "") -> None:
    """End a run."""
    with CoordinatorClient(ctx.obj) as client:
        print_lines(f"run {run}: {client.stop(run, reason)['state']}")


@app.command()
def export(
    ctx: typer.Context,
    run: Run,
    folder: Annotated[Path, typer.Argument(help="A new folder.")],
) -> None:
    """Copy the finished model, its plan and its figures to a folder."""
    with CoordinatorClient(ctx.obj) as client:
        client.export(run, folder)
    print_lines(f"exported to {folder}")


app.command()(run_here.leave)
app.command()(run_here.halt)
