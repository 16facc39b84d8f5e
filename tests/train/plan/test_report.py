import dataclasses
import json

import pytest

from tests.train.plan.test_search import CONFIG, make_task
from tfm_jax.train.plan.compiling import CompiledStep, Memory
from tfm_jax.train.plan.report import Report, Row, axes_of, make_report, render, short

MESH = {"data": 2, "fsdp": 4}
GIB = 2**30


def make(**changes):
    report = Report(
        topology="v5e:2x4",
        devices=8,
        mesh=MESH,
        parameters=1000,
        params=GIB,
        state=3 * GIB,
        batch=GIB // 2,
        temporary=4 * GIB,
        exceeded=0,
        capacity=16 * GIB,
        fix=None,
        tokens=4096,
        flops=197e12 * 8,
        program_flops=197e12,
        collectives=(
            Row("all-gather", "fsdp", "bf16", (256, 64), GIB, 3, "nn/layers.py:70"),
            Row("all-reduce", "data", "f32", (64,), 256, 1, "train/step.py:9"),
        ),
        attention=("splash (tpu_custom_call), called from nn/attention.py:124",),
        float32=(("ops/losses.py:7", 0.25),),
        float32_is="one bfloat16 product",
        unknown_loops=1,
        unknown_cycles=2,
        compute_seconds=2.0,
        exchange_seconds=0.5,
        compile_seconds=12.0,
    )
    return dataclasses.replace(report, **changes)


def test_axes_of_groups():
    assert axes_of(((0, 1, 2, 3), (4, 5, 6, 7)), MESH) == "fsdp"
    assert axes_of(((0, 4), (1, 5), (2, 6), (3, 7)), MESH) == "data"
    assert axes_of((tuple(range(8)),), MESH) == "data, fsdp"
    assert axes_of(((0, 1), (1, 2), (2, 3), (3, 0)), MESH) == "fsdp"  # pairs of a permutation
    assert axes_of((), MESH) == "all"
    assert axes_of(((0, 1),), {}) == "all"
    assert axes_of(((0, 2), (1, 3)), {"data": 1, "fsdp": 2, "tensor": 2}) == "fsdp"


def test_lines_are_shown_from_the_package_on():
    assert short("/a/site-packages/tfm_jax/nn/layers.py:70") == "nn/layers.py:70"
    assert short("/a/experiments/language_model/run.py:1") == "experiments/language_model/run.py:1"
    assert short("/a/other/model.py:3") == "model.py:3"
    assert short("") == ""


def test_the_estimate_is_a_range_and_called_one():
    report = make()
    assert report.seconds() == (2.0, 2.5)
    text = render(report)
    assert "step time         estimate: 2,000 ms to 2,500 ms, MFU 40% to 50%" in text
    assert "2,000 ms by the compiler's cycles" in text and "500 ms by the published bandwidth" in text
    assert "between hosts" not in text
    assert "of the links, between hosts too" in render(make(topology="h100:2x4"))
    assert "no estimate: the step runs on cpu, whose peaks" in render(
        make(topology="cpu:8", capacity=None, compute_seconds=None, exchange_seconds=None)
    )


def test_a_report_shows_memory_collectives_attention_and_float32_products():
    lines = render(make()).splitlines()
    assert lines[0] == ("v5e:2x4: data 2 x fsdp 4; 1,000 parameters, 4,096 tokens a step; compiled in 12 s")
    assert "memory a device   7.50 GiB of 16.00 GiB: fits" in lines
    [row] = [line for line in lines if "all-gather" in line]
    assert row.split() == [
        "3.00",
        "GiB",
        "3",
        "x",
        "bf16[256,64]",
        "all-gather",
        "over",
        "fsdp",
        "nn/layers.py:70",
    ]
    assert "attention         splash (tpu_custom_call), called from nn/attention.py:124" in lines
    assert "float32 products  one bfloat16 product" in lines
    assert "   25.0% of the FLOPs at ops/losses.py:7" in lines
    assert "operations without the compiler's cycles, left out above: 2" in lines
    assert any(line == "loops with unknown trips, counted once above: 1" for line in lines)
    assert "  in products     1.00 times that in the program, outside of kernels" in lines


def test_further_collectives_are_added_up():
    lines = render(make(), rows=1).splitlines()
    assert not any("all-reduce" in line for line in lines)
    assert any(line.split() == ["0.00", "MiB", "1", "more"] for line in lines)


@pytest.mark.parametrize(
    "changes, verdict",
    [
        (
            {"temporary": 20 * GIB, "fix": "It would with --model.remat full."},
            "by 7.50 GiB. It would with --model",
        ),
        ({"exceeded": GIB}, "does not fit, by 1.00 GiB. No change that is known here"),
        ({"temporary": 20 * GIB, "exceeded": 9 * GIB}, "does not fit, by 9.00 GiB"),
    ],
)
def test_what_does_not_fit_says_by_how_much(changes, verdict):
    report = make(**changes)
    assert report.fits is False
    assert verdict in render(report)


def test_without_a_known_memory_nothing_is_said_to_fit():
    report = make(topology="cpu:8", capacity=None)
    assert report.fits is None
    assert "memory a device   7.50 GiB\n" in render(report)


@pytest.mark.parametrize(
    "precision, topology, text",
    [
        (None, "v5e:2x4", "one bfloat16 product (operands are rounded to 8 bits, sums are float32)"),
        ("high", "v5e:2x4", "three bfloat16 products (a matmul precision of high)"),
        ("highest", "h200:8", "float32 (a matmul precision of highest)"),
        ("highest", "cpu:8", "float32"),
    ],
)
def test_a_float32_product_is_that_of_the_configs_precision(precision, topology, text):
    task = make_task(dataclasses.replace(CONFIG, matmul_precision=precision))
    step = CompiledStep(None, Memory(1, 1, 1, 1, 1), {"fsdp": 8}, 0, 0)
    assert make_report(task, topology, step).float32_is == text


def test_a_report_survives_json():
    report = make()
    assert Report.from_json(json.loads(json.dumps(report.to_json()))) == report
