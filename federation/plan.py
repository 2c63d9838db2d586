"""The training plan: declarative, limited, hashed and signed.

A plan names everything by key from a fixed registry; no code travels in it. Every number has a
range, so a hostile plan cannot ask for unbounded memory or time, and every text has a closed
alphabet, so it can be shown on a terminal and written into DICOM attributes.

The identity of a plan is the SHA-256 of its canonical JSON (RFC 8785), defaults written out (what
came later than the first plans is left out at its default). What is signed (Ed25519, RFC
8032) is the same bytes behind a domain prefix. This module loads neither torch nor numpy.
"""

import base64
import hashlib
import json
import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

import rfc8785
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pydantic import (
    AfterValidator,
    BaseModel,
    Field,
    SerializerFunctionWrapHandler,
    StringConstraints,
    ValidationError,
    model_serializer,
    model_validator,
)

from federation.errors import PlanRefused, SignatureRefused
from federation.plan_part import PlanPart
from federation.preparation import NORMALISATIONS
from federation.preparation import Preparation as Preparation
from federation.signing import PlanSigner
from federation.strategy_spec import LATE_UPDATES, MODES
from federation.strategy_spec import StrategySpec as StrategySpec
from federation.update_spec import COMPRESSIONS, ENCODINGS
from federation.update_spec import UpdateSpec as UpdateSpec

PLAN_FORMAT: Final = 1
MAX_PLAN_BYTES: Final = 64 * 1024
"""A plan file or message larger than this is refused before it is parsed."""
MAX_ACTIVATION_FLOATS: Final = 128_000_000
"""Limit of batch x patch voxels x first-level channels (512 MB per float32 copy)."""
MAX_PARAMETERS: Final = 200_000_000
"""Limit of the estimated number of weights (800 MB of float32)."""
MAX_PROBLEMS: Final = 50
"""At most this many problems are listed; the rest is counted."""
LATER_PLAN_KEYS: Final = frozenset({"update", "amends"})
"""Keys that came after the first plans: left out of the canonical form at their defaults."""
SIGNATURE_DOMAIN: Final = b"clinode plan 1\x00"
"""Prefix of the signed bytes, so that a plan's signature is valid for nothing else."""

Modality = Literal["FLAIR", "T1w", "T1wCE", "T2w", "PDw", "DWI", "ADC", "SWI", "CT"]
MetricKey = Literal["dice", "sensitivity", "precision", "lesion_f1", "volume_difference_ml"]
SendKey = Literal["update", "metrics", "fingerprint"]

REGISTRY: Final[Mapping[str, tuple[str, ...]]] = {
    "modality": ("FLAIR", "T1w", "T1wCE", "T2w", "PDw", "DWI", "ADC", "SWI", "CT"),
    "network": ("residual-unet",),
    "normalisation": NORMALISATIONS,
    "norm": ("instance", "group"),
    "loss": ("dice-ce",),
    "optimiser": ("adamw", "sgd"),
    "schedule": ("constant", "cosine", "one-cycle"),
    "strategy": ("fedavg",),
    "mode": MODES,
    "late_updates": LATE_UPDATES,
    "metric": ("dice", "sensitivity", "precision", "lesion_f1", "volume_difference_ml"),
    "send": ("update", "metrics", "fingerprint"),
    "encoding": ENCODINGS,
    "compression": COMPRESSIONS,
}
"""Every key that a plan may name. A site's policy may allow fewer, never more."""


def _unique(items: tuple[Any, ...]) -> tuple[Any, ...]:
    if len(set(items)) != len(items):
        raise ValueError("the same entry stands there twice")
    return items


_PlanText = Annotated[
    str, StringConstraints(pattern=r"\A[A-Za-z0-9][A-Za-z0-9 ._()+-]{0,63}\z", max_length=64)
]
_Name = Annotated[
    str, StringConstraints(pattern=r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,63}\z", max_length=64)
]
_Meaning = Annotated[
    str, StringConstraints(pattern=r"\A[A-Za-z0-9][A-Za-z0-9 ,.()/+-]{0,63}\z", max_length=64)
]
_Scheme = Annotated[str, StringConstraints(pattern=r"\A[A-Z0-9][A-Za-z0-9_.-]{0,15}\z")]
_CodeValue = Annotated[str, StringConstraints(pattern=r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,15}\z")]
_Extent = Annotated[int, Field(ge=8, le=256)]
_Channels = Annotated[int, Field(ge=2, le=1024)]
_Stride = Annotated[int, Field(ge=1, le=4)]
_Share = Annotated[float, Field(ge=0.0, le=1.0)]


class CodeTriplet(PlanPart):
    """A coded concept as DICOM writes it (PS3.3 section 8): scheme, value, meaning."""

    scheme: _Scheme
    value: _CodeValue
    meaning: _Meaning


class PlanInput(PlanPart):
    """One input channel, named by canonical modality; the order of the inputs is the channels'."""

    modality: Modality
    required: bool = True


class PlanLabel(PlanPart):
    """One structure to segment; ``value`` 1..255 is its voxel value, 0 is background."""

    value: Annotated[int, Field(ge=1, le=255)]
    name: _Name
    category: CodeTriplet
    type: CodeTriplet


class NetworkSpec(PlanPart):
    """A network of the registry with its sizes.

    ``channels`` counts one entry per resolution level; ``strides`` one per step between levels.
    """

    key: Literal["residual-unet"] = "residual-unet"
    channels: Annotated[tuple[_Channels, ...], Field(min_length=2, max_length=7)]
    strides: Annotated[tuple[_Stride, ...], Field(min_length=1, max_length=6)]
    residual_units: Annotated[int, Field(ge=0, le=4)] = 2
    norm: Literal["instance", "group"] = "instance"
    dropout: Annotated[float, Field(ge=0.0, le=0.8)] = 0.0

    @model_validator(mode="after")
    def _levels(self) -> Self:
        if len(self.strides) != len(self.channels) - 1:
            raise ValueError(
                f"{len(self.channels)} channels need {len(self.channels) - 1} strides,"
                f" {len(self.strides)} are given"
            )
        if self.parameters_estimate > MAX_PARAMETERS:
            raise ValueError(
                f"about {self.parameters_estimate} weights exceed the limit of {MAX_PARAMETERS}"
            )
        if self.norm == "group" and any(channels % 2 for channels in self.channels):
            raise ValueError("group norm needs even channel counts")
        return self

    @property
    def parameters_estimate(self) -> int:
        """Rough number of weights: 27 per pair of channels and convolution, both ways."""
        per_level = 2 * (self.residual_units + 1)
        return sum(27 * per_level * channels * channels for channels in self.channels)

    @property
    def reduction(self) -> int:
        """Product of the strides: each patch edge must be a multiple of it."""
        return math.prod(self.strides)


class LossSpec(PlanPart):
    """Weighted sum of soft Dice and cross-entropy; weights are relative, at least one positive."""

    key: Literal["dice-ce"] = "dice-ce"
    dice_weight: Annotated[float, Field(ge=0.0, le=100.0)] = 1.0
    ce_weight: Annotated[float, Field(ge=0.0, le=100.0)] = 1.0

    @model_validator(mode="after")
    def _positive(self) -> Self:
        if self.dice_weight + self.ce_weight <= 0.0:
            raise ValueError("dice_weight and ce_weight are both 0: there is nothing to learn")
        return self


class OptimiserSpec(PlanPart):
    """Optimiser; ``state="site"`` keeps its moments at the site between rounds."""

    key: Literal["adamw", "sgd"] = "adamw"
    learning_rate: Annotated[float, Field(gt=0.0, le=1.0)] = 1e-3
    weight_decay: Annotated[float, Field(ge=0.0, le=1.0)] = 1e-5
    momentum: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.9
    gradient_clip: Annotated[float, Field(gt=0.0, le=1000.0)] = 12.0
    state: Literal["site", "reset"] = "site"


class ScheduleSpec(PlanPart):
    """Learning rate over all steps of all rounds, as a factor of ``learning_rate``.

    ``constant``: 1. ``cosine``: half a cosine from 1 down to ``final_fraction``. Both rise
    linearly over the first ``warmup_fraction`` of the steps. ``one-cycle`` is cosine in both
    directions.
    """

    key: Literal["constant", "cosine", "one-cycle"] = "constant"
    warmup_fraction: Annotated[float, Field(ge=0.0, le=0.9)] = 0.0
    final_fraction: _Share = 0.0


class AugmentationSpec(PlanPart):
    """Random changes of a training patch.

    Attributes:
        flip: Mirror along each axis with probability one half.
        scale: Largest relative change of a channel's intensity.
        shift: Largest shift of a channel's intensity, in SD of the brain.
        noise: Largest SD of added Gaussian noise, in SD of the brain.
    """

    flip: bool = True
    scale: Annotated[float, Field(ge=0.0, le=0.9)] = 0.1
    shift: Annotated[float, Field(ge=0.0, le=2.0)] = 0.1
    noise: Annotated[float, Field(ge=0.0, le=2.0)] = 0.0


class TrainingSpec(PlanPart):
    """Rounds, steps and patches.

    Attributes:
        foreground_share: Share of patches centred on a labelled voxel.
        modality_dropout: Probability to blank one present optional input of a patch.
        patch_size: Voxels along X, Y, Z; each a multiple of the network's total stride.
    """

    rounds: Annotated[int, Field(ge=1, le=5000)]
    steps_per_round: Annotated[int, Field(ge=1, le=10_000)]
    batch_size: Annotated[int, Field(ge=1, le=64)] = 2
    patch_size: tuple[_Extent, _Extent, _Extent] = (64, 64, 64)
    foreground_share: _Share = 0.5
    modality_dropout: Annotated[float, Field(ge=0.0, le=0.9)] = 0.0
    schedule: ScheduleSpec = ScheduleSpec()
    augmentation: AugmentationSpec = AugmentationSpec()


class EvaluationSpec(PlanPart):
    """When and on what the global model is evaluated at the sites."""

    every: Annotated[int, Field(ge=1, le=5000)] = 1
    validation_fraction: Annotated[float, Field(ge=0.0, le=0.5)] = 0.2
    metrics: Annotated[
        tuple[MetricKey, ...], Field(min_length=1, max_length=5), AfterValidator(_unique)
    ] = ("dice", "sensitivity", "precision", "lesion_f1", "volume_difference_ml")


class PrivacySpec(PlanPart):
    """Privacy demands of the plan; a site may ask for more."""

    minimum_training_cases: Annotated[int, Field(ge=1, le=1_000_000)] = 3


class Plan(PlanPart):
    """A whole training plan (see the module's docstring). Build with :func:`parse_plan`.

    ``amends`` is the hash of the plan that this one takes the place of in a run under way.
    """

    format: Literal[1] = PLAN_FORMAT
    name: _PlanText
    project: _Name
    inputs: Annotated[tuple[PlanInput, ...], Field(min_length=1, max_length=8)]
    labels: Annotated[tuple[PlanLabel, ...], Field(min_length=1, max_length=32)]
    preparation: Preparation = Preparation()
    network: NetworkSpec
    loss: LossSpec = LossSpec()
    optimiser: OptimiserSpec = OptimiserSpec()
    training: TrainingSpec
    strategy: StrategySpec = StrategySpec()
    evaluation: EvaluationSpec = EvaluationSpec()
    privacy: PrivacySpec = PrivacySpec()
    sends: Annotated[
        tuple[SendKey, ...], Field(min_length=1, max_length=3), AfterValidator(_unique)
    ] = ("update", "metrics")
    seed: Annotated[int, Field(ge=0, le=2**53 - 1)] = 0
    update: UpdateSpec = UpdateSpec()
    amends: Annotated[str, StringConstraints(pattern=r"\A[0-9a-f]{64}\z")] | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        problems = _contradictions(self)
        if problems:
            raise ValueError("; ".join(problems))
        return self

    @model_serializer(mode="wrap")
    def _without_later_defaults(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Plans signed before a key came keep their bytes, hash and signature."""
        written: dict[str, Any] = handler(self)
        fields = type(self).model_fields
        for key in LATER_PLAN_KEYS:
            if getattr(self, key) == fields[key].default:
                written.pop(key, None)
        return written


def _contradictions(plan: Plan) -> list[str]:
    """Problems between parts of a plan whose parts are each acceptable."""
    problems: list[str] = []
    if len({entry.modality for entry in plan.inputs}) != len(plan.inputs):
        problems.append("inputs: a modality is listed twice")
    if not any(entry.required for entry in plan.inputs):
        problems.append("inputs: at least one must be required")
    problems += [
        f"labels: a {what} is used twice"
        for what in ("value", "name")
        if len({getattr(label, what) for label in plan.labels}) != len(plan.labels)
    ]
    problems += plan.preparation.problems_with(frozenset(e.modality for e in plan.inputs))
    reduction = plan.network.reduction
    if any(edge % reduction for edge in plan.training.patch_size):
        problems.append(
            f"training.patch_size: every edge must be a multiple of {reduction},"
            " the product of network.strides"
        )
    elif any(edge < 2 * reduction for edge in plan.training.patch_size):
        problems.append(
            f"training.patch_size: every edge must be at least {2 * reduction},"
            " twice the product of network.strides"
        )
    floats = (
        plan.training.batch_size * math.prod(plan.training.patch_size) * plan.network.channels[0]
    )
    if floats > MAX_ACTIVATION_FLOATS:
        problems.append(
            f"training: batch_size x patch_size x channels[0] is {floats},"
            f" the limit is {MAX_ACTIVATION_FLOATS}"
        )
    return problems


def _problems_of(error: ValidationError) -> list[str]:
    """Pydantic's findings as sentences that name the field and never repeat its value.

    Field names come from the document: what is not printable ASCII is shown as ``?``, and a long
    name is cut, so that a hostile plan cannot write to a terminal.
    """
    problems = []
    for detail in error.errors(include_url=False, include_context=False, include_input=False):
        where = ".".join(str(part)[:40] for part in detail["loc"]) or "plan"
        shown = "".join(c if " " <= c <= "~" else "?" for c in where)
        problems.append(f"{shown}: {detail['msg'].removeprefix('Value error, ')}")
    if len(problems) > MAX_PROBLEMS:
        more = len(problems) - MAX_PROBLEMS
        problems[MAX_PROBLEMS:] = [f"plan: {more} further problems"]
    return problems


def parse_plan(document: bytes | Mapping[str, Any]) -> Plan:
    """Read a plan from JSON bytes or from a parsed TOML/JSON mapping.

    Raises:
        PlanRefused: with every problem of the document at once.
    """
    if isinstance(document, bytes):
        raw = document
    else:
        try:
            raw = json.dumps(document).encode()
        except (TypeError, ValueError) as error:
            raise PlanRefused(["plan: holds a value that JSON cannot hold (a date?)"]) from error
    if len(raw) > MAX_PLAN_BYTES:
        raise PlanRefused([f"plan: {len(raw)} bytes exceed the limit of {MAX_PLAN_BYTES}"])
    try:
        return Plan.model_validate_json(raw)
    except ValidationError as error:
        raise PlanRefused(_problems_of(error)) from None


def load_plan(path: Path) -> Plan:
    """Read a plan file: TOML when its name ends in ``.toml``, JSON otherwise.

    Raises:
        PlanRefused: when the file cannot be read, is too large, or breaks a rule.
    """
    try:
        with path.open("rb") as stream:
            raw = stream.read(MAX_PLAN_BYTES + 1)
    except OSError as error:
        raise PlanRefused([f"plan: the file cannot be read ({error.strerror})"]) from error
    if len(raw) > MAX_PLAN_BYTES or path.suffix != ".toml":
        return parse_plan(raw)
    try:
        return parse_plan(tomllib.loads(raw.decode()))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise PlanRefused([f"plan: is not TOML ({error})"]) from error


def canonical_json(part: BaseModel) -> bytes:
    """Canonical JSON (RFC 8785) of a plan or a part of it, defaults written out."""
    return rfc8785.dumps(part.model_dump(mode="json"))


def plan_hash(plan: Plan) -> str:
    """SHA-256 of the plan's canonical JSON, 64 hexadecimal digits."""
    return hashlib.sha256(canonical_json(plan)).hexdigest()


def preparation_hash(plan: Plan) -> str:
    """First 16 hexadecimal digits that name the folder of cases prepared for this plan.

    The SHA-256 covers all that shapes such a folder: the preparation section, the inputs (channel
    order), the labels (voxel values) and the share of validation cases. Plans that agree in these
    share the folder.
    """
    covered: dict[str, Any] = {
        "preparation": plan.preparation.model_dump(mode="json"),
        "inputs": [entry.model_dump(mode="json") for entry in plan.inputs],
        "labels": [label.model_dump(mode="json") for label in plan.labels],
        "validation_fraction": plan.evaluation.validation_fraction,
    }
    return hashlib.sha256(rfc8785.dumps(covered)).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class SignedPlan:
    """A plan with the bytes that were signed.

    Attributes:
        plan: The parsed plan.
        canonical: Its canonical JSON, the bytes that hash and signature cover.
        hash: SHA-256 of ``canonical`` in hexadecimal.
        signature: Ed25519 signature, 64 bytes.
        public_key: Raw Ed25519 public key, 32 bytes.
    """

    plan: Plan
    canonical: bytes
    hash: str
    signature: bytes
    public_key: bytes

    @property
    def signer_fingerprint(self) -> str:
        """SHA-256 of the raw public key in hexadecimal: what a custodian compares."""
        return hashlib.sha256(self.public_key).hexdigest()

    def to_json(self) -> bytes:
        """The file and wire form; :meth:`from_json` reads it."""
        document: dict[str, int | str] = {
            "format": 1,
            "plan": self.canonical.decode(),
            "signature": base64.b64encode(self.signature).decode(),
            "public_key": base64.b64encode(self.public_key).decode(),
        }
        return rfc8785.dumps(dict(document))

    @classmethod
    def from_json(cls, raw: bytes) -> "SignedPlan":
        """Read :meth:`to_json` and verify it.

        Raises:
            SignatureRefused: when the envelope, the canonical form or the signature is wrong.
            PlanRefused: when the plan itself breaks a rule.
        """
        if len(raw) > 2 * MAX_PLAN_BYTES:
            raise SignatureRefused(f"a signed plan of {len(raw)} bytes is too large")
        try:
            document = json.loads(raw)
            canonical = document["plan"].encode()
            signature = base64.b64decode(document["signature"], validate=True)
            public_key = base64.b64decode(document["public_key"], validate=True)
            known = document["format"] == 1 and len(document) == 4
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise SignatureRefused("the envelope of the signed plan cannot be read") from error
        if not known:
            raise SignatureRefused("the envelope of the signed plan has an unknown format")
        return signed_plan(canonical, signature, public_key)


def signed_plan(canonical: bytes, signature: bytes, public_key: bytes) -> SignedPlan:
    """Build a :class:`SignedPlan` from its parts as received, and verify it.

    Raises:
        SignatureRefused: when the canonical form or the signature is wrong.
        PlanRefused: when the plan itself breaks a rule.
    """
    plan = parse_plan(canonical)
    signed = SignedPlan(
        plan=plan,
        canonical=canonical,
        hash=hashlib.sha256(canonical).hexdigest(),
        signature=signature,
        public_key=public_key,
    )
    verify(signed)
    return signed


def sign(plan: Plan, key: PlanSigner) -> SignedPlan:
    """Sign a plan with the data scientist's key, wherever that is."""
    canonical = canonical_json(plan)
    return SignedPlan(
        plan=plan,
        canonical=canonical,
        hash=hashlib.sha256(canonical).hexdigest(),
        signature=key.sign(SIGNATURE_DOMAIN + canonical),
        public_key=key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw),
    )


def verify(signed: SignedPlan) -> None:
    """Check that plan, bytes, hash and signature belong together.

    Who the signer is, the caller decides by ``signed.signer_fingerprint``.

    Raises:
        SignatureRefused: naming which of the four does not fit.
    """
    if canonical_json(signed.plan) != signed.canonical:
        raise SignatureRefused("the signed bytes are not the canonical form of the plan")
    if hashlib.sha256(signed.canonical).hexdigest() != signed.hash:
        raise SignatureRefused("the plan's hash does not match its bytes")
    try:
        key = Ed25519PublicKey.from_public_bytes(signed.public_key)
        key.verify(signed.signature, SIGNATURE_DOMAIN + signed.canonical)
    except (InvalidSignature, ValueError) as error:
        raise SignatureRefused("the plan's signature was not made by the key shown") from error


def ms_lesion_demo_plan(rounds: int = 12) -> Plan:
    """The demo's plan: MS lesions from FLAIR and optional T1w on a 2 mm grid.

    Sized for two CPU cores: three sites train at once, each round is 40 steps of four patches of
    32 voxels. The learning rate follows one cosine over all rounds, so that fewer rounds give a
    finished, less accurate model rather than a broken-off one.

    Args:
        rounds: Rounds of federated averaging.
    """
    lesion = PlanLabel(
        value=1,
        name="lesion",
        category=CodeTriplet(
            scheme="SCT", value="49755003", meaning="Morphologically Abnormal Structure"
        ),
        type=CodeTriplet(scheme="SCT", value="52988006", meaning="Lesion"),
    )
    return Plan(
        name="ms-lesions-demo",
        project="ms-lesions",
        inputs=(PlanInput(modality="FLAIR"), PlanInput(modality="T1w", required=False)),
        labels=(lesion,),
        preparation=Preparation(spacing_mm=(2.0, 2.0, 2.0), profile="quick"),
        network=NetworkSpec(channels=(16, 32, 64), strides=(2, 2), residual_units=1),
        optimiser=OptimiserSpec(learning_rate=6e-3, weight_decay=1e-4),
        training=TrainingSpec(
            rounds=rounds,
            steps_per_round=40,
            batch_size=4,
            patch_size=(32, 32, 32),
            foreground_share=0.5,
            modality_dropout=0.1,
            schedule=ScheduleSpec(key="cosine", warmup_fraction=0.1),
        ),
        strategy=StrategySpec(minimum_sites=2, round_deadline_s=900),
        evaluation=EvaluationSpec(every=4),
        sends=("update", "metrics", "fingerprint"),
        seed=2026,
    )
