"""Sentence embeddings with a checkpoint of sentence-transformers."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import tokenizers
from jax.sharding import Mesh
from tokenizers import normalizers

from tfm_jax import nn
from tfm_jax.checks import as_texts
from tfm_jax.nn import Pure
from tfm_jax.ops import masks
from tfm_jax.pretrained.checkpoint_files import CheckpointFiles
from tfm_jax.pretrained.families import find_architecture
from tfm_jax.pretrained.family import CheckpointConfig
from tfm_jax.pretrained.load import load_files
from tfm_jax.pretrained.tasks.batch_runner import (
    BatchRunner,
    Text,
    map_slices,
    max_length_of,
    replicated,
    require_tokenizer,
)
from tfm_jax.pretrained.tasks.sentence_config import read_sentence_config
from tfm_jax.pretrained.tasks.sentence_layers import POOLINGS, Layer, Pooling, pooled, unit
from tfm_jax.pretrained.tokenizers.tokenizer_config import truncation_side
from tfm_jax.types import Array, Params

__all__ = ["SentenceEncoder", "load_sentence_encoder"]


@dataclasses.dataclass(frozen=True, eq=False)
class SentenceEncoder:
    """A sentence encoder: a Transformer encoder with its tokenizer, pooling and layers after it.

    Equivalent to::

        hidden = model.apply(params, tokens, masks.padding(valid))
        vector = hidden[valid].mean(0)                          # or hidden[0] for "first"
        for layer in layers:
            vector = layer(vector)
        vector / jnp.linalg.norm(vector)                        # if normalize
        vector[:truncate_dim]

    Args:
      model, params, tokenizer: from ``load``.
      pooling: ``"mean"``, ``"first"`` or ``"last"`` token, ``"max"``, ``"weighted_mean"`` (with weights 1, 2,
        3, ... along the text), ``"mean_sqrt_len"`` (the sum divided by the root of the length), or a tuple of
        these, whose vectors are concatenated.
      normalize: whether vectors are scaled to length 1.
      max_length: of texts, in tokens; longer ones are truncated.
      mesh: whose devices share each batch and each hold the parameters; None is one device.
      layers: functions of arrays [B, D], between pooling and normalization.
      truncate_dim: the length of the vectors that are returned; None is all of D.
      prompts: prefixes of texts, by name.
      prompt_name: the prompt of a call that names none; None is no prompt.
      pool_prompt: whether pooling includes the tokens of the prompt.
      truncation_side: of a longer text that is removed: ``"right"`` or ``"left"``.
    """

    model: Pure
    params: Params
    tokenizer: tokenizers.Tokenizer
    pooling: Pooling | tuple[Pooling, ...] = "mean"
    normalize: bool = True
    max_length: int = 256
    mesh: Mesh | None = None
    layers: tuple[Layer, ...] = ()
    truncate_dim: int | None = None
    prompts: Mapping[str, str] = dataclasses.field(default_factory=dict)
    prompt_name: str | None = None
    pool_prompt: bool = True
    truncation_side: str = "right"

    def __post_init__(self):
        if unknown := [mode for mode in self._poolings if mode not in POOLINGS]:
            raise ValueError(f"SentenceEncoder: got pooling={unknown[0]!r}; wanted one of {list(POOLINGS)}.")

    @property
    def _poolings(self) -> tuple[Pooling, ...]:
        return (self.pooling,) if isinstance(self.pooling, str) else tuple(self.pooling)

    @functools.cached_property
    def width(self) -> int:
        """The length of the vectors."""
        D = self.params["embedding"]["table"].shape[-1] * len(self._poolings)
        after = functools.partial(_after_pooling, normalize=self.normalize, truncate_dim=self.truncate_dim)
        return jax.eval_shape(after, jax.ShapeDtypeStruct((1, D), jnp.float32), self._layers).shape[-1]

    @functools.cached_property
    def _in_batches(self) -> BatchRunner:
        V = self.params["embedding"]["table"].shape[0]
        return BatchRunner(
            self.tokenizer, self.max_length, self.mesh, side=self.truncation_side, vocab_size=V
        )

    def __call__(
        self, texts: Sequence[Text], *, batch_size: int = 32, prompt_name: str | None = None
    ) -> np.ndarray:
        """The vectors float32 [len(texts), D], in the order of the texts.

        Args:
          texts: texts, or pairs of texts.
          batch_size: texts per batch; those of similar length share one.
          prompt_name: the prompt before each text; None is the encoder's own.

        Returns:
          The vectors; [0, D] without texts.

        Raises:
          ValueError: for one text instead of a list, a None in the list, a ``batch_size`` below 1, an unknown
            prompt, and a prompt before pairs.
        """
        texts = as_texts("SentenceEncoder", "texts", texts, pairs=True)
        prompt = self._prompt(prompt_name)
        if prompt:
            single = [text for text in texts if isinstance(text, str)]
            if len(single) < len(texts):
                raise ValueError("SentenceEncoder: got a prompt and a pair of texts; wanted single texts.")
            texts = [prompt + text for text in single]
        skipped = np.int32(self._prompt_length(prompt) if prompt and not self.pool_prompt else 0)

        def run(tokens: Array, types: Array, valid: Array | None) -> Array:
            return self._run(self.params, tokens, valid, skipped)

        found = self._in_batches(texts, batch_size, run)
        return np.stack([vector for _, vector in found]) if found else np.zeros((0, self.width), np.float32)

    def _prompt(self, name: str | None) -> str:
        name = self.prompt_name if name is None else name
        if name is not None and name not in self.prompts:
            raise ValueError(
                f"SentenceEncoder: got prompt_name={name!r}; wanted one of {sorted(self.prompts)}."
            )
        return "" if name is None else self.prompts[name]

    def _prompt_length(self, prompt: str) -> int:
        """The number of tokens of a prompt before a text: without a special token at its end."""
        tokenizer = self._in_batches.tokenizer
        ids = tokenizer.encode(prompt).ids
        special = {i for i, token in tokenizer.get_added_tokens_decoder().items() if token.special}
        return len(ids) - (bool(ids) and ids[-1] in special)

    def _run(self, params: Params, tokens: Array, valid: Array | None, skipped: np.int32) -> Array:
        return _vectors(
            params,
            self._layers,
            skipped,
            tokens,
            valid,
            model=self.model,
            modes=self._poolings,
            normalize=self.normalize,
            truncate_dim=self.truncate_dim,
        )

    @functools.cached_property
    def _layers(self) -> tuple[Layer, ...]:
        """The layers as pytrees: arguments of a program, which would keep them as constants."""
        is_function = jax.tree_util.all_leaves
        layers = (jax.tree_util.Partial(layer) if is_function([layer]) else layer for layer in self.layers)
        return jax.device_put(tuple(layers), replicated(self.mesh))  # once, and not in each call


# One program for all encoders of a config, however often it is loaded.
@functools.partial(jax.jit, static_argnames=("model", "modes", "normalize", "truncate_dim"))
def _vectors(
    params: Params,
    layers: tuple[Layer, ...],
    skipped: Array | np.int32,
    tokens: Array,
    valid: Array | None,
    *,
    model: Pure[nn.Encoder],
    modes: tuple[Pooling, ...],
    normalize: bool,
    truncate_dim: int | None,
) -> Array:
    """The vectors [slices, B, D] of token ids int32 [slices, B, T]."""

    def embed(params: Params, tokens: Array, valid: Array | None) -> Array:
        pooled = _embed(model, modes, skipped, params, tokens, valid)
        return _after_pooling(pooled, layers, normalize=normalize, truncate_dim=truncate_dim)

    return map_slices(embed, params, tokens, valid)


def _after_pooling(
    vectors: Array, layers: tuple[Layer, ...], *, normalize: bool, truncate_dim: int | None
) -> Array:
    """Layers, normalization and truncation of pooled vectors [B, D]."""
    for layer in (*layers, *((unit,) if normalize else ())):
        vectors = layer(vectors)
    return vectors[:, :truncate_dim]


def _embed(
    model: Pure,
    modes: tuple[Pooling, ...],
    skipped: Array | np.int32,
    params: Params,
    tokens: Array,
    valid: Array | None,
) -> Array:
    mask = None if valid is None else masks.padding(valid)
    counted = jnp.ones(tokens.shape, bool) if valid is None else valid
    counted = counted & (jnp.arange(tokens.shape[-1]) >= skipped)[None]
    return pooled(model.apply(params, tokens, mask).astype(jnp.float32), modes, counted)


def load_sentence_encoder(
    path_or_repo_id: str | Path,
    dtype: Literal["float32", "bfloat16"] = "float32",
    mesh: Mesh | None = None,
    *,
    allow_pickle: bool = False,
) -> SentenceEncoder:
    """Loads a checkpoint of sentence-transformers: an encoder and the modules in its ``modules.json``.

    Without a ``modules.json`` the checkpoint is any encoder, such as BERT. As in sentence-transformers, its
    vectors are then averaged over the tokens and not normalized. A head of the model is dropped.

    Args:
      path_or_repo_id: as for ``load``.
      dtype: of the parameters and the activations; the vectors are float32.
      mesh: of devices that share each batch, such as ``train.make_mesh(data=2)``; None is one device. On a
        CPU, two devices (``JAX_NUM_CPU_DEVICES=2``) use two cores better than one device does.
      allow_pickle: as for ``load``, also for the files of layers.

    Returns:
      The ``SentenceEncoder``.

    Raises:
      FileNotFoundError: where there is no checkpoint, or no tokenizer.
      ValueError: for a module other than Transformer, Pooling, Dense, LayerNorm, Normalize and Dropout; for
        an option that changes the vectors and is not supported; for a model that is not an encoder; for a
        maximum length that is not a number; for a mesh with axes that are not of type Auto; as ``load``.
    """
    files = CheckpointFiles.find(path_or_repo_id, allow_pickle=allow_pickle)
    sentence_config = read_sentence_config(files)
    body = sentence_config.body
    model, params, config, _ = load_files(body, dtype, sharding=replicated(mesh))
    model, params = _encoder(model, params, config, body)
    tokenizer, settings = require_tokenizer(body), body.tokenizer_config
    first, *others = sentence_config.pooling
    length = sentence_config.max_length
    length = settings.get("model_max_length") if length is None else length
    return SentenceEncoder(
        model,
        params,
        _lower_case(tokenizer) if sentence_config.lower_case else tokenizer,
        pooling=sentence_config.pooling if others else first,
        normalize=sentence_config.normalize,
        max_length=max_length_of(length, tokenizer, config.model, body),
        mesh=mesh,
        layers=sentence_config.layers,
        truncate_dim=sentence_config.truncate_dim,
        prompts=sentence_config.prompts,
        prompt_name=sentence_config.prompt_name,
        pool_prompt=sentence_config.pool_prompt,
        truncation_side=truncation_side(body, settings),
    )


def _lower_case(tokenizer: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    """The tokenizer with lower-casing as its first normalizer."""
    normalizer = tokenizer.normalizer
    is_sequence = isinstance(normalizer, normalizers.Sequence)
    steps = [normalizer[i] for i in range(len(normalizer))] if is_sequence else [normalizer]
    if not any(isinstance(step, normalizers.Lowercase) for step in steps):
        steps = [step for step in steps if step is not None]
        tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), *steps])
    return tokenizer


def _encoder(
    model: Pure, params: Params, config: CheckpointConfig, files: CheckpointFiles
) -> tuple[Pure, Params]:
    """The encoder of a model, without its head."""
    module = find_architecture(config.architecture).module
    if module is nn.Encoder:
        return model, params
    if module not in (nn.MaskedLanguageModel, nn.Classifier):
        raise ValueError(
            f"load_sentence_encoder: got {files}, a {config.architecture}; wanted an encoder, such as "
            "BertModel."
        )
    return nn.functionalize(nn.Encoder, config.model), params["encoder"]
