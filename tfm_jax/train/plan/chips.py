"""Public facts of accelerators: peaks, memory, bandwidths, and what their compilers need to know.

One entry describes one JAX device. Sources: for TPUs the pages "TPU v5e", "TPU v5p", "TPU v6e" and "TPU7x" of
the Cloud TPU documentation (a device of a TPU7x is one of the two cores of a chip, so it has half of the
chip); for GPUs the data sheets of the H100 SXM, H200 SXM and HGX B200 (dense peaks, without sparsity) and the
tables of compute capabilities 9.0 and 10.0 in the CUDA C++ Programming Guide. Clocks of TPUs follow from the
peaks: 2 * 128 * 128 FLOPs a cycle for each matrix unit, or 2 * 256 * 256.
"""

import dataclasses
from typing import Literal

__all__ = ["CHIPS", "Chip", "Gpu", "find_chip"]

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Gpu:
    """What the compiler for NVIDIA GPUs wants to know of a chip.

    Args:
      compute_capability: such as (9, 0).
      cores: streaming multiprocessors.
      l2: bytes of the L2 cache.
      clock: of the cores at boost, in Hz.
    """

    compute_capability: tuple[int, int]
    cores: int
    l2: int
    clock: float


@dataclasses.dataclass(frozen=True)
class Chip:
    """Facts of an accelerator, for one JAX device of it.

    Args:
      name: in topologies, such as "v5e" of "v5e:16x16".
      platform: "tpu", "gpu" or "cpu".
      device_kinds: the ``device_kind`` that JAX reports.
      flops: peak bfloat16 FLOP/s of dense products; None where it is unknown.
      memory: bytes of device memory; None where it is unknown.
      bandwidth: bytes/s of device memory.
      interconnect: bytes/s that a device receives in a collective over one mesh axis: two links of a torus
        for a TPU, all of NVLink for a GPU.
      float32: what a float32 product is by default (``Config.matmul_precision`` of None).
      clock: cycles/s, of the ``estimated_cycles`` of the TPU compiler.
      gpu: of an NVIDIA GPU.
    """

    name: str
    platform: Literal["cpu", "gpu", "tpu"]
    device_kinds: tuple[str, ...]
    flops: float | None = None
    memory: int | None = None
    bandwidth: float | None = None
    interconnect: float | None = None
    float32: str = "float32"
    clock: float | None = None
    gpu: Gpu | None = None

    def target(self) -> str:
        """The description of an NVIDIA GPU that its compiler reads, a ``GpuTargetConfigProto`` as text."""
        if self.gpu is None or self.memory is None or self.bandwidth is None:
            raise ValueError(f"Chip.target: got {self.name}; wanted an NVIDIA GPU.")
        major, minor = self.gpu.compute_capability
        # From compute capability 9.0 to 10.0: 228 KiB of shared memory a core, of which a block has 227.
        facts = {
            "threads_per_block_limit": 1024,
            "threads_per_warp": 32,
            "shared_memory_per_block": 48 * 1024,
            "shared_memory_per_core": 228 * 1024,
            "threads_per_core_limit": 2048,
            "core_count": self.gpu.cores,
            "fpus_per_core": 128,
            "block_dim_limit_x": 2**31 - 1,
            "block_dim_limit_y": 2**16 - 1,
            "block_dim_limit_z": 2**16 - 1,
            "memory_bandwidth": int(self.bandwidth),
            "l2_cache_size": self.gpu.l2,
            "clock_rate_ghz": self.gpu.clock / 1e9,
            "device_memory_size": self.memory,
            "shared_memory_per_block_optin": 227 * 1024,
            "registers_per_core_limit": 2**16,
            "registers_per_block_limit": 2**16,
        }
        lines = [f"  {name}: {value}" for name, value in facts.items()]
        return "\n".join(
            [
                "gpu_device_info {",
                *lines,
                f"  cuda_compute_capability {{ major: {major} minor: {minor} }}",
                "}",
                'platform_name: "CUDA"',
                "dnn_version_info { major: 9 minor: 10 patch: 0 }",
                "runtime_version { major: 12 minor: 8 patch: 0 }",
                f'device_description_str: "{self.device_kinds[0]}"',
            ]
        )


_BF16_PASS = "one bfloat16 product (operands are rounded to 8 bits, sums are float32)"
_TF32 = "TensorFloat-32 (operands are rounded to 11 bits, sums are float32)"

CHIPS: dict[str, Chip] = {
    chip.name: chip
    for chip in (
        Chip("cpu", "cpu", ("cpu",)),
        Chip(
            "v5e",
            "tpu",
            ("TPU v5 lite", "TPU v5e"),
            flops=197e12,
            memory=16 * GIB,
            bandwidth=819e9,
            interconnect=100e9,
            float32=_BF16_PASS,
            clock=1.5e9,
        ),
        Chip(
            "v5p",
            "tpu",
            ("TPU v5", "TPU v5p"),
            flops=459e12,
            memory=95 * GIB,
            bandwidth=2765e9,
            interconnect=200e9,
            float32=_BF16_PASS,
            clock=1.75e9,
        ),
        Chip(
            "v6e",
            "tpu",
            ("TPU v6 lite", "TPU v6e"),
            flops=918e12,
            memory=32 * GIB,
            bandwidth=1640e9,
            interconnect=200e9,
            float32=_BF16_PASS,
            clock=1.75e9,
        ),
        Chip(
            "tpu7x",
            "tpu",
            ("TPU7x", "TPU v7x"),
            flops=2307e12 / 2,
            memory=96 * GIB,
            bandwidth=7380e9 / 2,
            interconnect=100e9,
            float32=_BF16_PASS,
            clock=2.2e9,
        ),
        Chip(
            "h100",
            "gpu",
            ("NVIDIA H100 80GB HBM3",),
            flops=989.4e12,
            memory=80 * GIB,
            bandwidth=3350e9,
            interconnect=450e9,
            float32=_TF32,
            gpu=Gpu((9, 0), cores=132, l2=50 * 2**20, clock=1.98e9),
        ),
        Chip(
            "h200",
            "gpu",
            ("NVIDIA H200",),
            flops=989.4e12,
            memory=141 * GIB,
            bandwidth=4800e9,
            interconnect=450e9,
            float32=_TF32,
            gpu=Gpu((9, 0), cores=132, l2=50 * 2**20, clock=1.98e9),
        ),
        Chip(
            "b200",
            "gpu",
            ("NVIDIA B200",),
            flops=2250e12,
            memory=180 * GIB,
            bandwidth=8000e9,
            interconnect=900e9,
            float32=_TF32,
            gpu=Gpu((10, 0), cores=148, l2=126 * 2**20, clock=1.965e9),
        ),
    )
}
"""By name."""


def find_chip(device_kind: str) -> Chip | None:
    """The facts of a device, by the ``device_kind`` that JAX reports; None for an unknown one."""
    return next((chip for chip in CHIPS.values() if device_kind in chip.device_kinds), None)
