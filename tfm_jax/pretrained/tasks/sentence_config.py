"""The configuration of a sentence-transformers checkpoint: its pooling, layers, prompts and limits."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp

from tfm_jax.pretrained.tasks.sentence_layers import ACTIVATIONS, Dense, Layer, LayerNorm, unit
from tfm_jax.pretrained.weights.files import open_weights, read_json

__all__ = ["SentenceConfig", "read_sentence_config"]

# In the order in which a concatenation has them.
_LEGACY = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
_POOLINGS = {
    "cls": "first",
    "max": "max",
    "mean": "mean",
    "mean_sqrt_len_tokens": "mean_sqrt_len",
    "weightedmean": "weighted_mean",
    "lasttoken": "last",
}
_BODY_OPTIONS = tuple(
    f"sentence_{name}_config.json"
    for name in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
# Of the body's options, those that change a vector, and the only values that do not.
_BODY_WANTED = {
    "transformer_task": ("feature-extraction",),
    "module_output_name": ("token_embeddings",),
    "query_expansion": (None,),
    "tokenizer_name_or_path": (None,),
    **dict.fromkeys(("config_args", "config_kwargs", "processing_kwargs"), ({}, None)),
}
_OF_TOKENIZER = {"model_max_length", "padding_side", "use_fast"}
_OF_MODEL = {
    "torch_dtype",
    "dtype",
    "attn_implementation",
    "low_cpu_mem_usage",
    "device_map",
    "add_pooling_layer",
}


class SentenceConfig(NamedTuple):
    """How a sentence becomes a vector.

    Args:
      body: the directory of the encoder.
      pooling: names of ``sentence_layers.POOLINGS``.
      counts_prompt: whether pooling counts the tokens of a prompt.
      layers: behind it.
      normalize: whether the vectors end in length 1.
      truncate_dim: how many of their numbers are kept; None is all.
      prompts: what is put before texts, by name.
      prompt_name: of the prompt before each text; None is none.
      lower_case: whether texts are written small before the tokenizer does what it does.
      max_length: in tokens; None is the tokenizer's.
    """

    body: Path
    pooling: tuple[str, ...] = ("mean",)
    counts_prompt: bool = True
    layers: tuple[Layer, ...] = ()
    normalize: bool = False
    truncate_dim: int | None = None
    prompts: Mapping[str, str] = {}
    prompt_name: str | None = None
    lower_case: bool = False
    max_length: Any = None


def read_sentence_config(directory: Path, *, allow_pickle: bool = False) -> SentenceConfig:
    """Reads ``modules.json`` and what it names.

    Args:
      directory: of the model. Without a ``modules.json`` the pooling is the mean over the tokens, and no
        other of these files is read.
      allow_pickle: read a layer's ``pytorch_model.bin``, with torch, where it has no safetensors file.

    Returns:
      The SentenceConfig.

    Raises:
      ValueError: for a module, an option or a value that is not supported, by name.
    """
    path = directory / "modules.json"
    if not path.is_file():
        return SentenceConfig(directory)
    steps = _steps(path)
    body = directory / steps[0][1]
    pooling, counts = _pooling(directory / steps[1][1] / "config.json")
    layers = [_LAYERS[kind](directory / folder, allow_pickle) for kind, folder in steps[2:]]
    layers = [layer for layer in layers if layer is not None]
    normalize = bool(layers) and layers[-1] is unit
    options = _body_options(body)
    passed = {**(options.get("tokenizer_args") or {}), **(options.get("processor_kwargs") or {})}
    return SentenceConfig(
        body,
        pooling=pooling,
        counts_prompt=counts,
        layers=tuple(layers[:-1] if normalize else layers),
        normalize=normalize,
        lower_case=options.get("do_lower_case", False),
        max_length=passed.get("model_max_length", options.get("max_seq_length")),
        **_settings(directory),
    )


def _settings(directory: Path) -> dict[str, Any]:
    """Of ``config_sentence_transformers.json``."""
    path = directory / "config_sentence_transformers.json"
    config = read_json(path) if path.is_file() else {}
    if (kind := config.get("model_type", "SentenceTransformer")) != "SentenceTransformer":
        raise ValueError(f"{path} is of a {kind}, wanted a SentenceTransformer: no other model is supported")
    prompts, dim = config.get("prompts") or {}, config.get("truncate_dim")
    name = config.get("default_prompt_name")
    if not isinstance(prompts, dict) or not all(isinstance(x, str | None) for x in prompts.values()):
        raise ValueError(f"{path} has prompts={prompts!r}, wanted an object of texts by name")
    prompts = {"query": "", "document": ""} | {name: text or "" for name, text in prompts.items()}
    if name is not None and name not in prompts:
        raise ValueError(f"{path} has default_prompt_name={name!r}, wanted one of {sorted(prompts)}")
    if dim is not None and not (type(dim) is int and dim >= 1):
        raise ValueError(f"{path} has truncate_dim={dim!r}, wanted a whole number of at least 1")
    return {"prompts": prompts, "prompt_name": name, "truncate_dim": dim}


def _steps(path: Path) -> list[tuple[str, str]]:
    """The kind and the folder of each module."""
    steps = read_json(path, list)
    if not all(isinstance(step, dict) and {"type", "path"} <= step.keys() for step in steps):
        raise ValueError(f"{path} is no list of steps, each with its type and its path")
    kinds = [str(step["type"]).rsplit(".", 1)[-1] for step in steps]
    if foreign := [x["type"] for x in steps if not str(x["type"]).startswith("sentence_transformers.")]:
        raise ValueError(f"{path} names {foreign}, code of its own: it is not supported, nor run")
    unknown = [kind for kind in kinds if kind not in ("Transformer", "Pooling", *_LAYERS)]
    if unknown or kinds[:2] != ["Transformer", "Pooling"] or {"Transformer", "Pooling"} & {*kinds[2:]}:
        raise ValueError(
            f"{path} wants {kinds}; supported are Transformer, Pooling, and behind them any of "
            f"{', '.join(_LAYERS)}"
        )
    folders = [str(step["path"]) for step in steps]
    if any(Path(folder).is_absolute() or ".." in Path(folder).parts for folder in folders):
        raise ValueError(f"{path} names directories that are not in its own: {folders}")
    return list(zip(kinds, folders, strict=True))


def _pooling(path: Path) -> tuple[tuple[str, ...], bool]:
    """The names of its poolings, and whether they count a prompt."""
    config = read_json(path)
    legacy = [mode for name, mode in _LEGACY.items() if config.get(name)]
    modes = config.get("pooling_mode", legacy or ["mean"])
    modes = [modes] if isinstance(modes, str) else modes
    others = [
        name for name in config if name.startswith("pooling_mode_") and name not in _LEGACY and config[name]
    ]
    if others or not isinstance(modes, list) or not modes or not all(mode in _POOLINGS for mode in modes):
        raise ValueError(
            f"{path}: the pooling {others or modes!r} is not supported, only those of {list(_POOLINGS)}"
        )
    return tuple(_POOLINGS[mode] for mode in modes), config.get("include_prompt", True)


def _options_of(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    config = read_json(path) if path.is_file() else {}
    for name in ("module_input_name", "module_output_name"):
        if config.get(name) not in (None, "sentence_embedding"):
            raise ValueError(
                f"{path} has {name}={config[name]!r}, which is not supported, only the sentence's"
            )
    return config


def _dense(folder: Path, allow_pickle: bool) -> Dense:
    config = _options_of(folder)
    name = config.get("activation_function", "torch.nn.modules.activation.Tanh")
    activation = ACTIVATIONS.get(str(name).rsplit(".", 1)[-1]) if str(name).startswith("torch.nn.") else None
    if activation is None:
        raise ValueError(
            f"{folder / 'config.json'}: the activation_function {name!r} is not supported, only those of "
            f"torch.nn by the names {', '.join(ACTIVATIONS)}"
        )
    sizes = [config.get("in_features"), config.get("out_features")]
    bias, residual = config.get("bias", True), config.get("use_residual", False)
    wide = residual and sizes[0] != sizes[1]
    names = {
        "linear.weight": 2,
        **({"linear.bias": 1} if bias else {}),
        **({"residual.weight": 2} if wide else {}),
    }
    found = _tensors(folder, names, allow_pickle)
    kernel = found["linear.weight"].T
    if list(kernel.shape) != sizes:
        raise ValueError(f"{folder}: linear.weight is of {kernel.shape}, and config.json says {sizes}")
    residual_kernel = found["residual.weight"].T if wide else jnp.eye(len(kernel)) if residual else None
    return Dense(kernel, found.get("linear.bias"), activation, residual_kernel)


def _layer_norm(folder: Path, allow_pickle: bool) -> LayerNorm:
    found = _tensors(folder, {"norm.weight": 1, "norm.bias": 1}, allow_pickle)
    return LayerNorm(found["norm.weight"], found["norm.bias"])


def _tensors(folder: Path, names: Mapping[str, int], allow_pickle: bool) -> dict[str, Any]:
    """Its tensors, float32, which are all of these names and ranks."""
    weights = open_weights(folder, allow_pickle=allow_pickle)
    ranks = {name: len(shape) for name, shape in weights.shapes.items()}
    if ranks != dict(names):
        raise ValueError(f"{folder} has tensors {ranks} by name and rank, wanted {dict(names)}")
    return {name: jnp.asarray(weights.read(name), jnp.float32) for name in names}


def _normalize(folder: Path, allow_pickle: bool) -> Layer:
    _options_of(folder)
    return unit


_LAYERS: dict[str, Callable[[Path, bool], Layer | None]] = {
    "Dense": _dense,
    "LayerNorm": _layer_norm,
    "Normalize": _normalize,
    "Dropout": lambda folder, allow_pickle: None,
}


def _body_options(body: Path) -> dict[str, Any]:
    """What ``sentence_bert_config.json`` says, or the file of another family's name; raises for what would
    change the vectors, and is not done here."""
    path = next((body / name for name in _BODY_OPTIONS if (body / name).is_file()), None)
    config = read_json(path) if path else {}
    wrong = [name for name, values in _BODY_WANTED.items() if name in config and config[name] not in values]
    passed = {"tokenizer_args": _OF_TOKENIZER, "processor_kwargs": _OF_TOKENIZER}
    passed |= {"model_args": _OF_MODEL, "model_kwargs": _OF_MODEL}
    hub = {"revision", "token", "cache_dir", "subfolder", "local_files_only", "trust_remote_code"}
    wrong += [name for name, known in passed.items() if (config.get(name) or {}).keys() - known - hub]
    text = (config.get("modality_config") or {}).get("text")
    if "modality_config" in config and text != {
        "method": "forward",
        "method_output_name": "last_hidden_state",
    }:
        wrong.append("modality_config")
    if not isinstance(config.get("do_lower_case", False), bool):
        wrong.append("do_lower_case")
    if wrong:
        raise ValueError(
            f"{path}: " + "; ".join(f"{name}={config[name]!r} is not supported" for name in wrong)
        )
    return config
