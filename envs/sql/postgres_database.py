"""Databases on a PostgreSQL server: each a schema, read by a role of its own that can do nothing else.

| what holds                          | by what                                                                            |
|-------------------------------------|------------------------------------------------------------------------------------|
| nothing is written                  | the role has SELECT alone; READ ONLY transactions                                   |
| one statement, and one that gives rows | the extended protocol; what is run is a SELECT around the query                   |
| no other schema, no other database    | the role has USAGE of one schema; its connection is to one database; no dblink       |
| no files, no network, no settings, no sleep | EXECUTE on every function is taken from PUBLIC but for an allow-list            |
| endless queries end                 | `statement_timeout`, `temp_file_limit`                                              |
| nothing long reaches this process     | a row of a result is at most 64 kB, which the server checks before it sends it        |

The guards are set in the database that `server` names, which therefore belongs to turnwise. Schemas and roles are named by
their content, made once by whoever comes first, and kept.
"""

from __future__ import annotations

import atexit
import hashlib
import os
import re
import sqlite3
import threading
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import psycopg
from psycopg import sql as compose

from ..cache import content_key
from ..errors import InvalidParameter
from .database import Database, DatabaseCorrupt, DatabaseGone, Refused, Result, Table
from .sqlite_database import SQLiteDatabase

_NAMES = (
    "abs age array_agg array_length array_to_string ascii avg bool_and bool_or btrim cbrt ceil ceiling char_length"
    " character_length chr coalesce col_description concat concat_ws corr count cume_dist current_database current_schema"
    " date_part date_trunc degrees dense_rank div every exp extract factorial first_value floor format_type"
    " has_any_column_privilege has_column_privilege has_schema_privilege has_table_privilege initcap isfinite"
    " justify_days lag last_value lead left length ln log log10 lower ltrim make_date max md5 min mod mode nth_value ntile"
    " obj_description octet_length pg_is_other_temp_schema pg_table_is_visible percent_rank percentile_cont percentile_disc pg_get_expr pg_has_role pi position power"
    " radians rank regexp_match regexp_replace replace reverse right round row_number rtrim sign split_part sqrt"
    " starts_with stddev stddev_pop stddev_samp string_agg strpos substr substring sum to_char to_date to_number translate"
    " trunc unnest upper var_pop var_samp variance width_bucket"
)
FUNCTIONS = frozenset(_NAMES.split())
"""The functions of pg_catalog that a query may call, beside those behind operators and casts."""

_GUARD = "turnwise_guard"  # the schema of our own function; where it is, the guards are set
_LONGEST_QUERY = 20_000  # bytes
_LONGEST_ROW = 64 << 10
_LOCK = 7_467_031_119  # advisory, while schemas are made
_MOST_IDLE = 24
_CONNECT_SECONDS = 5
_CLOCK = re.compile(
    r"'\s*(?:now|today|tomorrow|yesterday)\b|\b(?:current_(?:date|time|timestamp)|localtime|localtimestamp)\b",
    re.I,
)

_HARDEN = f"""
REVOKE ALL ON SCHEMA public FROM PUBLIC;
REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA pg_catalog FROM PUBLIC;
DO $$
DECLARE f oid;
BEGIN
    EXECUTE format('REVOKE ALL ON DATABASE %I FROM PUBLIC', current_database());
    FOR f IN
        SELECT p.oid FROM pg_proc p WHERE p.pronamespace = 'pg_catalog'::regnamespace
        AND (p.proname = ANY (string_to_array('{" ".join(sorted(FUNCTIONS))}', ' '))
            OR p.oid IN (SELECT oprcode FROM pg_operator) OR p.oid IN (SELECT castfunc FROM pg_cast))
    LOOP
        EXECUTE 'GRANT EXECUTE ON ROUTINE ' || f::regprocedure || ' TO PUBLIC';
    END LOOP;
END $$;
CREATE SCHEMA {_GUARD};
GRANT USAGE ON SCHEMA {_GUARD} TO PUBLIC;
CREATE FUNCTION {_GUARD}.fits(r record) RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
BEGIN
    IF pg_column_size(r) > {_LONGEST_ROW} THEN
        RAISE EXCEPTION USING ERRCODE = 'program_limit_exceeded', MESSAGE = 'a row of the result is longer than 64 kB';
    END IF;
    RETURN true;
END $$;
"""


class PostgresDatabase(Database):
    """A schema of a PostgreSQL server, filled from a SQLite file where it is not there yet.

    Args:
        server: address of a database of its own, as in `postgresql://postgres@localhost/turnwise`; the user must be a
            superuser, since functions are taken from PUBLIC.
        source: the SQLite file; tables are declared in SQL that both read.
        timeout: seconds that a query may take.

    Raises:
        InvalidParameter: from `run`, the user of `server` is no superuser.
    """

    dialect: ClassVar[str] = "postgres"

    def __init__(self, server: str, source: Path, *, timeout: float = 5.0) -> None:
        self._server, self._source, self._timeout = server, source, timeout
        self.key = (server, str(source), timeout)

    def tables(self) -> Sequence[Table]:
        """See the base class."""
        return SQLiteDatabase(self._source, immutable=True).tables()

    def run(self, sql: str, most: int) -> Result | Refused:
        """See the base class."""
        sql = sql.strip().rstrip(";")
        if not sql:
            return Refused("this is no query: write one SELECT")
        if len(sql.encode()) > _LONGEST_QUERY:
            return Refused(f"a query is at most {_LONGEST_QUERY:,} bytes long")
        if "\0" in sql:
            return Refused("a query holds no null character")
        if _CLOCK.search(sql):
            return Refused("not authorized: a query does not depend on the clock")
        name = _name(self._source)
        _prepared(os.getpid(), self._server, self._source, name)
        connection = _taken(self._server, name, self._timeout)
        try:
            found = _run(connection, sql, most)
        except psycopg.Error as error:
            found = _said(error, self._timeout)
        finally:
            _given_back(self._server, name, self._timeout, connection)
        return found


def _run(connection: psycopg.Connection[Any], sql: str, most: int) -> Result | Refused:
    with connection.transaction(force_rollback=True):
        # The query must stand for itself, so that no bracket in it can close the one that is put around it below.
        parsed = connection.pgconn.prepare(b"", sql.encode())
        if parsed.status != psycopg.pq.ExecStatus.COMMAND_OK:
            raise psycopg.errors.error_from_result(parsed, encoding="utf-8")
        wrapped = f"SELECT q.* FROM ({sql}\n) AS q WHERE {_GUARD}.fits(q) LIMIT {most + 1}"
        with connection.cursor(
            binary=True
        ) as cursor:  # binary results, since these need the extended protocol
            cursor.execute(wrapped)
            rows = cursor.fetchall()
            columns = tuple(c.name for c in cursor.description or ())
    return Result(columns, rows[:most], len(rows) <= most)


def _said(error: psycopg.Error, timeout: float) -> Refused:
    """What an error means: the query's fault is told to the agent.

    Raises:
        DatabaseGone, DatabaseCorrupt: it is the server's.
    """
    state = error.sqlstate
    message = error.diag.message_primary or str(error)
    if (
        state is None
        or state[:2] in ("08", "58")
        or (state[:2] == "57" and state != "57014")
        or state in ("53100", "53300")
    ):
        raise DatabaseGone(f"the PostgreSQL server failed: {message}") from error
    if state in ("XX001", "XX002"):
        raise DatabaseCorrupt(f"the PostgreSQL server found damaged data: {message}") from error
    if state == "57014":
        return Refused(f"the query was stopped: it took more than {timeout:g} s")
    return Refused(message)


@lru_cache(maxsize=1024)
def _name(source: Path) -> str:
    return f"tw_{content_key(source)}"


def _password(server: str, name: str) -> str:
    """The password of a reader: the same for every process that knows `server`, and for nobody else."""
    return hashlib.blake2b(f"{server}\0{name}".encode(), digest_size=24).hexdigest()


@lru_cache(maxsize=4096)
def _prepared(process: int, server: str, source: Path, name: str) -> None:
    """Make the schema and the role of a database where they are not there yet; once per process."""
    del process
    admin = _connected(server, {})
    try:
        with admin.transaction():
            if admin.info.parameter_status("is_superuser") != "on":
                raise InvalidParameter(
                    f"server={_hidden(server)!r}: its user is no superuser, and only one can take functions from PUBLIC"
                )
            admin.execute("SELECT pg_advisory_xact_lock(%s)", [_LOCK])
            if not admin.execute("SELECT to_regnamespace(%s) IS NOT NULL", [_GUARD]).fetchone()[0]:  # type: ignore[index]
                admin.execute(_HARDEN)
            _make_role(admin, name, _password(server, name))
            if not admin.execute("SELECT to_regnamespace(%s) IS NOT NULL", [name]).fetchone()[0]:  # type: ignore[index]
                _fill(admin, source, name)
    except psycopg.Error as error:
        raise DatabaseGone(f"the PostgreSQL server cannot be filled: {error}") from error
    finally:
        admin.close()


def _make_role(admin: psycopg.Connection[Any], name: str, password: str) -> None:
    role = compose.Identifier(name)
    there = admin.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [name]).fetchone()
    if there is None:
        plain = "NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS NOINHERIT LOGIN"
        admin.execute(
            compose.SQL(f"CREATE ROLE {{}} {plain} PASSWORD {{}}").format(role, compose.Literal(password))
        )
    row = admin.execute("SELECT current_database()").fetchone()
    assert row is not None
    here = compose.Identifier(row[0])
    admin.execute(compose.SQL("GRANT CONNECT ON DATABASE {} TO {}").format(here, role))
    admin.execute(compose.SQL("ALTER ROLE {} IN DATABASE {} SET temp_file_limit = '64MB'").format(role, here))


def _fill(admin: psycopg.Connection[Any], source: Path, name: str) -> None:
    schema = compose.Identifier(name)
    admin.execute(compose.SQL("CREATE SCHEMA {}").format(schema))
    admin.execute(compose.SQL("SET LOCAL search_path = {}").format(schema))
    lite = sqlite3.connect(f"{source.absolute().as_uri()}?mode=ro&immutable=1", uri=True)
    try:
        made = lite.execute(
            "SELECT name, sql FROM sqlite_master WHERE type = 'table' ORDER BY rowid"
        ).fetchall()
        for table, statement in made:
            admin.execute(statement)
            rows = lite.execute(f'SELECT * FROM "{table}"').fetchall()
            if rows:
                marks = compose.SQL(", ").join([compose.Placeholder()] * len(rows[0]))
                insert = compose.SQL("INSERT INTO {} VALUES ({})").format(compose.Identifier(table), marks)
                admin.cursor().executemany(insert, rows)
    finally:
        lite.close()
    admin.execute(compose.SQL("GRANT USAGE ON SCHEMA {0} TO {0}").format(schema))
    admin.execute(compose.SQL("GRANT SELECT ON ALL TABLES IN SCHEMA {0} TO {0}").format(schema))


def _connected(server: str, options: dict[str, Any]) -> psycopg.Connection[Any]:
    try:
        return psycopg.connect(server, connect_timeout=_CONNECT_SECONDS, autocommit=True, **options)
    except psycopg.ProgrammingError as error:
        raise InvalidParameter(
            f"server={_hidden(server)!r} is no address of a PostgreSQL database ({error})"
        ) from error
    except psycopg.Error as error:
        raise DatabaseGone(f"the PostgreSQL server {_hidden(server)!r} does not answer ({error})") from error


def _hidden(server: str) -> str:
    """An address without its password."""
    return re.sub(r"(//[^:/@]*:)[^@]*@|(password\s*=\s*)\S+", r"\1\2***@", server)


_IDLE: dict[tuple[Any, ...], list[psycopg.Connection[Any]]] = {}
_POOLING = threading.Lock()


def _taken(server: str, name: str, timeout: float) -> psycopg.Connection[Any]:
    """A connection of this process as the reader of a schema; nobody else has it until it is given back."""
    with _POOLING:
        idle = _IDLE.get((os.getpid(), server, name, timeout))
        if idle:
            return idle.pop()
    settings = {
        "search_path": name,
        "statement_timeout": int(1000 * timeout),
        "idle_in_transaction_session_timeout": int(1000 * timeout) + 60_000,
        "default_transaction_read_only": "on",
        "max_parallel_workers_per_gather": 0,
        "jit": "off",
        "work_mem": "8MB",
        "timezone": "UTC",
        "datestyle": "ISO",
    }
    options = {
        "user": name,
        "password": _password(server, name),
        "options": " ".join(f"-c {key}={value}" for key, value in settings.items()),
        "application_name": "turnwise",
    }
    connection = _connected(server, options)
    connection.read_only = True
    return connection


def _given_back(server: str, name: str, timeout: float, connection: psycopg.Connection[Any]) -> None:
    alive = not connection.closed and connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
    with _POOLING:
        room = sum(len(idle) for idle in _IDLE.values()) < _MOST_IDLE
        if not room:
            # The one that was used least lately makes room, so that its place goes to what is used now.
            oldest = next((key for key, idle in _IDLE.items() if idle), None)
            spare = _IDLE[oldest].pop() if oldest is not None else None
        else:
            spare = None
        if alive:
            key = (os.getpid(), server, name, timeout)
            _IDLE[key] = [*_IDLE.pop(key, []), connection]
    if spare is not None:
        spare.close()
    if not alive:
        connection.close()


@atexit.register
def close_connections() -> None:
    """Close the connections of this process that are not in use."""
    with _POOLING:
        idle = [c for (owner, *_), found in _IDLE.items() if owner == os.getpid() for c in found]
        _IDLE.clear()
    for connection in idle:
        connection.close()
