"""Generation: prefill, greedy decoding, sampling, beam search, logits processors, texts."""

from tfm_jax.generate._beam_search import Beams, beam_search
from tfm_jax.generate._prefill import prefill
from tfm_jax.generate.autoregressive import Generated, greedy, sample, stream
from tfm_jax.generate.config import GenerationConfig
from tfm_jax.generate.constraints import BadWords, ForceFirst, ForceLast, Renormalize, Suppress, SuppressFirst
from tfm_jax.generate.logits_processors import (
    Context,
    FrequencyPenalty,
    MinP,
    NoRepeatNgram,
    RepetitionPenalty,
    Temperature,
    TopK,
    TopP,
)
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
    "beam_search",
    "greedy",
    "prefill",
    "sample",
    "stream",
]
