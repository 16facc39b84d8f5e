"""From a trained model to tokens."""

from tfm_jax.generate.beam import Beams, beam_search
from tfm_jax.generate.begin import extend, init_cache, prefill, step
from tfm_jax.generate.decode import Generated, greedy, sample, stream
from tfm_jax.generate.forcing import BadWords, ForceFirst, ForceLast, Renormalize, Suppress, SuppressFirst
from tfm_jax.generate.processors import (
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
from tfm_jax.generate.recipe import Recipe
from tfm_jax.generate.text import TextGenerator

__all__ = [
    "BadWords",
    "Beams",
    "Context",
    "ForceFirst",
    "ForceLast",
    "FrequencyPenalty",
    "Generated",
    "MinLength",
    "MinP",
    "NoRepeatNgram",
    "Recipe",
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
    "extend",
    "greedy",
    "init_cache",
    "prefill",
    "sample",
    "step",
    "stream",
]
