"""What `estimate` may be asked: options as values, and what is refused before anything is read."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from router.cli.estimate_options import AskedLearner, AskedPolicy, learner_of, policy_of
from router.cli.main import main


def test_policies() -> None:
    assert policy_of("uniform") == AskedPolicy("uniform")
    assert policy_of("arm:gpt:4") == AskedPolicy("arm:gpt:4", arm_id="gpt:4")
    assert policy_of("floor:0.05") == AskedPolicy("floor:0.05", floor=0.05)
    assert policy_of("floor:0").floor == 0.0


def test_learners() -> None:
    assert learner_of("prior=6:4") == AskedLearner("prior=6:4", prior=(6.0, 4.0))
    text = "kind=top_two, floor=0.02,discount=0.99,every=5"
    assert learner_of(text) == AskedLearner(text, "top_two", None, 0.02, 0.99, 5)


def run(*arguments: str, data_dir: str = "/nowhere") -> Result:
    return CliRunner().invoke(main, ["estimate", "support", "--data-dir", data_dir, *arguments])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--policy", "best"], "'best': this is no policy: write uniform, arm:ID or floor:0.05"),
        (["--policy", "arm:"], "'arm:': this is no policy"),
        (["--policy", "floor:nan"], "a floor is a number from 0 to below 0.5"),
        (["--policy", "floor:0.5"], "a floor is a number from 0 to below 0.5"),
        (["--replay", "prior=6"], "a prior is two positive numbers, alpha and beta, as in 6:4"),
        (["--replay", "prior=0:1"], "a prior is two positive numbers"),
        (["--replay", "prior=inf:1"], "a prior is two positive numbers"),
        (["--replay", "memory=3"], "'memory=3' is no setting of a learner"),
        (["--replay", ""], "'' is no setting of a learner"),
        (["--replay", "discount=0"], "a discount is a number above 0"),
        (["--replay", "every=0.5"], "every is a whole number of outcomes"),
        (["--replay", "floor=0.1,floor=0.2"], "floor is there twice"),
        (["--replay", "kind=greedy"], "kind is thompson or top_two"),
        (["--runs", "0"], "0 is not in the range"),
        (["--start", "2026-01-01T00:00:00"], "does not say its time zone"),
        (["--start", "2026-01-02T00:00:00Z", "--end", "2026-01-02T00:00:00Z"], "must be before --end"),
        ([], "--data-dir /nowhere: holds no embedded Postgres"),
    ],
)
def test_bad_options_are_refused(arguments: list[str], message: str) -> None:
    done = run(*arguments)
    assert (done.exit_code, message in " ".join(done.stderr.split())) == (2, True), done.output


def test_nothing_is_made_by_reading(tmp_path: Path) -> None:
    assert run(data_dir=str(tmp_path / "no")).exit_code == 2
    assert not (tmp_path / "no").exists()


def test_help_needs_no_statistics() -> None:
    code = (
        "import sys; from router.cli.main import main\n"
        "try: main(['estimate', '--help'])\n"
        "except SystemExit: print([m for m in ('numpy', 'scipy', 'sqlalchemy', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "--policy" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"
