"""What a trainer's failure is called outside the site: fixed words, and nothing that names anybody.

A foreign error's text may quote anything: a path, a case's pseudonym, a value of an image's header.
So no part of it travels as it is. Known causes have fixed words of ours; of all other texts only
the words of a closed vocabulary and numbers with a technical unit remain. Sentences that we wrote
ourselves pass :func:`scrubbed`, a second line of defence. This module loads no torch.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Final

MAX_WORDS: Final = 300
"""Longest text that travels, characters (see ``TaskReport.words``)."""
MAX_FOREIGN: Final = 160
"""Longest remainder of a foreign error's text, characters."""
MAX_READ: Final = 4000
"""How much of a text is looked at, characters."""
GAP: Final = "..."
"""Stands for what was left out."""


@dataclass(frozen=True, slots=True)
class Cause:
    """Why a job or its process ended.

    Attributes:
        words: in words that may travel.
        final: whether repeating the job at once would end the same way.
        poisoned: whether the process can do no further job.
    """

    words: str
    final: bool = False
    poisoned: bool = False


_SIZES = re.compile(r"\b(\d{1,4}(?:\.\d{1,2})?) ?(bytes|[KMGT]i?B)(?![A-Za-z0-9])")

_KNOWN: Final[tuple[tuple[re.Pattern[str], Cause], ...]] = tuple(
    (re.compile(pattern, re.IGNORECASE), cause)
    for pattern, cause in (
        (
            (
                r"cuda out of memory|hip out of memory|\A(?:torch\S*\.)?OutOfMemoryError"
                r"|CU(?:BLAS|DNN)_STATUS_(?:ALLOC_FAILED|INTERNAL_ERROR_HOST_ALLOCATION_FAILED)"
                r"|CUDA error: out of memory"
            ),
            Cause("the memory of the graphics card is too small for this plan", final=True),
        ),
        (
            r"errno 28\b|no space left on device|errno 122\b|disk quota exceeded",
            Cause("the disk of the trainer is full", final=True),
        ),
        (
            (
                r"\AMemoryError|cannot allocate memory|can't allocate memory|not enough memory"
                r"|unable to allocate|bad_alloc|DefaultCPUAllocator"
            ),
            Cause("the job needs more memory than this site gives the trainer", final=True),
        ),
        (
            (
                r"no cuda-capable device|not compiled with cuda|found no nvidia driver"
                r"|nvidia driver on your system is too old|invalid device ordinal"
                r"|no kernel image is available"
            ),
            Cause("the settings name a graphics card that PyTorch cannot use here", final=True),
        ),
        (
            r"cuda error|cudnn_status|cublas_status|device-side assert|cufft",
            Cause("the graphics card reported an error", poisoned=True),
        ),
        (
            r"errno 30\b|read-only file system|errno 13\b|permission denied",
            Cause("the trainer may not write its folder", final=True),
        ),
        (r"errno 5\b|input/output error", Cause("a disk reported an error")),
        (
            r"stale file handle|errno 116\b|transport endpoint",
            Cause("a network disk went away"),
        ),
        (r"bus error|SIGBUS", Cause("the process lost a mapped file or shared memory")),
        (r"segmentation fault|SIGSEGV", Cause("the process crashed inside a library")),
    )
)
"""Known causes, the first that fits counts."""

_CLASSES: Final = """
ArithmeticError AssertionError AttributeError BrokenPipeError BufferError ChildProcessError
ConnectionError EOFError FileExistsError FileNotFoundError FloatingPointError ImportError
IndexError InterruptedError IsADirectoryError KeyError KeyboardInterrupt LookupError MemoryError
ModuleNotFoundError NameError NotADirectoryError NotImplementedError OSError OutOfMemoryError
OverflowError PermissionError RecursionError ReferenceError RuntimeError SafetensorError
StopIteration SyntaxError SystemError SystemExit TimeoutError TypeError UnicodeDecodeError
UnicodeError ValueError ZeroDivisionError LinAlgError AcceleratorError JSONDecodeError
ValidationError
"""
KNOWN_CLASSES: Final = frozenset(_CLASSES.split())
"""Exception classes whose names may travel."""

_TECHNICAL: Final = """
a access accessible active actual address all alloc allocate allocated allocation allocator
already an and any are argument arguments array arrays assert assertion at attribute available
axis backend backward bad batch be because been before between bias block boundaries broadcast
broadcastable buffer but by byte bytes cache call called can cannot cast channel channels chunk
class code collection column compiled complex concatenate connection contiguous conv convolution
convert copy could cpu crop cublas cuda cudnn cuda-capable current data decode deserializing
device devices differ different dimension dimensions directory disk divide division does dtype each
during
element elements empty encountered end engine environment error errors execution exceeded
exceeds exist existing exists expected fail failed failure fault file files finite float for
format forward found free from function gpu got gradient grad graph greater group handle has
have header host if illegal image implemented in inconsistent incomplete index indices infinite
input inputs insufficient int integer internal into invalid is it item iteration kernel key
keyword larger launch layer layers length less library limit list load loader loaded loss
mapping mask match matrix maximum memory metadata minimum mismatch missing model module multiple
must name negative network no non-finite none norm not null number object of offset on one only
open operand operation optimiser optimizer or out output outputs overflow padding parameter
parameters permitted pointer positional positive process quota raised range rank read reading
require required requires reserved resource running same scalar segment sequence shape shapes
shared should singular size sizes small smaller space spatial state stream stride strides
subscript such supported system tensor tensors than that the thread threads to too tried true type
types unable unexpected unknown unsupported update usage use used using valid value values
version view voxel was weight weights when while with without write writing wrong zero
"""
VOCABULARY: Final = frozenset(_TECHNICAL.split())
"""Words that a foreign error's text may keep; no names of people among them."""

_TOKEN = re.compile(r"[A-Za-z]+(?:-[A-Za-z]+)*(?![\w^@])|\S+")
_LINE = re.compile(r"\A(?:[A-Za-z_][\w]*\.)*([A-Z]\w*)(?:: (.*))?\Z", re.DOTALL)
_FATAL = re.compile(r"\A(?:Fatal Python error: |terminate called |federation\.trainer: error: )")


def vocabulary_only(text: str) -> str:
    """What of a foreign text remains: known words, and numbers with a technical unit.

    >>> vocabulary_only("shape mismatch in '/data/sub-q7/x.nii.gz': tried 2.00 GiB of 4711")
    'shape mismatch in ... tried 2.00 GiB of ...'
    """
    kept: list[str] = []
    line = _SIZES.sub(
        lambda found: f"{found[1]}\u00a0{found[2]}", text[:MAX_READ].replace("\u00a0", " ")
    )
    for token in line.split(" "):
        word = token.strip(".,:;!()[]")
        if word.lower() in VOCABULARY and token[:1] not in "\"'":
            kept.append(word.lower())
        elif "\u00a0" in word and _SIZES.fullmatch(word.replace("\u00a0", " ")):
            kept.append(word.replace("\u00a0", " "))
        elif not kept or kept[-1] != GAP:
            kept.append(GAP)
    return " ".join(kept).strip()[:MAX_FOREIGN].rstrip() if set(kept) - {GAP} else ""


def cause_of(kind: str, text: str) -> Cause:
    """The cause behind an exception.

    Args:
        kind: the exception's class name, without its module.
        text: its message, which may hold anything.

    >>> cause_of("OSError", "[Errno 28] No space left on device: '/x/sub-a'").words
    'the disk of the trainer is full'
    >>> cause_of("KeyError", "'sub-a_ses-b'").words
    'the job ended with an unexpected KeyError'
    """
    text = text[:MAX_READ]
    whole = f"{kind}: {text}"
    for pattern, cause in _KNOWN:
        if pattern.search(whole):
            sizes = ", ".join(f"{n} {unit}" for n, unit in _SIZES.findall(text)[:2])
            words = f"{cause.words} ({sizes})" if sizes and "memory" in cause.words else cause.words
            return Cause(words, cause.final, cause.poisoned)
    shown = kind if kind in KNOWN_CLASSES else "error"
    rest = vocabulary_only(text)
    return Cause(f"the job ended with an unexpected {shown}" + (f": {rest}" if rest else ""))


def last_error(log: bytes) -> Cause | None:
    """The cause that the end of a process's standard error names; None where it names none."""
    lines = [line.strip() for line in log.decode("utf-8", "replace").splitlines()]
    for line in reversed([line for line in lines if line]):
        if line.startswith("{"):
            found = _logged(line)
            if found is not None:
                return found
            continue
        if _FATAL.match(line):
            return _named("", line)
        parts = _LINE.match(line)
        if parts and (parts[1] in KNOWN_CLASSES or parts[1].endswith(("Error", "Exception"))):
            return _named(parts[1], parts[2] or "")
    return None


def _logged(line: str) -> Cause | None:
    """The cause of a log line (JSON) that holds an exception's traceback."""
    try:
        found = json.loads(line)
    except ValueError:
        return None
    trace = found.get("exception") if isinstance(found, dict) else None
    if not isinstance(trace, str) or not trace:
        return None
    return last_error(trace.rpartition("\n")[2].encode())


def _named(kind: str, text: str) -> Cause:
    cause = cause_of(kind, text)
    words = cause.words.removeprefix("the job ended with an unexpected ")
    return Cause(words, cause.final, cause.poisoned)


_SCRUBBED: Final = tuple(
    re.compile(pattern)
    for pattern in (
        r"\"[^\"]*\"|\u201c[^\u201d]*\u201d|\u00ab[^\u00bb]*\u00bb|(?<!\w)'[^']*'(?!\w)|`[^`]*`",
        r"\S*@\S+\.\S+",
        r"(?:[A-Za-z]:)?[\w.~+-]*[/\\][^\s,;)]+",
        r"\S*\.(?:nii|gz|dcm|json|safetensors|sqlite|toml|txt|csv|log|part)\b\S*",
        r"\b(?:sub|ses|pt|st)-?(?=[A-Za-z0-9]*\d)[A-Za-z0-9]{4,}\S*|\b(?:sub|ses)-\S+",
        r"\S*\^\S*",
        r"\b\d+(?:\.\d+){2,}\b",
        r"\b\d{1,4}[-./]\d{1,2}[-./]\d{1,4}\b",
        r"\b(?=\w*\d)(?=\w*[A-Za-z])\w{9,}\b",
        r"\d{5,}",
    )
)
"""What our own sentences must not hold; each is left out where one does all the same."""


def scrubbed(text: str) -> str:
    """One line of our own words without paths, quotes, pseudonyms, UIDs, dates and long numbers.

    >>> scrubbed("the case sub-a1b2 in /home/x/data is 1.2.840.10008 of 20260101")
    'the case ... in ... is ... of ...'
    """
    line = " ".join("".join(c if c.isprintable() else " " for c in text[:MAX_READ]).split())
    for pattern in _SCRUBBED:
        line = pattern.sub(GAP, line)
    line = re.sub(r"(?:\.\.\.[\s\w.]{0,2})*\.\.\.(?=\.\.\.)", "", line)
    return line[:MAX_WORDS].rstrip()
