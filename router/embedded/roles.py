"""The application's database and the analysts' roles, made at the first start and again if they went missing.

Rights are granted to the group `bandit_router_reader`, by the migrations that create the views; the login
`bandit_analyst` is a member of it and has no rights of its own. Being read-only by default is for its convenience, not
for safety: it owns nothing and may write nothing.
"""

from __future__ import annotations

import psycopg
from psycopg import sql

from router.embedded.cluster import SUPERUSER, Credentials

DATABASE = "bandit_router"
READER = "bandit_router_reader"
ANALYST = "bandit_analyst"
#: Notebooks left open must not use up the connections of the service.
ANALYST_CONNECTIONS = 20

_PRESENT = """
SELECT EXISTS (SELECT FROM pg_database WHERE datname = %(database)s),
       EXISTS (SELECT FROM pg_roles WHERE rolname = %(reader)s),
       EXISTS (SELECT FROM pg_roles WHERE rolname = %(analyst)s),
       EXISTS (SELECT FROM pg_auth_members AS m
               JOIN pg_roles AS g ON g.oid = m.roleid
               JOIN pg_roles AS r ON r.oid = m.member
               WHERE g.rolname = %(reader)s AND r.rolname = %(analyst)s)
"""


def connect(port: int, credentials: Credentials, timeout_s: float) -> psycopg.Connection[tuple[bool, ...]]:
    """Connect to the maintenance database as superuser, whatever libpq's environment variables say."""
    return psycopg.connect(
        host="127.0.0.1",
        port=port,
        user=SUPERUSER,
        password=credentials.owner_password,
        dbname="postgres",
        sslmode="disable",
        gssencmode="disable",
        require_auth="scram-sha-256",
        options="",
        target_session_attrs="any",
        connect_timeout=max(2, int(timeout_s)),
        autocommit=True,
    )


def ensure(connection: psycopg.Connection[tuple[bool, ...]], credentials: Credentials) -> None:
    """Create whatever of the database, the group and the login is missing; safe to repeat after any interruption."""
    names = {"database": DATABASE, "reader": READER, "analyst": ANALYST}
    row = connection.execute(_PRESENT, names).fetchone()
    database, reader, analyst, member = row if row is not None else (False, False, False, False)
    if not reader:
        connection.execute(sql.SQL("CREATE ROLE {} NOLOGIN").format(sql.Identifier(READER)))
    if not analyst:
        # Sent as a verifier: the password itself shows up in no log and in no list of running statements.
        verifier = connection.pgconn.encrypt_password(
            credentials.analyst_password.encode(), ANALYST.encode(), b"scram-sha-256"
        )
        create = sql.SQL("CREATE ROLE {} LOGIN CONNECTION LIMIT {} PASSWORD {}").format(
            sql.Identifier(ANALYST), sql.Literal(ANALYST_CONNECTIONS), sql.Literal(verifier.decode())
        )
        with connection.transaction():
            connection.execute(create)
            read_only = sql.SQL("ALTER ROLE {} SET default_transaction_read_only = on")
            connection.execute(read_only.format(sql.Identifier(ANALYST)))
    if not member:
        grant = sql.SQL("GRANT {} TO {}").format(sql.Identifier(READER), sql.Identifier(ANALYST))
        connection.execute(grant)
    if not database:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(DATABASE)))
