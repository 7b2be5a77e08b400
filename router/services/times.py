"""Times in requests: well-formed messages may still be no times."""

from google.protobuf.timestamp_pb2 import Timestamp

from router.errors import InvalidArgumentError

#: The years 1 to 9999, in seconds since the epoch.
_FIRST_S, _END_S = -62_135_596_800, 253_402_300_800


def time_us(value: Timestamp, field: str) -> int:
    """Return a time in microseconds since the epoch; InvalidArgumentError naming `field` if it is none."""
    if not (_FIRST_S <= value.seconds < _END_S and 0 <= value.nanos < 1_000_000_000):
        raise InvalidArgumentError.of_field(field, "must be a time between the years 1 and 9999")
    return value.seconds * 1_000_000 + value.nanos // 1_000
