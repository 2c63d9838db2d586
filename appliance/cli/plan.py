"""``clinode plan``: training plans that the coordinator offers."""

from __future__ import annotations

from typing import Annotated

import typer

from appliance.cli.output import as_json, print_json, print_lines, print_pairs, print_table
from appliance.control.client import NodeClient

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Key = Annotated[str, typer.Argument(help="Plan hash, or its unique beginning.")]
Reason = Annotated[str, typer.Option("--reason", help="Why; goes into the audit log.")]


@app.command("list")
def list_plans(ctx: typer.Context, json: Json = False) -> None:
    """List the offered plans."""
    with NodeClient(ctx.obj) as client:
        answer = client.plans()
    if json:
        print_json(as_json(answer)["plans"])
        return
    print_table(
        ("plan", "name", "state", "rounds", "signed by", "signature", "decided by", "reason"),
        (
            (
                p.hash[:12],
                p.name,
                p.state,
                p.rounds,
                p.signer[:16],
                "valid" if p.signature_valid else "INVALID",
                p.decided_by,
                f"amendment: {'; '.join(p.changes)} {p.reason}".rstrip() if p.amends else p.reason,
            )
            for p in answer.plans
        ),
        empty="no plan has been offered yet",
    )


@app.command()
def show(ctx: typer.Context, key: Key, json: Json = False) -> None:
    """Show a plan: who signed it, what would leave, and the exact bytes."""
    with NodeClient(ctx.obj) as client:
        plan = client.plan(key)
    if json:
        print_json(as_json(plan))
        return
    print_pairs(
        (
            ("hash", plan.hash),
            ("name", plan.name),
            ("state", plan.state),
            ("signed by", plan.signer),
            ("signature", "valid" if plan.signature_valid else "INVALID"),
            ("offered", plan.offered_at),
            ("leaves the hospital", ", ".join(plan.sends)),
            ("decided", f"{plan.decided_by} {plan.decided_at}".strip()),
            ("reason", plan.reason),
            ("amends", plan.amends),
            ("changes exactly", "; ".join(plan.changes)),
        )
    )
    print_lines("", plan.canonical)


@app.command()
def approve(ctx: typer.Context, key: Key, reason: Reason = "") -> None:
    """Approve a plan: this node will train it on its approved data set."""
    with NodeClient(ctx.obj) as client:
        print_lines(client.act("plan-approve", key, reason=reason).message)


@app.command()
def reject(ctx: typer.Context, key: Key, reason: Reason = "") -> None:
    """Reject a plan; the coordinator hears the reason."""
    with NodeClient(ctx.obj) as client:
        print_lines(client.act("plan-reject", key, reason=reason).message)
