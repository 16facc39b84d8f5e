"""Settings of every test: strict dtype and rank promotion, 8 CPU devices, a quick compiler."""

import gc
import os
from importlib.metadata import version
from pathlib import Path

# XLA reads these when it makes the first device: a stuck collective fails in seconds instead of hanging.
FLAGS = [
    "--xla_cpu_collective_call_warn_stuck_timeout_seconds=5",
    "--xla_cpu_collective_call_terminate_timeout_seconds=40",
]
# These halve the compile time. XLA aborts on unknown flags, so they are for the releases that know them.
if version("jaxlib").startswith("0.10."):
    FLAGS += ["--xla_cpu_use_fusion_emitters=false", "--xla_cpu_parallel_codegen_split_count=1"]
os.environ.setdefault("XLA_FLAGS", " ".join(FLAGS))
# Tests never reach a hub, except for those of its errors, which set this themselves.
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
# No Python locations of operations: a tenth of the time to lower a program.
jax.config.update("jax_traceback_in_locations_limit", 0)
# Tests compile thousands of tiny programs and run each a few times: fewer optimizations compile four times
# as fast.
jax.config.update("jax_disable_most_optimizations", True)
jax.config.update("jax_compilation_cache_dir", str(Path(__file__).parents[1] / ".cache" / "jax"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)

hypothesis.settings.register_profile("default", deadline=None, max_examples=10, derandomize=True)
hypothesis.settings.register_profile("thorough", deadline=None, max_examples=500)
hypothesis.settings.register_profile("unshrunk", phases=[hypothesis.Phase.generate])
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))

# Traces are millions of small objects, which every collection would walk.
gc.set_threshold(100_000, 20, 100)


def pytest_collection_finish():
    """Exempts imported objects from garbage collection: collections walk only the objects of tests."""
    gc.freeze()


@pytest.fixture(autouse=True, scope="module")
def clear_caches_after_each_module():
    """Frees compiled programs, which would take gigabytes."""
    yield
    jax.clear_caches()
    gc.collect()


@pytest.fixture
def profile():
    """Loads a hypothesis profile by its name, for one test."""
    before = hypothesis.settings.get_current_profile_name()
    yield hypothesis.settings.load_profile
    hypothesis.settings.load_profile(before)


@pytest.fixture
def unshrunk(profile):
    """Reports the first counterexample without shrinking it."""
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
