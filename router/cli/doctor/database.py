"""Checks of the database: version and schema, clock, partitions, notifications, keys, and whether feedback comes in."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from router.cli.doctor.findings import Check, Finding, Level
from router.storage import api_keys, checkup, token_keys
from router.storage.connecting import DatabaseUrl, connect
from router.storage.errors import StorageError, StorageUnavailableError
from router.storage.migrate import is_newer, schema_state

_HEARING_S = 5.0
_SLOW_S = 0.5
_AHEAD_DAYS = 7
_FEW_DAYS = 2
#: Beyond these, in seconds, a clock is a warning and a problem.
_SKEW_S = 1.0, 10.0
_SOON = timedelta(days=14)
_OLD_KEY = timedelta(days=400)
#: So few decisions say nothing of coverage.
_ENOUGH_DECISIONS = 100
_NEAR_ZERO = 0.01


def database(url: DatabaseUrl | None) -> Iterator[Finding]:
    """Whether it answers, and is of the right version and schema."""
    if url is None:
        remedy = "`bandit-router serve` starts it; or give --database-url"
        yield Finding("database", "warning", "the embedded Postgres is not running", remedy)
        return
    try:
        state = schema_state(url)
    except StorageUnavailableError as error:
        remedy = "start it, or correct --database-url. Meanwhile running routers go on with their last policies"
        yield Finding("database", "problem", f"{url.shown} cannot be reached: {error}", remedy)
        return
    if is_newer(state):
        remedy = "upgrade this host's bandit-router; older ones do not start on this database"
        detail = f"{url.shown} is at schema {state.current}, which this version does not know"
        yield Finding("database", "problem", detail, remedy)
        return
    if state.pending:
        detail = f"{url.shown} is at schema {state.current or 'empty'}, {state.needed} is needed"
        yield Finding("database", "problem", detail, "run `bandit-router migrate`")
        return
    with connect(url) as connection:
        version = connection.info.server_version // 10_000
    yield Finding("database", "ok", f"{url.shown}, PostgreSQL {version}, schema {state.current}")


def usable(url: DatabaseUrl | None) -> bool:
    """Whether the checks below can ask it anything."""
    try:
        return url is not None and not schema_state(url).pending
    except StorageError:
        return False


def further(url: DatabaseUrl) -> list[Check]:
    """The checks of a database at this version's schema."""
    return [
        ("clock", lambda: clock(url)),
        ("partitions", lambda: partitions(url)),
        ("notifications", lambda: notifications(url)),
        ("api keys", lambda: expiring_keys(url)),
        ("signing key", lambda: signing_key(url)),
        ("feedback", lambda: feedback(url)),
    ]


def clock(url: DatabaseUrl) -> Iterator[Finding]:
    """This host's clock beside Postgres'."""
    with connect(url, autocommit=True) as connection:
        ahead_s, off_s = checkup.clock_ahead_s(connection)
    skew_s = abs(ahead_s) - off_s
    detail = f"Postgres' clock is {abs(ahead_s):.3f} s {'ahead of' if ahead_s >= 0 else 'behind'} this host's"
    if skew_s <= _SKEW_S[0]:
        yield Finding("clock", "ok", detail)
        return
    level: Level = "problem" if skew_s > _SKEW_S[1] else "warning"
    remedy = "keep both in step with NTP (chrony, systemd-timesyncd); run this on every host with a router"
    what = "evidence, partitions and attribution windows follow the clock of the host that decides"
    yield Finding("clock", level, f"{detail}: {what}", remedy)


def partitions(url: DatabaseUrl) -> Iterator[Finding]:
    """Whether the coming days have theirs."""
    today = datetime.now(UTC).date()
    with connect(url, autocommit=True) as connection:
        missing = checkup.missing_partitions(connection, today, _AHEAD_DAYS)
    if not missing:
        yield Finding("partitions", "ok", f"of the coming {_AHEAD_DAYS} days are there")
        return
    first, names = missing[0]
    level: Level = "problem" if first < today + timedelta(days=_FEW_DAYS) else "warning"
    detail = f"{len(missing)} days lack partitions, the first is {first} ({', '.join(names)}): the first write makes them"
    remedy = "see that a `serve` runs and its keeper leads; a dump or a long query may hold the lock that it needs"
    yield Finding("partitions", level, detail, remedy)


def notifications(url: DatabaseUrl) -> Iterator[Finding]:
    """Whether what one replica says is heard by another."""
    with connect(url, autocommit=True) as connection:
        listening = checkup.listening(connection)
    heard_s = checkup.heard_after_s(url, _HEARING_S)
    if heard_s is None:
        detail = f"LISTEN on one connection does not hear NOTIFY on another within {_HEARING_S:.0f} s: replicas learn from"
        detail += " one another by their polls alone, a second late"
        remedy = "connect directly, or through a pooler in session mode: transaction mode drops LISTEN, locks and statements"
        yield Finding("notifications", "problem", detail, remedy)
        return
    level: Level = "warning" if heard_s > _SLOW_S else "ok"
    detail = f"heard after {heard_s * 1000:.0f} ms; {listening} connections of routers listen"
    yield Finding("notifications", level, detail, "see what keeps Postgres busy" if level == "warning" else "")


def expiring_keys(url: DatabaseUrl) -> Iterator[Finding]:
    """API keys that end soon."""
    with connect(url) as connection:
        rows = api_keys.read_all(connection)
    now = datetime.now(UTC)
    active = [row for row in rows if row.state == "active"]
    ending = [row for row in active if row.expires_at is not None and row.expires_at - now < _SOON]
    for row in ending:
        assert row.expires_at is not None  # noqa: S101 - it ends
        detail = f"{row.name} ({row.key_id}) expires on {row.expires_at:%Y-%m-%d %H:%M}Z, and has no successor"
        yield Finding("api keys", "warning", detail, f"`bandit-router keys rotate {row.key_id}`, and hand the new one out")
    lately = [row for row in rows if row.state == "expired" and row.expires_at and now - row.expires_at < _SOON]
    for row in lately:
        detail = f"{row.name} ({row.key_id}) has expired: its callers are refused"
        yield Finding("api keys", "warning", detail, "make a new one with `bandit-router keys create`, if somebody needs it")
    if not ending and not lately:
        yield Finding("api keys", "ok", f"{len(active)} active, none expires within {_SOON.days} days")


def signing_key(url: DatabaseUrl) -> Iterator[Finding]:
    """The key that signs decision ids."""
    with connect(url) as connection:
        rows = token_keys.read_all(connection)
    signing = [row for row in rows if row.state == "signing"]
    if not signing:
        yield Finding("signing key", "ok", "there is none yet: the first `serve` makes it")
        return
    age = datetime.now(UTC) - signing[0].activates_at
    verifying = sum(row.state == "verifying" for row in rows)
    detail = f"{signing[0].key_id} has signed for {age.days} days; {verifying} older ones verify"
    if age > _OLD_KEY:
        yield Finding("signing key", "warning", detail, "`bandit-router keys tokens rotate`")
    else:
        yield Finding("signing key", "ok", detail)


def feedback(url: DatabaseUrl) -> Iterator[Finding]:
    """Running experiments that nobody tells anything."""
    with connect(url) as connection:
        found = [c for c in checkup.coverage(connection, datetime.now(UTC)) if c.decisions >= _ENOUGH_DECISIONS]
    silent = [c for c in found if c.covered < _NEAR_ZERO * c.decisions]
    for one in silent:
        detail = f"{one.experiment_id}: {one.covered} of {one.decisions} decisions of the last two days have any feedback:"
        remedy = "see that Reward is called, with the decision_id that Route gave: docs/operations.md#feedback-collapsed"
        yield Finding("feedback", "warning", f"{detail} it learns nothing", remedy)
    if not silent:
        enough = f"{len(found)} running experiments with at least {_ENOUGH_DECISIONS} decisions in two days"
        yield Finding("feedback", "ok", f"{enough}; each has some")
