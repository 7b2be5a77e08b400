"""The client: ask which arm answers, then tell what the user did.

    fallback = Arm("haiku", model="claude-haiku-4-5-20251001", config={"max_tokens": 1024})
    with RouterClient("router:50051", fallback_arms={"support-model": fallback}) as client:
        decision = client.route("support-model", session_id="s-81", turn_id="3")
        answer = call_model(decision.arm.model, **decision.arm.config)
        log.info("answered", extra=decision.log_fields())
        client.reward(decision, event_id="s-81/3/completed", signal="task_completed")

`AsyncRouterClient` has the same methods as coroutines. Both are thin: what they send, how they read replies and when
they fall back is one shared piece of code, and retries are gRPC's own.

Retries
    gRPC repeats a call that met UNAVAILABLE, or CANCELLED by a router that shuts down. That is safe because each call
    carries one id, chosen before the first attempt: with the same `request_id` a repeated Route is the same decision,
    with the same `event_id` a repeated Reward changes nothing.

Event ids
    A producer that may see its own input twice (a queue, a batch job, a restarted worker) should derive `event_id` from
    what makes the event unique at its source: the id of the queue's message, or session, turn and signal. Processing
    the input again then repeats the id, and the event counts once. The default, a fresh UUID, only covers the retries
    of one call.

Prompts
    No prompt is ever sent. `prompt_similarity` computes, here, how much a prompt resembles the one before: passed to
    `route`, it lets the router derive `rephrased_query`.

Shadow traffic
    A decision may name `shadow_arms` to call beside its own, for comparison. What they answer goes to `record_shadow`, in
    the background, and never to a user.

Keys
    A router beyond this host asks for an API key, over TLS. Both clients take them as `api_key` and `tls`, or from the
    environment: BANDIT_ROUTER_API_KEY, BANDIT_ROUTER_TLS_CA.

Fallback
    With a fallback arm, a router that cannot answer costs learning, not answers: `route` returns a decision whose
    `decision_id` is empty and `is_fallback` true. Rewarding it sends nothing and is counted in `stats()`.
"""

from router.client._access import Tls
from router.client._aio import AsyncRouterClient
from router.client._channel import CHANNEL_OPTIONS
from router.client._errors import (
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    RouterError,
    Unauthenticated,
    Unavailable,
    Violation,
)
from router.client._prompts import prompt_similarity
from router.client._requests import RewardEvent, RouteRequest, ShadowRecord
from router.client._sync import RouterClient
from router.client._values import (
    Arm,
    CallReport,
    ClientStats,
    Decision,
    ModelAnswer,
    Reason,
    RewardResult,
    Signal,
    Status,
    TextMode,
)

__all__ = [
    "CHANNEL_OPTIONS",
    "Arm",
    "AsyncRouterClient",
    "CallReport",
    "ClientStats",
    "Decision",
    "FailedPrecondition",
    "InvalidArgument",
    "ModelAnswer",
    "NotFound",
    "PermissionDenied",
    "Reason",
    "RewardEvent",
    "RewardResult",
    "RouteRequest",
    "RouterClient",
    "RouterError",
    "ShadowRecord",
    "Signal",
    "Status",
    "TextMode",
    "Tls",
    "Unauthenticated",
    "Unavailable",
    "Violation",
    "prompt_similarity",
]
