"""Loads the trained model of a run from its directory."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from tfm_jax import data, nn, train
from tfm_jax.generate import TextGenerator
from tfm_jax.registry import Variant, registered
from tfm_jax.train.checkpoint import consecutive_steps
from tfm_jax.train.run_directory import read_config
from tfm_jax.types import Params
from tfm_jax.values import from_dict

__all__ = ["load_run"]


def load_run(
    directory: str | Path, *, average: int | None = None, variants: Sequence[type] = ()
) -> TextGenerator:
    """Loads the model and tokenizer of a run from ``config.json``, ``checkpoints/`` and ``tokenizer.json``.

    Args:
      directory: of the run.
      average: how many of the last checkpoints to average. None means "average" of the run's config (1 if it
        has none), or as many as there are.
      variants: classes of variants that the run's config names and that are not registered, such as
        ``[MyNorm]``; a file imports nothing. ``nn.register_variant(MyNorm)`` does the same for every run.

    Returns:
      The generator: it translates if the model is an ``nn.EncoderDecoder``, and continues prompts if it is an
      ``nn.Decoder``. Unless checkpoints are averaged, its weights are the last ones, or their moving average
      (EMA) if the run keeps one.

    Raises:
      FileNotFoundError: a file is missing.
      ValueError: the files do not fit together, the config names a variant that is not known, the model is of
        another kind, there are fewer checkpoints than ``average``, or one of ``variants`` is no variant.
    """
    directory = Path(directory)
    path = directory / "config.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"load_run: got {directory}, without config.json; wanted the directory of a run."
        )
    settings = read_config(path)
    registered(Variant, variants)  # raises for a class that is no variant
    try:
        config = from_dict(nn.Config, settings["model"], variants)
        checkpoint_every = int(settings.get("train", {}).get("checkpoint_every", 0)) or None
        n_averaged = int(settings.get("average", 1))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(
            f"{path}: got no valid model config ({error!r}); wanted the file that the run wrote. Restore it."
        ) from error
    params = _load_params(directory / "checkpoints", checkpoint_every, n_averaged, average)
    if params.keys() >= {"encoder", "decoder"}:
        module = nn.EncoderDecoder
    elif params.keys() >= {"embedding", "stack"}:
        module = nn.Decoder
    else:
        raise ValueError(
            f"load_run: got {directory} with parameters {sorted(params)}; wanted a Decoder or EncoderDecoder."
        )
    tokenizer = data.load_tokenizer(directory)
    config = dataclasses.replace(config, vocab_size=config.vocab_size or tokenizer.vocab_size)
    return TextGenerator(nn.functionalize(module, config), params, tokenizer)


def _load_params(
    checkpoints: Path, checkpoint_every: int | None, n_averaged: int, average: int | None
) -> Params:
    steps = consecutive_steps(checkpoints, checkpoint_every)
    if not steps:
        raise FileNotFoundError(f"load_run: got no checkpoint in {checkpoints}; wanted at least one.")
    if average is not None and not 1 <= average <= len(steps):
        raise ValueError(
            f"load_run: got average={average}; wanted 1 to {len(steps)}, the last checkpoints in "
            f"{checkpoints}, as far apart as the run's checkpoint_every: steps {steps}."
        )
    average = min(n_averaged, len(steps)) if average is None else average
    if average != 1:
        return train.average_params(checkpoints, average, every=checkpoint_every)
    has_ema = (checkpoints / str(steps[-1]) / "ema").is_dir()
    return train.load_params(checkpoints, item="ema" if has_ema else "params")
