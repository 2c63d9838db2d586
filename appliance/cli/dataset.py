"""``clinode dataset``: which studies may be used for training."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from appliance.cli.output import (
    as_json,
    copy_report,
    print_error,
    print_json,
    print_lines,
    print_pairs,
    print_table,
)
from appliance.control import node_pb2 as pb
from appliance.control.client import NodeClient

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Name = Annotated[str, typer.Argument(help="The data set's name.")]
Reason = Annotated[str, typer.Option("--reason", help="Why; goes into the audit log.")]


def _show(dataset: pb.Dataset, json: bool) -> None:
    if json:
        print_json(as_json(dataset))
        return
    print_pairs(
        (
            ("name", dataset.name),
            ("state", dataset.state),
            ("hash", dataset.hash),
            ("cases", dataset.cases),
            ("training", dataset.training),
            ("test", dataset.test),
            ("unlabelled", dataset.unlabelled),
            ("created", dataset.created),
            ("frozen", dataset.frozen),
        )
    )


@app.command("list")
def list_datasets(ctx: typer.Context, json: Json = False) -> None:
    """List the data sets."""
    with NodeClient(ctx.obj) as client:
        answer = client.datasets()
    if json:
        print_json(as_json(answer)["datasets"])
        return
    print_table(
        ("name", "state", "cases", "training", "test", "unlabelled", "hash"),
        (
            (d.name, d.state, d.cases, d.training, d.test, d.unlabelled, d.hash[:12])
            for d in answer.datasets
        ),
        empty="no data set yet: `clinode dataset create NAME` makes one of the ready studies",
    )


@app.command()
def show(ctx: typer.Context, name: Name, json: Json = False) -> None:
    """Show one data set."""
    with NodeClient(ctx.obj) as client:
        _show(client.dataset(name), json)


@app.command()
def create(
    ctx: typer.Context,
    name: Name,
    tag: Annotated[list[str] | None, typer.Option("--tag", help="A tag; may be repeated.")] = None,
    json: Json = False,
) -> None:
    """Make an open data set of the studies that are ready."""
    with NodeClient(ctx.obj) as client:
        _show(client.create_dataset(name, tuple(tag or ())), json)


@app.command()
def freeze(ctx: typer.Context, name: Name, reason: Reason = "", json: Json = False) -> None:
    """Fix the members and the split for good."""
    with NodeClient(ctx.obj) as client:
        _show(client.freeze_dataset(name, reason), json)


@app.command()
def report(
    ctx: typer.Context,
    name: Name,
    out: Annotated[Path | None, typer.Option("--out", help="Copy it to this file (HTML).")] = None,
) -> None:
    """Draw a data set's report for people, outliers on top: open it in any browser."""
    with NodeClient(ctx.obj) as client:
        copy_report(Path(client.dataset_report(name).path), out)


@app.command()
def fingerprint(ctx: typer.Context, name: Name, json: Json = False) -> None:
    """Show what a plan that lists fingerprints would take along; nothing is sent.

    Figures that too few patients share are left out, see the settings' table [fingerprint].
    """
    from federation.fingerprint import Fingerprint, figure_rows, figures

    with NodeClient(ctx.obj) as client:
        found = Fingerprint.from_json(client.fingerprint(name).document)
    if json:
        print_json({"fingerprint": found.model_dump(mode="json"), "figures": figures(found)})
        return
    print_pairs(
        (
            ("patients", found.patients or "too few to tell"),
            ("cases", found.cases or "too few to tell"),
            ("smallest count", found.minimum_patients),
        )
    )
    print_table(
        ("modality", "figure", "R", "A", "S"), figure_rows(found), empty="no figure may leave"
    )


@app.command("import-labels")
def import_labels(
    ctx: typer.Context,
    table: Annotated[
        Path, typer.Argument(help="CSV or TSV: the mask, its study and series; see the manual.")
    ],
    accept_empty: Annotated[
        bool, typer.Option("--accept-empty", help="Empty masks are true negatives.")
    ] = False,
    accept_doubtful: Annotated[
        bool, typer.Option("--accept-doubtful", help="Take labels outside the brain.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Look, and keep nothing.")] = False,
    reason: Reason = "",
    json: Json = False,
) -> None:
    """Import NIfTI masks as labels of ready studies."""
    request = pb.ImportLabelsRequest(
        table=str(table.absolute()),
        dry_run=dry_run,
        accept_empty=accept_empty,
        accept_doubtful=accept_doubtful,
        reason=reason,
    )
    rows = []
    with NodeClient(ctx.obj) as client:
        for row in client.import_labels(request):
            rows.append(row)
            if sys.stderr.isatty():
                sys.stderr.write(f"\r{len(rows)} of {row.total}")
    if sys.stderr.isatty():
        sys.stderr.write("\n")
    counts = Counter(row.outcome for row in rows)
    if json:
        print_json({"rows": [as_json(row) for row in rows], "counts": dict(counts)})
    else:
        print_table(
            ("line", "study", "series", "outcome", "ml", "lesions", "why"),
            (
                (
                    *(r.line, r.study, r.modality, r.outcome, f"{r.volume_ml:.3f}", r.lesions),
                    "; ".join([r.reason, *r.notes]).strip("; "),
                )
                for r in rows
            ),
            empty="the table has no row",
        )
        print_lines(", ".join(f"{count} {name}" for name, count in sorted(counts.items())))
    if left := counts["refused"] + counts["review"]:
        print_error(f"{left} of {len(rows)} rows gave no label: the column `why` says it")
        raise typer.Exit(1)


@app.command()
def approve(ctx: typer.Context, name: Name, reason: Reason = "") -> None:
    """Let approved plans use a frozen data set."""
    with NodeClient(ctx.obj) as client:
        print_lines(client.act("dataset-approve", name, reason=reason).message)


@app.command()
def revoke(ctx: typer.Context, name: Name, reason: Reason = "") -> None:
    """Forbid every later use of a data set."""
    with NodeClient(ctx.obj) as client:
        print_lines(client.act("dataset-revoke", name, reason=reason).message)
