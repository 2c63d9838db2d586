"""``clinode result``: what models found, on its way back to the PACS."""

from __future__ import annotations

from typing import Annotated

import typer

from appliance.cli.output import as_json, print_json, print_lines, print_table
from appliance.control.client import NodeClient

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Key = Annotated[str, typer.Argument(help="Result key, or its unique beginning.")]
Reason = Annotated[str, typer.Option("--reason", help="Why; goes into the audit log.")]
Destination = Annotated[str, typer.Option("--to", help="Name of a [[pacs]] entry.")]


@app.command("list")
def list_results(ctx: typer.Context, json: Json = False) -> None:
    """List the results."""
    with NodeClient(ctx.obj) as client:
        answer = client.results()
    if json:
        print_json(as_json(answer)["results"])
        return
    print_table(
        ("result", "study", "model", "state", "ml", "lesions", "to", "reason"),
        (
            (
                r.key,
                r.study,
                r.model[:12],
                r.state,
                f"{r.volume_ml:.2f}",
                r.lesions,
                r.destination,
                r.reason,
            )
            for r in answer.results
        ),
        empty="no results yet: they are made when an accepted model segments the studies",
    )


@app.command()
def show(ctx: typer.Context, key: Key, json: Json = False) -> None:
    """Show one result."""
    with NodeClient(ctx.obj) as client:
        result = client.result(key)
    if json:
        print_json(as_json(result))
    else:
        print_lines(*(f"{name}: {value}" for name, value in as_json(result).items()))


@app.command()
def release(
    ctx: typer.Context, key: Key, destination: Destination = "", reason: Reason = ""
) -> None:
    """Release a held result to the destination for research results; it is then sent."""
    with NodeClient(ctx.obj) as client:
        answer = client.act("result-release", key, reason=reason, destination=destination)
    print_lines(answer.message)


@app.command()
def hold(ctx: typer.Context, key: Key, reason: Reason = "") -> None:
    """Hold a result that is not sent yet."""
    with NodeClient(ctx.obj) as client:
        print_lines(client.act("result-hold", key, reason=reason).message)


@app.command()
def send(ctx: typer.Context, key: Key, reason: Reason = "") -> None:
    """Send a released result now, or a sent one again; the same object arrives once."""
    with NodeClient(ctx.obj) as client:
        print_lines(client.act("result-send", key, reason=reason).message)
