"""Simulated users: how the real score of an answer becomes feedback, and who asks which prompt.

Model
    A right answer (score 1) completes the task. A wrong one (0) makes the user rephrase, retry or leave. A score in between
    is measured and told as a number. Beside this truth a user may first give the opposite sign, by mistake or because an
    automatic signal misread them; may ask on, which says nothing; and a producer may send an event twice. Every event is
    told some decisions late, in no order.

    The opposite sign never decides the outcome, by the order of `bandit.reward`: the truth outranks it (a rating over
    behaviour, a measurement over both), or happened later, or, at the same instant, has the greater event id.

Assumes
    The reward rule is the default one. No event is told before it happened: the router moves a time that lies ahead of the
    receipt back to it, and that could swap two events. An event that says no time is the only candidate of its decision.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from bandit.reward import MICROS, Signal

#: How many decisions after its own an event is told, at most. The window of outstanding decisions must be larger by the
#: calls under way: then the oldest outstanding decision is always due, and nothing waits for ever.
LONGEST_LAG = 40

_BAD = (Signal.REPHRASED_QUERY, Signal.IMMEDIATE_RETRY, Signal.SESSION_ABANDONED)
_CONTRADICTED = 0.12
_REPEATED = 0.10
_ASKS_ON = 0.15
_SAYS_NO_TIME = 0.25
_REPORTS_CALL = 0.50
_BATCHED = 0.80
#: Events of one decision happen within so many microseconds of the answer.
_SPAN_US = 2_000
_PROMPTS_OF_A_USER = 7.0
#: Mean pause between two prompts of a user, as a share of the whole run.
_PAUSE = 0.02


@dataclass(frozen=True, slots=True)
class Event:
    """One event about a decision: exactly one of signal, reward and cost."""

    event_id: str
    signal: Signal | None = None
    reward: float | None = None
    #: Of a call report, in US dollars.
    cost_usd: float | None = None
    #: Microseconds between the answer and the event; None: the event says no time.
    after_us: int | None = None
    #: After how many further decisions it is told; once for each entry.
    lags: tuple[int, ...] = (0,)
    #: Whether it travels in a BatchReward.
    batched: bool = False

    @property
    def counts(self) -> bool:
        """Whether it maps to a reward."""
        return self.reward is not None or self.signal not in (None, Signal.FOLLOW_UP_QUESTION)


def feedback(key: str, score: float, cost_usd: float | None, rng: np.random.Generator) -> tuple[Event, ...]:
    """Return what is told about one answer; `key` makes the event ids unique.

    `bandit.reward.fold` of these events is the score, in whatever order, number and company they arrive.
    """
    contradicted = rng.random() < _CONTRADICTED
    first, second = sorted(int(t) for t in rng.integers(1, _SPAN_US, 2))
    events = _contradicted(key, score, first, second, rng) if contradicted else [_truth(f"{key}/a", score, first, rng)]
    if not contradicted and rng.random() < _SAYS_NO_TIME:
        events = [replace(events[0], after_us=None)]
    if rng.random() < _ASKS_ON:
        events.append(Event(f"{key}/n", signal=Signal.FOLLOW_UP_QUESTION, after_us=second))
    if cost_usd is not None and rng.random() < _REPORTS_CALL:
        events.append(Event(f"{key}/c", cost_usd=cost_usd, after_us=first))
    return tuple(_told(event, rng) for event in events)


def _truth(event_id: str, score: float, after_us: int, rng: np.random.Generator) -> Event:
    if 0.0 < score < 1.0:
        return Event(event_id, reward=score, after_us=after_us)
    signal = Signal.TASK_COMPLETED if score == 1.0 else _BAD[rng.integers(len(_BAD))]
    return Event(event_id, signal=signal, after_us=after_us)


def _contradicted(key: str, score: float, first: int, second: int, rng: np.random.Generator) -> list[Event]:
    """Return a mistaken sign and the truth, such that the truth decides."""
    ids = (f"{key}/a", f"{key}/b")
    mixed = ids if rng.random() < 0.5 else ids[::-1]
    opposite = 0.0 if score > 0.5 else 1.0
    if 0.0 < score < 1.0:
        return [_truth(mixed[0], opposite, second, rng), _truth(mixed[1], score, first, rng)]
    match int(rng.integers(3)):
        case 0:
            # It happened later; were the times the same after all, the greater id would decide.
            return [_truth(ids[0], opposite, first, rng), _truth(ids[1], score, second, rng)]
        case 1:
            return [_truth(ids[0], opposite, first, rng), _truth(ids[1], score, first, rng)]
        case _:
            thumbs = Signal.THUMBS_UP if score == 1.0 else Signal.THUMBS_DOWN
            return [_truth(mixed[0], opposite, second, rng), Event(mixed[1], signal=thumbs, after_us=first)]


def _told(event: Event, rng: np.random.Generator) -> Event:
    times = 2 if rng.random() < _REPEATED else 1
    lags = tuple(int(lag) for lag in rng.integers(0, LONGEST_LAG + 1, times))
    return replace(event, lags=lags, batched=bool(rng.random() < _BATCHED))


def micros(score: float) -> int:
    """Return a score as the evidence counts it."""
    return round(score * MICROS)


def units(prompts: int, seed: int, rng: np.random.Generator) -> tuple[str, ...]:
    """Return who asks each of `prompts` prompts, in order of time: about one user for every seven prompts.

    Users turn up throughout the run, and come back after pauses. The seed is part of their ids, so that another seed is
    another draw of every hash.
    """
    times: list[float] = []
    names: list[str] = []
    user = 0
    while len(times) < prompts:
        count = min(int(rng.geometric(1.0 / _PROMPTS_OF_A_USER)), prompts - len(times))
        times.extend(rng.random() + np.cumsum(rng.exponential(_PAUSE, count)))
        names.extend([f"user-{seed}-{user}"] * count)
        user += 1
    return tuple(names[i] for i in np.argsort(times))
