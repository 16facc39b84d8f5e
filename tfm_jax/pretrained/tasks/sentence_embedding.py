"""Sentences into vectors, by the sentence_config that a checkpoint of sentence-transformers names."""

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
from tfm_jax.pretrained.families import known
from tfm_jax.pretrained.family import Config
from tfm_jax.pretrained.hub import directory_of
from tfm_jax.pretrained.load import load
from tfm_jax.pretrained.tasks.batch_runner import (
    BatchRunner,
    Text,
    length_of,
    on_all_of,
    over_slices,
    tokenizer_in,
)
from tfm_jax.pretrained.tasks.sentence_config import read_sentence_config
from tfm_jax.pretrained.tasks.sentence_layers import POOLINGS, Layer, pooled, unit
from tfm_jax.pretrained.tokenizers.special_tokens import declared, truncation_side
from tfm_jax.types import Array, Params

__all__ = ["SentenceEncoder", "load_sentence_encoder"]

Pooling = Literal["mean", "first", "last", "max", "weighted_mean", "mean_sqrt_len"]


@dataclasses.dataclass(frozen=True, eq=False)
class SentenceEncoder:
    """An encoder, its tokenizer, and how its vectors become one a sentence.

    Equivalent to::

        hidden = model.apply(params, tokens, masks.padding(valid))
        vector = hidden[valid].mean(0)                          # or hidden[0], for "first"
        for layer in layers:
            vector = layer(vector)
        vector / jnp.linalg.norm(vector)                        # where it normalizes
        vector[:truncate_dim]

    Args:
      model, params, tokenizer: from ``load``.
      pooling: ``"mean"``, ``"first"`` or ``"last"`` token, ``"max"``, ``"weighted_mean"`` (the weights are 1,
        2, 3, ... along the text), ``"mean_sqrt_len"`` (the sum over the root of the length), or several,
        whose vectors are concatenated.
      normalize: to length 1.
      max_length: in tokens, to which texts are cut.
      mesh: whose devices share each batch, where the parameters are on all of them; None is one device.
      layers: functions of arrays [B, D], between pooling and normalization.
      truncate_dim: how many numbers of a vector are kept; None is all.
      prompts: texts that are put before the others, by name.
      prompt_name: of the prompt that is put before each where a call names none; None is none.
      counts_prompt: whether pooling counts a prompt's tokens.
      truncation_side: from which a longer text is cut: ``"right"`` or ``"left"``.
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
    counts_prompt: bool = True
    truncation_side: str = "right"

    def __post_init__(self):
        if unknown := [mode for mode in self._poolings if mode not in POOLINGS]:
            raise ValueError(f"SentenceEncoder: got pooling={unknown[0]!r}; wanted one of {list(POOLINGS)}")

    @property
    def _poolings(self) -> tuple[str, ...]:
        return (self.pooling,) if isinstance(self.pooling, str) else tuple(self.pooling)

    @functools.cached_property
    def width(self) -> int:
        """The length of a vector."""
        D = self.params["embedding"]["table"].shape[-1] * len(self._poolings)
        out = jax.eval_shape(self._after, jax.ShapeDtypeStruct((1, D), jnp.float32))
        return out.shape[-1]

    @functools.cached_property
    def _in_batches(self) -> BatchRunner:
        V = self.params["embedding"]["table"].shape[0]
        return BatchRunner(
            self.tokenizer, self.max_length, self.mesh, side=self.truncation_side, vocab_size=V
        )

    def __call__(
        self, texts: Sequence[Text], *, batch_size: int = 32, prompt_name: str | None = None
    ) -> np.ndarray:
        """The vectors, float32 [len(texts), D]. Texts of like length share a batch; the order is kept.

        ``prompt_name`` names the prompt before each text; None is the encoder's own. One text that is no
        list, a None in it, a ``batch_size`` below 1, and an unknown prompt are a ValueError.
        """
        texts = as_texts("SentenceEncoder", "texts", texts, pairs=True)
        prompt = self._prompt(prompt_name)
        if prompt:
            if any(not isinstance(text, str) for text in texts):
                raise ValueError("a prompt is put before texts: got a pair of them; wanted one each")
            texts = [prompt + text for text in texts]
        skipped = np.int32(self._length_of(prompt) if prompt and not self.counts_prompt else 0)
        run = lambda tokens, types, valid: self._run(self.params, tokens, valid, skipped)
        found = self._in_batches(texts, batch_size, run)
        return np.stack([vector for _, vector in found]) if found else np.zeros((0, self.width), np.float32)

    def _prompt(self, name: str | None) -> str:
        name = self.prompt_name if name is None else name
        if name is not None and name not in self.prompts:
            raise ValueError(f"prompt_name: got {name!r}; wanted one of {sorted(self.prompts)}")
        return "" if name is None else self.prompts[name]

    def _length_of(self, prompt: str) -> int:
        """How many tokens it is at the begin of a text: without a special one that ends a text."""
        tokenizer = self._in_batches.tokenizer
        ids = tokenizer.encode(prompt).ids
        special = {i for i, token in tokenizer.get_added_tokens_decoder().items() if token.special}
        return len(ids) - (bool(ids) and ids[-1] in special)

    @functools.cached_property
    def _run(self):
        def run(params: Params, tokens: Array, valid: Array | None, skipped: Array) -> Array:
            embed = functools.partial(_embed, self.model, self._poolings, skipped)
            return over_slices(lambda *batch: self._after(embed(*batch)), params, tokens, valid)

        return jax.jit(run)

    def _after(self, vectors: Array) -> Array:
        """What comes behind pooling, of [B, D]."""
        for layer in (*self.layers, *((unit,) if self.normalize else ())):
            vectors = layer(vectors)
        return vectors[:, : self.truncate_dim]


def _embed(
    model: Pure, modes: tuple[str, ...], skipped: Array, params: Params, tokens: Array, valid: Array | None
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
    """Loads a model of sentence-transformers: an encoder, and the steps that its ``modules.json`` names.

    Without a ``modules.json`` it is any encoder, such as BERT, of which sentence-transformers takes the mean
    over the tokens, not normalized, and so does this. A head that the model has is left out.

    Args:
      path_or_repo_id: as ``load`` takes it.
      dtype: of the parameters and the activations; the vectors are float32.
      mesh: of devices that share each batch, such as ``train.data_mesh(2)``; None is one device. Of a CPU,
        two devices (``JAX_NUM_CPU_DEVICES=2``) use two cores better than one does.
      allow_pickle: as ``load`` takes it, of the layers' files too.

    Returns:
      The ``SentenceEncoder``.

    Raises:
      FileNotFoundError: where there is no checkpoint, or no tokenizer.
      ValueError: for a module other than Transformer, Pooling, Dense, LayerNorm, Normalize and Dropout, and
        an option that would change the vectors and is not supported; for a model that is no encoder; for a
        length of texts that is no number; for a mesh whose axes are not all of type Auto; as ``load``.
    """
    sharding = on_all_of(mesh)
    directory = directory_of(path_or_repo_id, allow_pickle=allow_pickle)
    sentence_config = read_sentence_config(directory, allow_pickle=allow_pickle)
    model, params, config, tokenizer = load(
        sentence_config.body, dtype, allow_pickle=allow_pickle, sharding=sharding
    )
    model, params = _encoder(model, params, config, sentence_config.body)
    tokenizer = tokenizer_in(sentence_config.body, tokenizer)
    said = declared(sentence_config.body)
    length = (
        said.get("model_max_length") if sentence_config.max_length is None else sentence_config.max_length
    )
    return SentenceEncoder(
        model,
        params,
        _lower_case(tokenizer) if sentence_config.lower_case else tokenizer,
        pooling=sentence_config.pooling if len(sentence_config.pooling) > 1 else sentence_config.pooling[0],
        normalize=sentence_config.normalize,
        max_length=length_of(length, tokenizer, config.model, sentence_config.body),
        mesh=mesh,
        layers=sentence_config.layers,
        truncate_dim=sentence_config.truncate_dim,
        prompts=sentence_config.prompts,
        prompt_name=sentence_config.prompt_name,
        counts_prompt=sentence_config.counts_prompt,
        truncation_side=truncation_side(sentence_config.body, said),
    )


def _lower_case(tokenizer: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    """With small letters before all else that it makes alike."""
    normalizer = tokenizer.normalizer
    steps = list(normalizer) if isinstance(normalizer, normalizers.Sequence) else [normalizer]
    if not any(isinstance(step, normalizers.Lowercase) for step in steps):
        steps = [step for step in steps if step is not None]
        tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), *steps])
    return tokenizer


def _encoder(model: Pure, params: Params, config: Config, body: Path) -> tuple[Pure, Params]:
    """The encoder of a model, without its head."""
    module = known(config.architecture).architectures[config.architecture].module
    if module is nn.Encoder:
        return model, params
    if module not in (nn.MaskedLanguageModel, nn.Classifier):
        raise ValueError(f"{body} is a {config.architecture}, wanted an encoder, such as BertModel")
    return nn.functionalize(nn.Encoder, config.model), params["encoder"]
