"""``clinode study``: the studies on their way."""

from __future__ import annotations

from typing import Annotated

import typer

from appliance.cli.output import as_json, print_json, print_lines, print_pairs, print_table
from appliance.control.client import NodeClient
from appliance.pipeline.states import State

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Key = Annotated[str, typer.Argument(help="Study key, or its unique beginning.")]
Reason = Annotated[str, typer.Option("--reason", help="Why; goes into the audit log.")]


@app.command("list")
def list_studies(
    ctx: typer.Context,
    state: Annotated[State | None, typer.Option("--state", help="Only this state.")] = None,
    json: Json = False,
) -> None:
    """List the studies with their state."""
    with NodeClient(ctx.obj) as client:
        answer = client.studies(state=state.value if state else "")
    if json:
        print_json(as_json(answer)["studies"])
        return
    print_table(
        ("study", "subject", "state", "images", "inputs", "labelled", "split", "reason"),
        (
            (
                s.key,
                s.subject,
                s.state,
                s.instances,
                ",".join(s.inputs),
                "yes" if s.labelled else "no",
                s.split,
                s.reason,
            )
            for s in answer.studies
        ),
        empty="no studies yet: `clinode pacs find` shows what the PACS has, `pacs pull` takes it",
    )


@app.command()
def show(ctx: typer.Context, key: Key, json: Json = False) -> None:
    """Show one study: stages, QC metrics, results."""
    with NodeClient(ctx.obj) as client:
        detail = client.study(key)
    if json:
        print_json(as_json(detail))
        return
    study = detail.study
    print_pairs(
        (
            ("study", study.key),
            ("subject", f"{study.subject} {study.session}".strip()),
            ("state", study.state),
            ("reason", study.reason),
            ("images", study.instances),
            ("inputs", ", ".join(study.inputs)),
            ("split", study.split),
            ("QC", "; ".join((detail.qc_decision, *detail.qc_reasons))),
        )
    )
    print_lines("")
    print_table(
        ("stage", "state", "seconds", "try", "detail"),
        ((s.stage, s.state, f"{s.seconds:.1f}", s.attempt, s.detail) for s in study.stages),
        empty="no stage has run yet",
    )
    if detail.qc:
        print_lines("")
        print_table(
            ("metric", "value", "unit", "better", "decision"),
            ((m.name, f"{m.value:.4g}", m.unit, m.direction, m.decision) for m in detail.qc),
            empty="",
        )


def _act(ctx: typer.Context, verb: str, key: str, reason: str) -> None:
    with NodeClient(ctx.obj) as client:
        print_lines(client.act(verb, key, reason=reason).message)


@app.command()
def retry(ctx: typer.Context, key: Key, reason: Reason = "") -> None:
    """Try a failed study again from the stage that failed."""
    _act(ctx, "study-retry", key, reason)


@app.command()
def release(ctx: typer.Context, key: Key, reason: Reason = "") -> None:
    """Let a quarantined study go on past the check that stopped it; a reason is required."""
    _act(ctx, "study-release", key, reason)


@app.command()
def withdraw(
    ctx: typer.Context,
    key: Key,
    reason: Reason = "",
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Withdraw a study: its files are erased and no later use will see it."""
    if not yes:
        typer.confirm("Erase this study's data for every later use?", abort=True)
    _act(ctx, "study-withdraw", key, reason)
