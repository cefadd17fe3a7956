"""`Code-v1`: what it shows and pays, that its grader cannot be talked to, and what happens when the sandbox breaks."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest

import turnwise as tw
from turnwise.envs.code import sessions as sessions_module
from turnwise.envs.code.families import FAMILIES
from turnwise.envs.code.generator import has_io
from turnwise.envs.code.grading import grade
from turnwise.envs.code.problems import Case, Exchange, Problem
from turnwise.envs.code.sessions import SandboxLost, Sessions
from turnwise.envs.errors import InvalidParameter
from turnwise.sandbox import Limits


def usable() -> str:
    """Why no bubblewrap sandbox can be opened here; empty where one can."""
    try:
        Sessions("bubblewrap", Limits(), allow_unsafe=False)
    except InvalidParameter as error:
        return str(error)
    return ""


WHY = usable()
if WHY and os.environ.get("CI") != "true":
    pytest.skip(WHY, allow_module_level=True)


@pytest.fixture(scope="module")
def sessions() -> Sessions:
    return Sessions("bubblewrap", Limits(wall_seconds=30, memory_bytes=256 << 20), allow_unsafe=False)


def env_of(**parameters: Any) -> Any:
    env = tw.make("Code-v1", format="bracket", **parameters)
    env.reset(seed=0)
    return env


def act(env: Any, name: str, code: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
    return env.step(env.write(tw.Call(name, {"code": textwrap.dedent(code)})))


# What it shows and pays.


def test_the_task_is_told_with_its_visible_tests_and_without_its_hidden_ones() -> None:
    env = tw.make("Code-v1")
    observation, _ = env.reset(seed=3)
    problem = env.problem
    assert problem.statement in observation
    assert problem.signature in observation
    for case in problem.visible:
        assert f"== {case.expected!r}" in observation
    for case in problem.hidden:
        assert f"({', '.join(map(repr, case.arguments))}) ==" not in observation


def test_a_failing_test_is_told_with_input_result_and_expectation() -> None:
    env = env_of(families=("climb",))
    case = env.problem.visible[0]
    observation = act(env, "test", "def climb(n):\n    return -7")[0]
    assert observation.startswith("0 of 3 visible tests pass.")
    assert f"climb({case.arguments[0]}): returned -7, expected {case.expected}" in observation
    observation = act(env, "test", "def climb(n):\n    x = 1\n    return x / 0")[0]
    assert "raised ZeroDivisionError: division by zero (line 3)" in observation


@pytest.mark.parametrize(
    ("program", "said", "progress"),
    [
        ("def climb(n", "raised SyntaxError: '(' was never closed (line 1)", 0.0),
        ("import nothing_of_this_name", "raised ModuleNotFoundError", 0.1),
        ("x = 1", "raised NameError: the program defines no climb", 0.1),
        ("def climb(n):\n    return None", "returned None", 0.2),
    ],
)
def test_how_far_a_program_got_is_paid_as_a_potential(program: str, said: str, progress: float) -> None:
    env = env_of(families=("climb",), test_reward=1.0)
    observation, reward, _, _, info = act(env, "test", program)
    assert said in observation
    assert reward == pytest.approx(progress)
    assert info["shaping"] == pytest.approx(progress)
    assert act(env, "test", program)[1] == 0.0


def test_the_best_program_so_far_counts_and_the_end_takes_the_shaping_back() -> None:
    env = env_of(families=("climb",), test_reward=0.5)
    assert act(env, "test", env.problem.reference)[1] == pytest.approx(0.5)
    assert act(env, "test", "x = 1")[1] == 0.0
    _, reward, terminated, _, info = act(env, "submit", env.problem.reference)
    assert terminated
    assert info["success"]
    assert info["rewards"] == {"outcome": 1.0, "tests": pytest.approx(-0.5)}
    assert reward == pytest.approx(0.5)


def test_a_mutant_is_wrong_with_partial_credit_for_what_it_gets_right() -> None:
    env = env_of(families=("climb",))
    problem = env.problem
    _, _, _, _, info = act(env, "submit", problem.mutants[0])
    assert not info["success"]
    assert 0.1 < info["score"] < 0.5
    env = env_of(families=("climb",), partial_credit=0.0)
    assert act(env, "submit", problem.mutants[0])[4]["score"] == 0.0


@pytest.mark.parametrize("form", ["function", "io"])
def test_the_expert_solves_every_family_through_the_sandbox(form: str) -> None:
    names = [name for name, family in FAMILIES.items() if form == "function" or has_io(family)]
    result = tw.make("Code-v1", form=form).rollout(
        tw.agents.ExpertAgent(), episodes=len(names), split="test", concurrency=4
    )
    assert {t.family for t in result.trajectories} == set(names)
    assert [t.family for t in result.trajectories if not t.success] == []
    assert {t.difficulty for t in result.trajectories} == {"easy", "medium", "hard"}


@pytest.mark.slow
def test_every_mutant_of_every_family_fails_hidden_tests_in_the_sandbox(sessions: Sessions) -> None:
    from turnwise.envs.code.generator import generate

    for name in FAMILIES:
        problem = generate(name, "test", 11, "function")
        for mutant in problem.mutants:
            report = grade(sessions, problem, mutant, problem.hidden, language="python", seconds=2.0)
            assert not report.solved, (name, mutant)


def test_the_expert_that_repairs_tests_a_mutant_first() -> None:
    result = tw.make("Code-v1", demonstrate="repair").rollout(tw.agents.ExpertAgent(), episodes=4)
    assert result.success_rate == 1.0
    for trajectory in result.trajectories:
        assert [turn.tool for turn in trajectory.turns] == ["test", "test", "submit"]
        assert trajectory.turns[0].action != trajectory.turns[1].action


def test_run_shows_what_a_program_prints_and_how_it_ended() -> None:
    env = env_of()
    assert act(env, "run", "print(6 * 7)")[0] == "42\n"
    assert act(env, "run", "print(1)\n[][0]")[0] == "1\n[IndexError: list index out of range]"
    assert act(env, "run", "pass")[0] == "[nothing was printed]"
    assert act(env, "run", "while True: pass")[0] == "[took too long]"
    assert act(env, "run", "import os; os._exit(3)")[0] == "[ended with an error]"


def test_the_io_form_runs_on_the_first_visible_input() -> None:
    env = env_of(form="io", families=("climb",))
    assert act(env, "run", "print(input() * 2)")[0].strip() == env.problem.visible[0].stdin.strip() * 2


PROGRAMS = {
    "bash": "read a; read b; echo $((a + b))",
    "c": '#include <stdio.h>\nint main(void) { long a, b; scanf("%ld %ld", &a, &b); printf("%ld\\n", a + b); return 0; }',
    "cpp": "#include <iostream>\nint main() { long a, b; std::cin >> a >> b; std::cout << a + b << std::endl; }",
    "javascript": 'const [a, b] = require("fs").readFileSync(0, "utf8").split("\\n").map(Number); console.log(a + b)',
    "lua": "print(math.tointeger(io.read('n') + io.read('n')))",
    "python": "print(int(input()) + int(input()))",
}
NEEDS = {"c": "gcc", "cpp": "g++", "javascript": "node", "lua": "lua5.4"}


@pytest.mark.parametrize("language", PROGRAMS)
def test_equal_programs_are_graded_alike_in_every_language(language: str, sessions: Sessions) -> None:
    if language in NEEDS and shutil.which(NEEDS[language]) is None:
        pytest.skip(f"{NEEDS[language]} is not installed")
    tests = [Exchange("1\n2\n", "3\n"), Exchange("-5\n5\n", "0\n"), Exchange("40\n2\n", "42\n")]
    problem = Problem("add", "io", "", "", (), tuple(tests), "")
    program = PROGRAMS[language]
    report = grade(sessions, problem, program, tests, language=language, seconds=10.0)
    assert report.solved, report
    wrong = grade(sessions, problem, program.replace("+", "-", 1), tests, language=language, seconds=10.0)
    assert wrong.passed == 0
    broken = grade(sessions, problem, program[:-2] + ' "(', tests, language=language, seconds=10.0)
    assert not broken.solved
    assert broken.progress < 0.2


def test_the_tools_are_written_and_read_in_the_python_format() -> None:
    env = tw.make("Code-v1", format="python")
    env.reset(seed=0)
    reference = env.problem.reference
    for name in ("run", "test", "submit"):
        text = env.write(tw.Call(name, {"code": reference}))
        assert text.count("\n") > 3
        env.reset(seed=0)
        info = env.step(text)[4]
        assert info["call"] == tw.Call(name, {"code": reference})


def test_a_program_that_is_too_long_is_refused_without_a_sandbox() -> None:
    env = env_of()
    observation, _, terminated, _, info = act(env, "submit", "#" * 20_001)
    assert info["invalid"]
    assert not terminated
    assert "at most 20,000" in observation


def test_the_short_style_asks_for_an_expression_and_has_no_run() -> None:
    env = tw.make("Code-v1", style="short", format="bracket", max_turns=4)
    observation, _ = env.reset(seed=5)
    assert len(observation) < 60
    assert "run" not in env.tools
    assert act(env, "test", "x")[0].startswith(("0 of 2 f(", "1 of 2 f("))
    assert act(env, "test", "x +")[0] == "0 of 2 error"
    assert act(env, "submit", env.problem.reference)[4]["success"]


# Parameters.


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"families": ("clim",)}, "Did you mean 'climb'?"),
        ({"families": ("nested_sum",), "form": "io"}, "there is no 'nested_sum'"),
        ({"families": ("climb",), "difficulty": "hard"}, "none of the families"),
        ({"language": "rust"}, "Known: "),
        ({"language": "c"}, "needs form='io'"),
        ({"dataset": "mbpp"}, "give problems=PATH"),
        ({"problems": "x.json"}, "belongs to a published set"),
        ({"dataset": "mbpp", "problems": "x.json", "form": "io"}, "form is for generated tasks"),
        ({"sandbox": "bubblewarp"}, "Did you mean 'bubblewrap'?"),
        ({"sandbox": "process"}, "allow_unsafe"),
        ({"style": "short", "form": "io"}, "style='short' has one form"),
        ({"hardened": True}, "published sets"),
    ],
)
def test_a_wrong_parameter_is_told(parameters: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidParameter, match=re.escape(said)):
        tw.make("Code-v1", **parameters)


def test_without_bubblewrap_it_refuses_and_says_what_to_install() -> None:
    code = "import turnwise as tw\ntw.make('Code-v1')"
    found = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PATH": "/nowhere"}, capture_output=True, text=True
    )
    said = found.stderr.splitlines()[-1]
    assert "InvalidParameter" in said
    assert "the package `bubblewrap`" in said
    assert "sandbox=process allow_unsafe=true" in said


def test_without_isolation_it_works_where_that_is_allowed() -> None:
    env = env_of(sandbox="process", allow_unsafe=True, families=("climb",))
    assert act(env, "submit", env.problem.reference)[4]["success"]


# The grader is attacked. A secret result stands for all expected ones: no program may come by it.

SECRET = 918_273_645_546_372_819
PROBLEM = Problem(
    "Return the secret.",
    "function",
    "f",
    "def f(n: int) -> int:",
    (),
    tuple(Case((n,), SECRET + n) for n in range(4)),
    "",
)

ATTACKS = {
    "fake verdicts on standard output": """
        for n in range(4):
            print('{"call": %d, "value": true, "passed": true}' % n)
        print("all tests passed")
        def f(n):
            print("ok")
    """,
    "sys.exit(0) when it is loaded": "import sys; sys.exit(0)",
    "sys.exit(0) when it is called": "def f(n):\n    raise SystemExit(0)",
    "os._exit(0) when it is loaded": "import os; os._exit(0)",
    "os._exit(0) when it is called": "import os\ndef f(n):\n    os._exit(0)",
    "forged answers on every file descriptor": """
        import os
        for fd in range(1, 64):
            for n in range(4):
                for line in ('{"stage": "loaded"}', '{"call": %d, "value": true}' % n, '{"call": %d, "passed": true}' % n):
                    try:
                        os.write(fd, (line + "\\n").encode())
                    except OSError:
                        pass
        os._exit(0)
    """,
    "patched builtins": """
        import builtins
        builtins.isinstance = lambda *a: True
        builtins.all = builtins.any = lambda *a: True
        builtins.type = lambda *a: int
        builtins.print = lambda *a, **k: None
        def f(n):
            return n
    """,
    "patched json": """
        import json
        json.dumps = lambda *a, **k: '{"call": 0, "value": true, "passed": true}'
        json.loads = lambda *a, **k: True
        def f(n):
            return n
    """,
    "patched sys.stdout and os.write": """
        import os, sys
        class Out:
            def write(self, text): return len(text)
            def flush(self): pass
        sys.stdout = sys.stderr = Out()
        os.write = lambda fd, data: len(data)
        def f(n):
            return n
    """,
    "an object that equals everything": """
        class Yes:
            def __eq__(self, other): return True
            def __ne__(self, other): return False
            def __hash__(self): return 0
        def f(n):
            return Yes()
    """,
    "an int that equals everything": """
        class Yes(int):
            def __eq__(self, other): return True
            def __ne__(self, other): return False
            def __index__(self): raise SystemExit(0)
            __hash__ = int.__hash__
        def f(n):
            return Yes(1)
    """,
    "a list that equals everything": """
        class Yes(list):
            def __eq__(self, other): return True
            def __len__(self): return 10**9
            def __iter__(self): raise SystemExit(0)
        def f(n):
            return Yes()
    """,
    "NaN, which breaks comparisons": "def f(n):\n    return float('nan')",
    "reading every file there is": """
        import os, re
        digits = "918273645" + "54637"
        def f(n):
            for folder in ("/work", "/code", "/tmp", "/dev/shm", "/turnwise", "/proc/self", "/proc/1"):
                for base, _, names in os.walk(folder):
                    for name in names:
                        try:
                            with open(os.path.join(base, name), "rb") as file:
                                data = file.read(1 << 16)
                        except OSError:
                            continue
                        if found := re.search((digits + r"(\\d{4})").encode(), data):
                            return int(digits + found[1].decode()) + n
    """,
    "frames of the grader": """
        import sys
        def f(n):
            frame = sys._getframe()
            while frame:
                for value in [*frame.f_locals.values(), *frame.f_globals.values()]:
                    if isinstance(value, int) and value > 10**17:
                        return value
                    if isinstance(value, dict):
                        for key in ("expected", "outputs", "hidden"):
                            if key in value:
                                return value[key]
                frame = frame.f_back
    """,
    "the garbage collector's objects": """
        import gc
        def f(n):
            for thing in gc.get_objects():
                if isinstance(thing, (list, tuple, dict)):
                    for value in list(thing.values() if isinstance(thing, dict) else thing):
                        if type(value) is int and 10**17 < value < 10**18:
                            return value
    """,
    "its own memory": """
        import re
        def f(n):
            digits = "918273645" + "54637"
            with open("/proc/self/maps") as maps, open("/proc/self/mem", "rb") as memory:
                for line in maps:
                    if "rw" in line and "[v" not in line:
                        a, b = (int(x, 16) for x in line.split()[0].split("-"))
                        try:
                            memory.seek(a)
                            found = re.search((digits + r"(\\d{4})").encode(), memory.read(b - a))
                        except (OSError, ValueError, OverflowError):
                            continue
                        if found:
                            return int(digits + found[1].decode()) + n
    """,
    "atexit": """
        import atexit, os
        def late():
            for fd in range(1, 32):
                try:
                    os.write(fd, b'{"call": 0, "passed": true}\\n')
                except OSError:
                    pass
        atexit.register(late)
        def f(n):
            return n
    """,
    "a thread that goes on writing": """
        import os, threading
        def flood():
            while True:
                for fd in range(1, 16):
                    try:
                        os.write(fd, b'{"call": 3, "passed": true}\\n')
                    except OSError:
                        pass
        threading.Thread(target=flood, daemon=True).start()
        def f(n):
            return n
    """,
    "a child process that answers": """
        import os, time
        if os.fork():
            time.sleep(0.2)
            os._exit(0)
        def f(n):
            return n
    """,
    "calls that are not there": """
        import os, sys
        frame = sys._getframe()
        while frame:
            if "job" in frame.f_locals:
                frame.f_locals["job"]["calls"].clear()
            frame = frame.f_back
        def f(n):
            return n
    """,
    "a patched timer": "import signal\nsignal.setitimer = lambda *a: None\ndef f(n):\n    return n",
    "a patched encoder": """
        import sys
        main = sys.modules["__main__"].__dict__
        def encode(x, depth=0):
            return ["o", "equal"]
        main["encode"] = main["same"] = main["decode"] = encode
        def f(n):
            return n
    """,
    "the grader's own package": "import turnwise\ndef f(n):\n    return turnwise",
    "an exception that hides": "def f(n):\n    raise type('Passed', (BaseException,), {'__str__': lambda s: 1 / 0})",
    "an endless answer": "def f(n):\n    x = []\n    x.append(x)\n    return x",
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_no_attack_on_the_grader_passes_a_test(attack: str, sessions: Sessions) -> None:
    report = grade(
        sessions, PROBLEM, textwrap.dedent(ATTACKS[attack]), PROBLEM.hidden, language="python", seconds=2.0
    )
    assert report.passed == 0
    assert not report.solved
    assert report.progress <= 0.2


def test_the_honest_answer_passes_so_that_the_attacks_fail_for_their_own_reasons(sessions: Sessions) -> None:
    program = f"def f(n):\n    return {SECRET} + n"
    report = grade(sessions, PROBLEM, program, PROBLEM.hidden, language="python", seconds=2.0)
    assert report.solved
    assert report.progress == 1.0


def test_no_expected_result_enters_the_sandbox(sessions: Sessions, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[str] = []
    real = Sessions.run_cases

    def seen(self: Sessions, code: str, inputs: Sequence[str], **options: Any) -> Any:
        sent.extend([code, *inputs])
        return real(self, code, inputs, **options)

    monkeypatch.setattr(Sessions, "run_cases", seen)
    grade(sessions, PROBLEM, "def f(n):\n    return n", PROBLEM.hidden, language="python", seconds=2.0)
    exchange = Exchange("1\n", f"{SECRET}\n")
    problem = Problem("", "io", "", "", (), (exchange,), "")
    grade(sessions, problem, "print(input())", [exchange], language="python", seconds=2.0)
    assert len(sent) == 4
    assert not any(str(SECRET) in text or hex(SECRET) in text for text in sent)


def test_nothing_that_one_program_leaves_reaches_the_next(sessions: Sessions) -> None:
    leave = """
        import os
        def f(n):
            found = [p for p in ("/work/x", "/tmp/x", "/dev/shm/x") if os.path.exists(p)]
            for p in ("/work/x", "/tmp/x", "/dev/shm/x"):
                open(p, "w").write("hidden input")
            return len(found)
    """
    problem = Problem("", "function", "f", "", (), (Case((1,), 0),), "")
    for _ in range(3):
        report = grade(
            sessions, problem, textwrap.dedent(leave), problem.hidden, language="python", seconds=2.0
        )
        assert report.solved


def test_a_call_that_ends_the_process_costs_its_own_test_alone(sessions: Sessions) -> None:
    program = "import os\ndef f(n):\n    if n == 1:\n        os._exit(0)\n    if n == 2:\n        while True: pass\n    return n"
    problem = Problem("", "function", "f", "", (), tuple(Case((n,), n) for n in range(5)), "")
    report = grade(sessions, problem, program, problem.hidden, language="python", seconds=0.5)
    assert [o.passed for o in report.outcomes] == [True, False, False, True, True]
    assert report.outcomes[1].got == "ended the process"
    assert report.outcomes[2].got == "took too long"


def test_independent_tests_are_graded_in_one_process_start(sessions: Sessions) -> None:
    problem = Problem("", "function", "f", "", (), tuple(Case((n,), n) for n in range(50)), "")
    program = "import os\npid = os.getpid()\ncount = 0\ndef f(n):\n    global count\n    count += 1\n    return count - 1"
    assert grade(sessions, problem, program, problem.hidden, language="python", seconds=2.0).solved


# What breaks.


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("for _ in range(1000): print('x' * 10**6)", "x\n[cut]"),
        ("x = bytearray(10**10)", "MemoryError"),
        ("def f(): f()\nf()", "RecursionError"),
        ("import os\nwhile True: os.fork()", "["),
        ("open('big', 'wb').write(b'0' * 10**9)", "["),
        ("print('\\ud800')", "UnicodeEncodeError"),
        ("import sys; sys.stdout.buffer.write(bytes(range(256)))", "\\xff"),
    ],
)
def test_what_a_program_breaks_is_an_ordinary_observation(program: str, said: str) -> None:
    env = env_of(seconds=1.5)
    observation, _, terminated, truncated, info = act(env, "run", program)
    assert said in observation
    assert len(observation) < 2_100
    assert not terminated
    assert not truncated
    assert not info["invalid"]


def test_a_sandbox_that_dies_is_a_typed_failure_and_the_episode_is_played_again() -> None:
    from turnwise.sandbox import bubblewrap

    env = env_of()

    def kill() -> None:
        time.sleep(0.4)
        for (pid, _), launcher in list(bubblewrap._launchers.items()):
            if pid == os.getpid():
                os.kill(launcher.process.pid, signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    with pytest.raises(SandboxLost):
        act(env, "run", "import time; time.sleep(1.5)")
    thread.join()
    killed = []

    def agent(conversation: Any) -> str:
        if not killed:
            killed.append(threading.Thread(target=kill))
            killed[0].start()
            return conversation.env.write(tw.Call("run", {"code": "import time; time.sleep(1.5)"}))
        return conversation.env.write(conversation.env.expert())

    result = env.rollout(agent, episodes=1)
    killed[0].join()
    assert result.success_rate == 1.0
    assert result.failures == {}


def test_the_failures_have_names() -> None:
    for kind in (sessions_module.SandboxLost, sessions_module.SandboxMissing):
        assert issubclass(kind, tw.EnvFailure)


def test_a_trajectory_of_programs_is_plain_json() -> None:
    result = tw.make("Code-v1").rollout(tw.agents.ExpertAgent(noise=0.5), episodes=4)
    for trajectory in result.trajectories:
        assert json.loads(trajectory.to_json())["family"] in FAMILIES


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_thousand_episodes_with_sandboxes_killed_at_random_leave_nothing_behind() -> None:
    from turnwise.sandbox import bubblewrap

    env = tw.make("Code-v1", style="short", format="bracket", max_turns=4)
    env.rollout(tw.agents.ExpertAgent(), episodes=2)
    (launcher,) = [v for (pid, _), v in bubblewrap._launchers.items() if pid == os.getpid()]
    threads, files = threading.active_count(), len(os.listdir("/proc/self/fd"))
    wanted: SimpleQueue[bool] = SimpleQueue()
    killed = 0

    def kill_some() -> None:
        nonlocal killed
        rng = random.Random(0)
        while wanted.get():
            for _ in range(1000):
                if sessions := children_of(launcher.process.pid):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(rng.choice(sessions), signal.SIGKILL)
                        killed += 1
                    break
                time.sleep(0.001)

    killer = threading.Thread(target=kill_some)
    killer.start()
    turns = random.Random(1)

    class Agent(tw.agents.ExpertAgent):
        async def act(self, conversation: Any) -> Any:
            if turns.random() < 0.025:  # of two turns or so: one in twenty episodes
                wanted.put(True)
            return await super().act(conversation)

    result = env.rollout(Agent(noise=0.5), episodes=EPISODES, concurrency=8)
    wanted.put(False)
    killer.join()
    assert killed > 0.02 * EPISODES
    assert len(result.trajectories) == EPISODES
    assert set(result.failures) <= {"SandboxLost"}
    assert len(result.played) > 0.95 * EPISODES
    deadline = time.monotonic() + 30
    while children_of(launcher.process.pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert children_of(launcher.process.pid) == []
    assert threading.active_count() <= threads + 1
    assert len(os.listdir("/proc/self/fd")) <= files + 2


EPISODES = 1_000


def children_of(pid: int) -> list[int]:
    """The children of bwrap's own program, which are the sandboxes."""
    found = []
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        inner = Path(f"/proc/{child}/task/{child}/children")
        with contextlib.suppress(FileNotFoundError):
            found += [int(c) for c in inner.read_text().split()]
    return found
