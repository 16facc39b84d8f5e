"""``task.json``: what the model of a run is for, and where it comes from."""

import dataclasses
import importlib.metadata
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from tfm_jax import __version__  # of this code: an editable installation keeps the metadata of another
from tfm_jax.fields import check_fields
from tfm_jax.train.run_directory import config_errors, read_config, write_config
from tfm_jax.values import from_dict, to_dict

__all__ = ["TASK_FILE", "Origin", "Task", "TaskName", "is_run", "read_origin", "read_task", "write_task"]

TASK_FILE = "task.json"
TaskName = Literal[
    "text-generation", "translation", "text-classification", "token-classification", "image-classification"
]
"""The tasks, as pipelines of Hugging Face name them."""
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "tokenizers", "datasets", "grain")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """What the model of a run is for, beside its config and its tokenizer.

    Args:
      task: as a pipeline of Hugging Face is called.
      labels: of a classifier, in the order of its logits.
      pooling: of a classifier of texts or images: the input of its head.
      head_dropout_rate: of a classifier.
      max_length: of a text, in tokens with BOS and EOS. A classifier truncates longer ones; a generator was
        trained on none. None is no limit.
      pairs: whether the input is a pair of texts.
      channels: of a picture that an image classifier reads: 1 is grey, 3 is RGB. None is as many as its
        preprocessing has.
    """

    task: TaskName
    labels: tuple[str, ...] = ()
    pooling: Literal["mean", "first"] | None = None
    head_dropout_rate: float = 0.0
    max_length: int | None = None
    pairs: bool = False
    channels: Literal[1, 3] | None = None

    def __post_init__(self) -> None:
        check_fields(self)
        if self.task.endswith("classification") != bool(self.labels):
            wanted = "the labels of the classes" if not self.labels else "no labels"
            raise ValueError(f"Task: got task={self.task!r}, labels={self.labels}; wanted {wanted}.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Origin:
    """Where the model of a run comes from.

    Args:
      versions: of Python, the library and its main dependencies, by package.
      data: digests of the examples, by split.
      seed: of the weights, the dropout and the order of the data.
    """

    versions: Mapping[str, str]
    data: Mapping[str, str]
    seed: int

    @classmethod
    def now(cls, data: Mapping[str, str], seed: int) -> "Origin":
        """The origin of a model that this process trains."""
        versions = {name: importlib.metadata.version(name) for name in _PACKAGES}
        own = {"python": platform.python_version(), "tfm_jax": __version__}
        return cls(versions={**own, **versions}, data=dict(data), seed=seed)


def is_run(source: str | Path) -> bool:
    """Whether a directory is that of a run, of any version; not one of a checkpoint, nor a name on the hub.

    Raises:
      ValueError: its ``config.json`` is not JSON.
    """
    from tfm_jax.pretrained.weights.files import read_json  # slow: not before it is needed

    path = Path(source) / "config.json"
    return path.is_file() and {"model", "train"} <= read_json(path).keys()


def write_task(directory: Path, task: Task, origin: Origin) -> None:
    """Writes ``task.json``, by process 0 of several.

    Args:
      directory: of the run.
      task: what its model is for.
      origin: where it comes from.
    """
    write_config(directory / TASK_FILE, {**to_dict(task), "origin": dataclasses.asdict(origin)})


def read_task(directory: str | Path) -> Task:
    """What the model of a run is for.

    Args:
      directory: of the run.

    Raises:
      FileNotFoundError: the run has no ``task.json``: a version before 0.5 wrote it.
      ValueError: the file cannot be read; the message names it.
    """
    content = _read(Path(directory))
    with config_errors(Path(directory) / TASK_FILE, "task"):
        return from_dict(Task, {name: value for name, value in content.items() if name != "origin"})


def read_origin(directory: str | Path) -> Origin:
    """Where the model of a run comes from; errors as for `read_task`."""
    content = _read(Path(directory))
    with config_errors(Path(directory) / TASK_FILE, "task"):
        return Origin(**content["origin"])


def _read(directory: Path) -> dict[str, Any]:
    path = directory / TASK_FILE
    if not path.is_file():
        raise FileNotFoundError(
            f"{directory}: got no {TASK_FILE}; wanted a run of version 0.5 or newer. Resume it once with "
            "--resume and its --out: that writes the file"
        )
    return read_config(path)
