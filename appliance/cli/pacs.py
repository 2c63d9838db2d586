"""``clinode pacs``: ask the PACS through the running node."""

from __future__ import annotations

from typing import Annotated

import typer

from appliance.cli.output import as_json, print_json, print_lines, print_table
from appliance.control.client import NodeClient

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

Pacs = Annotated[str, typer.Option("--pacs", help="Name of a [[pacs]] entry; default the first.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def echo(ctx: typer.Context, pacs: Pacs = "", json: Json = False) -> None:
    """Send a C-ECHO and say in words what came back."""
    with NodeClient(ctx.obj) as client:
        answer = client.echo(pacs)
    if json:
        print_json(as_json(answer))
    else:
        print_lines(f"{answer.pacs}: {answer.message} ({answer.milliseconds:.0f} ms)")
    if not answer.ok:
        raise typer.Exit(1)


@app.command()
def find(
    ctx: typer.Context,
    pacs: Pacs = "",
    reveal: Annotated[
        bool, typer.Option("--reveal", help="Show patient and date; the audit log records it.")
    ] = False,
    json: Json = False,
) -> None:
    """List the studies that match the configured criteria; nothing is fetched."""
    with NodeClient(ctx.obj) as client:
        answer = client.find(pacs, reveal=reveal)
    if json:
        print_json(as_json(answer)["studies"])
        return
    print_table(
        ("study", "modalities", "images", "here", "patient", "date", "description"),
        (
            (
                s.key,
                s.modalities,
                s.instances or "?",
                "yes" if s.known else "no",
                s.patient,
                s.date,
                s.description,
            )
            for s in answer.studies
        ),
        empty="no study matches the criteria in [pacs.query]; widen them in settings.toml",
    )


@app.command()
def pull(
    ctx: typer.Context,
    keys: Annotated[list[str] | None, typer.Argument(help="Study keys; default all.")] = None,
    pacs: Pacs = "",
    json: Json = False,
) -> None:
    """Take in the matching studies; the node fetches them one after the other."""
    with NodeClient(ctx.obj) as client:
        answer = client.pull(pacs, tuple(keys or ()))
    if json:
        print_json(as_json(answer))
    else:
        print_lines(answer.message)
