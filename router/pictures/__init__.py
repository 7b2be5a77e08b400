"""Pictures for data scientists: functions that draw an experiment, from plain values or from the router's replies.

    from router.pictures import best, history_of_rows, save

    figure = best(history_of_rows(analysis.snapshots(url, "support-model").to_pylist()))
    save(figure, Path("best.png"))

Each returns a matplotlib Figure of 12 by 6.75 inches, dark on white, with what it found as its title. None touches pyplot or
needs a display. Equal data gives equal figures, and `save` equal files. NothingToDrawError says what is missing.
"""

from router.pictures.beliefs import posteriors
from router.pictures.costs import Worth, pareto, worth_of
from router.pictures.drifts import Watched, drift
from router.pictures.estimates import estimates
from router.pictures.feedback import coverage
from router.pictures.histories import Regret, best, estimated_regret, regret, shares
from router.pictures.plans import strategies
from router.pictures.style import save
from router.pictures.values import (
    Belief,
    Covered,
    Moment,
    NothingToDrawError,
    beliefs_of,
    coverage_of,
    history_of,
    history_of_rows,
    name_of,
)

__all__ = [
    "Belief",
    "Covered",
    "Moment",
    "NothingToDrawError",
    "Regret",
    "Watched",
    "Worth",
    "beliefs_of",
    "best",
    "coverage",
    "coverage_of",
    "drift",
    "estimated_regret",
    "estimates",
    "history_of",
    "history_of_rows",
    "name_of",
    "pareto",
    "posteriors",
    "regret",
    "save",
    "shares",
    "strategies",
    "worth_of",
]
