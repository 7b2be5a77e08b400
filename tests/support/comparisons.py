"""Shadow comparisons made by hand, for judges to look at."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import blake2b
from uuid import UUID

import psycopg
from running import Router, arm, experiment

from router.v1 import experiments_pb2, judge_pb2, judge_pb2_grpc, types_pb2

#: Arm numbers of `judged_experiment`: the control serves, the challenger is mirrored to.
CONTROL, CHALLENGER = 0, 1


@dataclass(frozen=True)
class Pair:
    """A comparison; the answers of loopback models tell their quality."""

    number: int
    serving_text: str | None
    shadow_text: str | None
    prompt: str | None = "Why is the sky blue?"
    unit: int | None = None
    text_mode: str = "full"
    shadow_arm: int = CHALLENGER
    serving_arm: int = CONTROL
    serving_error: str = ""
    shadow_error: str = ""
    #: The user's reward of the serving answer, in millionths.
    reward_micros: int | None = None

    @property
    def key(self) -> UUID:
        """The decision."""
        return UUID(bytes=blake2b(b"pair %d" % self.number, digest_size=16).digest())

    @property
    def unit_hash(self) -> bytes | None:
        """As tokens have it."""
        return None if self.unit is None else blake2b(b"unit %d" % self.unit, digest_size=8).digest()


def answer(number: int, quality: float, who: str) -> str:
    """What an arm says, of a quality that a loopback judge can read."""
    return f"{who} answers question {number}. [quality {quality:.6f}]"


def pairs(qualities: Sequence[tuple[float, float]], **fields: object) -> list[Pair]:
    """Comparisons of (serving, shadow) qualities."""
    return [
        Pair(i, answer(i, serving, "one"), answer(i, shadow, "the other"), prompt=f"Question {i}?", **fields)  # type: ignore[arg-type]
        for i, (serving, shadow) in enumerate(qualities)
    ]


def judged_experiment(*more: types_pb2.Arm, experiment_id: str = "support") -> experiments_pb2.Experiment:
    """An experiment whose arms have families."""
    return experiment(
        experiment_id,
        arms=[
            arm("plain", role=types_pb2.ROLE_CONTROL, family="anthropic"),
            arm("fancy", family="mistral"),
            *more,
        ],
    )


def run_of(**fields: object) -> judge_pb2.JudgeRun:
    """Settings of a run over it."""
    values = {
        "run_id": "run",
        "experiment_id": "support",
        "arm_id": "fancy",
        "other_arm_id": "plain",
        "judge": "openai:loopback-judge",
        "judge_family": "openai",
        "rubric": "Which one helps more?",
        "sample": 1000,
        "seed": 7,
        **fields,
    }
    return judge_pb2.JudgeRun(**values)  # type: ignore[arg-type]


def stub(router: Router) -> judge_pb2_grpc.JudgeServiceStub:
    """The service."""
    return judge_pb2_grpc.JudgeServiceStub(router.channel)


def add_comparisons(url: str, found: Iterable[Pair], experiment_id: str = "support") -> None:
    """Store comparisons, and the outcomes of their decisions."""
    with psycopg.connect(url) as connection:
        row = connection.execute("SELECT incarnation FROM experiments WHERE experiment_id = %s", (experiment_id,)).fetchone()
        assert row is not None
        now = datetime.now(UTC)
        listed = list(found)
        connection.cursor().executemany(
            "INSERT INTO shadow_comparisons (decision_key, shadow_arm, incarnation, serving_arm, decision_day, decided_at,"
            " recorded_at, unit_hash, request_id, text_mode, prompt, serving_text, serving_model, serving_stop_reason,"
            " serving_provider_request_id, serving_error, shadow_text, shadow_model, shadow_stop_reason,"
            " shadow_provider_request_id, shadow_error)"
            " VALUES (%s, %s, %s, %s, %s, %s, %s, %s, '', %s, %s, %s, '', '', '', %s, %s, '', '', '', %s)",
            [
                (
                    *(p.key, p.shadow_arm, row[0], p.serving_arm, now.date(), now, now, p.unit_hash, p.text_mode, p.prompt),
                    *(p.serving_text, p.serving_error, p.shadow_text, p.shadow_error),
                )
                for p in listed
            ],
        )
        rewarded = [p for p in listed if p.reward_micros is not None]
        connection.cursor().executemany(
            "INSERT INTO outcomes (decision_day, decision_key, incarnation, arm, segment, bucket, rank, occurred_at,"
            " event_id, reward_micros) VALUES (%s, %s, %s, %s, '', %s, 4, %s, 'e', %s)",
            [(now.date(), p.key, row[0], p.serving_arm, now, now, p.reward_micros) for p in rewarded],
        )


async def judge_all(
    service: judge_pb2_grpc.JudgeServiceStub, run_id: str = "run", verdict: judge_pb2.Verdict | None = None
) -> int:
    """Judge what is pending: by the qualities that the answers tell, or always the same; returns how many there were."""
    from router.llm.loopback.judging import compare

    said = {"A": judge_pb2.VERDICT_A, "B": judge_pb2.VERDICT_B, "tie": judge_pb2.VERDICT_TIE}
    pending = await all_pending(service, run_id)
    for one in pending:
        found = verdict if verdict is not None else said[compare(f"{one.answer_a} {one.answer_b}").better]
        request = judge_pb2.RecordVerdictRequest(run_id=run_id, judgment=one.judgment, verdict=found, reason="because")
        assert not (await service.RecordVerdict(request)).duplicate
    return len(pending)


async def all_pending(
    service: judge_pb2_grpc.JudgeServiceStub, run_id: str = "run", page_size: int = 0
) -> list[judge_pb2.PendingJudgment]:
    """Read every page."""
    found: list[judge_pb2.PendingJudgment] = []
    token = ""
    while True:
        request = judge_pb2.ListPendingJudgmentsRequest(run_id=run_id, page_size=page_size, page_token=token)
        page = await service.ListPendingJudgments(request)
        found.extend(page.judgments)
        token = page.next_page_token
        if not token:
            return found


async def create(service: judge_pb2_grpc.JudgeServiceStub, **fields: object) -> judge_pb2.JudgeRun:
    """Create a run of `run_of`."""
    return (await service.CreateJudgeRun(judge_pb2.CreateJudgeRunRequest(run=run_of(**fields)))).run


async def report_of(service: judge_pb2_grpc.JudgeServiceStub, run_id: str = "run") -> judge_pb2.GetJudgeReportResponse:
    """Read the report."""
    return await service.GetJudgeReport(judge_pb2.GetJudgeReportRequest(run_id=run_id))
