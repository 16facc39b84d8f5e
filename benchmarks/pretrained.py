"""Checkpoints of every family compared with transformers: difference of the logits, cost of loading.

    python -m benchmarks.pretrained               # writes docs/pretrained.md

transformers makes and saves a model of each family with random weights; a separate process loads it. Seconds
and peak memory are those of ``tfm_jax.pretrained.load``, without the memory that the process had before.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

PAGE = Path(__file__).parents[1] / "docs" / "pretrained.md"
BATCH, LENGTH, SOURCE = 2, 48, 32
V = 8000
SMALL = {"hidden_size": 384, "num_hidden_layers": 6, "intermediate_size": 1024, "vocab_size": V}
DECODER = SMALL | {"num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 64}
DISTILLED = {"vocab_size": V, "dim": 384, "n_layers": 6, "n_heads": 12, "hidden_dim": 1024}
ENCODER = SMALL | {"num_attention_heads": 12}
PAIR = {
    "vocab_size": V,
    "d_model": 384,
    **{f"{stack}_layers": 3 for stack in ("encoder", "decoder")},
    **{f"{stack}_attention_heads": 6 for stack in ("encoder", "decoder")},
    **{f"{stack}_ffn_dim": 1024 for stack in ("encoder", "decoder")},
    "pad_token_id": 1,
    "decoder_start_token_id": 2,
}
T5 = {"vocab_size": V, "d_model": 384, "num_layers": 3, "num_heads": 6, "d_kv": 64, "d_ff": 1024}
VIT = {name: x for name, x in ENCODER.items() if name != "vocab_size"} | {"image_size": 96, "patch_size": 16}
MODELS: dict[str, dict[str, Any]] = {
    "GPT2LMHeadModel": {"vocab_size": V, "n_embd": 384, "n_layer": 6, "n_head": 6},
    "OPTForCausalLM": {name: x for name, x in ENCODER.items() if name != "intermediate_size"}
    | {"ffn_dim": 1024},
    "BloomForCausalLM": {"vocab_size": V, "hidden_size": 384, "n_layer": 6, "n_head": 12},
    "GPTNeoXForCausalLM": ENCODER | {"num_attention_heads": 6},
    "LlamaForCausalLM": DECODER,
    "MistralForCausalLM": DECODER | {"sliding_window": 16},
    "Qwen2ForCausalLM": {name: x for name, x in DECODER.items() if name != "head_dim"},
    "Qwen3ForCausalLM": DECODER | {"tie_word_embeddings": True},
    "BertForMaskedLM": ENCODER,
    "BertForSequenceClassification": ENCODER | {"num_labels": 3},
    "BertForTokenClassification": ENCODER | {"num_labels": 9},
    "RobertaForMaskedLM": ENCODER,
    "RobertaForSequenceClassification": ENCODER | {"num_labels": 3},
    "RobertaForTokenClassification": ENCODER | {"num_labels": 9},
    "DistilBertForMaskedLM": DISTILLED,
    "DistilBertForSequenceClassification": DISTILLED | {"num_labels": 3},
    "DistilBertForTokenClassification": DISTILLED | {"num_labels": 9},
    "T5ForConditionalGeneration": T5,
    "T5ForConditionalGeneration (1.1)": T5
    | {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
    "BartForConditionalGeneration": PAIR,
    "MBartForConditionalGeneration": PAIR | {"scale_embedding": True},
    "PegasusForConditionalGeneration": PAIR | {"scale_embedding": True, "activation_function": "relu"},
    "MarianMTModel": PAIR | {"scale_embedding": True, "activation_function": "swish"},
    "ViTModel": VIT,
    "ViTForImageClassification": VIT | {"num_labels": 9},
}


def save_reference(name: str, fields: dict[str, Any], directory: Path) -> None:
    """Saves a model of transformers, with inputs and its logits for them."""
    import torch
    import transformers

    torch.manual_seed(0)
    kind = getattr(transformers, name.split()[0])
    model = kind(kind.config_class(attn_implementation="eager", **fields)).eval()
    for parameter_name, parameter in model.named_parameters():
        if parameter.ndim == 1:  # so that norm scales are not 1 and biases not 0
            mean = 1.0 if parameter_name.endswith("weight") else 0.0
            torch.nn.init.normal_(parameter, mean, 0.1)
    model.save_pretrained(directory)
    rng = np.random.default_rng(0)
    inputs = {"tokens": rng.integers(3, V, (BATCH, LENGTH))}
    arguments = {"input_ids": torch.tensor(inputs["tokens"])}
    if hasattr(model.config, "image_size"):
        size = (BATCH, *(2 * [model.config.image_size]), model.config.num_channels)
        inputs = {"tokens": rng.normal(size=size).astype(np.float32)}  # transformers has the channels first
        arguments = {"pixel_values": torch.tensor(inputs["tokens"].transpose(0, 3, 1, 2))}
    if model.config.is_encoder_decoder:
        inputs["source"] = rng.integers(3, V, (BATCH, SOURCE))
        arguments = {"input_ids": torch.tensor(inputs["source"]), "decoder_input_ids": arguments["input_ids"]}
    float64 = {name: x.double() if x.is_floating_point() else x for name, x in arguments.items()}
    with torch.no_grad():
        logits, exact = model(**arguments)[0].numpy(), model.double()(**float64)[0].numpy()
    np.savez(directory / "run.npz", logits=logits, exact=exact, **inputs)


def measure_load(directory: Path) -> None:
    """Loads the model in this process and prints the measurements as JSON."""
    import jax

    from tfm_jax import pretrained
    from tfm_jax.pretrained.weights.files import open_weights

    jax.block_until_ready(jax.numpy.zeros(1))
    before = _memory("VmRSS")
    start = time.perf_counter()
    model, params, config, _ = pretrained.load(directory)
    jax.block_until_ready(params)
    seconds, peak = time.perf_counter() - start, _memory("VmHWM") - before
    with np.load(directory / "run.npz") as run:
        arguments = (run["source"], run["tokens"]) if "source" in run else (run["tokens"],)
        wanted, exact = run["logits"], run["exact"]
    got = np.asarray(jax.jit(model.apply)(params, *arguments))
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(params)) / 2**20
    found = {
        "config": f"D {config.model.d_model}, {config.model.n_layers} layers, {config.model.n_heads} heads",
        "difference": float(np.abs(got - wanted).max()),
        "ours": float(np.abs(got - exact).max()),
        "theirs": float(np.abs(wanted - exact).max()),
        "largest": float(np.abs(wanted).max()),
        "seconds": seconds,
        "peak": peak,
        "size": size,
        "tensor": 4 * max(math.prod(shape) for shape in open_weights(directory).shapes.values()) / 2**20,
    }
    print(json.dumps(found))


def _memory(name: str) -> float:
    """A memory figure of this process in MiB; the ``resource`` module would include its parent."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) / 2**10


def page(rows: dict[str, dict[str, Any]]) -> str:
    """The page, in Markdown."""
    import torch
    import transformers

    table = "\n".join(
        f"| `{name}` | {row['config']} | {row['difference']:.1e} | {row['ours']:.1e} | {row['theirs']:.1e} "
        f"| {row['largest']:.1f} | {row['size']:.0f} | {row['tensor']:.0f} | {row['seconds']:.2f} "
        f"| {row['peak']:.0f} |"
        for name, row in rows.items()
    )
    return f"""# Checkpoints of Hugging Face transformers

`pretrained.load` reads them without torch, and `pretrained.save` writes them. This table is written by
`python -m benchmarks.pretrained`, for models with random weights made by transformers
{transformers.__version__} on torch {torch.__version__}, in float32 on {os.cpu_count()} CPU cores.

"Difference" is the largest difference between the logits of both (hidden states for a model without a head).
"Ours" and "theirs" are the differences of each from the same model in float64, by transformers: the rounding
error of float32, which grows with the largest logit. It is largest for T5 1.1, whose untied output projection
transformers initializes with a standard deviation of 1 and does not scale down; there both libraries round
equally. The tests require a difference of at most 1e-5 for tiny models.

"Peak" is the peak memory of loading in MiB, to compare with the size of the weights and of the largest tensor
in the file: each tensor is read, copied into the parameter that holds it for all layers, and freed. It
includes what JAX and Python need to load any first model: 19 MiB for a GPT-2 of 0.04 MiB.

| architecture | config | difference | ours | theirs | largest logit | weights | tensor | load, s | peak |
| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |
{table}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--load", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.load is not None:
        measure_load(args.load)
        return
    rows = {}
    for name, fields in MODELS.items():
        with tempfile.TemporaryDirectory() as directory:
            save_reference(name, fields, Path(directory))
            command = [sys.executable, "-m", "benchmarks.pretrained", "--load", directory]
            found = subprocess.run(command, check=True, capture_output=True, text=True)
        rows[name] = json.loads(found.stdout.splitlines()[-1])
        print(name, rows[name], flush=True)
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
