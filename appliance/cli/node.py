"""``clinode node``: set up, enrol, check and run this hospital's node."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from appliance.cli.output import as_json, print_json, print_lines, print_pairs, print_table
from appliance.control.client import NodeClient
from appliance.errors import ApplianceError

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

EXIT_SETTINGS = 2


class LogLevel(StrEnum):
    """How much the log says."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"


Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def init(
    ctx: typer.Context,
    site: Annotated[str, typer.Option("--site", help="The site's name in the federation.")],
    project: Annotated[str, typer.Option("--project", help="The project's name.")] = "research",
) -> None:
    """Make the home folder: settings to fill in, and the node's own secrets."""
    from appliance.home import Home, create_keys
    from appliance.settings import default_settings, settings_toml

    home = Home(ctx.obj.resolve(), project)
    if home.settings_file.exists():
        raise ApplianceError(
            f"{home.settings_file} exists already: edit it, or choose another home"
        )
    text = settings_toml(default_settings(site, project))
    home.create()
    create_keys(home)
    home.settings_file.write_text(text, encoding="utf-8")
    print_lines(
        f"made {home.root}",
        f"1. enter your PACS in {home.settings_file}",
        "2. clinode node enrol TOKEN   (the coordinator's data scientist sends it)",
        "3. clinode node check",
        "4. clinode node run",
    )


@app.command()
def enrol(
    ctx: typer.Context,
    token: Annotated[str, typer.Argument(help="The token, or a file that holds it.")],
) -> None:
    """Join a project: the key is made here, only a signing request travels."""
    from appliance.home import Home
    from appliance.settings import load_settings
    from appliance.way_out import proxy_of
    from federation.enrolment.client import enrol as join
    from federation.enrolment.token import parse_token
    from federation.keyfile import read_passphrase

    home = Home(ctx.obj.resolve())
    settings = load_settings(home.settings_file)
    given = parse_token(_given(token))
    identity = join(
        given,
        home.keys,
        settings.node.site,
        proxy=proxy_of(settings, given.address),
        passphrase=read_passphrase(settings.federation.key_passphrase, twice=True),
    )
    print_lines(
        f"{identity.site} is enrolled in project {identity.project}; "
        f"the coordinator is {identity.address}"
    )


def _given(token: str) -> str | Path:
    """A token, or the file that holds it."""
    file = Path(token)
    return file if len(token) < 256 and file.is_file() else token


@app.command()
def check(
    ctx: typer.Context,
    token: Annotated[
        str,
        typer.Option("--token", help="Before enrolment: a token whose coordinator is tried."),
    ] = "",
    json: Json = False,
) -> None:
    """Check everything the node needs before it runs, and say what to do about each problem.

    The way to the coordinator is looked at in the order name, route, proxy, TLS, identity, clock,
    version; the first step that fails says whom to tell what.
    """
    from appliance.preflight import check_node
    from federation.enrolment.token import parse_token

    given = parse_token(_given(token)).to_text() if token else ""
    findings = check_node(ctx.obj.resolve(), token=given)
    if json:
        print_json([{"check": f.check, "ok": f.ok, "message": f.message} for f in findings])
    else:
        print_table(
            ("check", "", "what was found"),
            ((f.check, "ok" if f.ok else "PROBLEM", f.message) for f in findings),
            empty="nothing to check",
        )
    if any(f.check == "settings" and not f.ok for f in findings):
        raise typer.Exit(EXIT_SETTINGS)
    if not all(f.ok for f in findings):
        raise typer.Exit(1)


@app.command()
def run(
    ctx: typer.Context,
    log_level: Annotated[
        LogLevel, typer.Option("--log-level", help="How much the log says.")
    ] = LogLevel.INFO,
) -> None:
    """Run the node until it is stopped (SIGTERM or Ctrl+C)."""
    from appliance.log import configure_log
    from appliance.service import run_node

    configure_log(level=log_level.value)
    run_node(ctx.obj.resolve())


@app.command()
def status(ctx: typer.Context, json: Json = False) -> None:
    """Show the running node at a glance."""
    with NodeClient(ctx.obj) as client:
        answer = client.status()
    if json:
        print_json(as_json(answer))
        return
    funnel, federation = answer.funnel, answer.federation
    if answer.warnings:
        print_lines(*(f"WARNING: {words}" for words in answer.warnings), "")
    print_pairs(
        (
            ("site", answer.site),
            ("project", answer.project),
            ("receiver", answer.dicom_address),
            (
                "studies",
                ", ".join(f"{c.count} {c.state}" for c in answer.studies) or "none yet",
            ),
            (
                "funnel",
                (
                    f"{funnel.offered} offered, {funnel.fetched} fetched, {funnel.converted} "
                    f"converted, {funnel.passed_qc} passed QC, {funnel.quarantined} quarantined, "
                    f"{funnel.trained} trained"
                ),
            ),
            ("coordinator", f"{federation.coordinator} {federation.state}".strip()),
            ("run", f"{federation.run} round {federation.round}" if federation.run else ""),
            ("waits for", federation.waits),
            ("waiting for a person", answer.open_items or ""),
            ("audit log", "intact" if answer.audit_intact else "DAMAGED: clinode audit verify"),
        )
    )
    print_lines("")
    print_table(
        ("part", "state", "detail"),
        ((c.name, c.state, c.detail) for c in answer.components),
        empty="",
    )
