"""A transaction of a few prepared statements in one round trip: all are sent at once, and Postgres commits at the end.

The driver's own pipeline waits for the socket a dozen times where one wait is enough, and at every call parses the text of
the statement anew; for a commit of few rows that was most of what it cost.

Source
    PostgreSQL's libpq, "Pipeline Mode": without BEGIN, what comes before a synchronisation point is one implicit
    transaction. Each statement sees what was committed before it began, as in any transaction under READ COMMITTED.
"""

import asyncio
from collections.abc import Callable, Sequence
from functools import lru_cache
from hashlib import blake2b
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import psycopg
from psycopg import pq
from psycopg.errors import error_from_result

from router.storage.columns import Column

_FINE = (pq.ExecStatus.TUPLES_OK, pq.ExecStatus.COMMAND_OK)
#: Statements that a connection keeps prepared. The text of a batch's names its days, so there are new ones every day.
MOST_PREPARED = 64
#: The names of the statements that each connection has prepared, those used longest ago first.
_prepared: WeakKeyDictionary[psycopg.AsyncConnection[Any], dict[bytes, None]] = WeakKeyDictionary()


class Statement(NamedTuple):
    """A statement with its parameters, which it calls $1, $2, …."""

    text: str
    parameters: Sequence[Column]


async def one_trip(connection: psycopg.AsyncConnection[Any], statements: Sequence[Statement]) -> list[pq.abc.PGresult]:
    """Run the statements as one transaction; returns the result of each, values in text format.

    The connection must be in autocommit, and nothing may be under way on it. Raises psycopg.Error: then nothing was stored,
    or the connection broke around the commit, and is closed.
    """
    pgconn = connection.pgconn
    prepared = _prepared.setdefault(connection, {})
    while len(prepared) > MOST_PREPARED:
        await connection.execute(b'DEALLOCATE "%s"' % next(iter(prepared)))
        del prepared[next(iter(prepared))]
    async with connection.lock:
        try:
            expected = _send(pgconn, statements, prepared)
            results = await _received(pgconn)
            pgconn.exit_pipeline_mode()
        except BaseException:
            # Half of a conversation: nothing may build on it.
            pgconn.finish()
            raise
    answered = list(zip(expected, results, strict=False))  # a commit that fails is one result more
    prepared.update((name, None) for name, result in answered if name and result.status == pq.ExecStatus.COMMAND_OK)
    failed = next((result for result in results if result.status not in _FINE), None)
    if failed is not None:
        raise error_from_result(failed, connection.info.encoding)
    return [result for name, result in answered if not name]


def _send(pgconn: pq.abc.PGconn, statements: Sequence[Statement], prepared: dict[bytes, None]) -> list[bytes]:
    """Put everything into the driver's buffer; returns, for each result to come, the name that it prepares, or b""."""
    expected: list[bytes] = []
    pgconn.enter_pipeline_mode()
    for text, parameters in statements:
        name = _name(text)
        if name in prepared:
            prepared[name] = prepared.pop(name)
        elif name not in expected:
            pgconn.send_prepare(name, text.encode(), [parameter.oid for parameter in parameters])
            expected.append(name)
        pgconn.send_query_prepared(name, [parameter.data for parameter in parameters], [pq.Format.BINARY] * len(parameters))
        expected.append(b"")
    pgconn.pipeline_sync()
    return expected


async def _received(pgconn: pq.abc.PGconn) -> list[pq.abc.PGresult]:
    """Send what is buffered, then return every result up to the synchronisation point."""
    loop = asyncio.get_running_loop()
    while pgconn.flush():
        await _ready(pgconn, loop.add_writer, loop.remove_writer)
    results: list[pq.abc.PGresult] = []
    while True:
        while pgconn.is_busy():
            await _ready(pgconn, loop.add_reader, loop.remove_reader)
            pgconn.consume_input()
        result = pgconn.get_result()
        if pgconn.status == pq.ConnStatus.BAD:
            raise psycopg.OperationalError(f"the connection broke: {pgconn.get_error_message()}")
        if result is None:  # between the results of two statements
            continue
        if result.status == pq.ExecStatus.PIPELINE_SYNC:
            return results
        results.append(result)


async def _ready(pgconn: pq.abc.PGconn, watch: Callable[..., object], forget: Callable[[int], object]) -> None:
    """Wait until the socket can be read, or written."""
    ready = asyncio.get_running_loop().create_future()
    watch(pgconn.socket, _set, ready)
    try:
        await ready
    finally:
        forget(pgconn.socket)


def _set(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)


@lru_cache(maxsize=256)
def _name(text: str) -> bytes:
    return blake2b(text.encode(), digest_size=16).hexdigest().encode()
