"""Decoding compared with Hugging Face ``generate`` on torch: tokens per second, in interleaved runs.

    python -m benchmarks.generate

A Llama-like model of 15 M parameters (6 layers, D = 288, V = 32,000) with random weights; a prompt of 16
tokens and 200 new ones: greedy with batch sizes 1 and 8, beam search with 4 beams and batch size 1. The
memory limit is the speed at which this machine can read all weights once per token.
"""

import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tfm_jax import generate, nn

PROMPT, NEW, REPEATS = 16, 200, 5
CONFIG = nn.Config(
    vocab_size=32_000,
    d_model=288,
    n_layers=6,
    n_heads=6,
    d_ff=768,
    norm=nn.RMSNorm(),
    positions=nn.Rope(),
    feed_forward=nn.Glu(),
    scale_embeddings=False,
)
CASES = {"greedy, batch 1": (1, 1), "greedy, batch 8": (8, 1), "beam 4, batch 1": (1, 4)}


def ours(model: nn.Pure, params: Any, prompt: np.ndarray, beams: int) -> Callable[[], Any]:
    config = generate.GenerationConfig(max_length=NEW, beams=beams, length_penalty=1.0)
    run = generate.greedy if beams == 1 else generate.beam_search
    return lambda: jax.block_until_ready(run(model, params, jnp.asarray(prompt), config).tokens)


def theirs() -> Callable[[np.ndarray, int], Callable[[], Any]]:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=CONFIG.vocab_size,
        hidden_size=CONFIG.d_model,
        intermediate_size=CONFIG.d_ff,
        num_hidden_layers=CONFIG.n_layers,
        num_attention_heads=CONFIG.n_heads,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        eos_token_id=None,
        bos_token_id=None,
    )
    model = LlamaForCausalLM(config).eval()
    # No EOS: all outputs have the same length.
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    count = sum(p.numel() for p in model.parameters())
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {count:,} parameters")

    def make(prompt: np.ndarray, beams: int) -> Callable[[], Any]:
        ids = torch.tensor(prompt)
        options = {"max_new_tokens": NEW, "min_new_tokens": NEW, "do_sample": False, "num_beams": beams}

        def run() -> Any:
            with torch.inference_mode():
                out = model.generate(ids, attention_mask=torch.ones_like(ids), **options)
            assert out.shape[1] == PROMPT + NEW
            return out

        return run

    return make


def bandwidth(params: Any) -> float:
    """Bytes per second read by a sum over an array of the size of the weights; the best of 20 runs."""
    size = sum(x.size for x in jax.tree.leaves(params))
    vector = jnp.ones(size, jnp.float32)
    read = jax.jit(jnp.sum)
    read(vector).block_until_ready()
    times = []
    for _ in range(20):
        start = time.perf_counter()
        read(vector).block_until_ready()
        times.append(time.perf_counter() - start)
    return 4 * size / min(times)


def main() -> None:
    model = nn.functionalize(nn.Decoder, CONFIG)
    params = jax.jit(model.init)(jax.random.key(0))
    weights = sum(x.nbytes for x in jax.tree.leaves(params))
    print(f"jax {jax.__version__}, {weights // 4:,} parameters, {weights / 2**20:.0f} MiB")
    make = theirs()
    speed = {}
    for name, (batch, beams) in CASES.items():
        prompt = np.random.default_rng(0).integers(3, CONFIG.vocab_size, (batch, PROMPT))
        runs = {"tfm_jax": ours(model, params, prompt, beams), "transformers": make(prompt, beams)}
        start = time.perf_counter()
        runs["tfm_jax"]()
        first = time.perf_counter() - start
        runs["transformers"]()
        times: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(REPEATS):
            for library, run in runs.items():
                start = time.perf_counter()
                run()
                times[library].append(time.perf_counter() - start)
        speed[name] = {library: batch * NEW / statistics.median(found) for library, found in times.items()}
        a, b = speed[name]["tfm_jax"], speed[name]["transformers"]
        print(
            f"{name:16s}  tfm_jax {a:7.1f} tokens/s   transformers {b:7.1f} tokens/s   ratio {a / b:5.2f}"
            f"   (first call {first:.1f} s)",
            flush=True,
        )
    rate = bandwidth(params)
    share = speed["greedy, batch 1"]["tfm_jax"] * weights / rate
    print(f"memory: {rate / 1e9:.1f} GB/s read; at batch 1 {share:.0%} of the limit that the weights set")


if __name__ == "__main__":
    main()
