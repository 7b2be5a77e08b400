"""Pictures: what is drawn is what was given, titles say what it means, and equal data gives equal files."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib.collections import PathCollection, PolyCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from scipy.stats import beta as beta_law

from bandit.arm_estimates import estimate_arms
from bandit.drift import drift as drift_of
from bandit.planning import Question, Risk, plan
from bandit.reward import Evidence
from router.pictures import (
    Belief,
    Covered,
    Moment,
    NothingToDrawError,
    Watched,
    Worth,
    best,
    coverage,
    drift,
    estimated_regret,
    estimates,
    history_of_rows,
    pareto,
    posteriors,
    regret,
    save,
    shares,
    strategies,
)
from router.pictures.style import PALETTE, apart, day_of

T0 = datetime(2026, 11, 22, 10, 0, tzinfo=UTC)
HOUR_US = 3_600_000_000


def title(figure: Figure) -> str:
    return figure.get_suptitle()


def line(figure: Figure, gid: str, which: int = 0) -> Line2D:
    return [one for one in figure.axes[0].lines if one.get_gid() == gid][which]


def words(figure: Figure) -> str:
    axes = figure.axes[0]
    ticks = [label.get_text() for label in axes.get_yticklabels()]
    return " | ".join([text.get_text() for text in [*figure.texts, *axes.texts]] + ticks)


def moment(minutes: float, *arms: Belief) -> Moment:
    return Moment(T0 + timedelta(minutes=minutes), arms)


HISTORY = [
    moment(0, Belief("a", 1, 1, 0, 0.5, 0.5), Belief("b", 1, 1, 0, 0.5, 0.5)),
    moment(2, Belief("a", 11, 11, 20, 0.2, 0.3), Belief("b", 21, 11, 30, 0.8, 0.7)),
    moment(5, Belief("a", 13, 15, 26, 0.02, 0.1), Belief("b", 61, 31, 90, 0.98, 0.9)),
]


def test_posteriors_draw_intervals_means_and_what_was_observed() -> None:
    arms = [Belief("haiku", 31, 71, 100, 0.003, observed_mean=0.3), Belief("sonnet", 61, 41, 100, 0.997)]
    figure = posteriors(arms, experiment="support")
    assert title(figure) == "sonnet leads: it is the best arm with probability over 0.99"
    # The best on top: haiku is in row 0.
    low, high = line(figure, "interval").get_xdata()
    assert (low, high) == pytest.approx(beta_law.interval(0.95, 31, 71), abs=1e-9)
    assert line(figure, "mean").get_xdata()[0] == pytest.approx(31 / 102)
    assert line(figure, "observed").get_xdata()[0] == 0.3
    assert "haiku" in words(figure)
    assert "100 outcomes, P(best) over 0.99" in words(figure)
    assert "100 outcomes, P(best) 0.00" in words(figure)
    density = next(one for one in figure.axes[0].collections if isinstance(one, PolyCollection))
    shape = density.get_paths()[0].vertices
    top = shape[shape[:, 1].argmax()]
    assert top[0] == pytest.approx(30 / 100, abs=0.003), "the mode of Beta(31, 71)"


def test_a_density_is_shaped_as_the_law_is() -> None:
    figure = posteriors([Belief("a", 5, 9)])
    shape = figure.axes[0].collections[0].get_paths()[0].vertices
    x, height = shape[5:250, 0], shape[5:250, 1]
    wanted = beta_law.pdf(x, 5, 9) / beta_law.pdf(4 / 12, 5, 9)
    assert height[height > 0] / 0.78 == pytest.approx(wanted[height > 0], abs=0.01)


@pytest.mark.parametrize(
    ("arms", "says"),
    [
        ([Belief("a", 3, 2), Belief("b", 2, 3)], r"Undecided: a is the best arm with probability 0\.76$"),
        ([Belief("a", 3, 2)], "a is the only arm"),
        ([Belief("a", 3, 2, active=False)], "Every arm is retired"),
        ([Belief("a", 90, 10, active=False), Belief("b", 2, 3)], "b is the only arm"),
    ],
)
def test_the_title_says_who_leads(arms: list[Belief], says: str) -> None:
    # Where P(best) is not given it is computed: Beta(3, 2) exceeds Beta(2, 3) with probability 53 / 70.
    assert re.match(says, title(posteriors(arms)))


@pytest.mark.parametrize(("alpha", "beta"), [(0.01, 0.01), (0.5, 1e6), (1e9, 1e9), (1.0, 1.0)])
def test_extreme_posteriors_are_drawn(alpha: float, beta: float, tmp_path: Path) -> None:
    figure = posteriors([Belief("a", alpha, beta), Belief("b", 2, 2)])
    for one in figure.axes[0].collections:
        assert np.isfinite(one.get_paths()[0].vertices).all()
    save(figure, tmp_path / "a.svg")


def test_shares_stack_to_one_and_hold_until_the_next_snapshot() -> None:
    figure = shares(HISTORY)
    assert title(figure) == "b is given 90% of the traffic, 50% at first"
    lower, upper = figure.axes[0].collections
    x = [day_of(one.at) for one in HISTORY]
    edge = {round(float(height), 6) for height in lower.get_paths()[0].vertices[:, 1]}
    assert edge == {0.0, 0.5, 0.7, 0.9}
    at = lower.get_paths()[0].vertices
    # Just before the second snapshot the first still holds.
    assert any(abs(px - x[1]) < 1e-9 and abs(py - 0.5) < 1e-9 for px, py in at)
    assert upper.get_paths()[0].vertices[:, 1].max() == pytest.approx(1.0)


def test_arms_beyond_the_palette_are_one_band() -> None:
    arms = [Belief(f"arm{i}", 2 + i, 20 - i, 20, None, 1 / 12) for i in range(12)]
    figure = shares([Moment(T0, tuple(arms))])
    assert len(figure.axes[0].collections) == 9
    assert "4 other arms" in words(figure)
    assert len(posteriors([Belief(f"arm{i}", 2 + i, 60 - i) for i in range(50)]).axes[0].get_yticks()) == 20


def test_an_arm_has_one_colour_in_all_pictures() -> None:
    # b ranks first, and is the second of the definition.
    assert line(posteriors(HISTORY[-1].arms), "mean", 1).get_color() == PALETTE[1]
    assert line(best(HISTORY), "b").get_color() == PALETTE[1]
    both = [covered("b", 0, 20, 5), covered("a", 0, 10, 5)]
    assert coverage(both, arm_ids=["a", "b"]).axes[0].containers[0].lines[0].get_color() == PALETTE[1]


def test_best_draws_the_probabilities() -> None:
    figure = best(HISTORY, experiment="support")
    assert title(figure) == "b leads: it is the best arm with probability 0.98"
    assert list(line(figure, "b").get_ydata()) == [0.5, 0.8, 0.98]
    assert list(line(figure, "a").get_ydata()) == [0.5, 0.2, 0.02]
    assert list(line(figure, "a").get_xdata()) == [day_of(one.at) for one in HISTORY]
    assert line(figure, "a").get_drawstyle() == "steps-post", "a snapshot holds until the next one"
    # In another order of the moments, and with P(best) left out, the same.
    assert list(line(best(HISTORY[::-1]), "b").get_ydata()) == [0.5, 0.8, 0.98]
    (computed,) = line(best([moment(0, Belief("a", 1, 1), Belief("b", 2, 1))]), "b").get_ydata()[:1]
    assert computed == pytest.approx(2 / 3, abs=1e-8), "P(Beta(2, 1) > Beta(1, 1))"


def test_regret_is_the_expected_loss_of_the_outcomes_since_the_start() -> None:
    found = estimated_regret(HISTORY)
    # By another method: draws from the last posteriors.
    rng = np.random.default_rng(1)
    draws = np.stack([rng.beta(13, 15, 10**6), rng.beta(61, 31, 10**6)])
    loss = (draws.max(axis=0) - draws).mean(axis=1)
    assert found.lost == pytest.approx([0, 20 * loss[0] + 30 * loss[1], 26 * loss[0] + 90 * loss[1]], rel=0.01)
    assert found.equal == pytest.approx([0, 50 * loss.mean(), 116 * loss.mean()], rel=0.01)
    figure = regret(HISTORY)
    assert title(figure) == f"About {found.lost[-1]:.0f} successes lost, {found.equal[-1]:.0f} with equal shares"
    assert list(line(figure, "lost").get_ydata()) == list(found.lost)
    assert list(line(figure, "equal").get_ydata()) == list(found.equal)
    assert {line(figure, name).get_drawstyle() for name in ("lost", "equal")} == {"steps-post"}


def test_regret_keeps_what_retired_arms_lost() -> None:
    gone = [moment(0, Belief("a", 1, 1, 0), Belief("b", 1, 1, 0)),
            moment(1, Belief("a", 1, 11, 10), Belief("b", 11, 1, 10)),
            moment(2, Belief("b", 91, 11, 100))]  # fmt: skip
    lost = estimated_regret(gone).lost
    # Ten outcomes of an arm of mean 1 / 12 beside one of 91 / 102, for ever.
    assert lost[1] == pytest.approx(10 * (91 / 102 - 1 / 12), rel=0.01)
    assert lost[2] == pytest.approx(lost[1], rel=0.01)


def test_evidence_that_is_dropped_gives_nothing_back() -> None:
    kept = [*HISTORY, moment(9, Belief("a", 13, 15, 20), Belief("b", 61, 31, 60))]
    found = estimated_regret(kept)
    assert found.lost[3] == found.lost[2] > 0.0
    assert found.equal[3] == found.equal[2]


def test_rows_of_the_view_are_a_history() -> None:
    row = {"arm_version": 1, "active": True, "beta": 2.0, "n": 3, "probability_best": 0.5, "allocation": 0.5}
    rows = [{**row, "taken_at": T0 + timedelta(minutes=m), "arm_id": arm, "alpha": m + 1.0} for m in (1, 0) for arm in "ab"]
    rows.append({**rows[0], "arm_version": 2, "active": False})
    history = history_of_rows(rows)
    assert [one.at for one in history] == [T0, T0 + timedelta(minutes=1)]
    assert [(arm.arm_id, arm.alpha, arm.active) for arm in history[1].arms] == [
        ("a", 2.0, True),
        ("b", 2.0, True),
        ("a v2", 2.0, False),
    ]


def covered(arm: str, hour: int, decisions: int, with_feedback: int) -> Covered:
    start = T0 + timedelta(hours=hour)
    return Covered(arm, start, start + timedelta(hours=1), decisions, with_feedback)


def test_coverage_says_whether_it_differs() -> None:
    entries = [covered("a", 0, 400, 200), covered("b", 0, 400, 100), covered("a", 1, 100, 50), covered("b", 1, 100, 20)]
    figure = coverage(entries)
    assert title(figure) == "Feedback covers the arms differently: b 24%, a 50%"
    drawn = [list(one[0].get_ydata()) for one in figure.axes[0].containers]
    assert drawn == [[0.5, 0.5], [0.25, 0.2]]
    # The Wilson interval of 20 of 100: (.1334, .2888).
    (segments,) = figure.axes[0].containers[1][2]
    assert segments.get_segments()[1][:, 1] == pytest.approx([0.1334, 0.2888], abs=1e-4)
    same = [covered("a", 0, 400, 200), covered("b", 0, 400, 201)]
    assert title(coverage(same)) == "Feedback covers the arms alike: 50% of the decisions"
    assert title(coverage([covered("a", 0, 3, 1)])) == "Feedback covers 33% of the decisions"
    assert title(coverage([covered("a", 0, 3, 3), covered("b", 0, 0, 0)])) == "Feedback covers 100% of the decisions"


def logged(n: int, means: tuple[float, float, float], shares_: tuple[float, float, float]) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(2)
    arms = rng.choice(3, n, p=shares_)
    return (rng.random(n) < np.array(means)[arms]).astype(float), arms, np.array(shares_)[arms]


def test_estimates_are_drawn_with_their_intervals() -> None:
    rewards, arms, propensities = logged(2000, (0.2, 0.8, 0.5), (0.3, 0.6, 0.1))
    found = estimate_arms(rewards, arms, propensities, 3, allocations=np.tile([0.3, 0.6, 0.1], (2000, 1)))
    figure = estimates(["x", "y", "z"], found, experiment="support")
    dr = [one.dr.value for one in found]
    assert title(figure) == f"y earns most: {dr[1]:.3f}, z {dr[2]:.3f}"
    for name in ("raw", "ips", "snips", "dr", "adaptive"):
        # The first arm is the top row, which is drawn last.
        assert [line(figure, name, i).get_xdata()[0] for i in (2, 1, 0)] == [getattr(one, name).value for one in found]
    ends = [list(one.get_xdata()) for one in figure.axes[0].lines if one.get_gid() == "interval"]
    assert ends[0] == [found[2].raw.lower, found[2].raw.upper]
    labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert labels == ["raw mean", "IPS", "SNIPS", "doubly robust", "adaptive"]


def test_estimates_say_what_is_too_little_and_what_has_an_alarm() -> None:
    rewards, arms, propensities = logged(40, (0.4, 0.5, 0.5), (0.5, 0.49, 0.01))
    arms[arms == 2], arms[0], propensities[0] = 0, 2, 0.01
    found = estimate_arms(rewards, arms, propensities, 3)
    figure = estimates(["x", "y", "z"], found)
    assert "no estimates" in words(figure)
    assert "overlaps" in title(figure)
    alarmed = [one for one in found if one.ips is not None and one.ips.warnings]
    hollow = [one for one in figure.axes[0].lines if one.get_gid() == "ips" and one.get_markerfacecolor() == "white"]
    assert len(hollow) == len(alarmed)
    with pytest.raises(NothingToDrawError, match="no arm can be estimated: arm 0 has 1 decisions"):
        estimates(["x"], estimate_arms([1.0], [0], [0.5], 1))
    with pytest.raises(ValueError, match="arm_ids has 1 names: there is none for arm 1"):
        estimates(["x"], found)


def watched(name: str, means: list[float], n: int = 50) -> Watched:
    buckets = tuple((i * HOUR_US, Evidence(round(n * m) * 10**6, (n - round(n * m)) * 10**6)) for i, m in enumerate(means))
    return Watched(name, buckets, drift_of(buckets, (len(means) + 1) * HOUR_US))


def test_drift_draws_hours_and_the_change() -> None:
    figure = drift([watched("a", [0.6] * 6 + [0.2] * 4), watched("b", [0.5] * 10)])
    assert title(figure) == "a fell from 0.60 to 0.20 at 1970-01-01 06:00"
    first, second = (one for one in figure.axes[0].collections if isinstance(one, PathCollection))
    assert list(first.get_offsets()[:, 1]) == pytest.approx([0.6] * 6 + [0.2] * 4)
    assert list(second.get_offsets()[:, 1]) == pytest.approx([0.5] * 10)
    assert list(line(figure, "before").get_ydata()) == pytest.approx([0.6, 0.6])
    assert list(line(figure, "after").get_ydata()) == pytest.approx([0.2, 0.2])
    assert sum(one.get_gid() == "after" for one in figure.axes[0].lines) == 1
    assert title(drift([watched("b", [0.5] * 10)])) == "No arm has changed, as far as the outcomes tell"
    with pytest.raises(NothingToDrawError, match="no arm has an outcome"):
        drift([Watched("b", (), drift_of((), HOUR_US))])


def test_a_plan_is_drawn_as_days_against_regret() -> None:
    found = plan(Question(0.02, 0.62, 5000.0, 2 * HOUR_US, Risk.LOW))
    figure = strategies(found)
    assert title(figure) == "Begin with a canary, then run a bandit"
    for one in found.strategies:
        if one.forecast is None:
            assert not [drawn for drawn in figure.axes[0].lines if drawn.get_gid() == one.strategy.value]
            continue
        drawn = line(figure, one.strategy.value)
        assert (drawn.get_xdata()[0], drawn.get_ydata()[0]) == (one.forecast.days, one.forecast.expected_regret)
    rings = {one.get_xdata()[0] for one in figure.axes[0].lines if one.get_gid() == "ring"}
    assert rings == {one.forecast.days for one in found.strategies if one.strategy in (found.recommended, found.then)}


ALL = [
    lambda: posteriors(HISTORY[-1].arms, experiment="support"),
    lambda: shares(HISTORY),
    lambda: best(HISTORY),
    lambda: regret(HISTORY),
    lambda: coverage([covered("a", 0, 10, 5), covered("b", 0, 10, 5)]),
    lambda: estimates("xyz", estimate_arms(*logged(200, (0.2, 0.8, 0.5), (0.3, 0.6, 0.1)), 3)),
    lambda: drift([watched("a", [0.5, 0.6])]),
    lambda: strategies(plan(Question(0.02, 0.62, 5000.0, 0))),
]


@pytest.mark.parametrize("draw", ALL)
def test_every_picture_has_a_finding_units_and_room(draw: Callable[[], Figure], tmp_path: Path) -> None:
    figure = draw()
    axes = figure.axes[0]
    assert len(title(figure)) > 10
    assert axes.get_xlabel()
    assert tuple(figure.get_size_inches()) == (12.0, 6.75)
    assert figure.get_facecolor() == (1.0, 1.0, 1.0, 1.0)
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()
    width, height = figure.canvas.get_width_height()
    low, high = axes.get_xlim()
    ticks = [one for one in axes.get_xticklabels() if low <= one.get_position()[0] <= high]  # others are not drawn
    for text in [figure._suptitle, *figure.texts, *axes.texts, *ticks, *axes.get_yticklabels()]:
        if text.get_text():
            box = text.get_window_extent(renderer)
            assert box.x0 > -1, text
            assert box.x1 < width + 1, text
            assert box.y1 < height + 1, text
    paths = [tmp_path / f"{i}.svg" for i in (1, 2)]
    for path in paths:
        save(draw(), path)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    ET.parse(paths[0])


def test_files_are_of_the_kind_that_their_names_say(tmp_path: Path) -> None:
    for name, begins in (("a.png", b"\x89PNG"), ("a.PDF", b"%PDF"), ("a.svg", b"<?xml")):
        save(best(HISTORY), tmp_path / name)
        assert (tmp_path / name).read_bytes().startswith(begins)
    with pytest.raises(ValueError, match=r"a\.gif: the name must end with \.png, \.svg or \.pdf"):
        save(best(HISTORY), tmp_path / "a.gif")
    with pytest.raises(FileNotFoundError):
        save(best(HISTORY), tmp_path / "nowhere" / "a.png")


def test_odd_names_are_written_as_they_are(tmp_path: Path) -> None:
    arms = [Belief("$a_{1}$", 3, 2, 1, None, 0.5), Belief("_b", 2, 3, 1, None, 0.3), Belief("c" * 90, 1, 3, 1, None, 0.2)]
    for figure in (posteriors(arms), best([Moment(T0, tuple(arms))]), shares([Moment(T0, tuple(arms))])):
        save(figure, tmp_path / "odd.png")
        said = words(figure).replace(r"\$", "$")
        assert "$a_{1}$" in said
        assert "_b" in said
        assert "c" * 90 not in said


def test_what_cannot_be_drawn_is_refused_by_name() -> None:
    for draw in (shares, best, regret):
        with pytest.raises(NothingToDrawError, match="the history has no snapshot"):
            draw([])
    with pytest.raises(NothingToDrawError, match="there is no arm"):
        posteriors([])
    with pytest.raises(NothingToDrawError, match="no decisions were made"):
        coverage([covered("a", 0, 0, 0)])
    with pytest.raises(ValueError, match="allocation of arm 'a' is None"):
        shares([moment(0, Belief("a", 1, 1))])
    for field, value in (("alpha", 0.0), ("beta", float("nan")), ("probability_best", 1.5), ("n", -1)):
        with pytest.raises(ValueError, match=f"^{field} of arm 'a' is"):
            Belief(**{"arm_id": "a", "alpha": 1.0, "beta": 1.0, field: value})
    with pytest.raises(ValueError, match=r"at is .*time zone"):
        Moment(datetime(2026, 11, 22), ())
    with pytest.raises(ValueError, match=r"covered of arm 'a' is 11: it must be from 0 to its decisions, 10"):
        covered("a", 0, 10, 11)
    with pytest.raises(ValueError, match="it must be before its end"):
        Covered("a", T0, T0, 1, 1)


def test_heights_are_kept_apart_and_near() -> None:
    assert apart([0.5, 0.1, 0.9], 0.05) == [0.5, 0.1, 0.9]
    assert apart([0.5, 0.5], 0.1) == pytest.approx([0.45, 0.55])
    found = apart([0.0, 0.0, 0.05, 0.7, 0.71], 0.1)
    assert np.diff(found).min() >= 0.1 - 1e-12
    assert np.mean(found[:3]) == pytest.approx(np.mean([0.0, 0.0, 0.05]))


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return float(np.dot([0.2126, 0.7152, 0.0722], linear))


def test_names_can_be_read_on_white() -> None:
    from router.pictures.style import FAINT, INK, darker

    # WCAG: 3 to 1 for large or bold text, 4.5 to 1 for small text.
    for colour in PALETTE:
        assert 1.05 / (luminance(darker(colour)) + 0.05) >= 3.0, colour
    for colour in (INK, FAINT):
        assert 1.05 / (luminance(colour) + 0.05) >= 4.5, colour


def test_no_display_and_no_pyplot() -> None:
    import subprocess
    import sys

    code = "import sys, router.pictures; print([m for m in sys.modules if m in ('matplotlib.pyplot', 'tkinter')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_replys_arms_are_beliefs() -> None:
    from router.pictures import beliefs_of
    from router.v1 import types_pb2

    arm = SimpleNamespace(arm_id="a", version=2, alpha=2.0, beta=3.0, n=3, probability_best=0.4, allocation=0.6,
                          state=types_pb2.ARM_STATE_RETIRED)  # fmt: skip
    (found,) = beliefs_of([arm], {("a", 2): 0.25, ("a", 1): 0.9})
    assert found == Belief("a v2", 2.0, 3.0, 3, 0.4, 0.6, False, 0.25)


# Reward against cost

DEAR = Worth("dear", 0.93, 0.92, 0.94, 0.015, 0.014, 0.016)
CHEAP = Worth("cheap", 0.79, 0.78, 0.8, 0.00003, 0.00002, 0.00004)
BEATEN = Worth("beaten", 0.7, 0.6, 0.8, 0.001, 0.0009, 0.0011)


def test_pareto_draws_means_intervals_and_the_front() -> None:
    figure = pareto([DEAR, CHEAP, BEATEN], experiment="support")
    assert title(figure) == "dear: 0.14 more reward at 500 times the cost; 1 of 3 arms is beaten"
    axes = figure.axes[0]
    assert axes.get_xscale() == "log"
    arms = [one for one in axes.lines if one.get_gid() == "arm"]
    assert [(one.get_xdata()[0], one.get_ydata()[0]) for one in arms] == [(0.015, 0.93), (0.00003, 0.79), (0.001, 0.7)]
    assert [one.get_markerfacecolor() == "white" for one in arms] == [False, False, True]
    assert line(figure, "reward interval", 1).get_ydata() == pytest.approx([0.78, 0.8])
    assert line(figure, "cost interval", 0).get_xdata() == pytest.approx([0.014, 0.016])
    front = line(figure, "front")
    assert (list(front.get_xdata()), list(front.get_ydata())) == ([0.00003, 0.015], [0.79, 0.93])
    assert not [one for one in axes.lines if one.get_gid() in ("allocation", "ceiling", "declared")]


def test_pareto_draws_the_allocation_the_ceiling_and_what_was_declared() -> None:
    arms = [replace(DEAR, allocation=0.2, declared_usd=0.02), replace(CHEAP, allocation=0.8)]
    figure = pareto(arms, ceiling_usd=0.004)
    present = line(figure, "allocation")
    assert (present.get_xdata()[0], present.get_ydata()[0]) == pytest.approx((0.2 * 0.015 + 0.8 * 0.00003, 0.818))
    assert line(figure, "ceiling").get_xdata()[0] == 0.004
    assert list(line(figure, "declared").get_xdata()) == [0.015, 0.02]
    assert "dear, share 20.0%" in words(figure)
    assert r"ceiling \$0.004" in words(figure)


def test_pareto_draws_no_interval_that_is_not_known() -> None:
    """Of one call: a line as wide as the marker would pass for certainty."""
    figure = pareto([DEAR, replace(CHEAP, cost_lower=None, cost_upper=None), BEATEN])
    assert figure.axes[0].get_xscale() == "log"
    intervals = [one for one in figure.axes[0].lines if one.get_gid() == "cost interval"]
    assert [list(one.get_xdata()) for one in intervals] == [[0.014, 0.016], [0.0009, 0.0011]]
    assert len([one for one in figure.axes[0].lines if one.get_gid() == "reward interval"]) == 3


@pytest.mark.parametrize(
    ("arms", "says"),
    [
        ([DEAR], r"dear is the only arm: it earns 0.930 at \$0.015"),
        ([DEAR, replace(DEAR, arm_id="x", reward=0.93, cost_usd=0.0155)], "dear earns most and costs least"),
        ([DEAR, Worth("free", 0.5, 0.5, 0.5, 0, 0, 0)], "dear: 0.43 more reward than free"),
        (
            [DEAR, CHEAP, BEATEN, replace(BEATEN, arm_id="too")],
            "dear: 0.14 more reward at 500 times the cost; 2 of 4 arms are beaten",
        ),
    ],
)
def test_the_title_says_what_more_reward_costs(arms: list[Worth], says: str, tmp_path: Path) -> None:
    figure = pareto(arms)
    assert title(figure) == says
    save(figure, tmp_path / "pareto.svg")


def test_outcomes_become_means_with_intervals() -> None:
    worth = Worth.of_outcomes("a", [0, 1, 1, 0], [0.1, 0.2, 0.3, 0.4])
    assert (worth.reward, worth.cost_usd) == pytest.approx((0.5, 0.25))
    assert worth.reward_upper - 0.5 == pytest.approx(1.959964 * (1 / 3) ** 0.5 / 2)
    assert worth.cost_lower == pytest.approx(0.25 - 1.959964 * 0.1290994 / 2)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: pareto([]), "there is no arm with a cost"),
        (lambda: replace(DEAR, reward=float("nan")), "reward of arm 'dear' is nan"),
        (lambda: replace(DEAR, cost_usd=0.5), "cost_usd of arm 'dear' is 0.5 in"),
        (lambda: replace(DEAR, cost_lower=None), "cost_usd of arm 'dear' has one end of its interval"),
        (lambda: replace(DEAR, cost_lower=None, cost_upper=None, cost_usd=-0.5), "cost_usd of arm 'dear' is -0.5"),
        (lambda: replace(DEAR, declared_usd=-1.0), "declared_usd of arm 'dear' is -1"),
        (lambda: replace(DEAR, allocation=1.5), "allocation of arm 'dear' is 1.5"),
        (lambda: Worth.of_outcomes("a", [], []), "outcomes of arm 'a': there must be a row of at least two"),
        (lambda: Worth.of_outcomes("a", [1], [0.1]), "outcomes of arm 'a': there must be a row of at least two"),
    ],
)
def test_what_cannot_be_worth_anything_is_named(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
