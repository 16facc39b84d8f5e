"""What a run has trained, read from its directory."""

import dataclasses
from pathlib import Path

from tfm_jax import data, nn, train
from tfm_jax.generate import TextGenerator
from tfm_jax.types import Params
from tfm_jax.values import from_dict

__all__ = ["load_run"]


def load_run(directory: str | Path, *, average: int | None = None) -> TextGenerator:
    """A run's model and tokenizer, from ``config.json``, ``checkpoints/`` and ``tokenizer.json``.

    Args:
        directory: of the run.
        average: how many of the last checkpoints to take the mean of. None is what the run's config says
            under "average", or as many as there are; where it says nothing, the last.

    Returns:
        What translates, of an ``nn.EncoderDecoder``, or writes prompts on, of an ``nn.Decoder``. Of a run
        that keeps the moving average of its weights, with that one, unless checkpoints are averaged.

    Raises:
        FileNotFoundError: where something of it is not there.
        ValueError: where it does not fit together, or is another model; for fewer checkpoints than asked for.
    """
    directory = Path(directory)
    saved = directory / "config.json"
    if not saved.is_file():
        raise FileNotFoundError(f"{directory} is not the directory of a run: there is no config.json in it")
    settings = train.read_config(saved)
    try:
        config = from_dict(nn.Config, settings["model"])
        every = int(settings.get("train", {}).get("checkpoint_every", 0)) or None
        kept = int(settings.get("average", 1))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(
            f"{saved} does not say what the model is: {error!r}. Put back the file as the run wrote it"
        ) from error
    params = _params(directory / "checkpoints", every, kept, average)
    if params.keys() >= {"encoder", "decoder"}:
        module = nn.EncoderDecoder
    elif params.keys() >= {"embedding", "stack"}:
        module = nn.Decoder
    else:
        raise ValueError(f"the model of {directory} writes no text: its parameters are {sorted(params)}")
    tokenizer = data.load_tokenizer(directory)
    config = dataclasses.replace(config, vocab_size=config.vocab_size or tokenizer.vocab_size)
    return TextGenerator(nn.functionalize(module, config), params, tokenizer)


def _params(checkpoints: Path, every: int | None, kept: int, average: int | None) -> Params:
    steps = train.consecutive_steps(checkpoints, every)
    if not steps:
        raise FileNotFoundError(f"there is no checkpoint in {checkpoints}")
    average = min(kept, len(steps)) if average is None else average
    if average != 1:
        return train.average_params(checkpoints, average, every=every)
    has_ema = (checkpoints / str(steps[-1]) / "ema").is_dir()
    return train.load_params(checkpoints, item="ema" if has_ema else "params")
