"""Adapters: functions of torch tensors, of NumPy arrays and of [B, N, T, H], as functions of JAX arrays.

A suite calls the function under test with JAX arrays, and transforms it by ``jit``, ``vmap`` and ``grad``. A
function of another library is called directly, or through ``jax.pure_callback`` where JAX traces.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from tfm_jax.laws.subject import Function
from tfm_jax.ops.tracing import vary_with

__all__ = ["heads_first", "numpy", "torch"]

Backward = Callable[[list[np.ndarray], tuple[Any, ...], dict[str, Any]], Sequence[np.ndarray]]
"""(cotangents of the floating outputs, args, options) -> one gradient per floating array of the arguments."""


def torch(function: Function) -> Function:
    """A function of torch tensors as a function of JAX arrays, differentiated by ``torch.autograd``.

    Equivalent to::

        def call(*arrays):  # and the same under jit, vmap and grad
            return jnp.asarray(function(*(torch.tensor(np.asarray(x)) for x in arrays)).detach().numpy())

    Args:
      function: takes and returns tensors on the CPU, or pytrees of them, such as a ``torch.nn.Module``. An
        array becomes a tensor of its dtype, integers int64; a typed key becomes its seed, an int; all else
        (None, numbers, names) stays as it is.

    Returns:
      The function. Where JAX traces it, it is called once with ones (integers: zeros) for the shapes of its
      outputs, and in each run one example at a time under ``vmap``. It runs in one thread, and has no
      forward-mode derivatives.

    Raises:
      ImportError: without torch.
    """
    try:
        import torch as library
    except ImportError as error:
        raise ImportError("laws.torch: got no torch; wanted it installed. pip install torch.") from error

    def to_tensor(x: Any, requires_grad: bool = False) -> Any:
        if not isinstance(x, np.ndarray):
            return x
        if x.dtype == jnp.bfloat16:  # torch does not know the dtype of ml_dtypes
            return library.from_numpy(x.view(np.int16)).view(library.bfloat16).requires_grad_(requires_grad)
        x = x.astype(np.int64) if jnp.issubdtype(x.dtype, jnp.integer) else x
        return library.from_numpy(x).requires_grad_(requires_grad)

    def to_numpy(y: Any) -> np.ndarray:
        if not isinstance(y, library.Tensor):
            return np.asarray(y)
        y = y.detach()
        if y.dtype == library.bfloat16:
            return y.contiguous().view(library.int16).numpy().view(jnp.bfloat16)
        return y.numpy()

    @contextlib.contextmanager
    def one_thread() -> Iterator[None]:
        # The arrays of laws are tiny: several threads take longer to wait for each other than to compute.
        threads = library.get_num_threads()
        library.set_num_threads(1)
        try:
            yield
        finally:
            library.set_num_threads(threads)

    @one_thread()
    def forward(*args: Any, **options: Any) -> Any:
        args, options = jax.tree.map(to_tensor, (args, options))
        return jax.tree.map(to_numpy, function(*args, **options))

    @one_thread()
    def backward(cotangents: list[np.ndarray], args: Any, options: Any) -> list[np.ndarray]:
        leaves, tree = jax.tree.flatten((args, options))
        tensors = [to_tensor(x, requires_grad=_is_floating(x)) for x in leaves]
        inputs = [y for x, y in zip(leaves, tensors, strict=True) if _is_floating(x)]
        with library.enable_grad():
            # Copies: torch lets no function change a leaf of the graph in place.
            copies = (y.clone() if _is_floating(x) else y for x, y in zip(leaves, tensors, strict=True))
            args, options = tree.unflatten(copies)
            outputs = map(library.as_tensor, jax.tree.leaves(function(*args, **options)))  # also of a number
            outputs = [y for y in outputs if y.is_floating_point()]
        pairs = [(y, to_tensor(c)) for y, c in zip(outputs, cotangents, strict=True) if y.requires_grad]
        gradients: Sequence[Any] = [None] * len(inputs)
        if pairs:
            by, seeds = zip(*pairs, strict=True)
            gradients = library.autograd.grad(by, inputs, seeds, allow_unused=True)
        return [
            to_numpy(library.zeros_like(x) if g is None else g)
            for x, g in zip(inputs, gradients, strict=True)
        ]

    return _as_jax(function, forward, backward)


def numpy(function: Function, gradient: Function | None = None) -> Function:
    """A function of NumPy arrays as a function of JAX arrays.

    Equivalent to::

        def call(*arrays):  # and the same under jit and vmap
            return jnp.asarray(function(*map(np.asarray, arrays)))

    Args:
      function: takes and returns NumPy arrays, or pytrees of them. A typed key becomes its seed, an int; all
        else that is no array stays as it is.
      gradient: called with the cotangent of the one floating output, then as ``function``; returns a gradient
        per floating array among the arguments, in order. None: laws of gradients are not supported.

    Returns:
      The function. Where JAX traces it, it is called once with ones (integers: zeros) for the shapes of its
      outputs, and in each run one example at a time under ``vmap``.
    """

    def backward(cotangents: list[np.ndarray], args: Any, options: Any) -> Sequence[np.ndarray]:
        assert gradient is not None  # _as_jax takes no backward without it
        gradients = gradient(*cotangents, *args, **options)
        return gradients if isinstance(gradients, tuple | list) else [gradients]

    return _as_jax(function, function, None if gradient is None else backward)


def heads_first(function: Function) -> Function:
    """A function of [B, N, T, H], such as attention of torch, as a function of [B, T, N, H].

    Equivalent to::

        def call(q, k, v, *rest):
            return function(*(x.swapaxes(-3, -2) for x in (q, k, v)), *rest).swapaxes(-3, -2)

    Args:
      function: its first three arguments, where they have four axes, and its outputs of four axes have their
        heads before their positions. It takes arrays of any library.

    Returns:
      The function. Other arguments, such as a mask, stay as they are.
    """

    def swapped(x: Any) -> Any:
        return x.swapaxes(-3, -2) if getattr(x, "ndim", 0) == 4 else x

    @functools.wraps(function, updated=())
    def call(*args: Any, **options: Any) -> Any:
        return jax.tree.map(swapped, function(*map(swapped, args[:3]), *args[3:], **options))

    return call


def _is_array(x: Any) -> bool:
    return isinstance(x, np.ndarray | np.generic | jax.Array)


def _is_floating(x: Any) -> bool:
    return _is_array(x) and bool(jnp.issubdtype(x.dtype, jnp.floating))


def _as_jax(function: Function, forward: Function, backward: Backward | None) -> Function:
    """The JAX function of ``forward`` and ``backward``, which take NumPy arrays that they may change."""

    @functools.wraps(function, updated=())
    def call(*args: Any, **options: Any) -> Any:
        leaves, tree = jax.tree.flatten((args, options))
        at = [i for i, x in enumerate(leaves) if _is_array(x)]
        is_key = [bool(jnp.issubdtype(leaves[i].dtype, jax.dtypes.prng_key)) for i in at]
        arrays = [
            jax.random.key_data(leaves[i]) if key else leaves[i] for i, key in zip(at, is_key, strict=True)
        ]

        def arguments(values: Sequence[Any]) -> Any:
            filled = list(leaves)
            for i, x, key in zip(at, values, is_key, strict=True):
                filled[i] = _seed_of(x) if key else np.array(x)
            return tree.unflatten(filled)

        def run(*values: Any) -> Any:
            args, options = arguments(values)
            return jax.tree.map(_canonical, forward(*args, **options))

        def run_backward(cotangents: Sequence[Any], *values: Any) -> tuple[np.ndarray, ...]:
            assert backward is not None
            gradients = backward([np.array(x) for x in cotangents], *arguments(values))
            return tuple(map(_canonical, gradients))

        if not any(isinstance(x, jax.core.Tracer) for x in arrays):
            return jax.tree.map(jnp.asarray, run(*arrays))
        return _traced(run, None if backward is None else run_backward)(*arrays)

    return call


def _traced(run: Function, run_backward: Function | None) -> Function:
    """The function of tracers that calls ``run``, and ``run_backward`` for its gradients, when it runs."""

    def call(*arrays: Any) -> Any:
        outputs = jax.tree.map(_shape, run(*map(_example, arrays)))

        @jax.custom_vjp
        def traced(*arrays: Any) -> Any:
            return _call_back(run, outputs, arrays)

        def gradients(saved: Any, cotangents: Any) -> tuple[Any, ...]:
            if run_backward is None:
                raise ValueError(
                    "laws.numpy: got no gradient; wanted gradient=, called with the cotangent and the inputs."
                )
            pairs = zip(jax.tree.leaves(outputs), jax.tree.leaves(cotangents), strict=True)
            floating = [c for y, c in pairs if jnp.issubdtype(y.dtype, jnp.floating)]
            shapes = tuple(_shape(x) for x in saved if _is_floating(x))
            found = iter(_call_back(run_backward, shapes, (floating, *saved)))
            return tuple(next(found) if _is_floating(x) else None for x in saved)

        traced.defvjp(lambda *arrays: (traced(*arrays), arrays), gradients)
        return traced(*arrays)

    return call


def _call_back(run: Function, shapes: Any, arguments: Any) -> Any:
    out = jax.pure_callback(run, shapes, *arguments, vmap_method="sequential")
    # Under shard_map, JAX does not know over which axes what a callback returns varies.
    return jax.tree.map(lambda y: vary_with(y, arguments), out)


def _shape(x: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(np.shape(x), x.dtype)


def _example(x: Any) -> np.ndarray:
    """An array for which any function should be defined, in place of a tracer."""
    return (np.zeros if jnp.issubdtype(x.dtype, jnp.integer) else np.ones)(x.shape, x.dtype)


def _canonical(x: Any) -> np.ndarray:
    """An array of the dtype that JAX has for it: float32 for float64, unless x64 is enabled."""
    x = np.asarray(x)
    return x.astype(jax.dtypes.canonicalize_dtype(x.dtype))


def _seed_of(key_data: Any) -> int:
    return int(np.asarray(key_data).ravel()[-1])
