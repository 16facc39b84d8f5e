"""The compilation cache in this process by its settings, and in new processes by what it does."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from tfm_jax import compilation_cache

ROOT = Path(__file__).parents[1]
NAMES = (
    "jax_enable_compilation_cache",
    "jax_compilation_cache_dir",
    "jax_compilation_cache_max_size",
    "jax_persistent_cache_min_compile_time_secs",
)


@pytest.fixture
def settings(tmp_path, monkeypatch):
    """JAX as without a cache, and a user's cache directory; returns the function that reads the settings."""
    before = {name: getattr(jax.config, name) for name in NAMES}
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    jax.config.update("jax_compilation_cache_dir", None)
    yield lambda: {name: getattr(jax.config, name) for name in NAMES}
    compilation_cache._update(**before)


def test_auto_is_a_bounded_cache_of_the_user(settings, tmp_path):
    compilation_cache.enable()
    directory = tmp_path / "user" / "tfm_jax" / "compiled"
    assert directory.is_dir()
    assert settings()["jax_compilation_cache_dir"] == str(directory)
    assert settings()["jax_compilation_cache_max_size"] == compilation_cache.MAX_BYTES
    assert compilation_cache.describe() == f"{directory}, at most 2 GiB; 0 programs, 0 MiB"


@pytest.mark.parametrize("name", ["jax_compilation_cache_dir", "jax_enable_compilation_cache"])
def test_auto_leaves_the_settings_of_jax_alone(name, settings, tmp_path):
    jax.config.update(name, {"jax_compilation_cache_dir": str(tmp_path)}.get(name, False))
    before = settings()
    compilation_cache.enable()
    assert settings() == before
    assert not (tmp_path / "user").exists()


def test_off_wins_over_the_settings_of_jax(settings, tmp_path):
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    compilation_cache.enable("off")
    assert not settings()["jax_enable_compilation_cache"]
    assert compilation_cache.describe() == "off"


def test_a_directory_wins_over_the_settings_of_jax_and_keeps_its_limit(settings, tmp_path):
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    jax.config.update("jax_compilation_cache_max_size", 10**6)
    compilation_cache.enable(str(tmp_path / "deep" / "cache"))
    assert settings()["jax_compilation_cache_dir"] == str(tmp_path / "deep" / "cache")
    assert settings()["jax_compilation_cache_max_size"] == 10**6


def test_a_directory_that_cannot_be_written_is_an_error_and_auto_does_without(
    settings, tmp_path, monkeypatch
):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"--compilation-cache: got .*/file/cache.; wanted a directory that"):
        compilation_cache.enable(str(tmp_path / "file" / "cache"))
    with pytest.raises(ValueError, match="--compilation-cache: got ''; wanted a directory"):
        compilation_cache.enable("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    compilation_cache.enable()
    assert compilation_cache.describe() == "off"


PROGRAM = """
import jax, jax.numpy as jnp
from tfm_jax import compilation_cache
compilation_cache.enable({choice!r})
f = jax.jit(lambda x: jax.lax.scan(lambda c, a: (jnp.sin(c @ a), c), x, jnp.stack([x, x]))[0])
f(jnp.ones((8, 8)))
compilation_cache.report_hits()
"""


def start(choice, tmp_path, **environment):
    """What a new process prints that compiles a small program."""
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("JAX_")},
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "XDG_CACHE_HOME": str(tmp_path),
        "PYTHONPATH": str(ROOT),
        "JAX_PLATFORMS": "cpu",
        **environment,
    }
    command = [sys.executable, "-c", PROGRAM.format(choice=choice)]
    return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout


def test_the_second_start_hits_and_says_so_in_one_line(tmp_path):
    assert start("auto", tmp_path) == ""
    assert list((tmp_path / "tfm_jax" / "compiled").glob("*-cache"))
    lines = start("auto", tmp_path).splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("compilation cache: ")
    assert f"from {tmp_path / 'tfm_jax' / 'compiled'}, " in lines[0]
    assert start("off", tmp_path) == ""
    own = tmp_path / "own"
    assert start("auto", tmp_path, JAX_COMPILATION_CACHE_DIR=str(own)) == ""
    assert list(own.glob("*-cache"))
