"""The section of a plan that says how updates travel; loads neither torch nor numpy."""

from typing import Final, Literal

from federation.plan_part import PlanPart

Encoding = Literal["fp32", "bf16", "fp16", "int8"]
Compression = Literal["none", "zstd"]
ENCODINGS: Final[tuple[str, ...]] = ("fp32", "bf16", "fp16", "int8")
COMPRESSIONS: Final[tuple[str, ...]] = ("none", "zstd")

_IN_WORDS: Final = {
    "bf16": "rounded to 16 bits each (bfloat16)",
    "fp16": "rounded to 16 bits each (half precision)",
    "int8": "rounded to 8 bits each; what the rounding left out stays here for the next round",
}


class UpdateSpec(PlanPart):
    """How an update travels from a site to the coordinator.

    Attributes:
        encoding: ``fp32``: the model's new weights as they are. Every other encoding sends the
            difference to the global model that the site started from: ``bf16`` and ``fp16`` round
            it to 16 bits, ``int8`` to 8 bits with a scale per block, and keeps at the site what
            the rounding left out, to be added to the next round's difference.
        compression: ``zstd`` compresses what is sent (RFC 8878).
    """

    encoding: Encoding = "fp32"
    compression: Compression = "none"

    @property
    def plain(self) -> bool:
        """Whether the file of new weights is sent as it is."""
        return self == UpdateSpec()

    @property
    def feedback(self) -> bool:
        """Whether the site keeps what the rounding left out and adds it to the next round's."""
        return self.encoding == "int8"

    @property
    def label(self) -> str:
        """How messages and reports name it; empty for plain weights.

        >>> UpdateSpec(encoding="int8", compression="zstd").label, UpdateSpec().label
        ('int8+zstd', '')
        """
        if self.plain:
            return ""
        return self.encoding if self.compression == "none" else f"{self.encoding}+zstd"

    @property
    def sentence(self) -> str:
        """What is sent, for the person who approves the plan.

        >>> UpdateSpec(encoding="bf16").sentence
        "the changes to the model's weights, rounded to 16 bits each (bfloat16)"
        """
        compressed = "" if self.compression == "none" else " (compressed)"
        if self.encoding == "fp32":
            return f"the model's new weights in full precision{compressed}"
        return f"the changes to the model's weights{compressed}, {_IN_WORDS[self.encoding]}"

    def leaving(self, kinds: tuple[str, ...]) -> tuple[str, ...]:
        """What leaves a site, in words: of an encoded update also how it is rounded.

        >>> UpdateSpec(encoding="bf16").leaving(("update", "metrics"))[1]
        'metrics'
        """
        told = "update" if self.plain else f"update ({self.sentence})"
        return tuple(told if kind == "update" else kind for kind in kinds)
