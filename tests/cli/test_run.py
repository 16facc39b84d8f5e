"""The ``tfm`` program: help, two phases of parsing, exit status."""

import dataclasses
import subprocess
import sys

import pytest

from tfm_jax import cli, runs
from tfm_jax.cli import run


def test_help_lists_every_command(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["--help"])
    out = capsys.readouterr().out
    assert ended.value.code == 0
    assert all(
        name in out
        for name in ("translate", "generate", "embed", "classify", "convert", "compare", "laws", "doctor")
    )


def test_an_unknown_option_exits_with_status_2(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["translate", "run", "--beam-width", "3"])
    assert ended.value.code == 2 and "--beam-width" in capsys.readouterr().err


def test_phase_1_parses_options_and_phase_2_checks_numbers_files_and_combinations(tmp_path):
    command = run.parse(["generate", "model", "text", "--tokens", "x", "--average", "2"])
    assert (command.first, command.rest, command.tokens) == ("model", ("text",), "x")
    with pytest.raises(ValueError, match="--tokens: got x; wanted an integer"):
        run.check(command)
    with pytest.raises(ValueError, match="--average: got a checkpoint, model; wanted a run"):
        run.check(dataclasses.replace(command, tokens="3"))
    checked = dataclasses.replace(command, tokens="3", average=None)
    with pytest.raises(FileNotFoundError):
        run.check(dataclasses.replace(checked, rest=(), file=tmp_path / "none"))
    assert run.check(checked).tokens == 3


def test_help_does_not_import_jax():
    code = "import sys, tfm_jax.cli.run; print([m for m in ('jax', 'datasets') if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "[]\n"


def test_the_package_runs_as_a_program():
    command = [sys.executable, "-m", "tfm_jax.cli", "translate"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith(
        "tfm: got no model; wanted the directory of a run or a checkpoint"
    )


def test_out_of_memory_is_one_line(tfm, checkpoint, monkeypatch):
    def load(*args, **options):
        raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.")

    monkeypatch.setattr(runs, "load_text_generator", load)
    status, out, err = tfm("generate", "--model", checkpoint, "text")
    assert (status, out) == (2, "") and err.startswith("tfm: out of memory: use a smaller --batch-size")
    monkeypatch.setattr(runs, "load_text_generator", lambda *args, **options: {}["a bug"])
    with pytest.raises(KeyError):
        tfm("generate", "--model", checkpoint, "text")
