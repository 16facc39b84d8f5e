import pytest

from tests.train.plan.accelerators import devices_or_skip
from tests.train.plan.test_search import make_task
from tfm_jax.train.plan.compiling import _too_large, compile_step

GIB = 2**30
# Of libtpu 0.0.42, 0.0.52 and releases before.
MESSAGES = (
    "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries (18.64G) "
    "exceeds available HBM (15.75G).",
    "RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: Ran out of memory on HBM, the total memory required for "
    "HLO temporaries (18.64G) exceeds available HBM (15.75G). HLO module: jit_step.\nSee https://openxla.org/",
    "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 18.64G of 15.75G hbm. Exceeded hbm "
    "capacity by 2.89G.\n\nTotal hbm usage >= 18.89G:\n    reserved        258.00M",
)


@pytest.mark.parametrize("message", MESSAGES)
def test_the_errors_of_a_program_that_is_too_large(message):
    used, exceeded = _too_large(message)
    assert used == int(18.64 * GIB) and exceeded == pytest.approx(2.89 * GIB)


def test_another_error_of_a_compiler_stays_one():
    with pytest.raises(RuntimeError, match="the compiler failed: INTERNAL: no"):
        _too_large("INTERNAL: no")


def test_a_step_that_is_too_large_for_a_tpu_says_by_how_much():
    """Its batch alone is larger than the memory of a v5e."""
    devices_or_skip("v5e:2x4")
    task = make_task(mesh={"data": 8}, batch=2**32)
    step = compile_step(task, "v5e:2x4")
    assert step.text is None
    assert step.memory.batch == 32 * GIB
    assert step.memory.exceeded > 16 * GIB
    assert step.memory.exceeded + 16 * GIB == pytest.approx(step.memory.total, rel=0.05)
