"""``tfm doctor``: devices, versions, extras, and what this platform makes of products and attention."""

import dataclasses
import importlib.metadata
import os
import platform
import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, ClassVar

import tfm_jax  # subpackages load on first use: --help stays fast
from tfm_jax import compilation_cache
from tfm_jax.cli._options import Command

if TYPE_CHECKING:
    import numpy as np

__all__ = ["Doctor", "classify_product", "find_extras", "product_error"]

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "chex", "orbax-checkpoint", "numpy")
_PLUGINS = ("libtpu", "jax-cuda13-plugin", "jax-cuda13-pjrt", "jax-cuda12-plugin", "jax-rocm7-plugin")
# What an extra of jax adds to it.
_JAX_EXTRAS = {"jax[tpu]": ("libtpu",), "jax[cuda13]": ("jax-cuda13-plugin", "jax-cuda13-pjrt")}
# The largest relative error (root mean square) of each kind of product, between those of its neighbours.
_PRODUCTS = (
    (1.5e-6, "float32"),
    (4e-5, "three bfloat16 products"),
    (8e-4, "TensorFloat-32 (operands rounded to 11 bits)"),
    (1e-2, "one bfloat16 product (operands rounded to 8 bits)"),
)


@dataclasses.dataclass(frozen=True)
class Doctor(Command):
    """Show devices, versions and extras, what attention "auto" chooses, and what a float32 product is."""

    SECTIONS: ClassVar[tuple[str, ...]] = (
        "versions", "extras", "devices", "compilation cache", "float32 products", "attention",
    )  # fmt: skip

    def run(self) -> int:
        """Prints each section as it is found; returns 0."""
        sections = (
            _versions, _extras, _devices, lambda: [compilation_cache.describe()], _products, _attention,
        )  # fmt: skip
        for name, lines in zip(self.SECTIONS, sections, strict=True):
            print(f"{name}:", flush=True)
            for line in lines():
                print(f"  {line}", flush=True)
        return 0


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _versions() -> Iterator[str]:
    yield f"tfm_jax {_version('tfm_jax')}, Python {platform.python_version()}, {platform.platform()}"
    yield ", ".join(f"{name} {_version(name) or 'missing'}" for name in _PACKAGES)
    plugins = [f"{name} {version}" for name in _PLUGINS if (version := _version(name))]
    yield f"plugins: {', '.join(plugins) or 'none, so the CPU alone'}"


def find_extras(requirements: list[str]) -> dict[str, list[str]]:
    """The distributions that each extra of a package needs.

    Args:
      requirements: as ``importlib.metadata.requires`` has them, such as ``"hypothesis>=6; extra == 'laws'"``.
    """
    extras: dict[str, list[str]] = {}
    for requirement in requirements:
        extra = re.search(r"extra == ['\"]([\w.-]+)['\"]", requirement)
        package = re.match(r"[\w.-]+(\[[^]]*\])?", requirement)
        if extra and package:
            name = package[0].replace(" ", "")
            extras.setdefault(extra[1], []).extend(_JAX_EXTRAS.get(name, (name.partition("[")[0],)))
    return extras


def _extras() -> Iterator[str]:
    for extra, packages in sorted(find_extras(importlib.metadata.requires("tfm_jax") or []).items()):
        missing = [name for name in packages if _version(name) is None]
        if missing:
            yield f"{extra}: missing {', '.join(missing)}; pip install 'tfm_jax[{extra}]'"
        else:
            yield f"{extra}: installed"


def _devices() -> Iterator[str]:
    import jax

    devices = jax.devices()
    kinds: dict[tuple[str, str], int] = {}
    for device in devices:
        kinds[device.platform, device.device_kind] = kinds.get((device.platform, device.device_kind), 0) + 1
    for (name, kind), count in kinds.items():
        yield f"{count} x {kind} ({name}), process {jax.process_index()} of {jax.process_count()}"
    for device in jax.local_devices():
        stats = device.memory_stats() or {}
        if "bytes_limit" in stats:
            used, limit = (stats[name] / 2**30 for name in ("bytes_in_use", "bytes_limit"))
            yield f"memory of device {device.id}: {limit:.1f} GiB for JAX, {used:.2f} GiB in use"
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    yield f"host: {os.cpu_count()} CPU cores, {memory:.1f} GiB of memory"


def product_error(multiply: "Callable[[np.ndarray, np.ndarray], object]") -> float:
    """The relative error of a matrix product of float32 against that of float64, as a root mean square.

    Args:
      multiply: ``(a, b) -> a @ b``, for float32 [256, 512] and [512, 256].
    """
    import numpy as np

    generator = np.random.default_rng(0)
    a, b = (generator.standard_normal(shape).astype(np.float32) for shape in ((256, 512), (512, 256)))
    exact = a.astype(np.float64) @ b.astype(np.float64)
    return float(np.sqrt(np.mean((np.asarray(multiply(a, b)) - exact) ** 2) / np.mean(exact**2)))


def classify_product(error: float) -> str:
    """What a product with this error (of `product_error`) is."""
    return next((name for limit, name in _PRODUCTS if error < limit), "no product of these matrices")


def _products() -> Iterator[str]:
    import jax
    import jax.numpy as jnp

    for precision in (None, "highest"):
        jitted = jax.jit(lambda a, b, precision=precision: jnp.matmul(a, b, precision=precision))
        error = product_error(jitted)
        name = "default" if precision is None else precision
        yield f"precision {name}: {classify_product(error)}; relative error {error:.1e} against float64"
    yield "Config.matmul_precision sets it for a model; None is the default."


def _attention() -> Iterator[str]:
    import jax
    import jax.numpy as jnp

    ops, masks = tfm_jax.ops, tfm_jax.ops.masks
    ids = jnp.zeros((2, 1024), jnp.int32)
    causal, packed = masks.causal(), masks.causal() & masks.segments(ids)
    decode = masks.causal(1023)
    for title, mask, dtype, (n_queries, n_keys, n_heads, kv_heads, size) in (
        ("causal, heads of 64", causal, "bfloat16", (1024, 1024, 8, 8, 64)),
        ("causal, 8 query and 2 key heads of 128", causal, "bfloat16", (1024, 1024, 8, 2, 128)),
        ("causal, packed", packed, "bfloat16", (1024, 1024, 8, 8, 64)),
        ("causal, 16,384 tokens", causal, "bfloat16", (16384, 16384, 8, 8, 64)),
        ("causal in float32", causal, "float32", (1024, 1024, 8, 8, 64)),
        ("a decode step", decode, "bfloat16", (1, 1024, 8, 8, 64)),
    ):
        q = jax.ShapeDtypeStruct((2, n_queries, n_heads, size), jnp.dtype(dtype))
        kv = jax.ShapeDtypeStruct((2, n_keys, kv_heads, size), jnp.dtype(dtype))
        found = ops.explain_attention(q, kv, kv, mask)
        yield f"{title}: {found.implementation}"
        for name, reasons in found.reasons.items():
            if reasons and name != "ring":  # the ring is for a sequence axis of a mesh
                yield f"  not {name}: {'; '.join(reasons)}"
