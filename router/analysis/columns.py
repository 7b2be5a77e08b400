"""Arrow arrays from the bytes that Postgres sends, without a look at single values.

Shapes
    n rows. A column of fixed width comes as n values, big endian; a column of texts as n lengths and the texts.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from router.storage.analysis import Column, Kind, ReadArm

Raw = tuple[bytes, ...]
#: Microseconds from 1970, where Arrow's times begin, to 2000, where Postgres' begin.
_EPOCH_US = 946_684_800_000_000
#: The parts of a UUID that dashes separate: where they begin and end among its bytes, and where in its text.
_PARTS = ((0, 4, 0), (4, 6, 9), (6, 8, 14), (8, 10, 19), (10, 16, 24))
_UUID_TEXT = 36

TIME = pa.timestamp("us", tz="UTC")
WORD = pa.dictionary(pa.int32(), pa.string())
_NUMBERS = {
    Kind.SMALLINT: (">i2", pa.int16()),
    Kind.INTEGER: (">i4", pa.int32()),
    Kind.BIGINT: (">i8", pa.int64()),
    Kind.DOUBLE: (">f8", pa.float64()),
}


def array_of(column: Column, raw: Raw) -> pa.Array:
    """Return the values of a column: times in UTC, UUIDs as texts, null where they are null."""
    if column.kind is Kind.TEXT:
        return _texts(*raw, nullable=column.nullable)
    if column.kind is Kind.UUID:
        return _uuids(raw[0])
    if column.kind is Kind.FLAG:
        return pa.array(np.frombuffer(raw[0], dtype=np.bool_))
    if column.kind is Kind.TIME:
        return _times(raw[0], nullable=column.nullable)
    dtype, type_ = _NUMBERS[column.kind]
    values = np.frombuffer(raw[0], dtype=dtype)
    native = values.astype(values.dtype.newbyteorder("="))
    if not column.nullable:
        return pa.array(native, type=type_)
    missing = np.isnan(native) if column.kind is Kind.DOUBLE else native == np.iinfo(native.dtype).min
    return pa.array(native, type=type_, mask=missing)


def arm_arrays(numbers: Raw, arms: Sequence[ReadArm]) -> tuple[pa.Array, pa.Array]:
    """Return the ids of arms that are given by their numbers, as a dictionary, and their versions."""
    values = np.frombuffer(numbers[0], dtype=">i2").astype(np.int16)
    place = np.zeros(max(arm.number for arm in arms) + 1, dtype=np.int32)
    version = np.zeros_like(place)
    ids = list(dict.fromkeys(arm.arm_id for arm in arms))
    for arm in arms:
        place[arm.number], version[arm.number] = ids.index(arm.arm_id), arm.version
    return pa.DictionaryArray.from_arrays(pa.array(place[values]), pa.array(ids, pa.string())), pa.array(version[values])


def ids_of(numbers: NDArray[np.int16], arms: Sequence[ReadArm]) -> pa.Array:
    """Return the ids of arms that are given by their numbers, as texts."""
    ids: list[str | None] = [None] * (max(arm.number for arm in arms) + 1)
    for arm in arms:
        ids[arm.number] = arm.arm_id
    return pa.array(ids, pa.string()).take(pa.array(numbers))


def keys_of(raw: Raw) -> tuple[list[bytes], NDArray[np.int32]]:
    """Return the distinct UUIDs of a column, 16 bytes each, and for each row the index of its own."""
    fixed = pa.FixedSizeBinaryArray.from_buffers(pa.binary(16), len(raw[0]) // 16, [None, pa.py_buffer(raw[0])])
    encoded = fixed.dictionary_encode()
    return encoded.dictionary.to_pylist(), encoded.indices.to_numpy()


def _texts(lengths: bytes, texts: bytes, *, nullable: bool) -> pa.Array:
    sizes = np.frombuffer(lengths, dtype=">i4").astype(np.int32)
    missing = None
    if nullable:
        present = sizes >= 0
        sizes = np.where(present, sizes, 0)
        missing = pa.py_buffer(np.packbits(present, bitorder="little"))
    offsets = np.zeros(len(sizes) + 1, dtype=np.int32)
    np.cumsum(sizes, out=offsets[1:])
    return pa.StringArray.from_buffers(len(sizes), pa.py_buffer(offsets), pa.py_buffer(texts), missing)


def _uuids(raw: bytes) -> pa.Array:
    shown = np.full((len(raw) // 16, _UUID_TEXT), ord("-"), dtype=np.uint8)
    digits = np.frombuffer(raw.hex().encode(), dtype=np.uint8).reshape(-1, 32)
    for first, last, place in _PARTS:
        shown[:, place : place + 2 * (last - first)] = digits[:, 2 * first : 2 * last]
    offsets = np.arange(len(shown) + 1, dtype=np.int32) * _UUID_TEXT
    return pa.StringArray.from_buffers(len(shown), pa.py_buffer(offsets), pa.py_buffer(shown))


def _times(raw: bytes, *, nullable: bool) -> pa.Array:
    since_2000 = np.frombuffer(raw, dtype=">i8").astype(np.int64)
    missing = since_2000 == np.iinfo(np.int64).min if nullable else None
    return pa.array(since_2000 + _EPOCH_US, type=pa.timestamp("us"), mask=missing).cast(TIME)
