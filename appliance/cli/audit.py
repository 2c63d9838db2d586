"""``clinode audit``: the audit log."""

from __future__ import annotations

from typing import Annotated

import typer

from appliance.cli.output import as_json, print_json, print_lines, print_table
from appliance.control.client import NodeClient

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("list")
def list_entries(
    ctx: typer.Context,
    limit: Annotated[int, typer.Option("--limit", min=1, max=10_000, help="Newest N.")] = 50,
    action: Annotated[str, typer.Option("--action", help="Only this action.")] = "",
    json: Json = False,
) -> None:
    """List the newest entries."""
    with NodeClient(ctx.obj) as client:
        answer = client.audit(limit, action)
    if json:
        print_json(as_json(answer)["entries"])
        return
    print_table(
        ("#", "time", "actor", "action", "object", "detail"),
        ((e.sequence, e.time, e.actor, e.action, e.object, e.detail) for e in answer.entries),
        empty="the audit log is empty",
    )


@app.command()
def verify(ctx: typer.Context, json: Json = False) -> None:
    """Check the hash chain from the first entry to the last."""
    with NodeClient(ctx.obj) as client:
        answer = client.verify_audit()
    if json:
        print_json(as_json(answer))
    else:
        print_lines(answer.message)
    if not answer.intact:
        raise typer.Exit(1)
