"""The command, in this process."""

import io
import sys

import pytest

from tfm_jax import cli


@pytest.fixture
def tfm(capsys, monkeypatch):
    """Runs the command: (status, output's lines, standard error)."""

    def run(*argv, stdin=None):
        if stdin is not None:
            monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        status = cli.main([str(word) for word in argv])
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return status, out, err

    return run
