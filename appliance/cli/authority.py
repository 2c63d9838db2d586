"""``clinode coordinator authority``: from one project authority to the next, while all runs."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from appliance.cli.output import print_json, print_lines, print_table
from federation.coordinator.control_client import CoordinatorClient

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def _rollover(ctx: typer.Context) -> Any:  # noqa: ANN401 - imported late, for a quick start
    from federation.coordinator.rollover import Rollover
    from federation.coordinator.settings import Home, load_settings

    home = Home(ctx.obj.resolve())
    load_settings(home.settings)
    return Rollover(home)


def _enrolled(ctx: typer.Context) -> list[str]:
    with CoordinatorClient(ctx.obj) as client:
        return [site["name"] for site in client.sites() if site["state"] == "enrolled"]


@app.command()
def show(ctx: typer.Context, json: Json = False) -> None:
    """Show the project's authorities, and what each site knows of them."""
    answer = _rollover(ctx).view(_enrolled(ctx))
    if json:
        print_json(answer)
        return
    print_table(
        ("authority", "until", "SHA-256 of its certificate"),
        ((a["role"], a["ends"][:10], a["fingerprint"]) for a in answer["authorities"]),
        empty="",
    )
    print_lines("")
    print_table(
        ("site", "relies on", "its certificate is of"),
        (
            (s["site"], ", ".join(s["knows"]) or "not heard yet", s["certificate_of"])
            for s in answer["sites"]
        ),
        empty="no site is enrolled",
    )


@app.command("next")
def make_next(ctx: typer.Context) -> None:
    """Make the next authority; the sites learn of it while they are connected."""
    from federation.clock import utc_now
    from federation.coordinator.settings import Home, load_settings
    from federation.keyfile import read_passphrase

    settings = load_settings(Home(ctx.obj.resolve()).settings)
    made = _rollover(ctx).prepare(settings, utc_now(), read_passphrase(settings.key_passphrase))
    print_lines(
        f"the next authority is {made}",
        "1. back up keys/ca-next.key and keys/ca-next.crt",
        "2. each site relies on it within an hour of being connected: "
        "clinode coordinator authority show",
        "3. clinode coordinator authority switch",
    )


@app.command()
def switch(
    ctx: typer.Context,
    leave_behind: Annotated[
        bool,
        typer.Option(
            "--leave-behind", help="Go on although some sites do not know it: they enrol anew."
        ),
    ] = False,
) -> None:
    """Let the next authority sign, from the coordinator's next start on."""
    behind = _rollover(ctx).switch(_enrolled(ctx), leave=leave_behind)
    if behind:
        print_lines(f"these need a new token: {', '.join(behind)}")
    print_lines(
        "the next authority signs from the coordinator's next start on: restart it now, runs go on",
        "each site renews its certificate within an hour of being connected; then "
        "`clinode coordinator authority retire`",
        "tokens that were not used yet name the former authority: make them anew",
    )


@app.command()
def retire(ctx: typer.Context) -> None:
    """Trust the former authority no more, from the coordinator's next start on."""
    _rollover(ctx).retire(_enrolled(ctx))
    print_lines("the former authority is trusted no more from the coordinator's next start on")
