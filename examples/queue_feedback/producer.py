"""Reads feedback from a queue and tells the router: each message counts once, however often it comes.

Three rules make that hold, whatever dies in between:

1. The event id is the message's own. A message that comes again repeats it, and the router answers DUPLICATE.
2. A message leaves the queue only after the router answered: then its event is on disk, APPLIED or SPOOLED.
3. What will never be taken, such as a forged decision id, goes to the dead letters and holds nothing else up.
"""

from __future__ import annotations

import json
import logging
import signal
import threading
from collections import Counter
from datetime import datetime
from typing import Any

import click
from feedback_queue import FeedbackQueue, Message

from router.client import RewardEvent, RouterClient, RouterError, Unavailable

log = logging.getLogger("producer")

#: A message that was leased so often and never settled has killed its readers, or is about to.
MAX_ATTEMPTS = 5
#: Of one message, in bytes of JSON: a batch must stay below 16 MiB.
MAX_BODY = 16_384
#: How long to leave a router alone that cannot answer.
REST_S = 1.0


class BadMessageError(ValueError):
    """The message can never be an event."""


def event_of(message: Message) -> RewardEvent:
    """Return the event of a message such as {"decision_id": "…", "signal": "task_completed"}. Raises BadMessageError.

    Types are checked here, since one of them would spoil the whole batch. Values are the router's to judge, one by one.
    """
    body: Any = message.body
    if not isinstance(body, dict) or not isinstance(body.get("decision_id"), str) or not body["decision_id"]:
        raise BadMessageError("there is no decision_id")
    unknown = body.keys() - {"decision_id", "signal", "reward", "occurred_at", "metadata"}
    if unknown:
        raise BadMessageError(f"unknown fields {', '.join(sorted(unknown))}")
    reward, metadata = body.get("reward"), body.get("metadata") or {}
    if reward is not None and (isinstance(reward, bool) or not isinstance(reward, int | float)):
        raise BadMessageError(f"reward {reward!r} is no number")
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        raise BadMessageError("metadata must be texts by name")
    if len(json.dumps(body)) > MAX_BODY:
        raise BadMessageError(f"longer than {MAX_BODY} bytes")
    try:
        return RewardEvent(
            body["decision_id"],
            event_id=f"queue-{message.id}",
            signal=body.get("signal"),
            reward=reward,
            # It may have waited for long: what counts is when it happened.
            occurred_at=datetime.fromisoformat(body.get("occurred_at") or message.enqueued_at),
            metadata=metadata,
        )
    except (TypeError, ValueError) as error:
        raise BadMessageError(str(error)) from error


def work(queue: FeedbackQueue, router: RouterClient, limit: int, lease_s: float) -> Counter[str]:
    """Deal with the next messages; return how many met which end, nothing at all if there are none."""
    ends: Counter[str] = Counter()
    events: dict[int, RewardEvent] = {}
    for message in queue.lease(limit, lease_s):
        try:
            if message.attempts > MAX_ATTEMPTS:
                raise BadMessageError(f"leased {message.attempts} times and never settled")
            events[message.id] = event_of(message)
        except BadMessageError as error:
            queue.bury(message.id, str(error))
            ends["dead"] += 1
    try:
        results = router.batch_reward(events.values())
    except Unavailable as error:
        log.warning("the router cannot answer: %s", error)
        results = [error] * len(events)
    except Exception:
        # A key that is not accepted, say. The messages are not at fault.
        queue.release(events, REST_S)
        raise
    settled, again = [], []
    for number, result in zip(events, results, strict=True):
        if isinstance(result, Unavailable):
            again.append(number)
        elif isinstance(result, RouterError):
            queue.bury(number, str(result))
            ends["dead"] += 1
        else:
            # Whatever the status says, the router has it for good; DUPLICATE says that it had it before.
            settled.append(number)
            ends[result.status.name.lower()] += 1
    queue.settle(settled)
    queue.release(again, REST_S)
    ends["released"] += len(again)
    return +ends


@click.command()
@click.option("--queue-url", envvar="QUEUE_URL", required=True, help="The Postgres that holds the queue.")
@click.option("--server", envvar="BANDIT_ROUTER_SERVER", default="127.0.0.1:50051", show_default=True)
@click.option("--batch", type=click.IntRange(1, 1_000), default=500, show_default=True)
@click.option("--lease", "lease_s", type=float, default=60.0, show_default=True, help="Longer than a batch can take.")
@click.option("--until-empty", is_flag=True, help="End once nothing is left to take.")
def main(queue_url: str, server: str, batch: int, lease_s: float, until_empty: bool) -> None:
    """Tell the router what the queue holds, until SIGTERM."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    queue = FeedbackQueue(queue_url)
    with RouterClient(server) as router:
        while not stop.is_set():
            ends = work(queue, router, batch, lease_s)
            if ends:
                log.info(" ".join(f"{end}={count}" for end, count in sorted(ends.items())))
            elif until_empty:
                break
            if not ends or ends["released"]:
                stop.wait(REST_S)
    queue.close()


if __name__ == "__main__":
    main()
