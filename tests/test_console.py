"""Command-line programs as real processes, whose streams are closed, full or no longer read."""

import dataclasses
import io
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tfm_jax import console

ROOT = Path(__file__).parents[1]
PROGRAM = "import sys; from tfm_jax.console import run_program; sys.exit(run_program('it', 'program:main'))"


def shell(tmp_path, body, redirect="", head=""):
    """Runs a program with this body of its main function in a shell: (status, output, standard error)."""
    (tmp_path / "program.py").write_text("import os, sys, time\n" + head + "\ndef main():\n    " + body)
    (tmp_path / "start.py").write_text(PROGRAM)
    command = f"{sys.executable} start.py {redirect}"
    return run(command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": f"{ROOT}:{tmp_path}"})


def run(command, **options):
    done = subprocess.run(["bash", "-c", f"set -o pipefail; {command}"], capture_output=True, **options)
    return done.returncode, done.stdout.decode(), done.stderr.decode()


@pytest.mark.parametrize(
    ("body", "redirect", "wanted"),
    [
        ("print('a')", "", (0, "a\n", "")),
        ("return 3", "", (3, "", "")),
        ("print('a'); sys.exit('wrong')", "", (1, "a\n", "wrong\n")),
        ("print('a')", "> /dev/full", (2, "", "it: standard output: No space left on device\n")),
        ("print('a', flush=True)", "> /dev/full", (2, "", "it: standard output: No space left on device\n")),
        ("print('a'); sys.exit()", "> /dev/full", (2, "", "it: standard output: No space left on device\n")),
        ("print('a')", ">&-", (2, "", "it: standard output: it is closed\n")),
        ("pass", ">&-", (0, "", "")),
        ("open('nowhere')", "", (2, "", "it: nowhere: No such file or directory\n")),
        ("open('nowhere')", "2> /dev/full", (2, "", "")),
        ("open('nowhere')", "2>&-", (2, "", "")),
        ("raise KeyboardInterrupt", "", (130, "", "")),
        ("[print(i) for i in range(10**6)]", "| head -n 1", (141, "0\n", "")),
        ("[print(i) for i in range(10**6)]", "2>&1 | head -n 1", (141, "0\n", "")),
        ("print(sys.stdin, [open(f'{i}', 'w').fileno() > 2 for i in range(3)])", "<&- 2>&-", None),
    ],
)
def test_exit_status_and_messages(tmp_path, body, redirect, wanted):
    # A file that is opened never gets the number of a closed stream, to which libraries may write.
    wanted = wanted or (0, "None [True, True, True]\n", "")
    assert shell(tmp_path, body, redirect) == wanted


@pytest.mark.parametrize("where", ["main", "import", "import of a library that hides it"])
def test_ctrl_c_at_any_time(tmp_path, where):
    wait = "open('begun', 'w'); time.sleep(60)"
    hiding = f"try:\n    {wait}\nexcept BaseException:\n    raise ImportError\n"
    head = {"main": "", "import": wait}.get(where, hiding)
    body = wait if where == "main" else "pass"
    (tmp_path / "program.py").write_text(f"import time\n{head}\ndef main():\n    {body}")
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "cwd": tmp_path}
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{tmp_path}"}
    with subprocess.Popen([sys.executable, "-c", PROGRAM], env=environment, **options) as process:
        while not (tmp_path / "begun").exists():
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        assert process.communicate() == (b"", None) and process.returncode == 130


def test_replaced_streams_and_signal_handlers_stay(capsys):
    before, handler = sys.stdout, signal.getsignal(signal.SIGINT)
    assert console.run_program("it", "builtins:print", "a") == 0
    assert (sys.stdout, signal.getsignal(signal.SIGINT)) == (before, handler)
    assert capsys.readouterr().out == "a\n"


def test_unencodable_characters_are_escaped(monkeypatch):
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="ascii", newline="")
    for stdout in (terminal, io.StringIO()):  # the second encodes everything, and has no reconfigure
        monkeypatch.setattr(sys, "stdout", stdout)
        console.escape_unencodable()
        print("a猫", flush=True)
    assert terminal.buffer.getvalue() == b"a\\u732b\n" and stdout.getvalue() == "a猫\n"


def test_exit_on_error_prints_one_line_except_for_a_broken_pipe():
    with pytest.raises(SystemExit, match="it: there is none"), console.exit_on_error("it"):
        raise OSError("there is none")
    error = FileNotFoundError(2, "No such file", "a/b")
    with pytest.raises(SystemExit) as stopped, console.exit_on_error("it"):
        raise error
    assert stopped.value.code == f"it: {console.error_line(error)}" == "it: a/b: No such file"
    with pytest.raises(BrokenPipeError), console.exit_on_error("it"):
        raise BrokenPipeError


@dataclasses.dataclass(frozen=True)
class Options:
    fast: bool = False
    steps: int = 1


def test_parse_options(capsys):
    assert console.parse_options(Options, ["--fast", "--steps", "3"]) == Options(True, 3)
    for argv in (["--no-fast"], ["--steps", "x"]):
        with pytest.raises(SystemExit) as stopped:
            console.parse_options(Options, argv)
        assert stopped.value.code == 2 and argv[0] in capsys.readouterr().err


def test_error_line_names_the_file():
    assert console.error_line(FileNotFoundError(2, "No such file", "x")) == "x: No such file"
    assert console.error_line(OSError("broken")) == console.error_line(ValueError("broken")) == "broken"


def test_log_lines_are_printed_once_whatever_handlers_the_root_has(capsys):
    logger, root = logging.getLogger("tfm_jax.generate"), logging.getLogger()
    handler = logging.StreamHandler(sys.stderr)
    root.addHandler(handler)
    try:
        with console.log_to_stderr("tfm_jax.generate", logging.INFO):
            logger.info("compiled it")
        logger.info("not printed")
    finally:
        root.removeHandler(handler)
    assert capsys.readouterr().err == "tfm: compiled it\n" and logger.propagate


TFM = f"{sys.executable} -m tfm_jax.cli"


def test_tfm_with_a_closed_pipe_or_a_full_device():
    status, out, err = run(f"{TFM} generate --help | head -n 1; {TFM} --help > /dev/full", cwd=ROOT)
    assert (status, err) == (2, "tfm: standard output: No space left on device\n")
    assert out.startswith("usage: tfm generate")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["images", "digits", "classification", "language_model", "translation"])
def test_an_experiment_with_a_closed_pipe_or_a_full_device(name):
    program = f"{sys.executable} -m experiments.{name} --help"
    status, out, err = run(f"{program} | head -n 1; {program} > /dev/full", cwd=ROOT)
    assert (status, err) == (2, f"{name}: standard output: No space left on device\n")
    assert out.startswith("usage: ")
    assert run(f"{program} 2>&- >&-", cwd=ROOT)[0] == 2


@pytest.mark.slow
@pytest.mark.parametrize("delay", [0.6, 1.2, 1.8, 2.4, 3.0])
def test_ctrl_c_while_tfm_starts(delay, tmp_path):
    """During imports, of JAX too, or while a line of input is read."""
    command = [sys.executable, "-m", "tfm_jax.cli", "laws", "jax.numpy.tanh", "--suite", "activation"]
    command += ["--examples", "100000"]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.PIPE, "cwd": ROOT}
    with subprocess.Popen(command, **options) as process:
        time.sleep(delay)
        process.send_signal(signal.SIGINT)
        assert process.communicate()[1] == b"" and process.returncode == 130


def test_a_table_in_a_pipe_has_whole_lines_and_no_markup(capsys):
    console.print_table(["name", "[b]"], [["a" * 200, "[red]1"], ["", "2"]], bold=[True])
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    head, rule, first, second = filter(None, lines)
    assert (head, first, second) == (["name", "[b]"], ["a" * 200, "[red]1"], ["2"])
    assert set("".join(rule)) in ({"─"}, {"-"})
