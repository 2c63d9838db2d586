"""Plans: canonical form, hash, signature, limits."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from federation.errors import PlanRefused, SignatureRefused
from federation.plan import (
    MAX_PLAN_BYTES,
    REGISTRY,
    MetricKey,
    Modality,
    Plan,
    SendKey,
    SignedPlan,
    canonical_json,
    load_plan,
    ms_lesion_demo_plan,
    parse_plan,
    plan_hash,
    preparation_hash,
    sign,
    signed_plan,
    verify,
)
from federation.update_spec import Compression, Encoding

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))


def document(**changes: object) -> dict[str, Any]:
    """The demo plan as a document; ``section__field`` changes a section's field."""
    plan = ms_lesion_demo_plan(24).model_dump(mode="json")
    for path, value in changes.items():
        *sections, field = path.split("__")
        place = plan
        for section in sections:
            place = place[section]
        place[field] = value
    return plan


def shuffled(value: object) -> object:
    """The same JSON value with the keys of every object in reverse order."""
    if isinstance(value, dict):
        return {key: shuffled(value[key]) for key in reversed(list(value))}
    return [shuffled(item) for item in value] if isinstance(value, list) else value


def test_importing_plan_and_metrics_loads_no_torch() -> None:
    code = (
        "import sys, federation.plan, federation.metrics, federation.trainer.client,"
        " federation.learning.prepared, federation.learning.model;"
        "assert 'torch' not in sys.modules and 'monai' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_registry_lists_what_the_models_accept() -> None:
    for name, literal in (("modality", Modality), ("metric", MetricKey), ("send", SendKey)):
        assert REGISTRY[name] == literal.__args__


@given(
    rounds=st.integers(1, 5000),
    rate=st.floats(1e-9, 1.0),
    spacing=st.floats(0.25, 10.0),
    seed=st.integers(0, 2**53 - 1),
)
def test_canonical_form_is_the_same_after_any_round_trip(
    rounds: int, rate: float, spacing: float, seed: int
) -> None:
    plan = parse_plan(
        document(
            training__rounds=rounds,
            optimiser__learning_rate=rate,
            preparation__spacing_mm=[spacing, 1, 1.0],
            seed=seed,
        )
    )
    canonical = canonical_json(plan)
    assert parse_plan(canonical) == plan
    assert canonical_json(parse_plan(canonical)) == canonical
    spaced = json.dumps(shuffled(json.loads(canonical)), indent=3).encode()
    assert spaced != canonical
    assert plan_hash(parse_plan(spaced)) == plan_hash(plan)


def test_defaults_are_part_of_the_hash() -> None:
    plan = document()
    del plan["optimiser"]["momentum"]
    assert plan_hash(parse_plan(plan)) == plan_hash(ms_lesion_demo_plan(24))
    plan["optimiser"]["momentum"] = 0.8
    assert plan_hash(parse_plan(plan)) != plan_hash(ms_lesion_demo_plan(24))


def test_preparation_hash_covers_what_shapes_the_folder_and_nothing_else() -> None:
    base = preparation_hash(ms_lesion_demo_plan(24))
    assert len(base) == 16
    assert preparation_hash(ms_lesion_demo_plan(7)) == base
    for change in (
        {"preparation__n4": True},
        {"inputs": [{"modality": "FLAIR"}]},
        {"evaluation__validation_fraction": 0.4},
    ):
        assert preparation_hash(parse_plan(document(**change))) != base


def test_plan_file_in_toml_and_json_is_the_same_plan(tmp_path: Path) -> None:
    plan = ms_lesion_demo_plan(5)
    (tmp_path / "plan.json").write_bytes(canonical_json(plan))
    (tmp_path / "plan.toml").write_text(tomli_w.dumps(plan.model_dump(mode="json")))
    assert load_plan(tmp_path / "plan.json") == load_plan(tmp_path / "plan.toml") == plan


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("big.json", b"[" * (MAX_PLAN_BYTES + 1), "limit"),
        ("deep.json", b"[" * 60_000, "plan"),
        ("broken.toml", b"name = ", "TOML"),
        ("date.toml", b"name = 2020-01-01", "JSON cannot hold"),
        ("latin.toml", b"\xff\xfe", "TOML"),
        ("empty.json", b"", "plan"),
    ],
)
def test_unusable_plan_files_are_refused_in_words(
    tmp_path: Path, name: str, content: bytes, words: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(PlanRefused, match=words):
        load_plan(tmp_path / name)


def test_missing_plan_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PlanRefused, match="cannot be read"):
        load_plan(tmp_path / "none.json")


HOSTILE = [
    ({"format": 2}, "format"),
    ({"name": "x\x1b[2J"}, "name"),
    ({"name": "a\\b"}, "name"),
    ({"name": "x" * 65}, "name"),
    ({"project": "../etc"}, "project"),
    ({"seed": -1}, "seed"),
    ({"seed": 2**53}, "seed"),
    ({"seed": True}, "seed"),
    ({"inputs": []}, "inputs"),
    ({"inputs": [{"modality": "PET"}]}, "modality"),
    ({"inputs": [{"modality": "FLAIR", "required": False}]}, "at least one must be required"),
    ({"inputs": [{"modality": "FLAIR"}, {"modality": "FLAIR"}]}, "listed twice"),
    ({"labels": []}, "labels"),
    ({"sends": ["update", "update"]}, "twice"),
    ({"sends": ["images"]}, "sends"),
    ({"network__key": "torch.hub"}, "network.key"),
    ({"network__channels": [8]}, "channels"),
    ({"network__channels": [1024] * 7, "network__strides": [2] * 6}, "weights exceed"),
    ({"network__strides": [2]}, "need 2 strides"),
    ({"network__norm": "group", "network__channels": [3, 8, 16]}, "even"),
    ({"network__dropout": float("nan")}, "dropout"),
    ({"loss__dice_weight": 0.0, "loss__ce_weight": 0.0}, "nothing to learn"),
    ({"optimiser__learning_rate": float("inf")}, "learning_rate"),
    ({"optimiser__learning_rate": "1e-3"}, "learning_rate"),
    ({"optimiser__learning_rate": 0}, "learning_rate"),
    ({"training__rounds": 10**9}, "rounds"),
    ({"training__rounds": 1.5}, "rounds"),
    ({"training__patch_size": [48, 48]}, "patch_size"),
    ({"training__patch_size": [50, 48, 48]}, "multiple of 4"),
    ({"training__patch_size": [8, 8, 12], "network__strides": [4, 2]}, "multiple of 8"),
    ({"training__patch_size": [8, 8, 8], "network__strides": [4, 2]}, "at least 16"),
    ({"training__patch_size": [256, 256, 256]}, "the limit is"),
    ({"strategy__weight_cap": 0}, "weight_cap"),
    ({"evaluation__metrics": []}, "metrics"),
    ({"evaluation__metrics": ["dice", "rm -rf"]}, "metrics"),
    ({"preparation__spacing_mm": [0.0, 1, 1]}, "spacing_mm"),
    ({"preparation__orientation": "LPS"}, "orientation"),
]


@pytest.mark.parametrize(("change", "words"), HOSTILE)
def test_hostile_values_are_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(PlanRefused, match=words):
        parse_plan(document(**change))


def test_label_values_and_names_must_differ() -> None:
    label = document()["labels"][0]
    with pytest.raises(PlanRefused) as refusal:
        parse_plan(document(labels=[label, label]))
    assert "a value is used twice" in str(refusal.value)
    assert "a name is used twice" in str(refusal.value)


def test_all_problems_are_reported_together() -> None:
    plan = document(
        seed=-1, training__rounds=0, network__strides=[2], optimiser__key="exec", evil_field=1
    )
    del plan["project"]
    with pytest.raises(PlanRefused) as refusal:
        parse_plan(plan)
    named = " ".join(refusal.value.problems)
    assert len(refusal.value.problems) == 6
    for field in ("seed", "training.rounds", "network", "optimiser.key", "evil_field", "project"):
        assert field in named


def test_refusal_repeats_no_value_and_no_control_character() -> None:
    plan = document(name="SECRET\x07" * 3)
    plan["\x1b[31mfield" + "x" * 500] = 1
    with pytest.raises(PlanRefused) as refusal:
        parse_plan(plan)
    assert "SECRET" not in str(refusal.value)
    assert str(refusal.value).isprintable()
    assert len(str(refusal.value)) < 600


def test_many_problems_are_counted_not_listed() -> None:
    plan = document()
    plan.update({f"extra{i}": i for i in range(500)})
    with pytest.raises(PlanRefused) as refusal:
        parse_plan(plan)
    assert refusal.value.problems[-1] == "plan: 450 further problems"


def test_signature_verifies_and_names_its_signer() -> None:
    signed = sign(ms_lesion_demo_plan(3), KEY)
    verify(signed)
    assert SignedPlan.from_json(signed.to_json()) == signed
    assert signed.hash == plan_hash(signed.plan)
    assert signed_plan(signed.canonical, signed.signature, signed.public_key) == signed
    other = sign(ms_lesion_demo_plan(3), Ed25519PrivateKey.generate())
    assert other.signer_fingerprint != signed.signer_fingerprint


@given(position=st.integers(0, 10**9), bit=st.integers(0, 7))
def test_any_flipped_bit_of_a_signed_plan_is_refused(position: int, bit: int) -> None:
    raw = bytearray(sign(ms_lesion_demo_plan(3), KEY).to_json())
    raw[position % len(raw)] ^= 1 << bit
    with pytest.raises(PlanRefused):
        SignedPlan.from_json(bytes(raw))


def test_each_part_of_a_signed_plan_is_checked() -> None:
    signed = sign(ms_lesion_demo_plan(3), KEY)
    other = sign(ms_lesion_demo_plan(4), Ed25519PrivateKey.generate())
    for changes, words in (
        ({"plan": other.plan}, "canonical"),
        ({"hash": other.hash}, "hash"),
        ({"signature": other.signature}, "signature"),
        ({"signature": b"short"}, "signature"),
        ({"public_key": other.public_key}, "signature"),
        ({"public_key": b""}, "signature"),
    ):
        with pytest.raises(SignatureRefused, match=words):
            verify(dataclasses.replace(signed, **changes))


def test_signed_bytes_must_be_canonical() -> None:
    plan = ms_lesion_demo_plan(3)
    spaced = canonical_json(plan).replace(b":", b": ", 1)
    signature = KEY.sign(b"clinode plan 1\x00" + spaced)
    with pytest.raises(SignatureRefused, match="canonical"):
        signed_plan(spaced, signature, sign(plan, KEY).public_key)


def test_repeated_key_cannot_hide_in_signed_bytes() -> None:
    plan = ms_lesion_demo_plan(3)
    doubled = canonical_json(plan).replace(b'{"', b'{"seed":1,"', 1)
    signature = KEY.sign(b"clinode plan 1\x00" + doubled)
    with pytest.raises(SignatureRefused, match="canonical"):
        signed_plan(doubled, signature, sign(plan, KEY).public_key)


@pytest.mark.parametrize("raw", [b"", b"[]", b"{}", b'{"plan":1}', b"\xff", b"x" * 200_000])
def test_broken_envelopes_are_refused(raw: bytes) -> None:
    with pytest.raises(SignatureRefused):
        SignedPlan.from_json(raw)


def test_plans_are_immutable() -> None:
    plan = ms_lesion_demo_plan(3)
    with pytest.raises(ValueError, match="frozen"):
        plan.seed = 1  # type: ignore[misc]
    assert isinstance(plan, Plan)


def test_a_plan_says_how_updates_travel_and_older_plans_keep_their_bytes() -> None:
    former = canonical_json(parse_plan(document()))
    assert b'"update":{' not in former
    assert canonical_json(parse_plan(document(update={"encoding": "fp32"}))) == former
    small = parse_plan(document(update={"encoding": "int8", "compression": "zstd"}))
    assert (small.update.label, small.update.feedback) == ("int8+zstd", True)
    assert b'"update":{"compression":"zstd","encoding":"int8"}' in canonical_json(small)
    assert parse_plan(canonical_json(small)) == small
    told = small.update.leaving(("update", "metrics"))
    assert (len(told), told[1]) == (2, "metrics")
    assert "(compressed), rounded to 8 bits each" in told[0]
    assert parse_plan(document()).update.leaving(("update",)) == ("update",)
    assert REGISTRY["encoding"] == Encoding.__args__
    assert REGISTRY["compression"] == Compression.__args__


@pytest.mark.parametrize(
    "update", [{"encoding": "int4"}, {"compression": "lzma"}, {"bits": 3}, {"encoding": None}, 8]
)
def test_unknown_ways_to_travel_are_refused(update: object) -> None:
    with pytest.raises(PlanRefused, match="update"):
        parse_plan(document(update=update))
