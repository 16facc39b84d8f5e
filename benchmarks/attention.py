"""Attention side by side with its peers: time, memory, error, growth with length.

    python -m benchmarks.attention

On a CPU: ``chunked`` beside ``jax.nn.dot_product_attention``, causal, B = 1, N = 8, H = 64, float32. On a
GPU: what "auto" takes beside torch's ``scaled_dot_product_attention`` on the same tensors, causal, B = 4,
N = 16, H = 128, bfloat16 (torch with CUDA must be installed for its half). Every line is the median of runs
that were interleaved; memory is what XLA's compiler sets aside beyond arguments and results.
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
"""How often each length is run on a CPU."""
GPU_LENGTHS = {1024: 50, 4096: 30, 16384: 10}


def inputs(S: int, *, B: int = 1, N: int = 8, H: int = 64, dtype: Any = jnp.float32) -> list[Array]:
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.standard_normal((B, S, N, H)), dtype) for _ in range(3)]


def forward_and_backward(call: Callable[..., Array]) -> Callable[..., Any]:
    """The output's mean square and its gradients."""
    loss = lambda q, k, v: jnp.mean(jnp.square(call(q, k, v).astype(jnp.float32)))
    return jax.grad(loss, argnums=(0, 1, 2))


def compiled(call: Callable[..., Any], arrays: list[Array]) -> tuple[Callable[[], Any], float]:
    """It as a program that has run once, and its MiB."""
    program = jax.jit(call).lower(*arrays).compile()
    run = lambda: jax.block_until_ready(program(*arrays))
    run()
    return run, program.memory_analysis().temp_size_in_bytes / 2**20


def medians(runs: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Median seconds of each, one after the other in turns."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            begun = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - begun)
    return {name: statistics.median(found) for name, found in times.items()}


def attention(name: str, mask: masks.Mask) -> Callable[..., Array]:
    if name == "xla":  # the peer itself
        return functools.partial(jax.nn.dot_product_attention, is_causal=True, implementation="xla")
    return lambda q, k, v: ops.attention(q, k, v, mask, implementation=name)


def beside_xla() -> None:
    print("causal, float32, B = 1, N = 8, H = 64        chunked            xla      xla / chunked")
    for S, repeats in LENGTHS.items():
        for what, wrap in {"forward": lambda f: f, "forward and backward": forward_and_backward}.items():
            programs = {
                name: compiled(wrap(attention(name, masks.causal())), inputs(S))
                for name in ("chunked", "xla")
            }
            times = medians({name: run for name, (run, _) in programs.items()}, repeats)
            ours, peer = (f"{1e3 * times[name]:8.1f} ms {programs[name][1]:5.0f} MiB" for name in programs)
            print(
                f"S = {S:5d}  {what:20s} {ours} {peer}   {times['xla'] / times['chunked']:5.2f}", flush=True
            )


def by_length() -> None:
    print("\nchunked, causal, window of 256: forward and backward")
    mask = masks.causal() & masks.window(255)
    lengths = (4096, 8192, 16384)
    programs = {S: compiled(forward_and_backward(attention("chunked", mask)), inputs(S)) for S in lengths}
    times = medians({str(S): run for S, (run, _) in programs.items()}, 5)
    for S in lengths:
        grown = f"{times[str(S)] / times[str(lengths[0])]:.2f} times S = {lengths[0]}"
        print(f"S = {S:5d}  {1e3 * times[str(S)]:8.1f} ms {programs[S][1]:5.0f} MiB   {grown}")


def errors() -> None:
    print("\nlargest error of output and gradients against float64, causal, S = 1024")
    arrays = inputs(1024)
    weight = jnp.cos(jnp.arange(arrays[0].size)).reshape(arrays[0].shape)

    def both(name: str, arrays: list[Array]) -> list[np.ndarray]:
        call = lambda *x: ops.attention(*x, masks.causal(), implementation=name)
        loss = lambda *x: jnp.sum(call(*x).astype(weight.dtype) * weight.astype(weight.dtype))
        found = jax.jit(lambda *x: (call(*x), *jax.grad(loss, argnums=(0, 1, 2))(*x)))(*arrays)
        return [np.asarray(x, np.float64) for x in found]

    for dtype in (jnp.float32, jnp.bfloat16):
        rounded = [x.astype(dtype) for x in arrays]
        with jax.enable_x64(True):
            exact = both("reference", [jnp.asarray(np.asarray(x, np.float64)) for x in rounded])
        found = both("chunked", rounded)
        output, *slopes = (np.abs(a - b).max() for a, b in zip(found, exact, strict=True))
        print(f"chunked, {jnp.dtype(dtype).name:8s}  output {output:.1e}  gradients {max(slopes):.1e}")


def beside_torch() -> None:
    B, N, H = 4, 16, 128
    arrays = inputs(128, B=B, N=N, H=H, dtype=jnp.bfloat16)
    print(ops.explain_attention(*arrays, masks.causal()))
    print(f"\ncausal, bfloat16, B = {B}, N = {N}, H = {H}")
    for S, repeats in GPU_LENGTHS.items():
        arrays = inputs(S, B=B, N=N, H=H, dtype=jnp.bfloat16)
        for what, wrap in {"forward": lambda f: f, "forward and backward": forward_and_backward}.items():
            run, _ = compiled(wrap(attention("auto", masks.causal())), arrays)
            runs = {"auto": run} | torch_run(arrays, backward=wrap is forward_and_backward)
            # Two products of S x S x H, half of them masked; the backward pass has five.
            flops = 2 * B * N * S * S * H * (1 if wrap is not forward_and_backward else 3.5)
            for name, seconds in medians(runs, repeats).items():
                rate = flops / seconds / 1e12
                print(
                    f"S = {S:5d}  {what:20s} {name:5s} {1e3 * seconds:8.2f} ms {rate:6.0f} TFLOP/s",
                    flush=True,
                )


def torch_run(arrays: list[Array], *, backward: bool) -> dict[str, Callable[[], Any]]:
    """The same by torch, where it is installed with CUDA."""
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
    """Measures and prints."""
    if jax.default_backend() == "gpu":
        beside_torch()
        return
    beside_xla()
    by_length()
    errors()


if __name__ == "__main__":
    main()
