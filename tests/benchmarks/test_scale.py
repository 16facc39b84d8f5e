import dataclasses
import importlib

import pytest

from benchmarks.scale import CASES, MODELS, page
from tests.train.plan.test_report import make
from tfm_jax.train.plan import topologies
from tfm_jax.train.plan.formulas import Setting, traffic
from tfm_jax.train.plan.report import Row

PARAMETERS = {"paper big": 214.2e6, "1.24 B": 1236e6, "7 B": 6738e6}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_case_is_a_plan_of_its_devices(case):
    experiment = importlib.import_module(f"experiments.{MODELS[case.model][0]}.plan")
    task = experiment.plan(experiment.parse(case.options))
    sizes = case.topology.partition(":")[2].split("x")
    devices = 1
    for size in sizes:
        devices *= int(size)
    setting = Setting(case.mesh, task.model.config.remat)
    assert setting.size("data", "fsdp", "tensor") == devices
    assert next(iter(task.batch.values())).shape[0] % setting.size("data", "fsdp") == 0
    assert topologies.chip_of(case.topology).flops
    weights = traffic(task, Setting({"fsdp": 2}, None)).gathered / 4  # twice, in bfloat16
    assert weights == pytest.approx(PARAMETERS[case.model], rel=0.01)


def test_the_bar_is_the_formula_of_the_first_case():
    case = CASES[0]
    assert (case.mesh, case.batch) == ({"data": 16, "fsdp": 16}, 512)
    experiment = importlib.import_module("experiments.language_model.plan")
    task = experiment.plan(experiment.parse(case.options))
    assert task.tokens == 512 * 2048
    found = traffic(task, Setting(case.mesh, "full"))
    weights = 1236e6
    formula = 2 * 2 * weights + 4 * weights + 4 * weights / 16  # gradients are added in float32
    assert found.total == pytest.approx(formula, rel=0.001)


def test_the_page_shows_a_case_beside_its_formula():
    GIB = 2**30
    report = make(collectives=(Row("all-gather", "fsdp", "bf16", (8, 4), GIB, 3, "nn/layers.py:7"),))
    saved = {
        "name": CASES[0].name,
        "report": report.to_json(),
        "formula": {"gathered": 2.5 * GIB, "scattered": 0.0, "reduced": 0.0},
    }
    text = page({CASES[0].name: saved})
    assert "| sum | 3.00 | 2.50 (+20.0%) |" in text
    assert "| 3.00 | 3 | bf16[8,4] | all-gather over fsdp | nn/layers.py:7 |" in text
    assert "tfm plan language_model --topology v5e:16x16" in text
    assert f"Not compiled yet: {CASES[1].name}; " in text
    assert "Compiled with" not in text and "an earlier measurement" in text
    assert "Compiled with libtpu 1.2.\n" in page({CASES[0].name: {**saved, "versions": {"libtpu": "1.2"}}})
    full = dataclasses.replace(report, exceeded=GIB, collectives=())
    assert "does not fit" in page({CASES[0].name: {**saved, "report": full.to_json()}})
