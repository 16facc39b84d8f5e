import jax
import pytest

from tests.train.plan.accelerators import devices_or_skip
from tfm_jax.train.plan import topologies
from tfm_jax.train.plan.chips import CHIPS, find_chip
from tfm_jax.train.plan.topologies import chip_of, topology

SIZES = {
    "cpu:8": 8,
    "v5e:16x16": 256,
    "v5p:8x8x8": 512,
    "v6e:16x16": 256,
    "tpu7x:4x4x4": 128,  # two devices a chip
    "h100:8": 8,
    "h200:8": 8,
    "b200:8": 8,
}


def test_all_known_topologies_are_tested():
    assert tuple(SIZES) == topologies.KNOWN


@pytest.mark.parametrize("name", SIZES)
def test_the_devices_of_a_topology_are_those_of_its_chip(name):
    devices = devices_or_skip(name)
    assert len(devices) == SIZES[name]
    assert find_chip(devices[0].device_kind) is chip_of(name)


def test_hosts_of_gpus():
    devices = devices_or_skip("h100:2x8")
    assert [len([x for x in devices if x.process_index == i]) for i in (0, 1)] == [8, 8]


@pytest.mark.parametrize(
    "name", ["", "v5e", "v5e:", "v5e:16", "v5e:16xa", "v9:2x2", "h100:8x8x8", "cpu:2x4", "cpu:0"]
)
def test_an_unknown_topology_lists_those_known(name):
    for function in (topology, chip_of, topologies.prepare):
        with pytest.raises(ValueError, match=rf"got '{name}'; wanted one of cpu:8, v5e:16x16, v5p:8x8x8, "):
            function(name)


def test_more_cpus_than_there_are():
    with pytest.raises(
        ValueError, match=r"got cpu:9 with 8 CPU devices .*; wanted 9. .*JAX_NUM_CPU_DEVICES=9"
    ):
        topology("cpu:9")


def test_a_layout_that_the_compiler_does_not_know():
    devices_or_skip("v5e:2x4")
    with pytest.raises(ValueError, match="got v5e:3x5; wanted a layout of v5e"):
        topology("v5e:3x5")


@pytest.mark.parametrize("name, extra", [("v5e:2x4", "tpu"), ("h100:8", "cuda13")])
def test_a_missing_compiler_says_which_extra_to_install(name, extra, monkeypatch):
    def missing(*args, **kwargs):
        raise RuntimeError("no plugin")

    monkeypatch.setattr("jax.experimental.topologies.get_topology_desc", missing)
    with pytest.raises(
        ImportError, match=rf"got {name} without .*; wanted .* pip install 'tfm_jax\[{extra}\]'"
    ):
        topology(name)


def test_flags_of_other_platforms_are_hidden_from_a_compiler(monkeypatch):
    seen = []

    def record(*args, **kwargs):
        seen.append(topologies.os.environ["XLA_FLAGS"])
        raise RuntimeError

    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_a=1 --xla_dump_to=x --xla_gpu_b=2 --xla_tpu_c=3")
    monkeypatch.setattr("jax.experimental.topologies.get_topology_desc", record)
    for name in ("v5e:2x4", "h100:8"):
        with pytest.raises(ImportError):
            topology(name)
    assert seen == ["--xla_dump_to=x --xla_tpu_c=3", "--xla_dump_to=x --xla_gpu_b=2"]
    assert topologies.os.environ["XLA_FLAGS"].split()[0] == "--xla_cpu_a=1"


def test_facts_of_chips():
    assert find_chip("cpu") is CHIPS["cpu"] and CHIPS["cpu"].flops is None
    assert find_chip("TPU v1") is None
    kinds = [kind for chip in CHIPS.values() for kind in chip.device_kinds]
    assert len(set(kinds)) == len(kinds)
    assert find_chip(jax.devices()[0].device_kind) is CHIPS["cpu"]


@pytest.mark.parametrize(
    "chip", [chip for chip in CHIPS.values() if chip.platform == "tpu"], ids=lambda x: x.name
)
def test_the_clock_of_a_tpu_gives_its_peak(chip):
    products = chip.flops / (2 * chip.clock)  # a cycle
    unit = 128 * 128 if chip.name.startswith("v5") else 256 * 256
    assert products / unit == pytest.approx(round(products / unit), rel=0.01)


def test_the_target_of_a_gpu_is_made_of_its_facts():
    text = CHIPS["h200"].target()
    for line in (
        "core_count: 132",
        f"device_memory_size: {141 * 2**30}",
        "memory_bandwidth: 4800000000000",
        "shared_memory_per_core: 233472",
        "clock_rate_ghz: 1.98",
        "cuda_compute_capability { major: 9 minor: 0 }",
        'device_description_str: "NVIDIA H200"',
    ):
        assert line in text
    with pytest.raises(ValueError, match="got v5e; wanted an NVIDIA GPU"):
        CHIPS["v5e"].target()
