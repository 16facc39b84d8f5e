"""Sentences into vectors, by the recipe that a checkpoint of sentence-transformers names."""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tokenizers
from jax.sharding import Mesh

from tfm_jax import nn
from tfm_jax.nn import Pure
from tfm_jax.nn.heads import pool
from tfm_jax.ops import masks
from tfm_jax.pretrained.config import Config
from tfm_jax.pretrained.families import known
from tfm_jax.pretrained.files import read_json
from tfm_jax.pretrained.hub import directory_of
from tfm_jax.pretrained.load import load
from tfm_jax.pretrained.settings import wanted
from tfm_jax.pretrained.special import declared
from tfm_jax.pretrained.texts import BatchRunner, length_of, on_all_of, over_slices, tokenizer_in
from tfm_jax.types import Array, Params

__all__ = ["SentenceEncoder", "load_sentence_encoder"]

_POOLINGS = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "first"}


@dataclasses.dataclass(frozen=True, eq=False)
class SentenceEncoder:
    """An encoder, its tokenizer, and how its vectors become one a sentence.

    Equivalent to::

        hidden = model.apply(params, tokens, masks.padding(valid))
        vector = hidden[valid].mean(0)                          # or hidden[0], for "first"
        vector / jnp.linalg.norm(vector)                        # where it normalizes

    Args:
      model, params, tokenizer: from ``load``.
      pooling: ``"mean"`` over the tokens, or the ``"first"`` of them.
      normalize: to length 1.
      max_length: in tokens, to which texts are cut.
      mesh: whose devices share each batch, where the parameters are on all of them; None is one device.
    """

    model: Pure
    params: Params
    tokenizer: tokenizers.Tokenizer
    pooling: Literal["mean", "first"] = "mean"
    normalize: bool = True
    max_length: int = 256
    mesh: Mesh | None = None

    @property
    def width(self) -> int:
        """D, the length of a vector."""
        return self.params["embedding"]["table"].shape[-1]

    @functools.cached_property
    def _in_batches(self) -> BatchRunner:
        return BatchRunner(self.tokenizer, self.max_length, self.mesh)

    def __call__(self, texts: Sequence[str], *, batch_size: int = 32) -> np.ndarray:
        """The vectors, float32 [len(texts), D]. Texts of like length share a batch; the order is kept.

        One text that is no list, and a ``batch_size`` below 1, are a ValueError.
        """
        run = lambda tokens, types, valid: self._run(self.params, tokens, valid)
        found = self._in_batches(texts, batch_size, run)
        return np.stack([vector for _, vector in found]) if found else np.zeros((0, self.width), np.float32)

    @functools.cached_property
    def _run(self):
        run = functools.partial(_embed, self.model, self.pooling, self.normalize)
        return jax.jit(functools.partial(over_slices, run))


def _embed(
    model: Pure, pooling: str, normalize: bool, params: Params, tokens: Array, valid: Array | None
) -> Array:
    mask = None if valid is None else masks.padding(valid)
    vectors = pool(model.apply(params, tokens, mask).astype(jnp.float32), pooling, valid)
    if not normalize:
        return vectors
    return vectors / jnp.maximum(jnp.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


def load_sentence_encoder(
    path_or_repo_id: str | Path,
    dtype: Literal["float32", "bfloat16"] = "float32",
    mesh: Mesh | None = None,
    *,
    allow_pickle: bool = False,
) -> SentenceEncoder:
    """Loads a model of sentence-transformers: an encoder, and the steps that its ``modules.json`` names.

    Without a ``modules.json`` it is any encoder, such as BERT, of which sentence-transformers takes the mean
    over the tokens, not normalized, and so does this. A head that the model has is left out.

    Args:
      path_or_repo_id: as ``load`` takes it.
      dtype: of the parameters and the activations; the vectors are float32.
      mesh: of devices that share each batch, such as ``train.data_mesh(2)``; None is one device. Of a CPU,
        two devices (``JAX_NUM_CPU_DEVICES=2``) use two cores better than one does.
      allow_pickle: as ``load`` takes it.

    Returns:
      The ``SentenceEncoder``.

    Raises:
      FileNotFoundError: where there is no checkpoint, or no tokenizer.
      ValueError: for a step or a pooling other than the mean, the first token and normalization; for a prompt
        before every text, or lower case apart from the tokenizer's; for a model that is no encoder; for a
        length of texts that is no number; for a mesh whose axes are not all of type Auto; as ``load``.
    """
    sharding = on_all_of(mesh)
    directory = directory_of(path_or_repo_id, allow_pickle=allow_pickle)
    recipe = _recipe(directory)
    _check_options(directory, recipe.body)
    model, params, config, tokenizer = load(recipe.body, dtype, sharding=sharding, allow_pickle=allow_pickle)
    model, params = _encoder(model, params, config, recipe.body)
    tokenizer = tokenizer_in(recipe.body, tokenizer)
    said = _body_options(recipe.body).get("max_seq_length")
    said = declared(recipe.body).get("model_max_length") if said is None else said
    return SentenceEncoder(
        model,
        params,
        tokenizer,
        pooling=recipe.pooling,
        normalize=recipe.normalize,
        max_length=length_of(said, tokenizer, config.model, recipe.body),
        mesh=mesh,
    )


class _Recipe(NamedTuple):
    body: Path
    pooling: Literal["mean", "first"]
    normalize: bool


def _recipe(directory: Path) -> _Recipe:
    path = directory / "modules.json"
    if not path.is_file():
        return _Recipe(directory, "mean", False)
    steps = read_json(path, list)
    if not all(isinstance(step, dict) and {"type", "path"} <= step.keys() for step in steps):
        raise ValueError(f"{path} is no list of steps, each with its type and its path")
    kinds = [str(step["type"]).rsplit(".", 1)[-1] for step in steps]
    if kinds[:2] != ["Transformer", "Pooling"] or kinds[2:] not in ([], ["Normalize"]):
        raise ValueError(f"{path} wants {kinds}; supported are Transformer, Pooling, and Normalize or not")
    folders = [str(step["path"]) for step in steps[:2]]
    if any(Path(folder).is_absolute() or ".." in Path(folder).parts for folder in folders):
        raise ValueError(f"{path} names directories that are not in its own: {folders}")
    pooling = _pooling(read_json(directory / folders[1] / "config.json"))
    return _Recipe(directory / folders[0], pooling, kinds[2:] == ["Normalize"])


def _encoder(model: Pure, params: Params, config: Config, body: Path) -> tuple[Pure, Params]:
    """The encoder of a model, without its head."""
    module = known(config.architecture).architectures[config.architecture].module
    if module is nn.Encoder:
        return model, params
    if module not in (nn.MaskedLanguageModel, nn.Classifier):
        raise ValueError(f"{body} is a {config.architecture}, wanted an encoder, such as BertModel")
    return nn.functionalize(nn.Encoder, config.model), params["encoder"]


def _body_options(body: Path) -> dict[str, Any]:
    """What ``sentence_bert_config.json`` says, or the file of another family's name."""
    files = sorted(body.glob("sentence_*_config.json"))
    return read_json(files[0]) if files else {}


def _check_options(directory: Path, body: Path) -> None:
    """Raises for what would change the vectors, and is not done here."""
    wanted(_body_options(body), do_lower_case=False)
    path = directory / "config_sentence_transformers.json"
    settings = read_json(path) if path.is_file() else {}
    name = settings.get("default_prompt_name")
    if name is not None and (settings.get("prompts") or {}).get(name):
        raise ValueError(f"{path} puts the prompt {name!r} before every text, which is not supported")


def _pooling(settings: dict[str, Any]) -> str:
    asked = [name for name, value in settings.items() if name.startswith("pooling_mode") and value is True]
    if len(asked) != 1 or asked[0] not in _POOLINGS:
        raise ValueError(f"the pooling {asked} is not supported, only one of {sorted(_POOLINGS)}")
    return _POOLINGS[asked[0]]
