import io
import time
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from tests.train import problem
from tests.train.test_loop import STEP, MemoryWriter, initial
from tfm_jax import train
from tfm_jax.train import throughput
from tfm_jax.train.throughput import Throughput, devices_of, peak_flops, peak_memory


class Clock:
    """Replaces ``time.perf_counter``."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        monkeypatch.setattr(throughput, "time", types.SimpleNamespace(perf_counter=lambda: self.now))


def device(kind="NVIDIA H200", peak=None, process=0):
    stats = None if peak is None else {"peak_bytes_in_use": peak, "bytes_limit": 2**40}
    return types.SimpleNamespace(device_kind=kind, process_index=process, memory_stats=lambda: stats)


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


def test_rates_count_only_the_time_between_start_and_stop(clock):
    rates = Throughput("tokens")
    rates.start()
    for weight in (10.0, 30.0):
        clock.now += 2.0
        rates.add(weight)
    rates.stop()
    clock.now += 1000.0  # an evaluation
    rates.start()
    clock.now += 1.0
    rates.start()  # within an interval: changes nothing
    clock.now += 3.0
    rates.add(40.0)
    assert rates.take() == {"tokens_per_second": 80.0 / 8.0}
    assert rates.take() == {}
    clock.now += 5.0
    rates.add(10.0)
    assert rates.take() == {"tokens_per_second": 2.0}


def test_an_interval_with_a_compilation_does_not_count(clock):
    rates = Throughput("tokens")
    rates.start()
    clock.now += 100.0
    jax.jit(lambda x: x * 3.0 + 1.0)(jnp.arange(5.0))
    rates.add(7.0)
    assert rates.take() == {}
    clock.now += 2.0
    rates.add(7.0)
    assert rates.take() == {"tokens_per_second": 3.5}


def test_mfu_is_of_the_peak_of_all_devices(clock):
    rates = Throughput("tokens", [device(), device()])
    rates.start()
    clock.now += 2.0
    rates.add(10.0, 989.4e12)
    assert rates.take() == {"tokens_per_second": 5.0, "mfu": pytest.approx(0.25)}


@pytest.mark.parametrize(
    ("devices", "flops"), [([device("cpu")], 1e12), ([device(), device("cpu")], 1e12), ([device()], None)]
)
def test_mfu_is_absent_without_flops_or_where_a_device_is_unknown(devices, flops, clock):
    rates = Throughput("tokens", devices)
    rates.start()
    for n in (flops, 1e12):
        clock.now += 2.0
        rates.add(10.0, n)
    assert rates.take() == {"tokens_per_second": 5.0}


def test_flops_of_a_batch_are_a_number_or_a_function_and_not_computed_for_an_unknown_device():
    seen = []

    def flops(batch):
        seen.append(batch["x"])
        return 5.0

    assert Throughput("tokens", [device()], flops).flops_of({"x": 3}) == 5.0
    assert Throughput("tokens", [device()], 7.0).flops_of({"x": 3}) == 7.0
    assert Throughput("tokens", [device()]).flops_of({"x": 3}) is None
    assert Throughput("tokens", [device(), device("cpu")], flops).flops_of({"x": 4}) is None
    assert seen == [3]


def test_peak_memory_is_the_largest_of_this_process():
    devices = [device(peak=2**30), device(peak=3 * 2**30), device(peak=2**40, process=1)]
    assert peak_memory(devices) == 3 * 2**30
    assert Throughput("tokens", devices).take() == {"peak_memory_gib": 3.0}
    assert peak_memory([device(), *jax.devices()]) is None  # a CPU does not report it


def test_peaks_are_found_by_the_kind_of_device():
    assert peak_flops("NVIDIA H100 80GB HBM3") == peak_flops("NVIDIA H200") == 989.4e12
    assert (peak_flops("TPU v5 lite"), peak_flops("TPU v5p")) == (197e12, 459e12)
    assert peak_flops("cpu") is None


def test_devices_of_a_tree_are_each_named_once():
    mesh = jax.make_mesh((4,), ("data",))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    tree = {"a": jax.device_put(np.zeros(4, np.float32), sharding), "b": jnp.zeros(2), "c": 3}
    assert devices_of(tree) == jax.devices()[:4]


class Slow(problem.Batches):
    def __next__(self):
        time.sleep(0.02)
        return super().__next__()


def test_fit_logs_rates_without_evaluations_and_writers_show_them(monkeypatch):
    """Steps of 20 ms; each evaluation takes 0.3 s."""
    monkeypatch.setattr(throughput, "peak_flops", lambda kind: 1e6)
    monkeypatch.setattr(throughput, "peak_memory", lambda devices: 2**30)
    writer, seen, out = MemoryWriter(), [], io.StringIO()

    def flops(batch):
        seen.append(batch["x"].shape)
        return 1000.0

    def evaluate(state):
        time.sleep(0.3)
        return {"validation/loss": 1.0}

    STEP(initial(), problem.make_batch(0))
    progress = train.Progress(12, console=Console(file=out, soft_wrap=True))
    train.fit(
        STEP, initial(), Slow(), steps=12, log_every=4, unit="rows", writers=[writer, progress],
        evaluate=evaluate, evaluate_every=2, flops_per_step=flops,
    )  # fmt: skip
    weights = [float(problem.make_batch(i)["weights"].sum()) for i in range(12)]
    for line, pair in zip(writer.lines.values(), zip(*[iter(weights)] * 2, strict=True), strict=True):
        assert line["rows_per_second"] > sum(pair) / 0.15  # with the evaluation 0.34 s
        assert line["mfu"] == pytest.approx(line["rows_per_second"] / sum(pair) * 2 * 1e-3, rel=1e-6)
        assert line["peak_memory_gib"] == 1.0
    assert seen == [(16, 3)] * 12
    assert " rows/s  MFU " in out.getvalue() and " %  peak 1.0 GiB" in out.getvalue()


def test_fit_does_not_count_the_steps_that_compile():
    """The first step compiles for 0.3 s; with log_every=1 its line has no rate."""
    writer = MemoryWriter()

    def step(state, batch):
        if not writer.lines:
            time.sleep(0.15)
        return fresh(state, batch)

    fresh = jax.jit(lambda *args: STEP(*args))
    train.fit(step, initial(), Slow(), steps=5, log_every=1, unit="rows", writers=[writer])
    assert "rows_per_second" not in writer.lines[1]
    assert all("rows_per_second" in writer.lines[step] for step in (3, 4, 5))
