"""``clinode run``: training runs at the coordinator."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

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
    """List the runs."""
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
                r["words"],
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
            ("model", detail["model_id"]),
        )
    )
    print_lines("")
    print_table(
        ("site", "state", "published", ""),
        ((s["site"], s["state"], s["publish_state"], s["words"]) for s in detail["sites"]),
        empty="no site was invited",
    )
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
def pause(ctx: typer.Context, run: Run, reason: Reason = "") -> None:
    """Hand no further tasks out."""
    with CoordinatorClient(ctx.obj) as client:
        print_lines(f"run {run}: {client.pause(run, reason)['state']}")


@app.command()
def resume(ctx: typer.Context, run: Run) -> None:
    """Go on with a paused run."""
    with CoordinatorClient(ctx.obj) as client:
        print_lines(f"run {run}: {client.resume(run)['state']}")


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
