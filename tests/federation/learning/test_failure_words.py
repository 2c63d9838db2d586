"""What a failure is called outside: causes are told, identifiers never."""

from __future__ import annotations

import string
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.trainer.client import memory_kills
from federation.trainer.words import (
    KNOWN_CLASSES,
    MAX_WORDS,
    VOCABULARY,
    cause_of,
    last_error,
    scrubbed,
    vocabulary_only,
)

SEPARATORS = " :'\"/\\,;()[]{}=^-_.\n\t"
LETTERS = st.text(string.ascii_lowercase, min_size=6, max_size=12)
UIDS = st.lists(st.integers(0, 10**6), min_size=5, max_size=9).map(
    lambda parts: "1.2." + ".".join(map(str, parts))
)
PATHS = st.lists(LETTERS, min_size=2, max_size=4).map(lambda parts: "/" + "/".join(parts))
PSEUDONYMS = st.text(string.ascii_lowercase + string.digits, min_size=8, max_size=16)
NUMBERS = st.integers(10**4, 10**12).map(str)
DATES = st.dates().map(lambda day: day.strftime("%Y%m%d"))
PERSONS = st.tuples(LETTERS, LETTERS).map(lambda names: f"{names[0].upper()}^{names[1].upper()}")
PLANTED = st.one_of(UIDS, PATHS, PSEUDONYMS, NUMBERS, DATES, PERSONS, LETTERS)
TECHNICAL = st.sampled_from(
    [
        "CUDA error: an illegal memory access was encountered in {}",
        "[Errno 2] No such file or directory: '{}'",
        "The size of tensor {} (8) must match the size of tensor b",
        "Error while deserializing header: {}",
        "{}",
        "shape mismatch {} for 2.00 GiB, 12 items",
        "KeyError('{}')",
        "CUDA out of memory. Tried to allocate 2.00 GiB for {}",
    ]
)
CLASSES = st.one_of(st.sampled_from(sorted(KNOWN_CLASSES)), LETTERS.map(str.capitalize))


@given(TECHNICAL, PLANTED, st.sampled_from(SEPARATORS), PLANTED, CLASSES)
def test_no_part_of_a_planted_identifier_travels(
    frame: str, planted: str, between: str, second: str, kind: str
) -> None:
    told = cause_of(kind, frame.replace("{}", f"{planted}{between}{second}")).words
    assert len(told) <= MAX_WORDS
    allowed = VOCABULARY | {"gib", "the", "job"}
    fixed = cause_of("x", "").words + cause_of("RuntimeError", frame.replace("{}", "")).words
    for secret in (planted, second):
        if secret.lower() not in allowed and secret not in frame and secret not in fixed:
            assert secret not in told


@given(st.text(max_size=300))
def test_a_foreign_text_keeps_known_words_and_sizes_only(text: str) -> None:
    for word in vocabulary_only(text).replace("...", " ").split():
        known = word in VOCABULARY or word in {"bytes", *(f"{p}B" for p in "KMGT")}
        known |= word in {f"{p}iB" for p in "KMGT"} or word.replace(".", "", 1).isdigit()
        assert known, word


@given(
    st.one_of(UIDS, PATHS, DATES, NUMBERS, PERSONS, PSEUDONYMS.map(lambda p: f"sub-{p}")),
    st.sampled_from(["the case {} is damaged", "{}", "a: {}, b", "expected ({}) to end"]),
)
def test_our_own_sentences_lose_what_looks_like_an_identifier(planted: str, frame: str) -> None:
    told = scrubbed(frame.replace("{}", planted))
    assert planted not in told
    assert "..." in told


@given(PLANTED, st.sampled_from("'\"`"))
def test_quoted_strings_do_not_travel(planted: str, quote: str) -> None:
    assert planted not in scrubbed(f"it was {quote}{planted}{quote} there")


@pytest.mark.parametrize(
    "sentence",
    [
        "the trainer process died 4 times during one job, last by SIGKILL: it may need more memory",
        "the prepared folder has the channels FLAIR, the plan wants FLAIR, T1w",
        "the loss is no longer a finite number after 12 steps; lower the learning rate",
        "3 training cases, the plan asks for at least 5",
        "not for our patients' children, they don't agree",
    ],
)
def test_ordinary_sentences_stay_as_they_are(sentence: str) -> None:
    assert scrubbed(sentence) == sentence


@pytest.mark.parametrize(
    ("kind", "text", "words", "final"),
    [
        (
            "OutOfMemoryError",
            "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total of 23.69 GiB",
            "the memory of the graphics card is too small for this plan (2.00 GiB, 23.69 GiB)",
            True,
        ),
        (
            "RuntimeError",
            "DefaultCPUAllocator: can't allocate memory: you tried to allocate 4000000000 bytes",
            "the job needs more memory than this site gives the trainer",
            True,
        ),
        ("MemoryError", "", "the job needs more memory than this site gives the trainer", True),
        ("OSError", "[Errno 28] No space left on device", "the disk of the trainer is full", True),
        (
            "AcceleratorError",
            "CUDA error: device-side assert triggered",
            "the graphics card reported an error",
            False,
        ),
        (
            "RuntimeError",
            "The size of tensor a (8) must match the size of tensor b (16)",
            (
                "the job ended with an unexpected RuntimeError: the size of tensor a ... must match"
                " the size of tensor ..."
            ),
            False,
        ),
        ("Doe4711", "x", "the job ended with an unexpected error", False),
    ],
)
def test_known_causes_have_fixed_words(kind: str, text: str, words: str, final: bool) -> None:
    cause = cause_of(kind, text)
    assert (cause.words, cause.final) == (words, final)


@pytest.mark.parametrize(
    ("log", "words"),
    [
        (
            (
                b'Traceback (most recent call last):\n  File "/x/sub-a.py", line 3, in f\n'
                b"OSError: [Errno 28] No space left on device: '/data/sub-q7'\n"
            ),
            "the disk of the trainer is full",
        ),
        (
            b"terminate called after throwing an instance of 'std::bad_alloc'\n  what():  no\n",
            "the job needs more memory than this site gives the trainer",
        ),
        (
            b"Fatal Python error: Segmentation fault\n\nCurrent thread 0x0 (most recent call):\n",
            "the process crashed inside a library",
        ),
        (
            b'{"event": "job_failed", "exception": "Traceback:\\n  x\\nKeyError: \'sub-a1\'"}\n',
            "KeyError",
        ),
        (b"torch.OutOfMemoryError: CUDA out of memory.\n", "the memory of the graphics card is"),
        (b"loading\n{broken\n", None),
        (b"", None),
    ],
)
def test_the_last_error_line_is_found(log: bytes, words: str | None) -> None:
    found = last_error(log)
    assert (found is None) if words is None else (found is not None and words in found.words)


def test_the_kernels_kills_are_counted(tmp_path: Path) -> None:
    (tmp_path / "vmstat").write_text("nr_free_pages 7\noom_kill 3\n")
    (tmp_path / "events").write_text("low 0\noom_kill 1\noom_group_kill 0\n")
    counters = [tmp_path / name for name in ("vmstat", "events", "absent")]
    assert memory_kills(counters) == 4
