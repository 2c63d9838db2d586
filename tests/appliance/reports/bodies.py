"""A small head-like body with known places, in any orientation, and a reader of report pages."""

from __future__ import annotations

import base64
import hashlib
import io
import itertools
import re
from dataclasses import dataclass, field
from html.parser import HTMLParser

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from appliance.imaging.volume import Volume
from appliance.reports.page import VOID

SHAPE = (48, 60, 40)
LEFT, FRONT, TOP = (-14.0, 0.0, 0.0), (0.0, 20.0, 0.0), (0.0, 0.0, 12.0)
"""Centres of three balls of different brightness, RAS mm: the patient's left, front and top."""


@dataclass(frozen=True)
class Body:
    """An image with its brain and a label, all on one grid."""

    image: Volume
    brain: Volume
    label: Volume


def body(spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> Body:
    """An ellipsoid with three balls, stored along R, A, S, centred on the world's origin."""
    shape = tuple(max(3, round(n / s)) for n, s in zip(SHAPE, spacing, strict=True))
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = -(np.array(shape) - 1) / 2 * np.array(spacing)
    index = np.moveaxis(np.indices(shape), 0, -1)
    world = index * np.array(spacing) + affine[:3, 3]
    brain = ((world / np.array([20.0, 26.0, 17.0])) ** 2).sum(axis=-1) <= 1
    rng = np.random.default_rng(7)
    image = np.where(brain, 400.0, 30.0) + rng.normal(0, 6, shape)
    for centre, value in ((LEFT, 900.0), (FRONT, 700.0), (TOP, 150.0)):
        image[ball(world, centre, 5.0)] = value
    label = ball(world, LEFT, 4.0)
    return Body(
        Volume(image.astype(np.float32), affine),
        Volume(brain.astype(np.uint8), affine),
        Volume(label.astype(np.uint8), affine),
    )


def ball(
    world: NDArray[np.float64], centre: tuple[float, float, float], radius: float
) -> NDArray[np.bool_]:
    return np.asarray(((world - np.array(centre)) ** 2).sum(axis=-1) <= radius**2)


def stored(volume: Volume, axes: tuple[int, int, int], flips: tuple[int, int, int]) -> Volume:
    """The same body with its axes permuted and reversed in memory."""
    data = np.transpose(volume.data, axes)
    affine = volume.affine[:, [*axes, 3]].copy()
    for axis, flip in enumerate(flips):
        if flip < 0:
            affine[:3, 3] += affine[:3, axis] * (data.shape[axis] - 1)
            affine[:3, axis] *= -1
            data = np.flip(data, axis)
    return Volume(np.ascontiguousarray(data), affine)


@dataclass
class Page(HTMLParser):
    """What a page holds; well-formedness is asserted while it is read."""

    text: str
    stack: list[str] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)
    images: list[dict[str, str]] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    wanted: list[str] = field(default_factory=list)
    headings: list[str] = field(default_factory=list)
    links: list[str] = field(default_factory=list)
    words: list[str] = field(default_factory=list)
    drawings: list[dict[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()
        self.feed(self.text)
        assert self.stack == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        assert len(values) == len(attrs), "an attribute twice"
        if tag in ("script", "link", "iframe", "object", "embed", "base", "form"):
            self.outside.append(tag)
        assert "style" not in values, "the policy forbids style attributes"
        assert not [name for name in values if name.startswith("on")]
        if "src" in values and not values["src"].startswith("data:image/"):
            self.outside.append(values["src"])
        if tag == "img":
            assert "alt" in values
            self.images.append(values)
        if tag == "svg":
            assert values.get("aria-label") or values.get("aria-hidden") == "true"
            self.drawings.append(values)
        if tag == "th":
            assert values.get("scope") in ("row", "col")
        if "id" in values:
            self.ids.append(values["id"])
        if "for" in values:
            self.wanted.append(values["for"])
        if "href" in values:
            self.links.append(values["href"])
        if re.fullmatch(r"h[1-6]", tag):
            self.headings.append(tag)
        if tag not in VOID:
            self.stack.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.stack, f"</{tag}> closes nothing"
        assert self.stack.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.stack or self.stack[-1] != "style":
            self.words.append(data)

    @property
    def shown(self) -> str:
        """All text of the page."""
        return " ".join(self.words)

    def assert_sound(self) -> None:
        """Self-contained, accessible in its structure, and kept so by its own policy."""
        assert self.outside == []
        assert not [link for link in self.links if "://" in link or link.startswith("javascript")]
        assert len(set(self.ids)) == len(self.ids)
        assert set(self.wanted) <= set(self.ids)
        assert self.headings[0] == "h1"
        assert self.headings.count("h1") == 1
        levels = [int(heading[1]) for heading in self.headings]
        assert all(b - a <= 1 for a, b in itertools.pairwise(levels))
        style = re.search(r"<style>(.*?)</style>", self.text, re.DOTALL)
        assert style is not None
        assert "url(" not in style[1]
        assert "@import" not in style[1]
        digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
        policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', self.text)
        assert policy is not None
        assert policy[1].startswith("default-src 'none'; img-src data:; style-src 'sha256-")
        assert digest in policy[1]
        assert '<html lang="en">' in self.text

    def pictures(self, name: str) -> list[NDArray[np.uint8]]:
        """Decoded pictures whose class is or contains a name; layers with alpha."""
        return [decoded(i["src"]) for i in self.images if name in i["class"].split()]


def decoded(source: str) -> NDArray[np.uint8]:
    content = base64.b64decode(source.partition("base64,")[2])
    image = Image.open(io.BytesIO(content))
    mode = "RGBA" if image.format == "PNG" else "L"
    return np.asarray(image.convert(mode))
