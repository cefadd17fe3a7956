"""PostgreSQL under attack, on a real server that the tests start: the same answers as SQLite, and nothing else."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import turnwise as tw
from turnwise.envs.sql.database import DatabaseGone, Refused, Result
from turnwise.envs.sql.families import FAMILIES
from turnwise.envs.sql.match import same_rows
from turnwise.envs.sql.partial import sketch
from turnwise.envs.sql.sqlite_database import SQLiteDatabase

SETTINGS = [
    "listen_addresses=",
    "fsync=off",
    "full_page_writes=off",
    "shared_buffers=16MB",
    "max_connections=40",
]


class Server:
    """A PostgreSQL server of our own: in a temporary folder, reached by a Unix socket, with passwords."""

    def __init__(self, programs: Path, folder: Path) -> None:
        self._programs, self._folder = programs, folder
        self._as: dict[str, Any] = {}
        if os.geteuid() == 0:  # PostgreSQL refuses to run as root
            user = pwd.getpwnam("postgres")
            self._as = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
            os.chown(folder, user.pw_uid, user.pw_gid)
        (folder / "password").write_text("secret of the tests")
        (folder / "password").chmod(0o644)
        command = [
            "initdb",
            "-D",
            str(folder / "data"),
            "-U",
            "postgres",
            "-A",
            "scram-sha-256",
            "-E",
            "UTF8",
            "--locale=C",
            "-N",
        ]
        self._call([*command, f"--pwfile={folder / 'password'}"])
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def address(self) -> str:
        return f"host={self._folder} user=postgres password='secret of the tests' dbname=postgres"

    def _call(self, command: list[str]) -> None:
        command = [str(self._programs / command[0]), *command[1:]]
        subprocess.run(command, check=True, capture_output=True, cwd=self._folder, **self._as)

    def start(self) -> None:
        settings = [
            part for s in [*SETTINGS, f"unix_socket_directories={self._folder}"] for part in ("-c", s)
        ]
        with (self._folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [str(self._programs / "postgres"), "-D", str(self._folder / "data"), *settings],
                stdout=log, stderr=log, cwd=self._folder, **self._as,
            )  # fmt: skip
        import psycopg

        for _ in range(300):
            try:
                psycopg.connect(self.address, connect_timeout=5).close()
                return
            except psycopg.OperationalError:
                time.sleep(0.1)
        raise AssertionError((self._folder / "log").read_text())

    def stop(self, how: int = signal.SIGINT) -> None:
        assert self.process is not None
        self.process.send_signal(how)
        self.process.wait(60)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    found = shutil.which("initdb") or next(
        map(str, sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), reverse=True)), None
    )
    why = (
        ""
        if found
        else "no PostgreSQL server: install Debian's postgresql, or put initdb and postgres on the path"
    )
    try:
        import psycopg  # noqa: F401
    except ImportError as error:
        why = f"psycopg is not installed ({error}): pip install 'turnwise[postgres]'"
    if why or found is None:
        if os.environ.get("CI") == "true":
            pytest.fail(why)
        pytest.skip(why)
    folder = Path(tempfile.mkdtemp(prefix="turnwise-pg-"))
    made = Server(Path(found).resolve().parent, folder)
    yield made
    from turnwise.envs.sql import postgres_database

    postgres_database.close_connections()
    made.stop()
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def env(server: Server) -> Any:
    few = {
        "questions": 71,
        "domains": ("company", "school"),
    }  # each database is a schema to fill and a role to make
    return tw.make("SQL-v1", backend="postgres", server=server.address, format="bracket", timeout=2.0, **few)


@pytest.fixture
def base(env: Any) -> Any:
    """The database of the domain `school` in the test split; its variants and others are on the same server."""
    tasks = env.tasks
    found = (tasks.get("test", i) for i in range(tasks.size("test")))
    task = next(t for t in found if t.data["database"] == "school_test_0")
    env.reset(seed=0, options={"task": task.id})
    for other in env._bases():
        assert isinstance(other.run("SELECT 1", 1), Result)
    return env._base


def refused(base: Any, sql: str) -> str:
    found = base.run(sql, 10)
    assert isinstance(found, Refused), f"{sql} gave {found}"
    return found.why


# The same answers


def test_every_reference_gives_the_same_rows_as_on_sqlite(env: Any) -> None:
    seen = set()
    for task in (env.tasks.get(s, i) for s in ("train", "test") for i in range(env.tasks.size(s))):
        seen.add(task.family)
        env.reset(seed=0, options={"task": task.id})
        sql = task.reference[0]
        for place, path in enumerate(env.library.files(task.data["database"])):
            here, there = (
                env._bases()[place].run(sql, 500),
                SQLiteDatabase(path, immutable=True).run(sql, 500),
            )
            assert isinstance(here, Result), (task.family, sql, here)
            assert isinstance(there, Result)
            assert same_rows(here.rows, there.rows, ordered=sketch(sql, "sqlite").ordered), (task.family, sql)
    assert seen == set(FAMILIES)


def test_the_expert_solves_every_family(env: Any) -> None:
    result = env.rollout(tw.agents.ExpertAgent(), env.tasks.size("train"), split="train", concurrency=8)
    assert result.success_rate == 1.0
    assert {t.family for t in result.trajectories} == set(FAMILIES)


def test_wrong_queries_are_judged_wrong(env: Any) -> None:
    for index in range(0, env.tasks.size("test"), 5):
        task = env.tasks.get("test", index)
        wrong = task.data["wrong"][0]
        env.reset(seed=0, options={"task": task.id})
        assert not env.step(env.write(tw.Call("submit", {"sql": wrong})))[4]["success"], (
            task.reference,
            wrong,
        )


def test_the_environment_keeps_its_contract_on_a_server(server: Server) -> None:
    tw.check(
        "SQL-v1",
        backend="postgres",
        server=server.address,
        questions=4,
        families=("count_where", "join_count"),
    ).raise_if_failed()


# Attacks

WRITES = {
    "insert": "INSERT INTO teacher VALUES (99, 'x', 'x', 1, '2020-01-01')",
    "insert that returns rows": "INSERT INTO teacher VALUES (99, 'x', 'x', 1, '2020-01-01') RETURNING *",
    "delete in a common table expression": "WITH t AS (DELETE FROM teacher RETURNING *) SELECT * FROM t",
    "update": "UPDATE teacher SET name = 'x'",
    "truncate": "TRUNCATE teacher CASCADE",
    "drop": "DROP TABLE teacher CASCADE",
    "create table": "CREATE TABLE t (a int)",
    "create temporary table": "CREATE TEMP TABLE t (a int)",
    "select into": "SELECT * INTO t FROM teacher",
    "create schema": "CREATE SCHEMA s",
    "create role": "CREATE ROLE r SUPERUSER",
    "grant": "GRANT ALL ON teacher TO PUBLIC",
    "lock rows": "SELECT * FROM teacher FOR UPDATE",
    "lock a table": "LOCK TABLE teacher",
    "a second statement": "SELECT 1; DROP TABLE teacher",
    "ending the transaction": "SELECT 1; COMMIT; DROP TABLE teacher",
    "commit": "COMMIT",
    "code": "DO $$ BEGIN PERFORM 1; END $$",
    "closing the bracket": "SELECT 1) AS q; DROP TABLE teacher; SELECT * FROM (SELECT 1",
    "closing the bracket by a union": "SELECT name FROM teacher) AS q UNION ALL SELECT q.* FROM (SELECT 'x'",
    "large object": "SELECT lo_create(0)",
    "notify": "SELECT pg_notify('a', 'b')",
    "explain that runs": "EXPLAIN ANALYZE DELETE FROM teacher",
    "a sequence": "SELECT setval('x', 1)",
}  # fmt: skip


@pytest.mark.parametrize("attack", WRITES)
def test_nothing_can_be_changed(base: Any, attack: str) -> None:
    before = base.run("SELECT * FROM teacher", 100)
    refused(base, WRITES[attack])
    assert base.run("SELECT * FROM teacher", 100) == before


ESCAPES = {
    "read a file": "SELECT pg_read_file('/etc/passwd')",
    "read a binary file": "SELECT pg_read_binary_file('/etc/passwd')",
    "list a folder": "SELECT pg_ls_dir('/')",
    "copy from a file": "COPY teacher FROM '/etc/passwd'",
    "copy to a file": "COPY teacher TO '/tmp/out'",
    "copy to a program": "COPY teacher TO PROGRAM 'touch /tmp/out'",
    "copy to the client": "COPY teacher TO STDOUT",
    "import a file": "SELECT lo_import('/etc/passwd')",
    "export a file": "SELECT lo_export(1, '/tmp/out')",
    "load a library": "LOAD 'auto_explain'",
    "another database": "SELECT * FROM dblink('dbname=postgres', 'SELECT 1') AS t(a int)",
    "an extension": "CREATE EXTENSION dblink",
    "a foreign server": "CREATE SERVER s FOREIGN DATA WRAPPER postgres_fdw",
    "passwords": "SELECT rolname, rolpassword FROM pg_authid",
    "another role": "SET ROLE postgres",
    "another role by function": "SELECT set_config('role', 'postgres', false)",
    "another session": "SET SESSION AUTHORIZATION postgres",
    "writing again": "SET default_transaction_read_only = off",
    "writing again by function": "SELECT set_config('transaction_read_only', 'off', false)",
    "no time limit": "SELECT set_config('statement_timeout', '0', false)",
    "settings": "SELECT current_setting('data_directory')",
    "settings by view": "SELECT * FROM pg_settings",
    "other sessions": "SELECT query FROM pg_stat_activity",
    "ending other sessions": "SELECT pg_terminate_backend(1)",
    "cancelling other sessions": "SELECT pg_cancel_backend(1)",
    "locks that stay": "SELECT pg_advisory_lock(1)",
    "any query as text": "SELECT query_to_xml('SELECT 1', true, true, '')",
    "a whole database as text": "SELECT database_to_xml(true, true, '')",
    "sleeping": "SELECT pg_sleep(60)",
    "sleeping until": "SELECT pg_sleep_until('2100-01-01')",
    "the server's address": "SELECT inet_server_addr()",
    "the clock": "SELECT now()",
    "the clock by word": "SELECT CURRENT_TIMESTAMP",
    "the clock by text": "SELECT ' now'::timestamp",
    "chance": "SELECT random()",
    "a file by table": "SELECT * FROM pg_hba_file_rules",
    "statistics of others": "SELECT * FROM pg_statistic",
}  # fmt: skip


@pytest.mark.parametrize("attack", ESCAPES)
def test_nothing_but_the_schema_can_be_reached(base: Any, attack: str) -> None:
    began = time.monotonic()
    refused(base, ESCAPES[attack])
    assert time.monotonic() - began < 10
    assert not Path("/tmp/out").exists()


def test_no_other_database_on_the_server_can_be_read(base: Any, env: Any) -> None:
    found = base.run("SELECT nspname FROM pg_namespace WHERE nspname LIKE 'tw%'", 500)
    assert isinstance(found, Result)
    mine = base.run("SELECT current_schema()", 1).rows[0][0]
    others = [name for (name,) in found.rows if name not in (mine, "turnwise_guard")]
    assert len(others) >= 2
    for name in others:
        assert "permission denied" in refused(base, f"SELECT * FROM {name}.teacher")


BOMBS = {
    "a count without end": "WITH RECURSIVE c(x) AS (SELECT 1::bigint UNION ALL SELECT x + 1 FROM c) SELECT count(*) FROM c",
    "a product of tables": f"SELECT count(*) FROM {', '.join(f'enrolment e{i}' for i in range(12))}",
    "a text of a gigabyte": "SELECT repeat('x', 1000000000)",
    "a padded text": "SELECT lpad('x', 1000000000)",
    "a formatted text": "SELECT format('%1000000000s', 1)",
    "a series": "SELECT generate_series(1, 1000000000)",
    "sorting more than the disk holds": "WITH RECURSIVE c(x) AS (SELECT 1::bigint UNION ALL SELECT x + 1 FROM c)"
    " SELECT md5(x::text) || md5((x + 1)::text) FROM c ORDER BY 1",
    "a text that doubles": "WITH RECURSIVE c(n, x) AS (SELECT 1, 'xxxxxxxx' UNION ALL SELECT n + 1, x || x FROM c WHERE n < 15)"
    " SELECT x FROM c ORDER BY n DESC LIMIT 1",
    "a long row": "SELECT (SELECT string_agg(a.name || b.name || c.name, '') FROM enrolment d, student a, student b, student c)",
    "a query of a megabyte": f"SELECT '{'x' * 1_000_000}'",
}  # fmt: skip


@pytest.mark.parametrize("attack", BOMBS)
def test_nothing_takes_long_or_sends_much(base: Any, attack: str) -> None:
    began = time.monotonic()
    refused(base, BOMBS[attack])
    assert time.monotonic() - began < 20  # 2 s are allowed, on a busy machine
    found = base.run("SELECT count(*) FROM teacher", 1)
    assert isinstance(found, Result) and found.rows[0][0] >= 6


def test_usual_queries_run_and_wrong_ones_are_told_what_is_wrong(base: Any) -> None:
    for usual in (
        "SELECT upper(name) || '!', round(avg(salary), 2), max(hired) FROM teacher GROUP BY name ORDER BY 1 LIMIT 3;",
        "SELECT extract(year FROM hired), count(*) FROM teacher WHERE name ILIKE '%a%' AND salary BETWEEN 1 AND 99 GROUP BY 1 -- by year",
        "SELECT c.name, s.name FROM course c JOIN enrolment e ON e.course_id = c.id JOIN student s ON e.student_id = s.id",
        "SELECT name, rank() OVER (PARTITION BY town ORDER BY salary DESC) FROM teacher",
        "SELECT substring(name FROM 1 FOR 2), trim(name), length(name), coalesce(town, 'x'), nullif(salary, 1) FROM teacher",
        "SELECT table_name FROM information_schema.tables WHERE table_schema = current_schema()",
        "VALUES (1, 'a'), (2, 'b')",
        "SELECT '50%' LIKE '%\\%'",
    ):
        assert isinstance(base.run(usual, 10), Result), base.run(usual, 10)
    assert refused(base, "SELECT nam FROM teacher") == 'column "nam" does not exist'
    assert "syntax error" in refused(base, "SELECT * FORM teacher")
    assert refused(base, " ;") == "this is no query: write one SELECT"
    assert "null character" in refused(base, "SELECT '\0'")
    assert base.run("SELECT id FROM teacher ORDER BY id", 2) == Result(("id",), [(1,), (2,)], False)


# What breaks


def test_threads_ask_at_once(base: Any) -> None:
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda n: base.run(f"SELECT {n} + count(*) * 0 FROM teacher", 1), range(64)))
    assert [r.rows[0][0] for r in found] == list(range(64))


def test_a_user_without_power_and_an_address_that_is_none_are_told(server: Server) -> None:
    import psycopg

    with psycopg.connect(server.address, autocommit=True) as admin:
        admin.execute("CREATE ROLE weak LOGIN PASSWORD 'weak'")
        admin.execute("GRANT CONNECT ON DATABASE postgres TO weak")
    weak = server.address.replace("user=postgres", "user=weak").replace("secret of the tests", "weak")
    with pytest.raises(tw.envs.errors.InvalidParameter, match="no superuser"):
        _asked(weak)
    with pytest.raises(tw.envs.errors.InvalidParameter, match="no address"):
        _asked("no address at all")


def _asked(address: str) -> None:
    env: Any = tw.make(
        "SQL-v1", backend="postgres", server=address, questions=71, domains=("company", "school")
    )
    env.reset(seed=0)
    env._base.run("SELECT 1", 1)


def test_a_server_that_is_killed_in_mid_episode_is_a_failed_episode_and_the_run_goes_on_when_it_is_back(
    server: Server, env: Any
) -> None:
    env.reset(seed=0)
    assert isinstance(env._base.run("SELECT 1", 1), Result)
    calls = []

    def agent(messages: Any) -> str:
        calls.append(1)
        if len(calls) == 2:
            server.stop(signal.SIGKILL)
        return "query[SELECT 1]"

    result = env.rollout(agent, 2, split="test", concurrency=1)
    assert [t.status for t in result.trajectories] == ["failed", "failed"]
    assert all("DatabaseGone" in str(t.error) for t in result.trajectories)
    with pytest.raises(DatabaseGone):
        env._base.run("SELECT 1", 1)
    server.start()
    assert env.rollout(tw.agents.ExpertAgent(), 8, split="test", concurrency=4).success_rate == 1.0


def test_no_session_is_left_on_the_server(server: Server, env: Any) -> None:
    import psycopg

    from turnwise.envs.sql import postgres_database

    env.rollout(tw.agents.ExpertAgent(), 30, split="test", concurrency=16)
    with psycopg.connect(server.address, autocommit=True) as admin:
        ours = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'turnwise'"
        time.sleep(0.5)  # a session ends a moment after its connection
        assert 1 <= admin.execute(ours).fetchone()[0] <= 24  # type: ignore[index]
        postgres_database.close_connections()
        for _ in range(50):
            left = admin.execute(ours).fetchone()[0]  # type: ignore[index]
            if not left:
                break
            time.sleep(0.1)
        assert left == 0
