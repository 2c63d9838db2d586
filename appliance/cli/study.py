"""``clinode study``: the studies on their way."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from appliance.cli.output import (
    as_json,
    copy_report,
    print_json,
    print_lines,
    print_pairs,
    print_table,
)
from appliance.control.client import NodeClient
from appliance.errors import ControlError
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
                s.reason or (f"{s.late} late images in the PACS" if s.late else ""),
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
    late = f" ({study.late} more in the PACS: study reopen)" if study.late else ""
    print_pairs(
        (
            ("study", study.key),
            ("subject", f"{study.subject} {study.session}".strip()),
            ("state", study.state),
            ("reason", study.reason),
            ("images", f"{study.instances}{late}"),
            ("version", study.version if study.version > 1 else ""),
            ("inputs", ", ".join(study.inputs)),
            ("split", study.split),
            ("QC", "; ".join((detail.qc_decision, *detail.qc_reasons))),
            ("report", detail.report),
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


@app.command()
def report(
    ctx: typer.Context,
    key: Key,
    out: Annotated[Path | None, typer.Option("--out", help="Copy it to this file (HTML).")] = None,
    redraw: Annotated[
        bool, typer.Option("--redraw", help="Draw it anew first, of a ready study's present files.")
    ] = False,
) -> None:
    """Say where a study's report for people lies, or copy it: open it in any browser."""
    with NodeClient(ctx.obj) as client:
        found = client.study_report(key)
    path = Path(found.path)
    if redraw:
        from appliance.reports.published import redraw_report

        redraw_report(path)
    copy_report(path, out)


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
    patient: Annotated[
        bool, typer.Option("--patient", help="All studies of this study's patient.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Withdraw a study, or all of a patient: erased, and no later use will see it."""
    what = "everything of this study's patient" if patient else "this study's data"
    if not yes:
        typer.confirm(f"Erase {what} for every later use?", abort=True)
    _act(ctx, "patient-withdraw" if patient else "study-withdraw", key, reason)


@app.command()
def reopen(ctx: typer.Context, key: Key, reason: Reason = "") -> None:
    """Fetch a study once more; one that was ready becomes a new version."""
    _act(ctx, "study-reopen", key, reason)


@app.command()
def identity(
    ctx: typer.Context,
    key: Annotated[str, typer.Argument(help="Study key, or sub-<pseudonym>.")],
    reason: Annotated[str, typer.Option("--reason", help="Why; goes into the audit log.")],
) -> None:
    """Show who a study's patient is: for a custodian, on a terminal only, audited."""
    if not sys.stdout.isatty():
        raise ControlError("an identity is shown on a terminal only, not in a file or a pipe")
    with NodeClient(ctx.obj) as client:
        found = client.identity(key, reason=reason)
    print_pairs(
        (
            ("study", found.key),
            ("patient", found.patient_name),
            ("patient ID", " ".join(filter(None, (found.patient_id, found.issuer)))),
            ("birth date", found.birth_date),
            ("sex", found.sex),
            ("study date", found.study_date),
            ("accession", found.accession),
            ("description", found.description),
            ("study UID", found.study_uid),
            ("PACS", found.pacs),
        )
    )
