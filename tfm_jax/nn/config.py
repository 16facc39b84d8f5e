"""Model configuration: ``Config``, and the presets of Vaswani et al. 2017."""

from dataclasses import dataclass
from typing import Literal

from tfm_jax.fields import check_fields
from tfm_jax.nn.feed_forward import Mlp
from tfm_jax.nn.initializers import Initializers
from tfm_jax.nn.norms import LayerNorm
from tfm_jax.nn.positions import Sinusoidal
from tfm_jax.nn.variants import FeedForward, Norm, PatchEmbedding, Pooling, Positions
from tfm_jax.ops.backends import BACKENDS, Backend
from tfm_jax.ranges import Count, Finite, Rate, Size
from tfm_jax.registry import find_variants

__all__ = ["Config", "paper_base", "paper_big"]

_INITIALIZERS = Initializers()
_IMPLEMENTATIONS = ("auto", *BACKENDS)


@dataclass(frozen=True)
class Config:
    """Sizes and variants of a Transformer.

    Args:
      vocab_size: V; 0 if the input is ``patches``.
      d_model: D, the width of the residual stream.
      n_layers: L, layers of the encoder, and of the decoder unless ``n_decoder_layers`` is set.
      n_heads: N, query heads.
      d_ff: F, the hidden width of the feed-forward layer.
      n_kv_heads: K, key/value heads; None is N. Fewer is grouped-query attention, 1 is multi-query attention.
      head_dim: H; None is D / N.
      n_decoder_layers: layers of the decoder of an ``EncoderDecoder``.
      norm: an ``nn.Norm``, such as ``LayerNorm(eps)`` or ``RMSNorm(eps)``.
      norm_placement: ``"pre"``: ``x + f(norm(x))``; ``"post"``: ``norm(x + f(x))`` (Vaswani et al. 2017);
        ``"parallel"``: ``x + f(norm(x)) + g(norm(x))``, all sublayers of one x (GPT-NeoX).
      final_norm: whether a norm follows the last layer (not in Vaswani et al. 2017).
      embedding_norm: whether a norm precedes the first layer, after the position embedding (BERT).
      positions: an ``nn.Positions``, such as ``Sinusoidal``, ``Learned``, ``Rope``, ``Alibi`` or
        ``RelativeBias``; None for none.
      count_padding: whether default positions count padding too. If False, they count only the valid tokens
        of ``masks.padding(valid)``, passed alone or joined to other masks by ``&`` (OPT, BLOOM).
      window: sliding-window attention of a decoder: tokens that each token attends to, itself included;
        None is all previous ones. The same in every layer (Jiang et al. 2023, "Mistral 7B", section 2).
      feed_forward: an ``nn.FeedForward``, such as ``Mlp(activation)`` or ``Glu(activation)``.
      attention_bias: biases in the four projections of attention (not in Vaswani et al. 2017).
      attention_output_bias: a bias in the output projection; None is ``attention_bias`` (Qwen2 differs).
      attention_scale: factor of the attention logits; None is 1 / sqrt(H) (T5 has 1).
      qk_norm: normalize queries and keys over H, before ``Rope``, each with its own scale (Qwen3).
      scale_embeddings: multiply embeddings by sqrt(D) (Vaswani et al. 2017).
      token_types: number of token types of an ``Encoder``, each with a learned vector (BERT has 2).
      tie_embeddings: the output projection is the transposed (target) embedding.
      share_embeddings: source and target of an ``EncoderDecoder`` share one embedding.
      logits_scale: factor of a decoder's logits (T5: D ** -0.5).
      logits_bias: a learned bias [V] on a decoder's logits (BART, Marian).
      pooler: an ``nn.Pooling``, such as ``Pooler(activation)``, which ``Encoder.pooled`` applies; None for
        none.
      patches: an ``nn.PatchEmbedding``, such as ``Patches``, to read images instead of tokens.
      initializers: of kernels and embeddings.
      dropout_rate: on each sublayer's output and on the embeddings, in [0, 1).
      embedding_dropout_rate: on the embeddings; None is ``dropout_rate``.
      attention_dropout_rate: on the attention weights, in [0, 1).
      feed_forward_dropout_rate: on the hidden units of the feed-forward layer, in [0, 1).
      attention_implementation: "auto", or a name in ``ops.backends.BACKENDS`` or a ``Backend``, which raises
        for what it does not support. On a mesh with a sequence axis, "auto" and "ring" are ring attention.
      dtype: of activations. Norm statistics, softmax and logits stay float32.
      param_dtype: of parameters. They are initialized in float32, then rounded.
      matmul_precision: of the model's matrix products, as in ``jax.default_matmul_precision``; None is that
        of the caller. JAX's default is not exact for float32 operands: a TPU rounds them to bfloat16, an
        NVIDIA GPU to TF32 (10 bits of mantissa). "high" is three bfloat16 products on a TPU, "highest" is
        float32 everywhere. It changes nothing on a CPU and for bfloat16 operands.
      remat: what the backward pass recomputes: None nothing, ``"full"`` each layer, ``"dots"`` all but
        the products with parameters.
      unroll: unroll the layers instead of scanning them: slower to compile, the same results.

    Raises:
      ValueError: a value of another type, a size below 1, ``n_heads`` that does not divide ``d_model`` or is
        no multiple of ``n_kv_heads``, a rate out of range, a scale that is not finite, an unknown choice; and
        what ``check_config`` of a variant raises, such as an odd dimension under ``Rope``.
    """

    vocab_size: Count = 0
    d_model: Size = 512
    n_layers: Size = 6
    n_heads: Size = 8
    d_ff: Size = 2048
    n_kv_heads: Size | None = None
    head_dim: Size | None = None
    n_decoder_layers: Size | None = None
    norm: Norm = LayerNorm()
    norm_placement: Literal["pre", "post", "parallel"] = "pre"
    final_norm: bool = True
    embedding_norm: bool = False
    positions: Positions | None = Sinusoidal()
    count_padding: bool = True
    window: Size | None = None
    feed_forward: FeedForward = Mlp()
    attention_bias: bool = False
    attention_output_bias: bool | None = None
    attention_scale: Finite | None = None
    qk_norm: bool = False
    scale_embeddings: bool = True
    token_types: Count = 0
    tie_embeddings: bool = True
    share_embeddings: bool = True
    logits_scale: Finite = 1.0
    logits_bias: bool = False
    pooler: Pooling | None = None
    patches: PatchEmbedding | None = None
    initializers: Initializers = _INITIALIZERS
    dropout_rate: Rate = 0.0
    embedding_dropout_rate: Rate | None = None
    attention_dropout_rate: Rate = 0.0
    feed_forward_dropout_rate: Rate = 0.0
    attention_implementation: str | Backend = "auto"
    dtype: Literal["float32", "bfloat16"] = "float32"
    param_dtype: Literal["float32", "bfloat16"] = "float32"
    matmul_precision: Literal["default", "high", "highest"] | None = None
    remat: Literal["full", "dots"] | None = None
    unroll: bool = False

    def __post_init__(self):
        check_fields(self)
        self._check_implementation()
        self._check_patches()
        if self.pooler is not None and self.pooler.reads not in ("mean", "first"):
            raise ValueError(
                f"Config: got pooler={self.pooler} with reads={self.pooler.reads!r}; wanted 'mean', for "
                "the valid positions, or 'first'."
            )
        if self.head_dim is None and self.d_model % self.n_heads:
            raise ValueError(
                f"Config: got n_heads={self.n_heads} with d_model={self.d_model}; "
                "wanted a divisor of d_model, or a head_dim."
            )
        if self.n_heads % self.K:
            raise ValueError(
                f"Config: got n_kv_heads={self.n_kv_heads} with n_heads={self.n_heads}; wanted a divisor of "
                "n_heads."
            )
        for variant in find_variants(self):
            variant.check_config(self)

    def _check_patches(self) -> None:
        if self.patches is None:
            return
        if self.token_types:
            raise ValueError(
                f"Config: got token_types={self.token_types} with patches; wanted 0. Patches have no types."
            )
        if self.positions is not None and self.positions.padding_id is not None:
            raise ValueError(
                f"Config: got {self.positions} with patches; wanted padding_id=None. Patches have no padding."
            )

    def _check_implementation(self) -> None:
        got = self.attention_implementation
        if isinstance(got, Backend) and BACKENDS.get(got.name) == got:
            # By its name, which a file can hold.
            object.__setattr__(self, "attention_implementation", got.name)
            got = got.name
        if isinstance(got, str) and got not in _IMPLEMENTATIONS:
            raise ValueError(
                f"Config: got attention_implementation={got!r}; wanted one of {', '.join(_IMPLEMENTATIONS)}, "
                "or a Backend."
            )

    @property
    def H(self) -> int:
        """The head dimension."""
        return self.head_dim or self.d_model // self.n_heads

    @property
    def K(self) -> int:
        """The number of key/value heads."""
        return self.n_kv_heads or self.n_heads


def paper_base(vocab_size: int = 37_000) -> Config:
    """The base model of Vaswani et al. 2017, table 3: post-norm, 6 layers, D 512, 8 heads, F 2048.

    Source, target and output share one embedding (section 3.4). With V = 37,000 it has 63.0 M parameters;
    the paper prints 65 M.

    Args:
      vocab_size: V, the shared vocabulary.

    Returns:
      The ``Config`` for ``EncoderDecoder``.
    """
    return Config(
        vocab_size=vocab_size,
        norm_placement="post",
        final_norm=False,
        dropout_rate=0.1,
    )


def paper_big(vocab_size: int = 37_000) -> Config:
    """The big model of Vaswani et al. 2017, table 3: D 1024, 16 heads, F 4096, dropout 0.3.

    With V = 37,000 it has 214.2 M parameters; the paper prints 213 M.

    Args:
      vocab_size: V, the shared vocabulary.

    Returns:
      The ``Config`` for ``EncoderDecoder``.
    """
    return Config(
        vocab_size=vocab_size,
        d_model=1024,
        n_heads=16,
        d_ff=4096,
        norm_placement="post",
        final_norm=False,
        dropout_rate=0.3,
    )
