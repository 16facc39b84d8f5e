"""Without matplotlib, the error says what to install; without a picture, nothing of it is loaded."""

import subprocess
import sys

import pytest

from tfm_jax.viz import canvas


def test_without_matplotlib_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install 'tfm_jax\[experiments\]'"):
        canvas.blank(1, 1)


def test_to_import_the_room_does_not_import_matplotlib():
    code = "import sys, tfm_jax.viz; sys.exit('matplotlib' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
