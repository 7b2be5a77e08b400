"""A support backend: the router chooses who answers, and what users do next goes back to it.

The receipt of an answer, its decision id, goes to the page with the answer and comes back with the feedback. So the backend
keeps no state, and any copy of it can take the feedback on another one's answer.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Literal

from anthropic import AsyncAnthropic
from fastapi import FastAPI, HTTPException, Request
from pydantic import BaseModel, Field

from router.client import Arm, AsyncRouterClient, InvalidArgument, RouterError, prompt_similarity
from router.llm import AsyncRoutedAnthropic

EXPERIMENT = "support-model"
#: Answers when no router can be reached: an outage of the router costs learning, not answers.
FALLBACK = Arm("haiku", "claude-haiku-4-5-20251001", {"max_tokens": 1024})


class Question(BaseModel):
    """What the page sends."""

    session_id: str = Field(min_length=1, max_length=256)
    turn_id: str = Field(min_length=1, max_length=256)
    user_id: str = Field(default="", max_length=256)
    text: str = Field(min_length=1, max_length=20_000)
    #: The user's question before this one: it shows whether they had to ask again.
    previous_text: str = Field(default="", max_length=20_000)


class Answer(BaseModel):
    """What the page shows, and the receipt that it keeps beside it."""

    text: str
    receipt: str


class Feedback(BaseModel):
    """What the user did with an answer."""

    receipt: str
    session_id: str
    turn_id: str
    #: copied: they took it; again: they pressed "regenerate"; up, down: they said so.
    action: Literal["copied", "again", "up", "down"]


SIGNALS = {"copied": "task_completed", "again": "immediate_retry", "up": "thumbs_up", "down": "thumbs_down"}


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Keep one channel to the router and one client of the models for the life of the process."""
    target = os.environ.get("BANDIT_ROUTER_SERVER", "127.0.0.1:50051")
    async with (
        AsyncAnthropic() as models,
        AsyncRouterClient(target, fallback_arms={EXPERIMENT: FALLBACK}) as router,
        AsyncRoutedAnthropic(models, router) as routed,
    ):
        app.state.router, app.state.routed = router, routed
        yield


app = FastAPI(title="support", lifespan=lifespan)


@app.post("/answers")
async def answer(question: Question, request: Request) -> Answer:
    """Answer a question with the arm that the router chooses."""
    similarity = prompt_similarity(question.text, question.previous_text) if question.previous_text else None
    found = await request.app.state.routed.messages.create(
        experiment_id=EXPERIMENT,
        unit_id=question.user_id,
        session_id=question.session_id,
        turn_id=question.turn_id,
        prompt_similarity=similarity,
        max_tokens=1024,
        messages=[{"role": "user", "content": question.text}],
    )
    text = "".join(block.text for block in found.response.content if block.type == "text")
    return Answer(text=text, receipt=found.decision.decision_id)


@app.post("/feedback", status_code=202)
async def feedback(given: Feedback, request: Request) -> dict[str, str]:
    """Tell the router what the user did."""
    # The same click is the same event, however often the page sends it.
    event_id = f"{given.session_id}/{given.turn_id}/{given.action}"
    try:
        result = await request.app.state.router.reward(given.receipt, event_id=event_id, signal=SIGNALS[given.action])
    except InvalidArgument as error:
        raise HTTPException(422, "this receipt is not one of ours") from error
    except RouterError as error:
        raise HTTPException(503, "try again later", headers={"Retry-After": "5"}) from error
    return {"status": result.status.name.lower()}
