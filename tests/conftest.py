"""The strictest settings that JAX has, for every test: dtypes and ranks never promote silently."""

import functools
import gc
import os
from importlib.metadata import version
from pathlib import Path

# Read by XLA when the first device is made: a stuck collective fails in seconds instead of hanging.
FLAGS = [
    "--xla_cpu_collective_call_warn_stuck_timeout_seconds=5",
    "--xla_cpu_collective_call_terminate_timeout_seconds=40",
]
# XLA ends the process over a flag that it does not know: only for the releases that know these, which
# halve the time that compilation takes.
if version("jaxlib").startswith("0.10."):
    FLAGS += ["--xla_cpu_use_fusion_emitters=false", "--xla_cpu_parallel_codegen_split_count=1"]
os.environ.setdefault("XLA_FLAGS", " ".join(FLAGS))
# Tests never reach a hub; those of the hub's errors say so themselves.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_CACHE", str(Path(__file__).parents[1] / ".cache" / "datasets"))
os.environ.setdefault("MPLBACKEND", "agg")

import hypothesis  # noqa: E402
import jax  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
# Where in Python each operation of a program came from: a tenth of the time that it takes to lower one.
jax.config.update("jax_traceback_in_locations_limit", 0)
# Tests compile thousands of tiny programs and run each a few times: a quick compiler is four times as fast.
jax.config.update("jax_disable_most_optimizations", True)
jax.config.update("jax_compilation_cache_dir", str(Path(__file__).parents[1] / ".cache" / "jax"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)

# JAX makes a context of MLIR for each program, a tenth of the time of a tiny one. They can share one; how is
# JAX's own affair, so only in the releases that this was tried in.
if version("jax").startswith("0.10."):
    from jax._src.interpreters import mlir

    mlir.make_ir_context = functools.cache(mlir.make_ir_context)

hypothesis.settings.register_profile("default", deadline=None, max_examples=10, derandomize=True)
hypothesis.settings.register_profile("thorough", deadline=None, max_examples=500)
hypothesis.settings.register_profile("unshrunk", phases=[hypothesis.Phase.generate])
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))

# What JAX traced are millions of small objects, which the collector would walk again and again.
gc.set_threshold(100_000, 20, 100)


def pytest_collection_finish():
    """Nothing that was imported is garbage: collections walk only what tests leave behind."""
    gc.freeze()


@pytest.fixture(autouse=True, scope="module")
def programs_end_with_their_module():
    """Or a process holds gigabytes of programs that nobody will run again."""
    yield
    jax.clear_caches()
    gc.collect()


@pytest.fixture
def profile():
    """Loads a profile of hypothesis by its name, for one test."""
    before = hypothesis.settings.get_current_profile_name()
    yield hypothesis.settings.load_profile
    hypothesis.settings.load_profile(before)


@pytest.fixture
def unshrunk(profile):
    """Laws tell of the first case that breaks them, and do not look for a smaller one."""
    profile("unshrunk")


def pytest_terminal_summary(terminalreporter):
    """Prints the number of killed mutants, if mutation tests ran."""
    counts = {
        outcome: sum(
            "test_mutant_violates_its_laws" in report.nodeid
            for report in terminalreporter.stats.get(outcome, [])
        )
        for outcome in ("passed", "failed")
    }
    if total := sum(counts.values()):
        terminalreporter.write_line(f"mutants killed: {counts['passed']} of {total}")
