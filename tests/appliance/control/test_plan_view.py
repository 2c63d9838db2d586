"""What a custodian reads of a plan before deciding."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from appliance.control.views import plan_message
from appliance.store.rows import PlanRow
from federation.node.site_port import Decision
from federation.plan import UpdateSpec, ms_lesion_demo_plan, sign


@pytest.mark.parametrize(
    ("update", "told"),
    [
        (UpdateSpec(), "update"),
        (
            UpdateSpec(encoding="int8", compression="zstd"),
            (
                "update (the changes to the model's weights (compressed), rounded to 8 bits each; "
                "what the rounding left out stays here for the next round)"
            ),
        ),
    ],
)
def test_the_custodian_reads_how_updates_leave(update: UpdateSpec, told: str) -> None:
    plan = ms_lesion_demo_plan(2).model_copy(update={"update": update})
    signed = sign(plan, Ed25519PrivateKey.generate())
    row = PlanRow(
        hash=signed.hash,
        name=plan.name,
        signer=signed.signer_fingerprint,
        document=signed.to_json().decode(),
        state=Decision.PENDING,
        reason="",
        dataset=None,
        offered_at="2026-11-21T12:00:00Z",
        decided_at=None,
        decided_by="",
    )
    message = plan_message(row)
    assert message.signature_valid
    assert list(message.sends) == [told, "metrics", "fingerprint"]
