"""The router behind OpenFeature: an experiment is a flag, an arm its variant, feedback is tracking.

    router = RouterClient("router:50051")
    api.set_provider_and_wait(BanditRouterProvider(router))
    flags = api.get_client()
    user = EvaluationContext(targeting_key="u-17", attributes={"session_id": "s-81", "turn_id": "3"})
    answer = flags.get_object_details("support-model", {"model": "claude-haiku-4-5-20251001"}, user)
    flags.track("task_completed", user, TrackingEventDetails(attributes={"flag_key": "support-model"}))

Evaluation
    The flag key is the experiment id and the targeting key the `unit_id`. A string is the arm's id. An object has `arm_id`,
    `model` and `config`. Every evaluation is a decision of its own, unless the context has a `request_id`: evaluate once for
    each request, and keep what you got. `flag_metadata` has the `decision_id`.

Tracking
    Names of signals, such as "task_completed", and "reward" with a value from 0 to 1 become feedback; `events` maps your
    own names to these. Which decision they are about is said by `decision_id` among the attributes of the event, or found:
    the last one of the same targeting key, session and flag. Nothing is guessed: what cannot be told is counted.

What it never does
    `track` neither blocks nor raises. An evaluation takes no longer than the client's deadline, and gives the default value
    where nobody can decide.

Needs the extra: `pip install "bandit-router[openfeature]"`.
"""

try:
    import openfeature.provider  # noqa: F401
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        'router.openfeature needs the OpenFeature SDK: pip install "bandit-router[openfeature]"', name=error.name
    ) from error

from router.openfeature._provider import BanditRouterProvider
from router.openfeature._tracking import TrackingStats

__all__ = ["BanditRouterProvider", "TrackingStats"]
