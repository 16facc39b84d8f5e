"""A TPU kernel as one operation of the program: it is traced and lowered for TPUs alone.

In a program for several platforms JAX lowers each branch of a choice for all of them, and the kernel has no
rule for the others. Hosts of other platforms do not trace the kernel before it is lowered.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.core
import jax.extend.core
import jax.numpy as jnp
from jax.interpreters import batching, mlir

from tfm_jax.ops.tracing import at_precision, current_platform, current_precision, platform_of
from tfm_jax.types import Array

__all__ = ["call_kernel"]


def call_kernel(
    name: str, function: Callable[..., Array], result: jax.ShapeDtypeStruct, *arrays: Array
) -> Array:
    """``function(*arrays)`` in a program for TPUs.

    Equivalent to::

        function(*arrays)

    Args:
      name: of the backend, for errors.
      function: from the arrays to one array; it supports reverse mode.
      result: the shape and dtype of its result.
      arrays: its arguments; it is differentiated by those that are floating.

    Returns:
      The result. In a program for several platforms, NaN on the others. Where neither a mesh nor the host is
      one of TPUs, the backward pass runs the forward kernel again: what to save is not known before the
      kernel is traced.

    Raises:
      ValueError: when it is lowered for no TPU, or for several devices outside of ``shard_map``.
    """
    if not any(isinstance(x, jax.core.Tracer) for x in arrays):
        return function(*arrays)
    bind = functools.partial(_bind, name)
    precision = current_precision()
    function = functools.partial(at_precision(function), precision)
    is_float = [jnp.issubdtype(x.dtype, jnp.floating) for x in arrays]
    foreign = platform_of(arrays[0]) is None and current_platform() != "tpu"

    def pull(pullback: Callable[[Array], tuple], by_out: Array) -> list[Array]:
        with jax.default_matmul_precision(precision):
            return [x for x, wanted in zip(pullback(by_out), is_float, strict=True) if wanted]

    @jax.custom_vjp
    def call(*arrays: Array) -> Array:
        return bind(lambda *xs: (function(*xs),), (result,), arrays)[0]

    def forward(*arrays: Array) -> tuple[Array, Any]:
        if foreign:
            return call(*arrays), arrays
        return _staged(bind, functools.partial(jax.vjp, function), *arrays)

    def backward(saved: Any, by_out: Array) -> tuple:
        if foreign:
            results = [x for x, wanted in zip(saved, is_float, strict=True) if wanted]
            changes = iter(
                bind(lambda by_out, *xs: pull(jax.vjp(function, *xs)[1], by_out), results, (by_out, *saved))
            )
        else:
            changes = iter(_staged(bind, pull, saved, by_out))
        return tuple(next(changes) if wanted else None for wanted in is_float)

    call.defvjp(forward, backward)
    return call(*arrays)


def _staged(bind: Callable, function: Callable, *arguments: Any) -> Any:
    """``function(*arguments)`` as one operation, traced now: of trees of arrays."""
    program, result = jax.make_jaxpr(function, return_shape=True)(*arguments)
    out = bind(jax.extend.core.jaxpr_as_fun(program), program.out_avals, jax.tree.leaves(arguments))
    return jax.tree.unflatten(jax.tree.structure(result), out)


def _bind(name: str, function: Callable, results: Any, arrays: Any) -> list[Array]:
    results = tuple((tuple(x.shape), jnp.dtype(x.dtype)) for x in results)
    return _kernel.bind(*arrays, name=name, function=function, results=results)


def _batch(arrays: Any, axes: Any, *, function: Callable, results: tuple, name: str) -> tuple:
    size = next(x.shape[axis] for x, axis in zip(arrays, axes, strict=True) if axis is not None)
    mapped = jax.vmap(function, axes, axis_size=size)
    results = tuple(((size, *shape), dtype) for shape, dtype in results)
    out = _kernel.bind(*arrays, function=mapped, results=results, name=name)
    return out, [0] * len(out)


def _lower_for_tpu(ctx: Any, *arrays: Any, name: str, function: Callable, results: tuple) -> Any:
    devices = getattr(ctx.module_context.axis_context, "num_devices", 1)
    if devices > 1:
        raise ValueError(
            f"attention: got {name!r} in a program that jit partitions over {devices} devices; wanted a call "
            "that is traced inside jax.set_mesh(mesh), which runs the kernel on each device. Or pass "
            "implementation='chunked'."
        )
    return mlir.lower_fun(function)(ctx, *arrays)


def _lower(ctx: Any, *arrays: Any, name: str, function: Callable, results: tuple) -> Any:
    platforms = ctx.module_context.platforms
    if "tpu" not in platforms:
        raise ValueError(f"attention: got {name!r} in a program for {', '.join(platforms)}; wanted tpu.")
    # In the program, but not in the branch that the other platforms take.
    return mlir.lower_fun(lambda *_: [_unused(*result) for result in results])(ctx, *arrays)


def _unused(shape: tuple[int, ...], dtype: Any) -> Array:
    return jnp.full(shape, jnp.nan if jnp.issubdtype(dtype, jnp.floating) else 0, dtype)


_kernel = jax.extend.core.Primitive("tpu_kernel")
"""``function(*arrays)``, which has results of these shapes and dtypes."""
_kernel.multiple_results = True
_kernel.def_impl(lambda *arrays, function, **_: function(*arrays))
_kernel.def_abstract_eval(
    lambda *_, results, **__: [jax.core.ShapedArray(shape, dtype) for shape, dtype in results]
)
batching.primitive_batchers[_kernel] = _batch
mlir.register_lowering(_kernel, _lower)
mlir.register_lowering(_kernel, _lower_for_tpu, platform="tpu")
