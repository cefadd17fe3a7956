"""What every backend does alike. Parametrised over the registry, so that a new backend is tested by being there."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest

from turnwise.sandbox import (
    LANGUAGES,
    InvalidOption,
    Limits,
    Sandbox,
    SandboxClosed,
    UnknownBackend,
    UnknownLanguage,
    UnsafePath,
    backends,
    open_sandbox,
)

Open = Callable[..., Sandbox]


@pytest.fixture(params=backends())
def backend(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def opened(backend: str, open_on: Open) -> Open:
    """Open a sandbox of the backend."""
    return functools.partial(open_on, backend)


@pytest.fixture
def box(backend: str, empty_on: Callable[[str, Limits], Sandbox]) -> Sandbox:
    return empty_on(backend, Limits(wall_seconds=20))


def test_a_program_reads_its_input_and_writes_both_streams(box):
    result = box.run(code="import sys; print(input()[::-1]); print('no', file=sys.stderr)", stdin="abc")
    assert (result.stdout, result.stderr, result.exit_code, result.status) == ("cba\n", "no\n", 0, "ok")
    assert not result.truncated
    assert 0 < result.seconds < 20
    assert result.peak_memory > 1 << 20


def test_a_command_is_words_and_no_shell_reads_them(box):
    assert box.run(["echo", "$HOME;", "a b"]).stdout == "$HOME; a b\n"
    with pytest.raises(InvalidOption, match="list of words"):
        box.run("echo hi")


@pytest.mark.parametrize(
    ("code", "exit_code", "status"),
    [
        ("raise SystemExit(3)", 3, "error"),
        ("raise SystemExit('why')", 1, "error"),
        ("1/0", 1, "error"),
        ("import os; os._exit(0)", 0, "ok"),
        ("import os; os.kill(os.getpid(), 11)", -11, "killed"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGTERM)", -15, "killed"),
        ("import os; os.abort()", -6, "killed"),
        ("def f(", 1, "error"),
    ],
)
def test_the_end_of_a_program_is_named(box, code, exit_code, status):
    result = box.run(code=code)
    assert (result.exit_code, result.status) == (exit_code, status)


def test_the_warm_interpreter_behaves_as_a_new_one(box):
    code = (
        "import sys, os, atexit, threading, time\n"
        "atexit.register(lambda: print('atexit'))\n"
        "threading.Thread(target=lambda: (threading.main_thread().join(), print('thread'))).start()\n"
        "print(__name__, os.path.basename(__file__), len(sys.argv), sys.path[0] == os.getcwd())\n"
        "class A: pass\n"
        "import pickle; print(type(pickle.loads(pickle.dumps(A()))).__name__)\n"
        "print(sorted({'a', 'b', 'c', 'd'}, key=hash))\n"
        "sys.exit('bye')\n"
    )
    box.write("main.py", code)
    warm, new = box.run(code=code), box.run(["python3", "main.py"])
    assert (warm.stdout, warm.stderr, warm.exit_code) == (new.stdout, new.stderr, new.exit_code)
    assert warm.stdout.endswith("thread\natexit\n")


def test_an_error_shows_the_line_of_the_program_and_nothing_of_ours(box):
    error = box.run(code="def f():\n    return [][1]\nf()").stderr
    assert "return [][1]" in error
    assert "inside" not in error


def test_a_command_that_is_not_there_ends_with_127(box):
    result = box.run(["no-such-program"])
    assert (result.exit_code, result.status) == (127, "error")
    assert "no-such-program" in result.stderr


def test_files_stay_from_run_to_run_and_can_be_read_written_and_listed(opened):
    box = opened(files={"data/a.txt": "one", "b": b"\xff\0"})
    assert list(box.list()) == ["b", "data/"]
    assert list(box.list("data")) == ["a.txt"]
    assert (
        box.run(code="print(open('data/a.txt').read()); open('data/c', 'w').write('three')").stdout == "one\n"
    )
    assert box.read("data/c") == b"three"
    assert box.read("./b") == b"\xff\0"
    box.write("data/a.txt", "two")
    assert box.run(["cat", "data/a.txt"]).stdout == "two"


@pytest.mark.parametrize("path", ["../x", "/etc/passwd", "a/../../x", "a\0b"])
def test_a_path_out_of_the_working_folder_is_refused(box, path):
    for act in (box.read, box.list, lambda p: box.write(p, "x")):
        with pytest.raises(UnsafePath):
            act(path)


def test_what_is_wrong_with_a_file_is_the_error_that_open_raises(opened):
    box = opened(files={"d/f": ""})
    with pytest.raises(FileNotFoundError):
        box.read("missing")
    with pytest.raises(IsADirectoryError):
        box.read("d")
    with pytest.raises(NotADirectoryError):
        box.list("d/f")
    with pytest.raises(OSError, match="too long"):
        box.write("n" * 300, "x")
    box.run(["mkfifo", "pipe"])
    with pytest.raises(OSError, match="pipe"):
        box.read("pipe")


def test_time_limits_end_a_program_and_say_so(opened):
    box = opened(Limits(wall_seconds=0.5, cpu_seconds=1))
    sleeping = box.run(code="import time; print('on', flush=True); time.sleep(60)")
    assert (sleeping.status, sleeping.stdout) == ("timeout", "on\n")
    assert 0.4 < sleeping.seconds < 10
    assert box.run(code="import time; time.sleep(60)", timeout=0.2).status == "timeout"
    assert box.run(code="print(1)").status == "ok"


def test_cpu_time_is_bounded_apart_from_wall_time(opened):
    box = opened(Limits(wall_seconds=60, cpu_seconds=1))
    assert box.run(["bash", "-c", "while :; do :; done"]).status == "timeout"


def test_output_is_kept_up_to_the_limit_and_the_program_goes_on(opened):
    box = opened(Limits(output_bytes=1000))
    result = box.run(
        code="import sys\nprint('x' * 100_000)\nprint('y' * 999, file=sys.stderr)\nopen('end', 'w')"
    )
    assert (result.stdout, result.truncated, result.status) == ("x" * 1000, True, "ok")
    assert len(result.stderr) == 1000
    assert list(box.list()) == ["end"]


def test_bytes_that_are_no_utf8_are_shown_as_escapes(box):
    assert box.run(code="import os; os.write(1, b'a\\xff\\xfe\\0z')").stdout == "a\\xff\\xfe\0z"


def test_a_program_that_does_not_read_its_input_is_no_trouble(box):
    assert box.run(code="print(1)", stdin="x" * 1_000_000).stdout == "1\n"
    assert (
        box.run(code="import sys; print(len(sys.stdin.read()))", stdin="x" * 1_000_000).stdout == "1000000\n"
    )


def test_snapshot_and_restore_are_exact(opened):
    box = opened(files={"a/b": "1", "run.sh": "#!/bin/sh\necho hi"})
    box.run(["sh", "-c", "chmod 755 run.sh; ln -s a/b link; mkdir empty"])
    state = box.snapshot()
    box.run(["sh", "-c", "rm -rf a; echo more > c; rm link"])
    box.restore(state)
    assert box.snapshot() == state
    assert box.run(["sh", "-c", "./run.sh; cat link; ls"]).stdout == "hi\n1a\nempty\nlink\nrun.sh\n"
    other = opened()
    other.restore(state)
    assert other.snapshot() == state


def test_a_persistent_interpreter_keeps_its_variables(opened):
    box = opened(persistent=True)
    assert box.run(code="import sys\nx = 20\ndef f(): return x + 1").status == "ok"
    assert box.run(code="x += 1; print(f(), input())", stdin="in").stdout == "22 in\n"
    failed = box.run(code="x = 5; print('out'); 1/0")
    assert (failed.stdout, failed.exit_code, failed.status) == ("out\n", 1, "error")
    assert "ZeroDivisionError" in failed.stderr
    assert box.run(code="print(x)").stdout == "5\n"
    assert box.run(["cat"], stdin="beside").stdout == "beside"
    assert box.run(code="print(x)").stdout == "5\n"


def test_a_persistent_interpreter_that_ends_is_started_anew(opened):
    box = opened(Limits(wall_seconds=2), persistent=True)
    box.run(code="x = 1")
    assert box.run(code="import os; os._exit(7)").exit_code == 7
    assert "NameError" in box.run(code="x").stderr
    assert box.run(code="import time; time.sleep(60)", timeout=0.3).status == "timeout"
    assert box.run(code="print(2)").stdout == "2\n"
    assert box.run(code="import sys; sys.stdout.write('y' * 3_000_000)").truncated


def test_cases_are_runs_of_their_own_in_order(box):
    code = "import sys\nn = int(input())\nif n == 2: sys.exit(0)\nif n == 3: raise ValueError\nprint(n * n)"
    results = box.run_cases(code, [str(n) for n in range(5)])
    assert [r.stdout for r in results] == ["0\n", "1\n", "", "", "16\n"]
    assert [r.status for r in results] == ["ok", "ok", "ok", "error", "ok"]


def test_what_does_not_compile_says_so_for_every_case(box):
    results = box.run_cases("int main( {", ["1", "2"], language="c")
    assert [r.status for r in results] == ["compile", "compile"]
    assert "error" in results[0].stderr


DOUBLE = {  # the sum of the numbers on each line
    "python": "import sys\nfor line in sys.stdin: print(sum(map(int, line.split())))",
    "bash": 'while read -r -a n; do s=0; for x in "${n[@]}"; do s=$((s + x)); done; echo $s; done',
    "javascript": "for (const line of require('fs').readFileSync(0, 'utf8').trim().split('\\n'))"
    " console.log(line.split(' ').map(Number).reduce((a, b) => a + b))",
    "c": "#include <stdio.h>\nint main(void) { int x, s = 0; char c;\n"
    'while (scanf("%d%c", &x, &c) == 2) { s += x; if (c == \'\\n\') { printf("%d\\n", s); s = 0; } } }',
    "cpp": "#include <iostream>\n#include <sstream>\nint main() { std::string line;\n"
    "while (std::getline(std::cin, line)) { std::istringstream in(line); int x, s = 0; while (in >> x) s += x;"
    " std::cout << s << std::endl; } }",
    "lua": "for line in io.lines() do local s = 0; for x in line:gmatch('-?%d+') do s = s + math.tointeger(x) end"
    " print(s) end",
}


@pytest.mark.parametrize("language", LANGUAGES)
def test_equivalent_programs_are_graded_alike_in_every_language(box, language):
    inputs = ["1 2 3\n", "-5 5\n10 20 30\n", "7\n"]
    results = box.run_cases(DOUBLE[language], inputs, language=language)
    assert [r.stdout for r in results] == ["6\n", "0\n60\n", "7\n"]
    wrong = DOUBLE[language].replace("+ x", "- x").replace("+= x", "-= x").replace("a + b", "a - b")
    wrong = wrong.replace("print(sum(", "print(-sum(").replace("s + math", "s - math")
    assert [r.stdout for r in box.run_cases(wrong, inputs, language=language)] != [r.stdout for r in results]


def test_a_closed_sandbox_says_so(opened):
    box = opened()
    box.close()
    box.close()
    with pytest.raises(SandboxClosed):
        box.run(code="1")


def test_what_is_asked_for_wrongly_is_named(box):
    with pytest.raises(UnknownLanguage, match="Did you mean 'python'"):
        box.run(code="1", language="pyton")
    with pytest.raises(InvalidOption, match="either a command or code"):
        box.run()
    with pytest.raises(InvalidOption, match="timeout"):
        box.run(code="1", timeout=0)
    with pytest.raises(UnknownBackend, match="Did you mean 'bubblewrap'"):
        open_sandbox("bubblewarp")
    with pytest.raises(InvalidOption, match="memory_bytes"):
        Limits(memory_bytes=-1)


def test_the_unsafe_backend_must_be_asked_for():
    with pytest.raises(InvalidOption, match="allow_unsafe=True"):
        open_sandbox("process")
