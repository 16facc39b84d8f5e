"""Generation: KV cache, greedy decoding, sampling, beam search, logits processors, texts."""

from tfm_jax.generate.autoregressive import Generated, greedy, sample, stream
from tfm_jax.generate.beam_search import Beams, beam_search
from tfm_jax.generate.config import GenerationConfig
from tfm_jax.generate.constraints import BadWords, ForceFirst, ForceLast, Renormalize, Suppress, SuppressFirst
from tfm_jax.generate.logits_processors import (
    Context,
    FrequencyPenalty,
    MinLength,
    MinP,
    NoRepeatNgram,
    RepetitionPenalty,
    Temperature,
    TopK,
    TopP,
    apply_processors,
)
from tfm_jax.generate.prefill import prefill
from tfm_jax.generate.text_generator import TextGenerator

__all__ = [
    "BadWords",
    "Beams",
    "Context",
    "ForceFirst",
    "ForceLast",
    "FrequencyPenalty",
    "Generated",
    "GenerationConfig",
    "MinLength",
    "MinP",
    "NoRepeatNgram",
    "Renormalize",
    "RepetitionPenalty",
    "Suppress",
    "SuppressFirst",
    "Temperature",
    "TextGenerator",
    "TopK",
    "TopP",
    "apply_processors",
    "beam_search",
    "greedy",
    "prefill",
    "sample",
    "stream",
]
