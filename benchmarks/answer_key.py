"""MIDI-B's ten actions on generated objects of eleven kinds, and what peers make of the same files.

``python -m benchmarks.answer_key [--patients N] [--write]``: the key is made while the objects are
planted; the table goes to standard output and, with ``--write``, to docs/benchmarks/answer-key.md.
Peers run with their defaults where they are installed (``pip install dicognito dicom-anonymizer``).
"""

from __future__ import annotations

import argparse
import io
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from pydicom import dcmread
from pydicom.dataset import Dataset

from benchmarks.table import Row
from dicom_bridge.deid import Profile, Pseudonymizer, deidentify_bytes
from dicom_bridge.errors import DataRefused
from tests.dicom_bridge.deid.answers.cohort import MAKERS, as_file, make_cohort
from tests.dicom_bridge.deid.answers.key import Action
from tests.dicom_bridge.deid.answers.run import PROFILE, SECRET
from tests.dicom_bridge.deid.answers.score import Scores

PAGE = Path(__file__).parent.parent / "docs" / "benchmarks" / "answer-key.md"
Tool = Callable[[bytes], bytes]


def clinode(options: str = "documented profile") -> Tool:
    """Our engine."""
    profile = Profile.load(PROFILE) if options == "documented profile" else Profile.basic()
    pseudonymizer = Pseudonymizer(SECRET, "answers")
    return lambda content: b"".join(deidentify_bytes(content, profile, pseudonymizer).parts)


def dicognito() -> Tool:
    """Dicognito with a fixed seed."""
    from dicognito.anonymizer import Anonymizer

    anonymizer = Anonymizer(seed="answers")

    def run(content: bytes) -> bytes:
        ds = dcmread(io.BytesIO(content))
        anonymizer.anonymize(ds)
        return _saved(ds)

    return run


def dicom_anonymizer() -> Tool:
    """Dicom-anonymizer with its default rules; one process, so its UID map holds."""
    from dicomanonymizer import anonymize_dataset

    def run(content: bytes) -> bytes:
        ds = dcmread(io.BytesIO(content))
        anonymize_dataset(ds)
        return _saved(ds)

    return run


def _saved(ds: Dataset) -> bytes:
    buffer = io.BytesIO()
    ds.save_as(buffer)
    return buffer.getvalue()


def contenders() -> Iterator[tuple[str, Tool]]:
    """Name and tool for what is installed."""
    yield "clinode", clinode()
    yield "clinode, Basic Profile only", clinode("basic")
    for name, make in (("dicom-anonymizer", dicom_anonymizer), ("dicognito", dicognito)):
        try:
            yield name, make()
        except ImportError:
            print(f"{name} is not installed: left out")


def score(tool: Tool, patients: int) -> tuple[Scores, float]:
    """Scores and seconds of a tool; a tool that raises has held the object back."""
    scores, seconds = Scores(), 0.0
    for answer in make_cohort(patients):
        content = as_file(answer)
        begun = time.perf_counter()
        output, reason = None, ""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                output = tool(content)
        except DataRefused as refused:
            reason = str(refused)
        except Exception as error:  # edge: a peer may raise whatever it likes
            reason = type(error).__name__
        seconds += time.perf_counter() - begun
        scores.take(answer, output, reason)
    return scores, seconds


def summary(name: str, scores: Scores) -> str:
    """One row of the table of tools."""
    leaks = sum(v.expected.action in _GONE and v.found != "" for v in scores.wrong)
    shown = sum(v.expected.action is Action.PIXELS_HIDDEN for v in scores.wrong)
    cells = (
        *(name, f"{100 * scores.share:.2f} %", len(scores.verdicts), leaks, shown),
        *(scores.over_removed, len(scores.over_held), scores.held, len(scores.leaks)),
    )
    return "| " + " | ".join(map(str, cells)) + " |"


_GONE = (Action.TEXT_REMOVED, Action.DATE_SHIFTED, Action.UID_CHANGED, Action.PIXELS_HIDDEN)
_HEAD = (
    "| tool | right | actions | leaks by place | of these burned in | over-removed "
    "| clean held back | burned held back | values found in bytes |\n"
    "|---|---:|---:|---:|---:|---:|---:|---:|---:|"
)


_INTRODUCTION = """\
# Answer key

Written by `python -m benchmarks.answer_key --write`.

{patients} invented patients with {each} objects each ({files} files): MR, CT, PET, ultrasound,
radiographs, secondary captures, two kinds of structured reports, segmentations, encapsulated PDF,
enhanced MR; all valid by dciodvfy. Planted: every HIPAA kind but faces, in headers, nested
sequences, private elements, free text, the preamble, and burned into pixels. The key, MIDI-B's ten
actions, is made while the objects are planted (`tests/dicom_bridge/deid/answers`).

The actions are those of the MIDI-B challenge; the scorer is our own and stricter: a value that must
go may stand nowhere in the file, and kept text counts only whole. clinode runs with the profile
beside the key, which has masks for three of the six devices that burn text in; images of the other
three must be held back. The second row shows what the options are for. The peers run with their
defaults and hold nothing back: their rows say nothing about what they do with rules written for
such files.

What the key cannot say: its descriptions were written by the authors of the vocabulary. Held for
the first time against the 64 real descriptions of the public test series (225 words, some of them
names and dates that must go), the vocabulary kept 157 words; some general ones were added since.
Elsewhere expect clinical words of local or foreign use to go.
"""
_LEGEND = """
`leaks by place`: removals, shifts, new UIDs and hidden pixels that were expected and not done.
`over-removed`: text, attributes or pixels that had to stay. `values found in bytes`: planted values
of six letters or more that stood anywhere in an output.

## clinode in detail
"""


def page(patients: int) -> str:
    """The document."""
    rows, own = [], Scores()
    for name, tool in contenders():
        scores, _ = score(tool, patients)
        if not rows:
            own = scores
        rows.append(summary(name, scores))
    misses = Counter(
        f"{v.expected.action} {v.expected.place.split('.')[-1]}: {v.expected.value!r} became "
        f"{v.found!r}"
        for v in own.wrong
    )
    lines = [f"- {count} x {miss}" for miss, count in misses.most_common(12)] or ["- nothing"]
    introduction = _INTRODUCTION.format(patients=patients, each=len(MAKERS), files=own.files)
    detail = (own.table(), "What was not as expected:", "", *lines, "")
    return "\n".join((introduction, _HEAD, *rows, _LEGEND, *detail))


def measure() -> list[Row]:
    """Seconds for the objects of five patients, for ``make bench``."""
    return [Row(name, (score(tool, 5)[1],)) for name, tool in contenders()]


def main() -> None:
    """Print the table, and write it where asked."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.answer_key", description=__doc__)
    parser.add_argument("--patients", type=int, default=60)
    parser.add_argument("--write", action="store_true", help=f"write {PAGE.name}")
    arguments = parser.parse_args()
    text = page(arguments.patients)
    print(text)
    if arguments.write:
        PAGE.parent.mkdir(parents=True, exist_ok=True)
        PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
