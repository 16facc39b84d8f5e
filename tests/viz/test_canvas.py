"""matplotlib is imported only to draw; without it, the error says what to install."""

import subprocess
import sys

import pytest

from tfm_jax.viz import _canvas


def test_without_matplotlib_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install 'tfm_jax\[experiments\]'"):
        _canvas.blank(1, 1)


def test_importing_viz_does_not_import_matplotlib():
    code = "import sys, tfm_jax.viz; sys.exit('matplotlib' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
