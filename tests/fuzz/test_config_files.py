"""Experiment files of any content: read, or refused with the place of every mistake, in bounded time and memory."""

from __future__ import annotations

import resource
import time

import fuzzing
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.config import ExperimentFileError, FileProblem, commented_example, load_experiment_file

MIB = 1024 * 1024
_EXAMPLE = commented_example()
_FULL = """\
experiment: full
description: every key that there is
arms:
  - {id: a, model: m, family: f, role: control, cost_usd: 0.1, config: {max_tokens: 1024, nested: {list: [1, "x", null]}}}
  - {id: b, model: m, role: challenger, cap: 0.5}
  - {id: s, role: shadow, cost_usd: 0.2}
allocation: {kind: thompson, floor: 0.01, prior: {alpha: 1, beta: 1}, priors: {b: {alpha: 2, beta: 3}}}
assignment: {kind: sticky_stored, ttl: 30d, unit: user, holdout: 0.05}
rewards: {task_completed: 1, thumbs_down: 0, follow_up_question: null}
attribution_window: 7d
derived: {retry_within: 30s, abandon_after: 30m}
mature_after: 1h
no_feedback: 0
shadow: {rate: 0.1, text: full}
ramp: {stages: [{cap: 0.1, duration: 1d}, {cap: 1}], guardrails: [{metric: error, limit: 0.05}]}
state: running
"""
_SNIPPETS = [
    "\n",
    "  ",
    "\t",
    ": ",
    "- ",
    "{",
    "}",
    "[",
    "]",
    "&a ",
    "*a",
    "!!python/object:os.system ",
    "? ",
    "| ",
    "> ",
    '"',
    "'",
]
_SNIPPETS += [
    "#",
    "---\n",
    "...\n",
    "%TAG ! x\n",
    "<<: ",
    "\0",
    "\ufeff",
    "\x85",
    "\U0010ffff",
    "1e999",
    "0x7f",
    ".nan",
    "9" * 400,
]


def refused_or_read(content: str | bytes) -> None:
    """Fails unless the file is read, or refused with a place for each mistake."""
    problems: tuple[FileProblem, ...] = ()
    try:
        load_experiment_file(content)
    except ExperimentFileError as error:
        problems = error.problems
    text = content if isinstance(content, str) else content.decode(errors="replace")
    lines = len(text.splitlines()) + 1
    for problem in problems:
        assert problem.message
        # What is wrong with a file as a whole has no line: its size, its encoding.
        assert 0 < problem.line <= lines or isinstance(content, bytes) or len(text) > MIB, problem
        assert not fuzzing.leaks_in(problem.message), problem


@st.composite
def mutated(draw: st.DrawFn) -> str:
    """A valid file with lines swapped, doubled and cut, and characters changed."""
    text = draw(st.sampled_from([_FULL, _EXAMPLE]))
    for _ in range(draw(st.integers(1, 5))):
        at = draw(st.integers(0, len(text)))
        end = min(len(text), at + draw(st.integers(0, 30)))
        kind = draw(st.sampled_from(["insert", "cut", "double", "lines", "text"]))
        if kind == "insert":
            text = text[:at] + draw(st.sampled_from(_SNIPPETS)) + text[at:]
        elif kind == "cut":
            text = text[:at] + text[end:]
        elif kind == "double":
            text = text[:at] + text[at:end] * 3 + text[at:]
        elif kind == "text":
            text = text[:at] + draw(st.text(max_size=5)) + text[end:]
        else:
            lines = text.split("\n")
            one, other = draw(st.integers(0, len(lines) - 1)), draw(st.integers(0, len(lines) - 1))
            lines[one], lines[other] = lines[other], lines[one]
            text = "\n".join(lines)
    return text


@fuzzing.bounded(150)
@given(mutated())
def test_mutated_files(content: str) -> None:
    refused_or_read(content)


@fuzzing.bounded(75)
@given(mutated().map(lambda text: text.encode(errors="surrogatepass")), st.data())
def test_mutated_bytes(content: bytes, data: st.DataObject) -> None:
    changed = bytearray(content)
    for _ in range(data.draw(st.integers(1, 4))):
        if changed:
            changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    refused_or_read(bytes(changed))


def _aliases(levels: int) -> str:
    """A billion laughs."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, levels)]
    return "\n".join(lines)


_HUGE = MIB - 4096
BOMBS = {
    "aliases": _aliases(40),
    "an alias of itself": "experiment: &a [*a]\n",
    "merge keys": "a: &a {b: 1}\n" + "".join(f"c{n}: {{<<: *a}}\n" for n in range(5_000)),
    "brackets": "[" * _HUGE,
    "braces": "{a: " * (_HUGE // 4),
    "dashes": "- " * (_HUGE // 2),
    "indentation": "\n".join(" " * n + "a:" for n in range(1_000)),
    "one long word": "experiment: " + "x" * _HUGE,
    "one long number": "experiment: " + "9" * _HUGE,
    "many keys": "".join(f"k{n}: 1\n" for n in range(8_000)),
    "the same key": "experiment: x\n" * 8_000,
    "many arms": "experiment: x\narms:\n" + "".join(f"  - {{id: a{n}}}\n" for n in range(4_000)),
    "many stages": "experiment: x\narms: [{id: a}]\nramp: {stages: [" + "{cap: 0.5}, " * 6_000 + "]}\n",
    "a long key": "? " + "x" * _HUGE + "\n: y\n",
    "a wide config": "experiment: x\narms: [{id: a, config: {" + ", ".join(f"k{n}: {n}" for n in range(8_000)) + "}}]\n",
    "quotes": 'experiment: "' + '\\"' * (_HUGE // 2) + '"',
    "comments": "#\n" * (_HUGE // 2),
    "documents": "---\n" * (_HUGE // 4),
    "percent": "%YAML 1.1\n" * 8_000,
    "more than a mebibyte": "#" * (2 * MIB),
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs(name: str) -> None:
    """Claim: no file costs more than 10 s of this thread, nor 200 MiB."""
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.thread_time()
    refused_or_read(BOMBS[name])
    assert time.thread_time() - began < 10
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 1024
