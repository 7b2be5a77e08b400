"""What a file would change of the experiment that the router has."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from google.protobuf.struct_pb2 import Struct

from router.cli.calls import state_name
from router.config import ExperimentFile, dump_experiment_file
from router.ramp_rules import challenger_of, ramp_of
from router.shadow_rules import challengers
from router.v1 import experiments_pb2 as pb
from router.v1 import types_pb2 as types

Action = Literal["created", "updated", "unchanged"]


@dataclass(frozen=True, slots=True)
class Change:
    """A file beside what the router has."""

    file: ExperimentFile
    #: None if the router does not have it.
    current: pb.Experiment | None
    #: What applying the file does.
    action: Action = field(init=False)
    #: Whether the definition differs, and not the state alone.
    redefines: bool = field(init=False)
    #: The state afterwards.
    state: str = field(init=False)
    #: What changes, as a unified diff of files; empty if nothing does.
    diff: tuple[str, ...] = field(init=False)
    #: What follows from it, a sentence each.
    notes: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        before = None if self.current is None else state_name(self.current.state)
        state = state_after(before, self.file.state)
        redefines = self.current is None or _comparable(self.current) != _comparable(self.file.experiment)
        changes = redefines or state != before
        action: Action = "created" if self.current is None else "updated" if changes else "unchanged"
        object.__setattr__(self, "state", state)
        object.__setattr__(self, "redefines", redefines)
        object.__setattr__(self, "action", action)
        object.__setattr__(self, "diff", self._diff(before) if changes else ())
        object.__setattr__(self, "notes", tuple(self._notes(before)))

    @property
    def experiment_id(self) -> str:
        """Which experiment."""
        return self.file.experiment.experiment_id

    @property
    def refusal(self) -> str:
        """Why the router would refuse it; empty if nothing is known to keep it from taking it."""
        if self.current is not None and self.current.state == pb.STATE_CONCLUDED and self.redefines:
            return f"{self.experiment_id} is concluded and cannot change: give the file another id, or restore what it says"
        return ""

    def _diff(self, before: str | None) -> tuple[str, ...]:
        old = "" if self.current is None else dump_experiment_file(_comparable(self.current), before)
        new = dump_experiment_file(_comparable(self.file.experiment), self.state)
        name = "nothing" if self.current is None else f"{self.experiment_id} (etag {self.current.etag})"
        return tuple(difflib.unified_diff(old.splitlines(), new.splitlines(), name, self.file.source, lineterm=""))

    def _notes(self, before: str | None) -> list[str]:
        notes = []
        if self.current is not None:
            old = {arm.arm_id: arm for arm in _comparable(self.current).arms}
            new = {arm.arm_id: arm for arm in _comparable(self.file.experiment).arms}
            for arm_id in new.keys() & old.keys():
                if _behaviour(new[arm_id]) != _behaviour(old[arm_id]):
                    notes.append(f"arm {arm_id} becomes a new version, which learns afresh")
            for arm_id in new.keys() - old.keys():
                mirrored = new[arm_id].role == types.ROLE_SHADOW
                notes.append(f"arm {arm_id} joins {'as a shadow arm' if mirrored else 'with the prior alone'}")
            notes += [f"arm {arm_id} is retired; late feedback on it counts" for arm_id in old.keys() - new.keys()]
            notes += self._role_notes(old, new)
            notes.sort()
            notes += self._ramp_notes()
        if before == "paused" and self.state == "paused" and self.file.state is None:
            notes.append("it was paused by somebody and stays so; `state: running` in the file resumes it")
        if before == "shadow" and self.state == "shadow" and self.file.state is None:
            notes.append("it is in state shadow and stays so; `state: running` in the file starts it")
        if before == "shadow" and self.file.state in ("draft", "paused"):
            notes.append(f"it is in state shadow and stays so: only what runs can be {self.file.state}")
        if before == "concluded" and self.file.state not in (None, "concluded"):
            notes.append("it is concluded and stays so")
        return notes

    def _role_notes(self, old: Mapping[str, types.Arm], new: Mapping[str, types.Arm]) -> Iterator[str]:
        for arm_id in new.keys() & old.keys():
            was, is_now = (arms[arm_id].role == types.ROLE_SHADOW for arms in (old, new))
            if was and not is_now:
                yield f"arm {arm_id} competes from now on"
            elif is_now and not was:
                yield f"arm {arm_id} becomes a shadow arm, and answers no more"

    def _ramp_notes(self) -> list[str]:
        if self.current is None or not self.current.HasField("ramp_status"):
            return []
        old, new = _comparable(self.current), _comparable(self.file.experiment)
        if not new.HasField("ramp"):
            return ["its ramp ends, and the challenger competes at once"]
        challenger = new.ramp.challenger_arm_id
        before, after = (next((arm for arm in one.arms if arm.arm_id == challenger), None) for one in (old, new))
        same_arm = before is not None and after is not None and _behaviour(before) == _behaviour(after)
        same_ramp = old.ramp.challenger_arm_id == challenger and ramp_of(old.ramp).stages == ramp_of(new.ramp).stages
        return [] if same_arm and same_ramp else ["its ramp starts over"]


def _behaviour(arm: types.Arm) -> tuple[str, Struct]:
    return arm.model, arm.config


def state_after(before: str | None, wanted: str | None) -> str:
    """Return the state that applying a file leads to, from one (None: not there yet) and by what the file says."""
    if before in (None, "draft"):
        return {None: "running", "paused": "draft"}.get(wanted, wanted or "draft")
    if before in ("running", "paused") and wanted in ("running", "paused", "shadow"):
        return wanted
    if before == "shadow" and wanted == "running":
        return wanted
    return before or "draft"


def _comparable(experiment: pb.Experiment) -> pb.Experiment:
    """The definition alone, with one way to say each thing: so that what differs is what the router would change."""
    kept = pb.Experiment(experiment_id=experiment.experiment_id, description=experiment.description)
    for arm in experiment.arms:
        if arm.state != types.ARM_STATE_RETIRED:
            kept.arms.add().CopyFrom(arm)
    for arm in kept.arms:
        arm.ClearField("version")
        arm.ClearField("state")
        arm.role = arm.role or types.ROLE_CHALLENGER
        if not arm.config.fields:
            arm.ClearField("config")
    for name in ("allocation", "assignment", "reward_rule"):
        part = getattr(experiment, name)
        if part.ListFields():
            getattr(kept, name).CopyFrom(part)
    if experiment.HasField("shadow"):
        kept.shadow.CopyFrom(experiment.shadow)
    if experiment.HasField("ramp"):
        kept.ramp.CopyFrom(experiment.ramp)
        kept.ramp.challenger_arm_id = challenger_of(kept.ramp, challengers(kept))
    return kept
