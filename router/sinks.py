"""Where the records of the spool go: decisions into the log, events into evidence. Storing one twice changes nothing."""

import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

from router import feedback_spool, journal
from router.errors import ServiceError
from router.experiment import Definition
from router.feedback import event_row, knows
from router.spool import Record
from router.storage.decisions import AllocationRow, DecisionRow
from router.storage.errors import RefusedRowError, StorageError
from router.storage.events import BatchResult, EventRow
from router.tokens import DecisionToken, TokenCodec
from router.v1 import routing_pb2

log = logging.getLogger(__name__)

Row = TypeVar("Row")
#: Most events in one transaction: keeps it short enough that replicas do not wait long for one another's locks.
_LARGEST_BATCH = 2_000
_DEFINITIONS_KEPT = 1_000
_READ_AT_ONCE = 100


class Refused(NamedTuple):
    """A record that will never be stored."""

    record: Record
    reason: str


class Sink(Protocol):
    """Where the records of one kind of segment go."""

    #: The suffix of the segments.
    suffix: str
    #: What the records are, for logs.
    what: str

    async def store(self, records: Sequence[Record]) -> list[Refused]:
        """Store records that are not stored yet; return those that never will be.

        Raises StorageError if storing may succeed later; some may be stored even then.
        """

    async def close(self) -> None:
        """Let go of connections."""


class DecisionStore(Protocol):
    """Where decisions go: `router.storage.writer.DecisionWriter`."""

    async def store(self, allocations: Sequence[AllocationRow], decisions: Sequence[DecisionRow]) -> None:
        """Store what is not stored yet; raises StorageError."""

    async def close(self) -> None:
        """Let go of the connection."""


class EventStore(Protocol):
    """Where events go: `router.storage.writer.EventWriter`."""

    async def apply(self, rows: Sequence[EventRow]) -> BatchResult:
        """Store, fold and count a batch with distinct keys; raises StorageError."""

    async def close(self) -> None:
        """Let go of the connection."""


class DecisionSink:
    """Decisions and the allocations they were drawn from."""

    suffix = journal.SUFFIX
    what = "decisions"

    def __init__(self, store: DecisionStore) -> None:
        self._store = store

    async def store(self, records: Sequence[Record]) -> list[Refused]:
        """See `Sink`."""
        rows: list[tuple[Record, AllocationRow | DecisionRow]] = []
        refused = []
        for record in records:
            try:
                rows.append((record, journal.decode(record)))
            except ValueError as error:
                refused.append(Refused(record, str(error)))
        return refused + await _bisected(rows, self._stored)

    async def _stored(self, rows: Sequence[AllocationRow | DecisionRow]) -> None:
        allocations = [row for row in rows if isinstance(row, AllocationRow)]
        await self._store.store(allocations, [row for row in rows if isinstance(row, DecisionRow)])

    async def close(self) -> None:
        """See `Sink`."""
        await self._store.close()


class EventSink:
    """Events, understood as they would have been at their receipt: by the rule in force when their decision was made."""

    suffix = feedback_spool.SUFFIX
    what = "events"

    def __init__(
        self,
        store: EventStore,
        codec: TokenCodec,
        *,
        reload_codec: Callable[[], Awaitable[TokenCodec]],
        definitions: Callable[[Sequence[int]], Awaitable[list[Definition]]],
        announce: Callable[[Iterable[int]], None],
    ) -> None:
        """`definitions` reads those of these incarnations that exist; `announce` is told whose evidence moved."""
        self._store = store
        self._codec = codec
        self._reload_codec = reload_codec
        self._read_definitions = definitions
        self._announce = announce
        self._known: OrderedDict[int, Definition] = OrderedDict()
        #: Events whose id was known with another content.
        self.contradictions = 0

    async def store(self, records: Sequence[Record]) -> list[Refused]:
        """See `Sink`."""
        opened, refused = await self._opened(records)
        definitions = await self._definitions([token for _, _, token, _ in opened])
        rows: dict[tuple[bytes, int, str], tuple[Record, EventRow]] = {}
        for record, request, token, received_at_us in opened:
            definition = definitions.get(token.incarnation)
            if definition is None or not knows(definition, token):
                refused.append(Refused(record, "its experiment is no longer in the database, or cannot be read"))
                continue
            try:
                row = event_row(request, token, definition, received_at_us, self._codec.hash_content)
            except Exception as error:  # a record that cannot be understood must not hold up those behind it
                refused.append(Refused(record, f"it cannot be understood: {error!r}"))
                continue
            rows.setdefault(row.key, (record, row))
        distinct = list(rows.values())
        for start in range(0, len(distinct), _LARGEST_BATCH):
            refused += await _bisected(distinct[start : start + _LARGEST_BATCH], self._applied)
        return refused

    async def close(self) -> None:
        """See `Sink`."""
        await self._store.close()

    async def _applied(self, rows: Sequence[EventRow]) -> None:
        result = await self._store.apply(rows)
        self.contradictions += result.contradictions
        self._announce(result.moved)

    async def _opened(
        self, records: Sequence[Record]
    ) -> tuple[list[tuple[Record, routing_pb2.RewardRequest, DecisionToken, int]], list[Refused]]:
        """Parse records and open their decision ids, with the keys that other replicas made meanwhile."""
        opened, refused = [], []
        reloaded = False
        for record in records:
            try:
                request, received_at_us = feedback_spool.decode(record)
                try:
                    token = self._codec.open(request.decision_id)
                except ServiceError as error:
                    if reloaded or error.reason != "DECISION_ID_FOREIGN":
                        raise
                    self._codec, reloaded = await self._reload_codec(), True
                    token = self._codec.open(request.decision_id)
            except (ServiceError, ValueError) as error:
                refused.append(Refused(record, str(error)))
            else:
                opened.append((record, request, token, received_at_us))
        return opened, refused

    async def _definitions(self, tokens: Iterable[DecisionToken]) -> dict[int, Definition]:
        """Return the definitions of these tokens' experiments, read again where a token is newer than what is known."""
        needed: dict[int, Definition] = {}
        unknown: set[int] = set()
        for token in tokens:
            definition = self._known.get(token.incarnation)
            if definition is not None and knows(definition, token):
                needed[token.incarnation] = definition
            else:
                unknown.add(token.incarnation)
        wanted = sorted(unknown)
        for start in range(0, len(wanted), _READ_AT_ONCE):
            for definition in await self._readable(wanted[start : start + _READ_AT_ONCE]):
                needed[definition.incarnation] = self._known[definition.incarnation] = definition
        while len(self._known) > _DEFINITIONS_KEPT:
            self._known.popitem(last=False)
        return needed

    async def _readable(self, incarnations: Sequence[int]) -> list[Definition]:
        """Read definitions; one that this version does not understand keeps no other from being read."""
        try:
            return await self._read_definitions(incarnations)
        except StorageError:
            raise
        except Exception:
            if len(incarnations) == 1:
                log.exception("experiment %d cannot be read", incarnations[0])
                return []
            return [definition for i in incarnations for definition in await self._readable([i])]


async def _bisected(rows: Sequence[tuple[Record, Row]], store: Callable[[Sequence[Row]], Awaitable[Any]]) -> list[Refused]:
    """Store rows; those that are refused for good are found by halving, and returned."""
    if not rows:
        return []
    try:
        await store([row for _, row in rows])
    except (RefusedRowError, ValueError, OverflowError) as error:
        if len(rows) == 1:
            return [Refused(rows[0][0], str(error))]
        middle = len(rows) // 2
        return await _bisected(rows[:middle], store) + await _bisected(rows[middle:], store)
    return []
