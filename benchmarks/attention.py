"""Attention compared with its peers: time, memory, error, scaling with length.

    python -m benchmarks.attention

On a CPU: ``chunked`` and ``jax.nn.dot_product_attention``, causal, B = 1, N = 8, H = 64, float32. On a GPU:
the backend that "auto" picks and torch's ``scaled_dot_product_attention`` on the same tensors, causal, B = 4,
N = 16, H = 128, bfloat16 (torch is skipped if it is not installed with CUDA). Each line is the median of
interleaved runs. Memory is the temporary memory of the compiled program, without arguments and results.
"""

import functools
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tfm_jax import ops
from tfm_jax.ops import masks
from tfm_jax.types import Array

LENGTHS = {128: 40, 512: 20, 1024: 10, 4096: 5}
"""Sequence length: number of runs, on a CPU."""
GPU_LENGTHS = {1024: 50, 4096: 30, 16384: 10}


def inputs(S: int, *, B: int = 1, N: int = 8, H: int = 64, dtype: Any = jnp.float32) -> list[Array]:
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.standard_normal((B, S, N, H)), dtype) for _ in range(3)]


def forward_and_backward(call: Callable[..., Array]) -> Callable[..., Any]:
    """The gradients of the mean square of the output."""

    def loss(q: Array, k: Array, v: Array) -> Array:
        return jnp.mean(jnp.square(call(q, k, v).astype(jnp.float32)))

    return jax.grad(loss, argnums=(0, 1, 2))


def compiled(call: Callable[..., Any], arrays: list[Array]) -> tuple[Callable[[], Any], float]:
    """The compiled program, after one run, and its temporary memory in MiB."""
    program = jax.jit(call).lower(*arrays).compile()

    def run() -> Any:
        return jax.block_until_ready(program(*arrays))

    run()
    return run, program.memory_analysis().temp_size_in_bytes / 2**20


def medians(runs: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """The median seconds of each, in interleaved runs."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(found) for name, found in times.items()}


def attention(name: str, mask: masks.Mask) -> Callable[..., Array]:
    if name == "xla":  # the peer, not our backend
        return functools.partial(jax.nn.dot_product_attention, is_causal=True, implementation="xla")
    return lambda q, k, v: ops.attention(q, k, v, mask, implementation=name)


def compare_with_xla() -> None:
    print("causal, float32, B = 1, N = 8, H = 64        chunked            xla      xla / chunked")
    for S, repeats in LENGTHS.items():
        for direction, wrap in {"forward": lambda f: f, "forward and backward": forward_and_backward}.items():
            programs = {
                name: compiled(wrap(attention(name, masks.causal())), inputs(S))
                for name in ("chunked", "xla")
            }
            times = medians({name: run for name, (run, _) in programs.items()}, repeats)
            ours, peer = (f"{1e3 * times[name]:8.1f} ms {programs[name][1]:5.0f} MiB" for name in programs)
            print(
                f"S = {S:5d}  {direction:20s} {ours} {peer}   {times['xla'] / times['chunked']:5.2f}",
                flush=True,
            )


def by_length() -> None:
    print("\nchunked, causal, window of 256: forward and backward")
    mask = masks.causal() & masks.window(255)
    lengths = (4096, 8192, 16384)
    programs = {S: compiled(forward_and_backward(attention("chunked", mask)), inputs(S)) for S in lengths}
    times = medians({str(S): run for S, (run, _) in programs.items()}, 5)
    for S in lengths:
        growth = f"{times[str(S)] / times[str(lengths[0])]:.2f} times S = {lengths[0]}"
        print(f"S = {S:5d}  {1e3 * times[str(S)]:8.1f} ms {programs[S][1]:5.0f} MiB   {growth}")


def errors() -> None:
    print("\nlargest error of output and gradients against float64, causal, S = 1024")
    arrays = inputs(1024)
    weight = jnp.cos(jnp.arange(arrays[0].size)).reshape(arrays[0].shape)

    def both(name: str, arrays: list[Array]) -> list[np.ndarray]:
        attend = attention(name, masks.causal())

        def loss(*x: Array) -> Array:
            return jnp.sum(attend(*x).astype(weight.dtype) * weight.astype(weight.dtype))

        found = jax.jit(lambda *x: (attend(*x), *jax.grad(loss, argnums=(0, 1, 2))(*x)))(*arrays)
        return [np.asarray(x, np.float64) for x in found]

    for dtype in (jnp.float32, jnp.bfloat16):
        rounded = [x.astype(dtype) for x in arrays]
        with jax.enable_x64(True):
            exact = both("reference", [jnp.asarray(np.asarray(x, np.float64)) for x in rounded])
        found = both("chunked", rounded)
        output, *gradients = (np.abs(a - b).max() for a, b in zip(found, exact, strict=True))
        print(f"chunked, {jnp.dtype(dtype).name:8s}  output {output:.1e}  gradients {max(gradients):.1e}")


def compare_with_torch() -> None:
    B, N, H = 4, 16, 128
    arrays = inputs(128, B=B, N=N, H=H, dtype=jnp.bfloat16)
    print(ops.explain_attention(*arrays, masks.causal()))
    print(f"\ncausal, bfloat16, B = {B}, N = {N}, H = {H}")
    for S, repeats in GPU_LENGTHS.items():
        arrays = inputs(S, B=B, N=N, H=H, dtype=jnp.bfloat16)
        for direction, wrap in {"forward": lambda f: f, "forward and backward": forward_and_backward}.items():
            run, _ = compiled(wrap(attention("auto", masks.causal())), arrays)
            runs = {"auto": run} | torch_run(arrays, backward=wrap is forward_and_backward)
            # Two products of S x S x H, half masked; the backward pass has five more.
            flops = 2 * B * N * S * S * H * (1 if wrap is not forward_and_backward else 3.5)
            for name, seconds in medians(runs, repeats).items():
                rate = flops / seconds / 1e12
                print(
                    f"S = {S:5d}  {direction:20s} {name:5s} {1e3 * seconds:8.2f} ms {rate:6.0f} TFLOP/s",
                    flush=True,
                )


def torch_run(arrays: list[Array], *, backward: bool) -> dict[str, Callable[[], Any]]:
    """The same in torch; empty if it is not installed with CUDA."""
    try:
        import torch
    except ImportError:
        return {}
    if not torch.cuda.is_available():
        return {}
    heads_first = [
        torch.tensor(np.asarray(x, np.float32)).to("cuda", torch.bfloat16).transpose(1, 2) for x in arrays
    ]
    tensors = [x.contiguous().requires_grad_(backward) for x in heads_first]

    def run() -> None:
        with torch.set_grad_enabled(backward):
            out = torch.nn.functional.scaled_dot_product_attention(*tensors, is_causal=True)
            if backward:
                torch.autograd.grad(out.float().square().mean(), tensors)
        torch.cuda.synchronize()

    run()
    return {"torch": run}


def main() -> None:
    """Runs the benchmark and prints the results."""
    if jax.default_backend() == "gpu":
        compare_with_torch()
        return
    compare_with_xla()
    by_length()
    errors()


if __name__ == "__main__":
    main()
