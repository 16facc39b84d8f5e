"""Tasks of models, and the commands that use them; read from small files before any weights."""

from pathlib import Path
from typing import NamedTuple

from tfm_jax import nn, runs
from tfm_jax.pretrained.families import architecture_in, family_of
from tfm_jax.pretrained.weights.files import read_json

__all__ = ["check_task", "task_of_checkpoint", "task_of_run"]


class _Kind(NamedTuple):
    """A kind of models: its name in messages, and the commands that use it, the usual one first."""

    name: str
    commands: tuple[str, ...]


_KINDS = {
    "text-generation": _Kind("a decoder-only model", ("generate",)),
    "translation": _Kind("an encoder-decoder", ("translate",)),
    "text-classification": _Kind("a text classifier", ("classify", "embed")),
    "token-classification": _Kind("a token classifier", ("classify", "embed")),
    "image-classification": _Kind("an image classifier", ("classify",)),
    "feature-extraction": _Kind("an encoder of texts", ("embed",)),
    "image-feature-extraction": _Kind("an encoder of images", ()),
}
"""By task, as a pipeline of Hugging Face is called."""
_WANTED = {
    "generate": "a decoder-only model",
    "translate": "an encoder-decoder",
    "classify": "a classifier of texts, tokens or images",
    "embed": "an encoder or a classifier of texts",
}
"""By command."""
_TASKS = {
    nn.Decoder: "text-generation",
    nn.EncoderDecoder: "translation",
    nn.Classifier: "text-classification",
}


def task_of_run(directory: Path) -> str | None:
    """The task of a run's model; None where an older version wrote the run, without ``task.json``."""
    try:
        return runs.read_task(directory).task
    except FileNotFoundError:
        return None


def task_of_checkpoint(directory: Path) -> str | None:
    """The task of a checkpoint's model; None where its ``config.json`` does not name its class.

    Raises:
      FileNotFoundError: the directory has neither a ``config.json`` nor the modules of a sentence model.
      ValueError: the settings are not supported.
    """
    path = directory / "config.json"
    if not path.is_file() and (directory / "modules.json").is_file():
        return "feature-extraction"
    settings = read_json(path)
    name, family = family_of(settings, path)
    of_images = family.read_config(settings, path).patches is not None
    if architecture_in(settings, path) is None and not of_images:
        return None
    task = _TASKS.get(family.architectures[name].module, "feature-extraction")
    if of_images:
        return "image-feature-extraction" if task == "feature-extraction" else "image-classification"
    return "token-classification" if name.endswith("ForTokenClassification") else task


def check_task(source: str, task: str, command: str) -> None:
    """Raises where a command cannot use a model of this task; the message names one that can."""
    kind = _KINDS[task]
    if command not in kind.commands:
        fix = f"Use tfm {kind.commands[0]}." if kind.commands else "No command uses it; load it in Python."
        raise ValueError(f"{source}: got {kind.name}; wanted {_WANTED[command]}. {fix}")
