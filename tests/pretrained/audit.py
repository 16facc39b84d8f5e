"""Audit of config.json: each key is changed in turn, and both outputs are compared."""

import dataclasses
import functools
import inspect
import json
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.pretrained import transformers_models
from tests.pretrained.cases import Case
from tfm_jax import nn, pretrained
from tfm_jax.ops import masks
from tfm_jax.pretrained.families import find_family

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

__all__ = ["BASES", "Base", "Outcome", "audit", "build", "keys", "values"]

B, T, S = 2, 9, 7
TOLERANCE = 1e-4
_HEADS = {"hidden_size": 24, "num_attention_heads": 3, "num_hidden_layers": 1, "vocab_size": 19}
_ROTATED = _HEADS | {"intermediate_size": 11, "num_key_value_heads": 1, "head_dim": 8}
_ROTATED |= {"max_position_embeddings": 32, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
_ENCODER = _HEADS | {"intermediate_size": 11, "max_position_embeddings": 16, "pad_token_id": 1}
_DISTIL = {"vocab_size": 19, "dim": 24, "n_heads": 3, "n_layers": 1, "hidden_dim": 11}
_DISTIL |= {"max_position_embeddings": 16, "pad_token_id": 1}
_SEQ2SEQ = {
    "vocab_size": 18,
    "d_model": 24,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 3,
    "decoder_attention_heads": 3,
    "encoder_ffn_dim": 13,
    "decoder_ffn_dim": 13,
    "max_position_embeddings": 16,
    "pad_token_id": 1,
    "eos_token_id": 2,
    "bos_token_id": 0,
    "decoder_start_token_id": 2,
    "forced_eos_token_id": None,
}
_WINDOW = {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 0}
_T5 = {"vocab_size": 18, "d_model": 24, "num_heads": 3, "d_kv": 5, "d_ff": 14, "num_layers": 1}
_T5 |= {"num_decoder_layers": 1, "relative_attention_num_buckets": 8, "relative_attention_max_distance": 7}
_T5 |= {"decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 2}
_VIT = {"hidden_size": 24, "num_attention_heads": 3, "num_hidden_layers": 1, "intermediate_size": 11}
_VIT |= {"image_size": 8, "patch_size": 4}

BASES: dict[str, Case] = {
    "gpt2": Case(
        "GPT2LMHeadModel",
        "GPT2Config",
        {"vocab_size": 19, "n_positions": 24, "n_embd": 24, "n_head": 3, "n_layer": 1, "n_inner": 22}
        | {"bos_token_id": 0, "eos_token_id": 2},
    ),
    "opt": Case(
        "OPTForCausalLM",
        "OPTConfig",
        _HEADS | {"ffn_dim": 11, "max_position_embeddings": 24, "bos_token_id": 0, "word_embed_proj_dim": 24},
    ),
    "bloom": Case(
        "BloomForCausalLM",
        "BloomConfig",
        {"vocab_size": 19, "n_layer": 1, "hidden_size": 24, "n_head": 3, "pad_token_id": 1},
    ),
    "gpt_neox": Case(
        "GPTNeoXForCausalLM", "GPTNeoXConfig", _HEADS | {"intermediate_size": 11, "rotary_pct": 0.5}
    ),
    "llama": Case("LlamaForCausalLM", "LlamaConfig", _ROTATED),
    "mistral": Case("MistralForCausalLM", "MistralConfig", _ROTATED | {"sliding_window": 4}),
    "qwen2": Case("Qwen2ForCausalLM", "Qwen2Config", _ROTATED | _WINDOW),
    "qwen3": Case("Qwen3ForCausalLM", "Qwen3Config", _ROTATED | _WINDOW),
    "bert": Case("BertForMaskedLM", "BertConfig", _ENCODER),
    "bert, body": Case("BertModel", "BertConfig", _ENCODER),
    "bert, sequences": Case("BertForSequenceClassification", "BertConfig", _ENCODER | {"num_labels": 3}),
    "bert, tokens": Case("BertForTokenClassification", "BertConfig", _ENCODER | {"num_labels": 3}),
    "roberta": Case("RobertaForMaskedLM", "RobertaConfig", _ENCODER),
    "roberta, body": Case("RobertaModel", "RobertaConfig", _ENCODER),
    "roberta, sequences": Case(
        "RobertaForSequenceClassification", "RobertaConfig", _ENCODER | {"num_labels": 3}
    ),
    "roberta, tokens": Case("RobertaForTokenClassification", "RobertaConfig", _ENCODER | {"num_labels": 3}),
    "distilbert": Case("DistilBertForMaskedLM", "DistilBertConfig", _DISTIL),
    "distilbert, body": Case("DistilBertModel", "DistilBertConfig", _DISTIL),
    "distilbert, sequences": Case(
        "DistilBertForSequenceClassification", "DistilBertConfig", _DISTIL | {"num_labels": 3}
    ),
    "distilbert, tokens": Case(
        "DistilBertForTokenClassification", "DistilBertConfig", _DISTIL | {"num_labels": 3}
    ),
    "t5": Case("T5ForConditionalGeneration", "T5Config", _T5),
    "t5, 1.1": Case(
        "T5ForConditionalGeneration",
        "T5Config",
        _T5 | {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
    ),
    "bart": Case("BartForConditionalGeneration", "BartConfig", _SEQ2SEQ),
    "mbart": Case("MBartForConditionalGeneration", "MBartConfig", _SEQ2SEQ),
    "pegasus": Case("PegasusForConditionalGeneration", "PegasusConfig", _SEQ2SEQ),
    "marian": Case("MarianMTModel", "MarianConfig", _SEQ2SEQ),
    "vit": Case("ViTForImageClassification", "ViTConfig", _VIT | {"num_labels": 3}),
    "vit, body": Case("ViTModel", "ViTConfig", _VIT),
}
# The model class and the storage dtype: not settings of the forward pass.
_IDENTITY = {"architectures", "model_type", "transformers_version", "dtype", "torch_dtype", "auto_map"}
# Keys of older files that no config class has.
_LEGACY = {
    "n_embed": 24,
    "rope_theta": 10_000.0,
    "rope_scaling": {"rope_type": "default", "rope_theta": 50.0},
    "partial_rotary_factor": 0.5,
    "rotary_emb_base": 10_000.0,
    "rotary_pct": 0.25,
    "torchscript": False,
    "tie_encoder_decoder": False,
    "pruned_heads": {"0": [0]},
    "quantization_config": {"quant_method": "gptq", "bits": 4},
    "normalize_before": False,
    "add_final_layer_norm": False,
    "normalize_embedding": True,
    "static_position_embeddings": False,
    "offset_alibi": 100,
    "num_labels": 3,
    "output_past": True,
    "gradient_checkpointing": False,
    "mean_resizing": "x",
    "some_other_key": 3,
}
_ACTIVATIONS = [
    "relu",
    "gelu",
    "gelu_new",
    "silu",
    "quick_gelu",
    "gelu_pytorch_tanh",
    "tanh",
    "relu6",
    "laplace",
]
_CHOICES = {
    "feed_forward_proj": ["gated-gelu", "relu", "gated-silu", "gelu", "gated-relu", "gated-gelu_new"],
    "position_embedding_type": ["relative_key", "relative_key_query", "absolute"],
    "problem_type": ["regression", "multi_label_classification", "single_label_classification"],
}
_ROPES = [
    {"rope_type": "default", "rope_theta": 50.0},
    {"type": "default", "rope_theta": 50.0},
    {"rope_theta": 50.0},
    {"rope_type": "default"},
    {"rope_type": "default", "rope_theta": 50.0, "partial_rotary_factor": 0.5},
    {"rope_type": "default", "rope_theta": 50.0, "partial_rotary_factor": 1.0},
    {"rope_type": "default", "rope_theta": 50.0, "factor": 2.0},
    {"rope_type": "linear", "factor": 2.0, "rope_theta": 50.0},
    {"type": "linear", "factor": 2.0},
    {"rope_type": "dynamic", "factor": 2.0},
    {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 16},
    {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    | {"original_max_position_embeddings": 16},
    {"full_attention": {"rope_type": "default", "rope_theta": 50.0}},
    {"sliding_attention": {"rope_type": "default", "rope_theta": 50.0}},
    {},
    None,
]
_LAYER_TYPES = [["full_attention"], ["sliding_attention"], ["chunked_attention"], [], None]
ABSENT = object()


class Base(NamedTuple):
    """A saved model of one layer and its output.

    Args:
      cls: its class in transformers.
      directory: of the checkpoint.
      settings: its config.json.
      forward: determines our forward pass; see ``_forward``.
      inputs: for transformers.
      ours: positional and keyword arguments for our ``apply``.
      valid: the outputs that are compared.
      output: of transformers.
    """

    cls: Any
    directory: Path
    settings: dict
    forward: tuple
    inputs: dict
    ours: tuple[tuple, dict]
    valid: np.ndarray
    output: np.ndarray


class Outcome(NamedTuple):
    """The result of a change: "skipped", "same", "followed", "error", "differs" or "needless error"."""

    kind: str
    key: str
    value: Any
    note: str = ""


def build(name: str, directory: Path) -> Base:
    """Builds the model of a name in BASES."""
    model = transformers_models.random(BASES[name], std=0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save_pretrained(directory)
    settings = json.loads((directory / "config.json").read_text())
    inputs, ours, valid = _inputs(model.config, settings["architectures"][0])
    output = _output(model, inputs)
    config = pretrained.load(directory, tokenizer=False)[2]
    if getattr(model, "pooler", None) is not None:
        valid = np.concatenate([valid, np.ones((B, 1), bool)], 1)
    base = Base(type(model), directory, settings, _forward(config), inputs, ours, valid, output)
    assert _close(base, _ours(base, directory), output), "the base itself differs"
    return base


def _inputs(config: Any, architecture: str) -> tuple[dict, tuple[tuple, dict], np.ndarray]:
    if config.model_type == "vit":
        images = np.random.default_rng(1).normal(size=(B, 8, 8, 3)).astype(np.float32)
        outputs = (B,) if "Classification" in architecture else (B, 5)
        inputs = {"pixel_values": torch.tensor(images.transpose(0, 3, 1, 2))}
        return inputs, ((images,), {}), np.ones(outputs, bool)
    tokens = np.random.default_rng(1).integers(3, config.vocab_size, (B, T))
    lengths = np.array([[T], [5]])
    if config.is_encoder_decoder:
        source, valid = tokens[:, :S], np.arange(S) < np.array([[S], [4]])
        source = np.where(valid, source, config.pad_token_id)
        target = np.random.default_rng(2).integers(3, config.vocab_size, (B, T))
        inputs = {"input_ids": torch.tensor(source), "decoder_input_ids": torch.tensor(target)}
        inputs["attention_mask"] = torch.tensor(valid, dtype=torch.long)
        mask = masks.padding(jnp.asarray(valid))
        return inputs, ((source, target), {"source_mask": mask}), np.ones((B, T), bool)
    causal = architecture.endswith(("ForCausalLM", "LMHeadModel"))
    valid = np.arange(T) < lengths
    valid = np.fliplr(valid).copy() if causal else valid
    tokens = np.where(valid, tokens, config.pad_token_id or 0)
    inputs = {"input_ids": torch.tensor(tokens), "attention_mask": torch.tensor(valid, dtype=torch.long)}
    if causal:
        positions = np.maximum(np.cumsum(valid, 1) - 1, 0)
        if config.model_type != "bloom":
            inputs["position_ids"] = torch.tensor(positions)
        ours = {"positions": jnp.asarray(positions, jnp.int32)}
        return inputs, ((tokens, masks.padding(jnp.asarray(valid))), ours), valid
    ours = {}
    if config.model_type == "bert":
        types = np.random.default_rng(3).integers(0, 2, (B, T))
        inputs["token_type_ids"], ours["token_types"] = torch.tensor(types), jnp.asarray(types, jnp.int32)
    classifies = "Classification" in architecture
    mask = jnp.asarray(valid) if classifies else masks.padding(jnp.asarray(valid))
    outputs = np.ones(B, bool) if "Sequence" in architecture else valid
    return inputs, ((tokens, mask), ours), outputs


def _output(model: Any, inputs: dict) -> np.ndarray:
    with torch.no_grad():
        outputs = model.eval()(**inputs)
        found = outputs[0].float().numpy()
        if getattr(model, "pooler", None) is not None:  # its vector follows those of the tokens
            found = np.concatenate([found, outputs[1].float().numpy()[:, None]], 1)
    if not np.isfinite(found).all():
        raise ValueError("not finite")
    return found


def _reference_output(base: Base, directory: Path) -> np.ndarray:
    """The output of transformers; an error where it fails or lacks weights."""
    model, report = base.cls.from_pretrained(
        directory, attn_implementation="eager", dtype=torch.float32, output_loading_info=True
    )
    if report["missing_keys"] or report["mismatched_keys"] or report["error_msgs"]:
        raise ValueError("other weights")
    return _output(model, base.inputs)


def _forward(config: pretrained.CheckpointConfig) -> tuple:
    """All that determines our forward pass in inference: the module, the config, and the options."""
    rates = {x.name: 0.0 for x in dataclasses.fields(config.model) if x.name.endswith("dropout_rate")}
    pooler = config.model.pooler and dataclasses.replace(config.model.pooler, dropout_rate=0.0)
    model = dataclasses.replace(config.model, **rates, pooler=pooler)
    architecture = find_family(config.architecture).architectures[config.architecture]
    options = {**architecture.options(dataclasses.replace(config, model=model)), "dropout_rate": 0.0}
    options = options if "dropout_rate" in architecture.options(config) else architecture.options(config)
    return architecture.module, model, tuple(sorted(options.items()))


@functools.cache
def _program(module: Any, model: Any, options: tuple) -> Any:
    return jax.jit(nn.functionalize(module, model, **dict(options)).apply)


def _ours(base: Base, directory: Path) -> np.ndarray:
    _, params, config, _ = pretrained.load(directory, tokenizer=False)
    args, options = base.ours
    found = np.asarray(_program(*_forward(config))(params, *args, **options))
    if "pooler" not in params:
        return found
    pooled = nn.functionalize(nn.Encoder, config.model).bind(params).pooled(*args, **options)
    return np.concatenate([found, np.asarray(pooled)[:, None]], 1)


def _close(base: Base, one: np.ndarray, other: np.ndarray) -> bool:
    return one.shape == other.shape and bool(
        np.abs(np.where(base.valid[..., None], one - other, 0.0)).max() <= TOLERANCE
    )


def keys(base: Base, *, every: bool) -> dict[str, list[Any]]:
    """All keys that may matter, each with the values to try.

    They are the keys of the config class and its aliases, keys in the source of the model, keys of older
    files, and with ``every`` those of the other families.
    """
    config = base.cls.config_class
    source = inspect.getsource(inspect.getmodule(base.cls))
    found = dict(base.settings)
    found |= {alias: getattr(config(), key, None) for alias, key in config.attribute_map.items()}
    found |= {alias: base.settings.get(key) for alias, key in config.attribute_map.items()}
    for name in re.findall(r"config\.([a-z]\w*)", source) + re.findall(r"config, \"(\w+)\"", source):
        found.setdefault(name, base.settings.get(name, getattr(config(), name, None)))
    others = _others() if every else {}
    for name, value in {**others, **_LEGACY, **transformers.PretrainedConfig().to_dict()}.items():
        found.setdefault(name, value)
    read = {
        name: found[name] for name in sorted(found) if name not in _IDENTITY and not callable(found[name])
    }
    return {name: values(name, value, name in base.settings) for name, value in read.items()}


@functools.cache
def _others() -> dict[str, Any]:
    """The keys of all families, with the sizes of the bases."""
    found = {}
    for case in BASES.values():
        config = getattr(transformers, case.config)(**case.fields)
        found |= {x: y for x, y in config.to_dict().items() if x not in found or found[x] is None}
    return found


def values(name: str, value: Any, present: bool) -> list[Any]:
    """Plausible values beside the one that a key has."""
    if name in ("rope_parameters", "rope_scaling"):
        tried = _ROPES
    elif name == "layer_types":
        tried = _LAYER_TYPES
    elif name in _CHOICES:
        tried = [*_CHOICES[name], None]
    elif any(part in name for part in ("activation_function", "hidden_act", "act_fn", "pooler_act")) or (
        name == "activation"
    ):
        tried = [*_ACTIVATIONS, None]
    elif isinstance(value, bool):
        tried = [not value, value, None]
    elif isinstance(value, int):
        tried = [value + 1, value - 1, 2 * value, value, 0, None]
    elif isinstance(value, float) and "drop" in name:  # transformers rejects 1.0
        tried = [value + 0.1, 0.0, 0.5, None]
    elif isinstance(value, float):
        tried = [2 * value or 0.5, value / 2 + 0.1, 0.0, 1.0, value, None]
    elif isinstance(value, str):
        tried = ["other", value, None]
    elif isinstance(value, list):
        tried = [[*value, *value], value[:1], [], None]
    elif isinstance(value, dict):
        tried = [value, {}, None, dict(list(value.items())[:1])]
    else:
        tried = [True, 2, 0.5, "gelu", {}, None, False, 3, 12]
    tried = [x for x in tried if not (present and x == value and type(x) is type(value))]
    return [*tried, ABSENT] if present else tried


def audit(base: Base, directory: Path, *, every: bool) -> Iterator[Outcome]:
    """The outcome of each change: of all values, or of the first per key with which transformers runs."""
    directory.mkdir()
    for path in base.directory.iterdir():
        (directory / path.name).symlink_to(path)
    (directory / "config.json").unlink()
    for key, tried in keys(base, every=every).items():
        for value in tried:
            settings = {**base.settings, key: value}
            if value is ABSENT:
                del settings[key]
            (directory / "config.json").write_text(json.dumps(settings))
            outcome = _outcome(base, directory, settings, key, value)
            yield outcome
            if not every and outcome.kind != "skipped":
                break


def _outcome(base: Base, directory: Path, settings: dict, key: str, value: Any) -> Outcome:
    shown = "absent" if value is ABSENT else value
    try:
        wanted = _reference_output(base, directory)
    except Exception as error:
        return Outcome("skipped", key, shown, str(error)[:80])
    changed = not _close(base, wanted, base.output)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            config = pretrained.CheckpointConfig(
                settings["architectures"][0],
                find_family(settings["architectures"][0]).read_config(settings, "config.json"),
                settings,
            )
            if not changed and _forward(config) == base.forward:
                return Outcome("same", key, shown)
            got = _ours(base, directory)
    except ValueError as error:
        named = key in str(error) or "tensors that do not match the model" in str(error)
        named |= isinstance(value, str) and f"activation: got {value!r}" in str(error)
        kind = "error" if changed else "needless error"
        return Outcome(kind if named else "differs", key, shown, str(error)[:200])
    except Exception as error:
        return Outcome("differs", key, shown, repr(error)[:200])
    if _close(base, got, wanted):
        return Outcome("followed" if changed else "same", key, shown)
    worst = np.abs(got - wanted).max() if got.shape == wanted.shape else (got.shape, wanted.shape)
    return Outcome("differs", key, shown, f"{worst}")
