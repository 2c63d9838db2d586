"""``clinode coordinator``: set up and run the federation's centre, and its sites."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from appliance.cli import authority
from appliance.cli.output import print_json, print_lines, print_pairs, print_table
from federation.coordinator.control_client import CoordinatorClient

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
sites = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
app.add_typer(sites, name="site", help="The project's sites: invite, list, revoke.")
app.add_typer(authority.app, name="authority", help="The project's authority and its successor.")

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Name = Annotated[str, typer.Argument(help="The site's name.")]


@app.command()
def init(
    ctx: typer.Context,
    project: Annotated[str, typer.Option("--project", help="The project's name.")],
    host: Annotated[
        str, typer.Option("--host", help="The name or address that sites dial.")
    ] = "127.0.0.1",
    bind: Annotated[
        str, typer.Option("--bind", help="The address to listen on; default the same.")
    ] = "",
    port: Annotated[int, typer.Option("--port", min=1, max=65535, help="Mutual-TLS port.")] = 8442,
    enrolment_port: Annotated[
        int, typer.Option("--enrolment-port", min=1, max=65535, help="Enrolment port.")
    ] = 8441,
    key_passphrase: Annotated[
        str,
        typer.Option(
            "--key-passphrase",
            help="Where the keys' passphrase is: credential:NAME, file:PATH, environment:NAME "
            "or prompt; default none.",
        ),
    ] = "",
) -> None:
    """Make the home folder: project authority, certificates, plan-signing key, settings."""
    from federation.coordinator.process import init_coordinator
    from federation.coordinator.settings import CoordinatorSettings

    home = ctx.obj.resolve()
    settings = init_coordinator(
        home,
        CoordinatorSettings(
            project=project,
            host=host,
            bind=bind,
            federation_port=port,
            enrolment_port=enrolment_port,
            **({"key_passphrase": key_passphrase} if key_passphrase else {}),
        ),
    )
    print_lines(
        f"made {home} for project {settings.project}",
        "1. clinode coordinator run",
        "2. clinode coordinator site add NAME   (send each hospital its token by another channel)",
        "3. clinode run submit PLAN",
    )


@app.command()
def run(
    ctx: typer.Context,
    capture: Annotated[
        Path | None,
        typer.Option("--capture", hidden=True, help="Keep every message as serialised (tests)."),
    ] = None,
) -> None:
    """Serve until stopped (SIGTERM or Ctrl+C)."""
    from appliance.log import configure_log
    from federation.coordinator.process import run_coordinator

    configure_log()
    run_coordinator(ctx.obj.resolve(), capture=capture)


@app.command()
def status(ctx: typer.Context, json: Json = False) -> None:
    """Show the running coordinator at a glance."""
    with CoordinatorClient(ctx.obj) as client:
        answer = client.status()
    if json:
        print_json(answer)
        return
    warnings = answer.pop("warnings", [])
    if warnings:
        print_lines(*(f"WARNING: {found['words']}" for found in warnings), "")
    print_pairs((name, value) for name, value in answer.items() if name != "format")


@sites.command()
def add(
    ctx: typer.Context,
    name: Name,
    hours: Annotated[float, typer.Option("--hours", min=0, help="Validity; 0: as set.")] = 0.0,
    out: Annotated[Path | None, typer.Option("--out", help="Write the token to a file.")] = None,
    json: Json = False,
) -> None:
    """Invite a site: make a token that is valid once, to be sent by another channel."""
    if out is not None and out.exists():
        raise typer.BadParameter(f"{out} exists already: name a new file", param_hint="out")
    with CoordinatorClient(ctx.obj) as client:
        token = client.add_site(name, hours)
    if out is not None:
        descriptor = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as stream:
            stream.write(token + "\n")
    if json:
        print_json({"site": name, "token": token})
    elif out is not None:
        print_lines(f"{out}: token for {name}; it is not shown again")
    else:
        print_lines(token)


@sites.command("list")
def list_sites(ctx: typer.Context, json: Json = False) -> None:
    """List the sites."""
    with CoordinatorClient(ctx.obj) as client:
        answer = client.sites()
    if json:
        print_json(answer)
        return
    print_table(
        ("site", "state", "last seen", "certificate until", "reason"),
        (
            (
                s["name"],
                s["state"],
                s.get("last_seen") or "never",
                s.get("certificate_ends") or "",
                s.get("reason") or "",
            )
            for s in answer
        ),
        empty="no site yet: `clinode coordinator site add NAME` invites one",
    )


@sites.command()
def revoke(
    ctx: typer.Context,
    name: Name,
    reason: Annotated[str, typer.Option("--reason", help="Why; goes into the audit log.")] = "",
) -> None:
    """Bar a site from its next connection on."""
    with CoordinatorClient(ctx.obj) as client:
        client.revoke_site(name, reason)
    print_lines(f"{name} is revoked")
