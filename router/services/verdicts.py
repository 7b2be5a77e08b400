"""What verdicts say, as a message and in a sentence."""

from typing import Final

from bandit.score_intervals import Estimate
from bandit.verdicts import FEWEST_PAIRS, MOST_FOR_ONE_PLACE, MOST_INVALID, Conclusion, Flaw, Report
from router.v1 import judge_pb2 as pb

_CONCLUSIONS: Final = {
    Conclusion.ARM: pb.GetJudgeReportResponse.CONCLUSION_ARM,
    Conclusion.OTHER: pb.GetJudgeReportResponse.CONCLUSION_OTHER,
    Conclusion.UNDECIDED: pb.GetJudgeReportResponse.CONCLUSION_UNDECIDED,
    Conclusion.UNUSABLE: pb.GetJudgeReportResponse.CONCLUSION_UNUSABLE,
}


def report_message(run: pb.JudgeRun, report: Report) -> pb.GetJudgeReportResponse:
    """Return the reply about a run."""
    message = pb.GetJudgeReportResponse(
        run=run,
        judged_pairs=report.judged_pairs,
        invalid_pairs=report.invalid_pairs,
        pending_pairs=report.pending_pairs,
        arm_wins=_rate(report.arm_wins),
        other_wins=_rate(report.other_wins),
        ties=_rate(report.ties),
        net=_rate(report.net),
        conclusion=_CONCLUSIONS[report.conclusion],
        summary=summary(run, report),
        first_wins=_rate(report.first_wins),
        position_biased=report.position_biased,
    )
    for name in ("order_agreement", "self_agreement", "user_agreement"):
        estimate = getattr(report, name)
        if estimate is not None:
            getattr(message, name).CopyFrom(_rate(estimate))
    return message


def summary(run: pb.JudgeRun, report: Report) -> str:
    """Return what follows of the verdicts, for people."""
    pending = f"; {report.pending_pairs:,} pairs are still to be judged" if report.pending_pairs else ""
    if report.flaws:
        return f"Unusable: {', and '.join(_reason(flaw, report) for flaw in report.flaws)}{pending}."
    net = report.net
    of = f"net win rate {_signed(net.value)}, 95 % interval {_signed(net.lower)} to {_signed(net.upper)}"
    of += f", {report.judged_pairs:,} pairs"
    if report.conclusion is Conclusion.UNDECIDED:
        return f"Undecided between {run.arm_id} and {run.other_arm_id}: {of}{pending}."
    preferred, rejected = run.arm_id, run.other_arm_id
    if report.conclusion is Conclusion.OTHER:
        preferred, rejected = rejected, preferred
    return f"The judge prefers {preferred} to {rejected}: {of} (above 0 is for {run.arm_id}){pending}."


def _reason(flaw: Flaw, report: Report) -> str:
    match flaw:
        case Flaw.TOO_FEW_PAIRS:
            return f"{report.judged_pairs:,} pairs have a valid verdict, fewer than {FEWEST_PAIRS}"
        case Flaw.TOO_MANY_INVALID:
            share = report.invalid_pairs / (report.invalid_pairs + report.judged_pairs)
            return f"{share:.0%} of the judged pairs are invalid, more than {MOST_INVALID:.0%}"
        case Flaw.POSITION:
            first = report.first_wins.value or 0.0
            place, share = ("first", first) if first > 0.5 else ("second", 1.0 - first)
            return (
                f"the verdicts are the position's: {share:.0%} of them are for the answer shown {place}"
                f" (at {MOST_FOR_ONE_PLACE:.0%}, half are the position's)"
            )


def _rate(estimate: Estimate) -> pb.JudgeRate:
    return pb.JudgeRate(estimate=estimate.value, lower=estimate.lower, upper=estimate.upper, n=estimate.n)


def _signed(value: float | None) -> str:
    return "unknown" if value is None else f"{100 * value:+.1f} %".replace("-", "\u2212")
