"""Replies put together from bytes: the few pieces of protobuf's encoding that the hot path writes itself.

Building a reply of nine arms out of messages takes longer than deciding it. Most of a reply is the same for every
decision of a policy, so it is serialized once; messages that follow one another are one merged message.

Source
    Protocol Buffers, "Encoding": tags, varints, and "Last One Wins" with the merging of concatenated messages.
"""

import struct

from router.v1 import routing_pb2

_DOUBLE = struct.Struct("<d").pack
_FIELDS = routing_pb2.RouteResponse.DESCRIPTOR.fields_by_name
_DECISION_ID_TAG = bytes([_FIELDS["decision_id"].number << 3 | 2])
_PROPENSITY_TAG = bytes([_FIELDS["propensity"].number << 3 | 1])
#: Field 1, with a length before it: the results of a batch, and the response within a result.
_FIELD_1 = b"\x0a"


def receipt(decision_id: bytes, propensity: float) -> bytes:
    """Return a serialized RouteResponse that holds these two fields, as every reply begins."""
    return b"".join((_DECISION_ID_TAG, _length(len(decision_id)), decision_id, _PROPENSITY_TAG, _DOUBLE(propensity)))


def embedded(message: bytes) -> bytes:
    """Return a serialized message as field 1 of another."""
    return b"".join((_FIELD_1, _length(len(message)), message))


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value >= 128:
        encoded.append(value & 127 | 128)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


_SHORT = tuple(_varint(size) for size in range(2_048))


def _length(size: int) -> bytes:
    return _SHORT[size] if size < 2_048 else _varint(size)
