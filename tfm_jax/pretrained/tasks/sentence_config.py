"""The configuration of a sentence-transformers checkpoint: pooling, layers, prompts and limits."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp

from tfm_jax.pretrained.checkpoint_files import CheckpointFiles
from tfm_jax.pretrained.config_keys import Settings
from tfm_jax.pretrained.tasks.sentence_layers import ACTIVATIONS, DenseLayer, Layer, LayerNorm, Pooling, unit
from tfm_jax.pretrained.weights.files import read_json
from tfm_jax.ranges import SIZE
from tfm_jax.types import Array

__all__ = ["SentenceConfig", "read_sentence_config"]

# Flags of older files, in the order in which their vectors are concatenated.
_POOLING_FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
_POOLINGS: dict[str, Pooling] = {
    "cls": "first",
    "max": "max",
    "mean": "mean",
    "mean_sqrt_len_tokens": "mean_sqrt_len",
    "weightedmean": "weighted_mean",
    "lasttoken": "last",
}
_BODY_FILES = tuple(
    f"sentence_{name}_config.json"
    for name in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
# Options of the body that change the vectors, and their supported values.
_BODY_OPTIONS = {
    "transformer_task": ("feature-extraction",),
    "module_output_name": ("token_embeddings",),
    "query_expansion": (None,),
    "tokenizer_name_or_path": (None,),
    **dict.fromkeys(("config_args", "config_kwargs", "processing_kwargs"), ({}, None)),
}
# Arguments that the body's tokenizer, model and download may get: they change no vector, or are read here.
_TOKENIZER_ARGUMENTS = {"model_max_length", "padding_side", "use_fast"}
_MODEL_ARGUMENTS = {
    *("torch_dtype", "dtype", "attn_implementation", "low_cpu_mem_usage", "device_map"),
    "add_pooling_layer",
}
_HUB_ARGUMENTS = {"revision", "token", "cache_dir", "subfolder", "local_files_only", "trust_remote_code"}


class SentenceConfig(NamedTuple):
    """The steps from token vectors to the vector of a sentence.

    Args:
      body: the files of the encoder.
      pooling: names in ``sentence_layers.POOLINGS``.
      pool_prompt: whether pooling includes the tokens of a prompt.
      layers: after pooling.
      normalize: whether the vectors are scaled to length 1 at the end.
      truncate_dim: the length of the vectors that are kept; None is all.
      prompts: prefixes of texts, by name.
      prompt_name: the prompt before each text; None is none.
      lower_case: whether texts are lower-cased before tokenization.
      max_length: in tokens; None is the tokenizer's.
    """

    body: CheckpointFiles
    pooling: tuple[Pooling, ...] = ("mean",)
    pool_prompt: bool = True
    layers: tuple[Layer, ...] = ()
    normalize: bool = False
    truncate_dim: int | None = None
    prompts: Mapping[str, str] = {}
    prompt_name: str | None = None
    lower_case: bool = False
    max_length: object = None


def read_sentence_config(files: CheckpointFiles) -> SentenceConfig:
    """Reads ``modules.json`` and the files of its modules.

    Args:
      files: of the model. Without a ``modules.json`` the pooling is the mean over the tokens, and no other
        file of sentence-transformers is read.

    Returns:
      The SentenceConfig.

    Raises:
      ValueError: for a module, an option or a value that is not supported, by name.
    """
    if not (files / "modules.json").is_file():
        return SentenceConfig(files)
    modules = _modules(files)
    body = files.folder(modules[0][1])
    pooling, pool_prompt = _pooling(files.folder(modules[1][1]))
    layers = [_LAYERS[kind](files.folder(folder)) for kind, folder in modules[2:]]
    layers = [layer for layer in layers if layer is not None]
    normalize = bool(layers) and layers[-1] is unit
    options = _body_options(body)
    arguments = {**(options.get("tokenizer_args") or {}), **(options.get("processor_kwargs") or {})}
    return SentenceConfig(
        body,
        pooling=pooling,
        pool_prompt=pool_prompt,
        layers=tuple(layers[:-1] if normalize else layers),
        normalize=normalize,
        lower_case=options.get("do_lower_case", False),
        max_length=arguments.get("model_max_length", options.get("max_seq_length")),
        **_prompts(files),
    )


def _prompts(files: CheckpointFiles) -> dict[str, Any]:
    """Prompts and ``truncate_dim`` from ``config_sentence_transformers.json``."""
    path = files / "config_sentence_transformers.json"
    config = read_json(path) if path.is_file() else {}
    if (kind := config.get("model_type", "SentenceTransformer")) != "SentenceTransformer":
        raise ValueError(f"{path}: got model_type={kind!r}; wanted 'SentenceTransformer'.")
    prompts, dim = config.get("prompts") or {}, config.get("truncate_dim")
    name = config.get("default_prompt_name")
    if not isinstance(prompts, dict) or not all(isinstance(x, str | None) for x in prompts.values()):
        raise ValueError(f"{path}: got prompts={prompts!r}; wanted an object of texts by name.")
    prompts = {"query": "", "document": ""} | {name: text or "" for name, text in prompts.items()}
    if name is not None and name not in prompts:
        raise ValueError(f"{path}: got default_prompt_name={name!r}; wanted one of {sorted(prompts)}.")
    if dim is not None and not (isinstance(dim, int) and dim in SIZE):
        raise ValueError(f"{path}: got truncate_dim={dim!r}; wanted {SIZE.wanted}.")
    return {"prompts": prompts, "prompt_name": name, "truncate_dim": dim}


def _modules(files: CheckpointFiles) -> list[tuple[str, str]]:
    """The class and the folder of each module."""
    path = files / "modules.json"
    modules = read_json(path, list)
    if not all(isinstance(module, dict) and {"type", "path"} <= module.keys() for module in modules):
        raise ValueError(f"{path}: got {modules!r:.200}; wanted objects, each with a type and a path.")
    kinds = [str(module["type"]).rsplit(".", 1)[-1] for module in modules]
    foreign = [x["type"] for x in modules if not str(x["type"]).startswith("sentence_transformers.")]
    if foreign:
        raise ValueError(
            f"{path}: got {foreign}; wanted classes of sentence_transformers. No code of a checkpoint is run."
        )
    unknown = [kind for kind in kinds if kind not in ("Transformer", "Pooling", *_LAYERS)]
    if unknown or kinds[:2] != ["Transformer", "Pooling"] or {"Transformer", "Pooling"} & {*kinds[2:]}:
        raise ValueError(
            f"{path}: got the modules {kinds}; wanted Transformer, Pooling, and then any of "
            f"{', '.join(_LAYERS)}."
        )
    folders = [str(module["path"]) for module in modules]
    if any(Path(folder).is_absolute() or ".." in Path(folder).parts for folder in folders):
        raise ValueError(f"{path}: got the folders {folders}; wanted folders inside its own directory.")
    return list(zip(kinds, folders, strict=True))


def _pooling(folder: CheckpointFiles) -> tuple[tuple[Pooling, ...], bool]:
    """The names of the poolings, and whether they include a prompt."""
    path = folder / "config.json"
    config = read_json(path)
    flags = [mode for name, mode in _POOLING_FLAGS.items() if config.get(name)]
    modes = config.get("pooling_mode", flags or ["mean"])
    modes = [modes] if isinstance(modes, str) else modes
    others = [
        name
        for name in config
        if name.startswith("pooling_mode_") and name not in _POOLING_FLAGS and config[name]
    ]
    if others or not isinstance(modes, list) or not modes or not all(mode in _POOLINGS for mode in modes):
        raise ValueError(f"{path}: got the pooling {others or modes!r}; wanted some of {list(_POOLINGS)}.")
    return tuple(_POOLINGS[mode] for mode in modes), config.get("include_prompt", True)


def _layer_options(folder: CheckpointFiles) -> Settings:
    path = folder / "config.json"
    config = read_json(path) if path.is_file() else {}
    for name in ("module_input_name", "module_output_name"):
        if config.get(name) not in (None, "sentence_embedding"):
            raise ValueError(f"{path}: got {name}={config[name]!r}; wanted 'sentence_embedding'.")
    return config


def _dense(folder: CheckpointFiles) -> DenseLayer:
    config = _layer_options(folder)
    name = config.get("activation_function", "torch.nn.modules.activation.Tanh")
    activation = ACTIVATIONS.get(str(name).rsplit(".", 1)[-1]) if str(name).startswith("torch.nn.") else None
    if activation is None:
        raise ValueError(
            f"{folder / 'config.json'}: got activation_function={name!r}; wanted one of torch.nn: "
            f"{', '.join(ACTIVATIONS)}."
        )
    sizes = [config.get("in_features"), config.get("out_features")]
    bias, residual = config.get("bias", True), config.get("use_residual", False)
    projected = residual and sizes[0] != sizes[1]
    ranks = {
        "linear.weight": 2,
        **({"linear.bias": 1} if bias else {}),
        **({"residual.weight": 2} if projected else {}),
    }
    found = _tensors(folder, ranks)
    kernel = found["linear.weight"].T
    if list(kernel.shape) != sizes:
        raise ValueError(f"{folder}: got linear.weight.T of shape {kernel.shape}; wanted {sizes}.")
    residual_kernel = found["residual.weight"].T if projected else jnp.eye(len(kernel)) if residual else None
    return DenseLayer(kernel, found.get("linear.bias"), activation, residual_kernel)


def _layer_norm(folder: CheckpointFiles) -> LayerNorm:
    found = _tensors(folder, {"norm.weight": 1, "norm.bias": 1})
    return LayerNorm(found["norm.weight"], found["norm.bias"])


def _tensors(folder: CheckpointFiles, ranks: Mapping[str, int]) -> dict[str, Array]:
    """The tensors of a layer, float32; a ValueError unless they have exactly these names and ranks."""
    found = {name: len(shape) for name, shape in folder.weights.shapes.items()}
    if found != dict(ranks):
        raise ValueError(f"{folder}: got tensors {found} by name and rank; wanted {dict(ranks)}.")
    return {name: jnp.asarray(folder.weights.read(name), jnp.float32) for name in ranks}


def _normalize(folder: CheckpointFiles) -> Layer:
    _layer_options(folder)
    return unit


def _dropout(folder: CheckpointFiles) -> None:
    """No layer: dropout does nothing in inference."""


_LAYERS: dict[str, Callable[[CheckpointFiles], Layer | None]] = {
    "Dense": _dense,
    "LayerNorm": _layer_norm,
    "Normalize": _normalize,
    "Dropout": _dropout,
}


def _body_options(body: CheckpointFiles) -> Settings:
    """The options of the encoder, from ``sentence_bert_config.json`` or a file with another family's name.

    Raises:
      ValueError: for options that change the vectors and are not supported.
    """
    path = next((body / name for name in _BODY_FILES if (body / name).is_file()), None)
    config = read_json(path) if path else {}
    wrong = [name for name, values in _BODY_OPTIONS.items() if name in config and config[name] not in values]
    allowed = {"tokenizer_args": _TOKENIZER_ARGUMENTS, "processor_kwargs": _TOKENIZER_ARGUMENTS}
    allowed |= {"model_args": _MODEL_ARGUMENTS, "model_kwargs": _MODEL_ARGUMENTS}
    wrong += [
        name for name, known in allowed.items() if (config.get(name) or {}).keys() - known - _HUB_ARGUMENTS
    ]
    text = (config.get("modality_config") or {}).get("text")
    supported = {"method": "forward", "method_output_name": "last_hidden_state"}
    if "modality_config" in config and text != supported:
        wrong.append("modality_config")
    if not isinstance(config.get("do_lower_case", False), bool):
        wrong.append("do_lower_case")
    if wrong:
        options = ", ".join(f"{name}={config[name]!r}" for name in wrong)
        raise ValueError(f"{path}: got {options}; wanted supported values.")
    return config
