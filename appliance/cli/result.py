"""``clinode result``: what models found, on its way back to the PACS."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import typer

from appliance.cli.output import as_json, print_json, print_lines, print_table
from appliance.control import node_pb2 as pb
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
        ("result", "study", "model", "state", "ml", "lesions", "to", "commitment", "reason"),
        (
            (
                r.key,
                r.study,
                r.model[:12],
                r.state,
                f"{r.volume_ml:.2f}",
                r.lesions,
                r.destination,
                r.commitment,
                r.reason,
            )
            for r in answer.results
        ),
        empty="no results yet: they are made when an accepted model segments the studies",
    )


@app.command()
def show(ctx: typer.Context, key: Key, json: Json = False) -> None:
    """Show one result: its objects, what was found, its history. No UID of the PACS is shown."""
    with NodeClient(ctx.obj) as client:
        result = client.result(key)
    if json:
        print_json(as_json(result))
        return
    document = as_json(result)
    parts = ("objects", "findings", "history")
    print_lines(*(f"{name}: {value}" for name, value in document.items() if name not in parts))
    print_lines(*_parts(result))


def _parts(result: pb.Result) -> Iterator[str]:
    """Objects, findings and history, one line each."""
    for item in result.objects:
        words = f" ({item.reason})" if item.reason else ""
        yield f"object: {item.form} {item.key[:12]} {item.bytes} bytes, {item.state}{words}"
    for finding in result.findings:
        largest = ", ".join(f"{volume:.3f}" for volume in finding.largest_ml[:5])
        yield (
            f"finding: {finding.label} {finding.volume_ml:.3f} ml in {finding.lesions} lesions,"
            f" largest {largest} ml"
        )
    for step in result.history:
        yield f"history: {step.time} {step.state} {step.detail}".rstrip()


@app.command()
def release(
    ctx: typer.Context, key: Key, destination: Destination = "", reason: Reason = ""
) -> None:
    """Release a held result, or check a refused one again; it is then sent."""
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
    """Send a released result now, or what the PACS lacks of a sent one; nothing doubles."""
    with NodeClient(ctx.obj) as client:
        print_lines(client.act("result-send", key, reason=reason).message)
