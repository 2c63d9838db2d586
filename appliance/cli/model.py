"""``clinode model``: models that were offered for inference."""

from __future__ import annotations

from typing import Annotated

import typer

from appliance.cli.output import as_json, print_json, print_lines, print_table
from appliance.control.client import NodeClient

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Key = Annotated[str, typer.Argument(help="Model id, or its unique beginning.")]
Reason = Annotated[str, typer.Option("--reason", help="Why; goes into the audit log.")]


@app.command("list")
def list_models(ctx: typer.Context, json: Json = False) -> None:
    """List the models."""
    with NodeClient(ctx.obj) as client:
        answer = client.models()
    if json:
        print_json(as_json(answer)["models"])
        return
    print_table(
        ("model", "plan", "round", "state", "decided by", "reason"),
        ((m.id[:12], m.plan[:12], m.round, m.state, m.decided_by, m.reason) for m in answer.models),
        empty="no model has been offered yet",
    )


@app.command()
def show(ctx: typer.Context, key: Key, json: Json = False) -> None:
    """Show a model's manifest."""
    with NodeClient(ctx.obj) as client:
        model = client.model(key)
    if json:
        print_json(as_json(model))
    else:
        print_lines(f"{model.id} {model.state}", "", model.manifest)


@app.command()
def accept(ctx: typer.Context, key: Key, reason: Reason = "") -> None:
    """Accept a model: it may segment this hospital's own studies."""
    with NodeClient(ctx.obj) as client:
        print_lines(client.act("model-accept", key, reason=reason).message)


@app.command()
def reject(ctx: typer.Context, key: Key, reason: Reason = "") -> None:
    """Reject a model."""
    with NodeClient(ctx.obj) as client:
        print_lines(client.act("model-reject", key, reason=reason).message)
