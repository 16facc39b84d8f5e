"""Devices of topologies that are not there: what the compilers of TPUs and GPUs need to compile for them."""

import contextlib
import math
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental.compilation_cache import compilation_cache

from tfm_jax.train.plan.chips import CHIPS, Chip

__all__ = ["KNOWN", "chip_of", "compile_for", "prepare", "topology"]

KNOWN = (
    "cpu:8",
    "v5e:16x16",
    "v5p:8x8x8",
    "v6e:16x16",
    "tpu7x:4x4x4",
    "h100:8",
    "h200:8",
    "b200:8",
)
"""Topologies that are listed to users. Another size of a known chip is taken too, such as ``v5e:2x4``."""
_EXTRAS = {"tpu": "tpu", "gpu": "cuda13"}
# No metadata server and no chip are at hand: without these libtpu looks for both, and says so at length.
_TPU_ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # several processes may compile at once
    "TPU_ACCELERATOR_TYPE": "v5litepod-1",
    "TPU_WORKER_HOSTNAMES": "localhost",
}
_GPU_ENVIRONMENT = {"JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1"}


def chip_of(name: str) -> Chip:
    """The chip of a topology such as ``"v5e:16x16"``.

    Raises:
      ValueError: the topology is unknown.
    """
    return _parse(name)[0]


def prepare(name: str) -> None:
    """Sets the environment in which a topology can be made, before JAX makes its first device.

    The process itself runs on CPUs, with as many of them as ``cpu:N`` asks for.

    Args:
      name: a topology.

    Raises:
      ValueError: the topology is unknown.
    """
    chip, sizes = _parse(name)
    with contextlib.suppress(RuntimeError):  # there are devices: `topology` counts them
        jax.config.update("jax_platforms", "cpu")
        if chip.platform == "cpu":
            jax.config.update("jax_num_cpu_devices", math.prod(sizes))


def topology(name: str) -> list[Any]:
    """The devices of a topology, to make a mesh of and to compile for; programs cannot run on them.

    Equivalent to::

        jax.experimental.topologies.get_topology_desc(platform=..., topology_name=name).devices

    Args:
      name: one of `KNOWN`, or another size of one of their chips: ``cpu:N``, ``v5e:AxB``, ``v5p:AxBxC``,
        ``h100:N`` and ``h100:HxN``, H hosts of N.

    Returns:
      The devices. Those of ``cpu:N`` are the real devices of this process.

    Raises:
      ValueError: the topology is unknown, or its compiler does not know it.
      ImportError: the compiler is not installed.
    """
    chip, sizes = _parse(name)
    if chip.platform == "cpu":
        devices = jax.devices("cpu")
        if len(devices) < math.prod(sizes):
            raise ValueError(
                f"topology: got {name} with {len(devices)} CPU devices in this process; wanted "
                f"{math.prod(sizes)}. Start it with JAX_NUM_CPU_DEVICES={math.prod(sizes)}."
            )
        return devices[: math.prod(sizes)]
    environment = _TPU_ENVIRONMENT if chip.platform == "tpu" else _GPU_ENVIRONMENT
    for variable, value in environment.items():
        os.environ.setdefault(variable, value)
    from jax.experimental import topologies

    jax.devices("cpu")  # registers the plugins, and reads XLA_FLAGS
    options: Mapping[str, str] = {}
    topology_name = name
    if chip.platform == "gpu":
        topology_name = "x".join(map(str, (1,) * (3 - len(sizes)) + sizes))  # slices, hosts, GPUs of a host
        options = {"topology": topology_name, "target_config": chip.target()}
    try:
        platform = "cuda" if chip.platform == "gpu" else "tpu"
        with _flags_of(chip.platform):
            found = topologies.get_topology_desc(topology_name, platform=platform, **options)
            if chip.platform == "tpu":
                _read_flags(found.devices)
    except jax.errors.JaxRuntimeError as error:
        message = str(error).splitlines()[0]
        if "UNIMPLEMENTED" in message or "NOT_FOUND" in message:
            raise _missing(name, chip) from error
        raise ValueError(f"topology: got {name}; wanted a layout of {chip.name} ({message}).") from error
    except (ImportError, RuntimeError, NotImplementedError) as error:
        raise _missing(name, chip) from error
    return list(found.devices)


@contextlib.contextmanager
def _flags_of(platform: str) -> Iterator[None]:
    """Hides the XLA_FLAGS of other platforms: libtpu aborts the process on one that it does not know."""
    before = os.environ.get("XLA_FLAGS")
    others = [f"--xla_{other}_" for other in ("cpu", "gpu", "tpu") if other != platform]
    if before is not None:
        kept = [flag for flag in before.split() if not flag.startswith(tuple(others))]
        os.environ["XLA_FLAGS"] = " ".join(kept)
    try:
        yield
    finally:
        if before is not None:
            os.environ["XLA_FLAGS"] = before


_has_read_flags = False


def _read_flags(devices: list[Any]) -> None:
    """Makes libtpu read XLA_FLAGS, which it does with the first program."""
    global _has_read_flags
    if _has_read_flags:
        return
    _has_read_flags = True
    mesh = jax.sharding.Mesh(np.array(devices[:1]), ("x",))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    lowered = jax.jit(lambda x: x).lower(jax.ShapeDtypeStruct((), np.float32, sharding=sharding))
    with _without_cache():
        lowered.compile()


def compile_for(name: str, lowered: jax.stages.Lowered) -> jax.stages.Compiled:
    """Compiles a program that was lowered for the devices of a topology.

    Equivalent to::

        lowered.compile()

    Args:
      name: the topology.
      lowered: ``jax.jit(function).lower(...)`` with shardings over its devices.

    Returns:
      The compiled program, which cannot run unless the topology is ``cpu:N``.

    Raises:
      ValueError: the topology is unknown.
      jax.errors.JaxRuntimeError: from the compiler.
    """
    platform = chip_of(name).platform
    if platform == "cpu":
        return lowered.compile()
    # There is no GPU to time kernels on.
    options: dict[str, str | bool] = {"xla_gpu_autotune_level": "0"} if platform == "gpu" else {}
    with _without_cache():
        return lowered.compile(compiler_options=options)


@contextlib.contextmanager
def _without_cache() -> Iterator[None]:
    """JAX's persistent cache cannot load a program without the devices that it is for."""
    before = getattr(jax.config, "jax_compilation_cache_dir", None)
    jax.config.update("jax_compilation_cache_dir", None)
    compilation_cache.reset_cache()  # it keeps the directory of its first use
    try:
        yield
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
        compilation_cache.reset_cache()


def _missing(name: str, chip: Chip) -> ImportError:
    extra = _EXTRAS[chip.platform]
    return ImportError(
        f"topology: got {name} without the compiler for it; wanted that of the extra {extra}. "
        f"pip install 'tfm_jax[{extra}]'"
    )


def _parse(name: str) -> tuple[Chip, tuple[int, ...]]:
    """The chip and the sizes: ``"v5e:16x16"`` -> v5e, (16, 16)."""
    chip_name, _, layout = name.partition(":")
    chip = CHIPS.get(chip_name)
    ranks = {"cpu": (1,), "gpu": (1, 2), "tpu": (2, 3)}
    sizes = tuple(map(int, layout.split("x"))) if re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", layout) else ()
    if chip is None or len(sizes) not in ranks[chip.platform]:
        raise ValueError(f"topology: got {name!r}; wanted one of {', '.join(KNOWN)}.")
    return chip, sizes
