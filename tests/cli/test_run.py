"""The program as a whole: its arguments, how long it takes to say what it can do."""

import subprocess
import sys

import pytest

from tfm_jax import cli, pretrained


def test_every_command_is_listed(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["--help"])
    out = capsys.readouterr().out
    assert ended.value.code == 0
    assert all(name in out for name in ("translate", "generate", "embed", "classify", "convert", "laws"))


def test_an_unknown_option_ends_with_status_2(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["translate", "run", "--beam-width", "3"])
    assert ended.value.code == 2 and "--beam-width" in capsys.readouterr().err


def test_help_does_not_wait_for_jax():
    code = "import sys, tfm_jax.cli; print([m for m in ('jax', 'datasets') if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "[]\n"


def test_the_package_is_a_program():
    command = [sys.executable, "-m", "tfm_jax.cli", "translate"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("tfm: say which model: the directory of a run")


def test_too_little_memory_is_one_line(tfm, monkeypatch):
    def load(*args, **options):
        raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.")

    monkeypatch.setattr(pretrained, "load_sentence_encoder", load)
    status, out, err = tfm("embed", "--model", "it", "text")
    assert (status, out) == (2, "") and err.startswith("tfm: out of memory: take a smaller --batch-size")
    monkeypatch.setattr(pretrained, "load_sentence_encoder", lambda *args, **options: {}["a fault of ours"])
    with pytest.raises(KeyError):
        tfm("embed", "--model", "it", "text")
