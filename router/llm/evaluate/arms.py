"""The arms that are evaluated: what each of them is asked with, and at which provider."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from router.client._messages import arm as client_arm
from router.llm.evaluate.dataset import Item
from router.llm.evaluate.errors import EvaluationError
from router.llm.models import Prompt
from router.v1.experiments_pb2 import Experiment
from router.v1.routing_pb2 import RoutedArm
from router.v1.types_pb2 import ARM_STATE_RETIRED, ROLE_CONTROL, ROLE_SHADOW
from router.v1.types_pb2 import Arm as ArmMessage

Provider = Literal["anthropic", "openai"]
PROVIDERS: Final[tuple[Provider, ...]] = ("anthropic", "openai")


@dataclass(frozen=True, slots=True)
class Arm:
    """An arm of the experiment."""

    id: str
    #: "control", "challenger" or "shadow".
    role: str
    provider: Provider
    model: str
    #: The vendor or lineage of the model; that of the provider where the experiment does not say.
    family: str
    #: The system prompt that its config holds; before that of an item.
    system: str
    #: The rest of its config: parameters of the provider's call.
    parameters: Mapping[str, Any]

    @property
    def model_name(self) -> str:
        """The model as `model_of` takes it."""
        return f"{self.provider}:{self.model}"

    @property
    def max_tokens(self) -> int | None:
        """The longest answer, all choices together; None where nothing limits it."""
        for name in ("max_completion_tokens", "max_tokens"):
            found = self.parameters.get(name)
            if isinstance(found, int) and found > 0:
                choices = self.parameters.get("n", 1)
                return found * (choices if isinstance(choices, int) else 1)
        return None

    def prompt(self, item: Item) -> Prompt:
        """Return what the arm is asked for an item."""
        system = "\n\n".join(text for text in (self.system, item.system) if text)
        return Prompt(messages=item.messages, system=system, parameters=self.parameters)


def arms_of(experiment: Experiment, only: Sequence[str] = (), providers: Mapping[str, str] | None = None) -> list[Arm]:
    """Return the arms to evaluate: all that are not retired, or `only` these, in the order of the experiment.

    `providers` names the provider of some arms. Raises EvaluationError for names that are no arms.
    """
    named = dict(providers or {})
    active = [arm for arm in experiment.arms if arm.state != ARM_STATE_RETIRED]
    known = [arm.arm_id for arm in active]
    for option, names in (("--arm", only), ("--provider", named)):
        for name in names:
            if name not in known:
                raise EvaluationError(f"{option}: {name!r} is no arm of {experiment.experiment_id}: {', '.join(known)}")
    return [_arm(arm, named.get(arm.arm_id)) for arm in active if not only or arm.arm_id in only]


def control_in(roles: Mapping[str, str]) -> str:
    """Return the arm that the others are compared with, of the roles by arm: the control, or the first arm."""
    return next((arm for arm, role in roles.items() if role == "control"), next(iter(roles)))


def _arm(message: ArmMessage, provider: str | None) -> Arm:
    if not message.model:
        raise EvaluationError(f"arm {message.arm_id!r} has no model: an evaluation needs to know which to ask")
    if provider is not None and provider not in PROVIDERS:
        raise EvaluationError(f"--provider: {provider!r} of arm {message.arm_id!r} is unknown: {', '.join(PROVIDERS)}")
    chosen: Provider = "anthropic" if (provider or message.family.lower()) == "anthropic" else "openai"
    # As a client of the router gets it: whole numbers are whole again.
    routed = RoutedArm(arm_id=message.arm_id, model=message.model, config=message.config)
    parameters = dict(client_arm(routed).config)
    for streaming in ("stream", "stream_options"):
        # How an answer travels is the evaluation's to say.
        parameters.pop(streaming, None)
    system = parameters.pop("system", "")
    if not isinstance(system, str):
        raise EvaluationError(f"arm {message.arm_id!r}: config.system must be a text")
    roles = {ROLE_CONTROL: "control", ROLE_SHADOW: "shadow"}
    return Arm(
        id=message.arm_id,
        role=roles.get(message.role, "challenger"),
        provider=chosen,
        model=message.model,
        family=message.family or chosen,
        system=system,
        parameters=parameters,
    )
