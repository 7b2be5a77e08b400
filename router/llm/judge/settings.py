"""The name of a run whose user gave none: made from its settings, so that the same command goes on with the same run."""

from __future__ import annotations

import hashlib
import json

from google.protobuf.json_format import MessageToDict

from router.v1 import judge_pb2 as pb

_LONGEST_NAME = 100


def run_id_of(run: pb.JudgeRun) -> str:
    """Return the id of a run with these settings."""
    settings = pb.JudgeRun()
    settings.CopyFrom(run)
    settings.run_id = ""
    text = json.dumps(MessageToDict(settings, preserving_proto_field_name=True), sort_keys=True)
    return f"{run.experiment_id[:_LONGEST_NAME]}-{hashlib.blake2b(text.encode(), digest_size=6).hexdigest()}"
