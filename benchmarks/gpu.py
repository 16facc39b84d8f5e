"""Training, attention and generation on one GPU, beside torch and transformers: at most five minutes.

    python -m benchmarks.gpu            # on a GPU
    python -m benchmarks.gpu --tiny     # the same program with tiny sizes, on a CPU

Each section is a process of its own with a time limit, and prints each result as soon as it is known, those
of tfm_jax first. Both libraries are timed in turns. It needs jax, flax, optax, chex, numpy, torch and
transformers; without the last two it prints tfm_jax alone.

MFU counts the model's products by formula (those of attention without the causal mask), of the published
bfloat16 peak. Weights are float32, products bfloat16; no dropout, AdamW, the gradient's norm clipped.
"""

import argparse
import dataclasses
import functools
import os
import statistics
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

# Two libraries share the device.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import jax
import jax.numpy as jnp
import numpy as np
import optax

from tfm_jax import generate, nn, ops, train
from tfm_jax.ops import masks
from tfm_jax.train.plan.flops import step_flops
from tfm_jax.train.throughput import peak_flops

ROOT = Path(__file__).parents[1]
SECONDS = 290
"""Of the whole program."""


@dataclasses.dataclass(frozen=True)
class Sizes:
    """What the sections run.

    Args:
      decoder, paper, big: of the models, as in ``nn.Config``.
      batch, length: sequences of a training step, and their tokens.
      pairs, pair_length: of a step of the encoder-decoder; the source is as long as the target.
      steps, rounds: steps in a round; rounds of each library, in turns.
      attention: B, T, N, H.
      prompts: numbers of sequences to continue, of ``prompt`` tokens by ``new`` ones.
    """

    decoder: dict[str, int]
    paper: dict[str, int]
    big: dict[str, int]
    batch: int
    length: int
    pairs: int
    pair_length: int
    steps: int
    rounds: int
    attention: tuple[tuple[int, int, int, int], ...]
    prompts: tuple[int, ...]
    prompt: int
    new: int


FULL = Sizes(
    decoder={"vocab_size": 50304, "d_model": 768, "n_layers": 12, "n_heads": 12, "d_ff": 3072},
    paper={"vocab_size": 37120, "d_model": 512, "n_layers": 6, "n_heads": 8, "d_ff": 2048},
    big={
        "vocab_size": 128256, "d_model": 2048, "n_layers": 16, "n_heads": 32, "n_kv_heads": 8, "d_ff": 8192,
    },
    batch=32,
    length=1024,
    pairs=256,
    pair_length=128,
    steps=10,
    rounds=5,
    attention=(
        (16, 1024, 16, 64), (4, 4096, 16, 64), (1, 16384, 16, 64), (16, 1024, 8, 128), (4, 4096, 8, 128),
    ),
    prompts=(1, 32),
    prompt=128,
    new=128,
)  # fmt: skip
TINY = Sizes(
    decoder={"vocab_size": 96, "d_model": 32, "n_layers": 2, "n_heads": 4, "d_ff": 64},
    paper={"vocab_size": 64, "d_model": 32, "n_layers": 2, "n_heads": 4, "d_ff": 64},
    big={"vocab_size": 96, "d_model": 32, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "d_ff": 64},
    batch=2,
    length=16,
    pairs=2,
    pair_length=8,
    steps=1,
    rounds=2,
    attention=((2, 32, 2, 16),),
    prompts=(1, 3),
    prompt=8,
    new=4,
)


def show(name: str, **columns: object) -> None:
    print(f"{name:34s} " + "  ".join(f"{key} {value}" for key, value in columns.items()), flush=True)


def measured(name: str, make: Callable[[Any], Any]) -> Any:
    """What ``make(benchmarks.gpu_torch)`` returns; None, with a line that says why, where it fails."""
    try:
        from benchmarks import gpu_torch

        return make(gpu_torch)
    except Exception as error:
        reason = (str(error).splitlines() or [""])[0]
        show(name, torch=f"not measured: {type(error).__name__}: {reason}")
        return None


def seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def in_turns(runs: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """The median seconds of each run, in rounds of all of them. Each has run before."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            times[name].append(seconds(run))
    return {name: statistics.median(found) for name, found in times.items()}


def training(
    model: nn.Pure[Any], loss_fn: train.LossFn[Any], batch: dict[str, np.ndarray]
) -> Callable[[int], float]:
    """``run(n)`` takes n training steps; returns the last loss."""
    optimizer = train.adamw(optax.constant_schedule(1e-4), 0.01)
    parallel = train.Jit(axes=model.axes())
    init_key, run_key = jax.random.split(jax.random.key(0))
    step = parallel.compile(train.make_train_step(loss_fn, optimizer, clip_norm=1.0))
    state = parallel.create(lambda key: train.init_state(model.init(key), optimizer, run_key), init_key)

    def run(steps: int) -> float:
        nonlocal state
        metrics: dict[str, Any] = {}
        for _ in range(steps):
            state, metrics = step(state, batch)
        total, weight = jax.device_get(metrics["loss"])  # waits
        return float(total / weight)

    return run


def compare_training(
    name: str,
    ours: Callable[[int], float],
    theirs: Callable[[Any], Callable[[int], float]],
    work: tuple[int, float],
    sizes: Sizes,
) -> None:
    """Prints tokens/s and MFU; ``work``: the tokens and the FLOPs of a step."""
    tokens, flops = work
    peak = peak_flops(jax.devices()[0].device_kind)

    def rates(seconds: float) -> str:
        speed = f"{sizes.steps * tokens / seconds:,.0f} tokens/s"
        return speed + (f", MFU {sizes.steps * flops / seconds / peak:.1%}" if peak else "")

    first = f"{seconds(lambda: ours(1)):.1f} s"
    loss = ours(1)
    alone = in_turns({"it": lambda: ours(sizes.steps)}, 2)["it"]
    show(name, tfm_jax=rates(alone), first_step=first, loss=f"{loss:.3f}", **attention_of(sizes))
    run = measured(name, theirs)
    if run is None or measured(name, lambda module: show_first(name, run)) is None:
        return
    found = in_turns({"tfm_jax": lambda: ours(sizes.steps), "torch": lambda: run(sizes.steps)}, sizes.rounds)
    ratio = f"{found['torch'] / found['tfm_jax']:.2f}"
    show(name, **{library: rates(value) for library, value in found.items()}, ratio=ratio)


def show_first(name: str, run: Callable[[int], float]) -> bool:
    first = f"{seconds(lambda: run(2)):.1f} s"
    show(name, torch_first_steps=first, loss=f"{run(1):.3f}")
    return True


def attention_of(sizes: Sizes) -> dict[str, str]:
    """The implementation of causal self-attention in the decoder."""
    heads = sizes.decoder["n_heads"]
    shape = (sizes.batch, sizes.length, heads, sizes.decoder["d_model"] // heads)
    q = jax.ShapeDtypeStruct(shape, jnp.bfloat16)
    return {"attention": str(ops.explain_attention(q, q, q, masks.causal()).implementation)}


def train_decoder(sizes: Sizes) -> None:
    config = nn.Config(
        **sizes.decoder, positions=nn.Learned(sizes.length), scale_embeddings=False, attention_bias=True,
        dtype="bfloat16",
    )  # fmt: skip
    model = nn.functionalize(nn.Decoder, config)
    tokens = np.random.default_rng(0).integers(0, config.vocab_size, (sizes.batch, sizes.length + 1))
    batch = {"tokens": tokens[:, :-1].astype(np.int32), "labels": tokens[:, 1:].astype(np.int32)}

    def loss_fn(params: Any, batch: Any, key: Any) -> Any:
        decoder = model.bind(params)
        hidden = decoder.hidden(batch["tokens"])
        return decoder.cross_entropy(hidden, batch["labels"]), {}

    compare_training(
        "train 124 M decoder",
        training(model, loss_fn, batch),
        lambda module: module.training(
            module.Transformer(sizes.decoder, sizes.length, cross=False, post_norm=False), batch
        ),
        (batch["tokens"].size, step_flops(model, examples=sizes.batch, length=sizes.length)),
        sizes,
    )


def train_paper(sizes: Sizes) -> None:
    config = nn.Config(
        **sizes.paper, norm_placement="post", final_norm=False, share_embeddings=True, dtype="bfloat16"
    )
    model = nn.functionalize(nn.EncoderDecoder, config)
    generator = np.random.default_rng(0)
    source, target = (
        generator.integers(0, config.vocab_size, (sizes.pairs, sizes.pair_length + 1)).astype(np.int32)
        for _ in range(2)
    )
    batch = {"source": source[:, 1:], "tokens": target[:, :-1], "labels": target[:, 1:]}

    def loss_fn(params: Any, batch: Any, key: Any) -> Any:
        bound = model.bind(params)
        hidden = bound.hidden(batch["tokens"], bound.encode(batch["source"]))
        return bound.cross_entropy(hidden, batch["labels"]), {}

    compare_training(
        "train paper base",
        training(model, loss_fn, batch),
        lambda module: module.training(
            module.Transformer(sizes.paper, sizes.pair_length, cross=True, post_norm=True), batch
        ),
        (batch["tokens"].size, step_flops(model, examples=sizes.pairs, length=sizes.pair_length)),
        sizes,
    )


def compare_attention(sizes: Sizes) -> None:
    for shape in sizes.attention:
        B, T, N, H = shape
        name = f"attention B {B} T {T} N {N} H {H}"
        q, k, v, g = (
            jax.random.normal(key, shape, jnp.bfloat16) for key in jax.random.split(jax.random.key(0), 4)
        )

        @jax.jit
        def gradients(q: Any, k: Any, v: Any, g: Any) -> Any:
            out, pull = jax.vjp(lambda q, k, v: ops.attention(q, k, v, masks.causal()), q, k, v)
            return out, pull(g)

        def ours(times: int, gradients: Any = gradients, arrays: Any = (q, k, v, g)) -> None:
            for _ in range(times):
                out = gradients(*arrays)
            jax.block_until_ready(out)

        def rates(seconds: float, shape: tuple[int, int, int, int] = shape) -> str:
            B, T, N, H = shape
            flops = 3.5 * 4 * B * N * T * T * H / 2  # 2 products forward, 5 backward, half of the pairs
            each = seconds / sizes.steps
            return f"{1e3 * each:.2f} ms, {flops / each / 1e12:.0f} TFLOP/s"

        ours(2)
        chosen = ops.explain_attention(q, k, v, masks.causal()).implementation
        alone = in_turns({"it": lambda: ours(sizes.steps)}, 2)["it"]
        show(name, tfm_jax=rates(alone), attention=chosen)
        runs: dict[str, Callable[[], object]] = {"tfm_jax": functools.partial(ours, sizes.steps)}
        for backend in ("flash", "cudnn") if jax.default_backend() == "gpu" else ("default",):

            def make(module: Any, shape: Any = shape, backend: str = backend) -> Callable[[int], None]:
                run = module.attention(shape, backend)
                run(2)
                return run

            if (run := measured(f"{name} {backend}", make)) is not None:
                runs[f"torch_{backend}"] = functools.partial(run, sizes.steps)
        found = in_turns(runs, sizes.rounds)
        best = min((value for library, value in found.items() if library != "tfm_jax"), default=None)
        ratio = {} if best is None else {"ratio": f"{best / found['tfm_jax']:.2f}"}
        show(name, **{library: rates(value) for library, value in found.items()}, **ratio)


def compare_generation(sizes: Sizes) -> None:
    config = nn.Config(
        **sizes.big, norm=nn.RMSNorm(), positions=nn.Rope(), feed_forward=nn.Glu(), scale_embeddings=False,
        dtype="bfloat16", param_dtype="bfloat16",
    )  # fmt: skip
    model = nn.functionalize(nn.Decoder, config)
    params = jax.jit(model.init)(jax.random.key(0))
    options = generate.GenerationConfig(max_length=sizes.new)
    for batch in sizes.prompts:
        prompt = (
            np.random.default_rng(0).integers(0, config.vocab_size, (batch, sizes.prompt)).astype(np.int32)
        )
        name = f"generate 1 B, greedy, batch {batch}"

        def ours(prompt: np.ndarray = prompt) -> None:
            jax.block_until_ready(generate.greedy(model, params, jnp.asarray(prompt), options).tokens)

        def rates(seconds: float, batch: int = batch) -> str:
            return f"{batch * sizes.new / seconds:,.0f} tokens/s"

        first = seconds(ours)
        show(name, tfm_jax=rates(seconds(ours)), first_call=f"{first:.1f} s")

        def make(module: Any, prompt: np.ndarray = prompt) -> Callable[[], None]:
            run = module.generate(sizes.big, prompt, sizes.new)
            run()
            return run

        if (run := measured(name, make)) is not None:
            found = in_turns({"tfm_jax": ours, "transformers": run}, min(sizes.rounds, 3))
            ratio = f"{found['transformers'] / found['tfm_jax']:.2f}"
            show(name, **{library: rates(value) for library, value in found.items()}, ratio=ratio)


SECTIONS: dict[str, tuple[Callable[[Sizes], None], int]] = {
    "train-decoder": (train_decoder, 110),
    "attention": (compare_attention, 60),
    "train-paper": (train_paper, 90),
    "generate": (compare_generation, 80),
}
"""In the order of their worth, with the seconds that each may take."""


def run_sections(names: Sequence[str], arguments: Sequence[str], total: float = SECONDS) -> int:
    """Runs each section as a process; ends one that takes too long. Returns how many did not finish."""
    end, failed = time.monotonic() + total, 0
    for name in names:
        limit = min(SECTIONS[name][1], end - time.monotonic())
        if limit < 5:
            print(f"{name}: no time left", flush=True)
            failed += 1
            continue
        command = [sys.executable, "-m", "benchmarks.gpu", "--section", name, *arguments]
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        }
        start = time.monotonic()
        try:
            status = subprocess.run(command, cwd=ROOT, env=environment, timeout=limit).returncode
        except subprocess.TimeoutExpired:
            status = f"the limit of {limit:.0f} s"
        print(
            f"{name}: {time.monotonic() - start:.0f} s" + (f", ended by {status}" if status else ""),
            flush=True,
        )
        failed += status != 0
    return failed


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tiny", action="store_true", help="tiny sizes, on a CPU")
    parser.add_argument("--section", choices=SECTIONS, help="one section, in this process")
    options = parser.parse_args(argv)
    if options.section is None:
        return run_sections(list(SECTIONS), ["--tiny"] if options.tiny else [])
    device = jax.devices()[0]
    if device.platform == "cpu" and not options.tiny:
        parser.error("got a CPU; wanted a GPU, or --tiny.")
    version = device.client.platform_version.splitlines()[0]
    print(f"{options.section}: {device.device_kind}, jax {jax.__version__}, {version}", flush=True)
    try:
        SECTIONS[options.section][0](TINY if options.tiny else FULL)
    except Exception:
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
