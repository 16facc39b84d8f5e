"""``tfm classify``: labels of texts, of their tokens, or of images."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import tfm_jax  # subpackages load on first use: --help stays fast
from tfm_jax.cli._encoder_command import EncoderCommand
from tfm_jax.cli._lines import Advance
from tfm_jax.cli._model_command import option_errors
from tfm_jax.cli._options import optional
from tfm_jax.cli._output import json_number, open_jsonl
from tfm_jax.console import error_line

if TYPE_CHECKING:
    from tfm_jax.pretrained.tasks.text_classification import Label, TokenLabel
    from tfm_jax.types import Json

__all__ = ["Classify"]

Item = str | tuple[str, str]
"""A text, a pair of texts, or the path of an image."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Classify(EncoderCommand):
    """Classify each text, each of its tokens, or each image.

    The inputs of an image classifier are paths of image files. Writes one JSON value per line: the label, its
    score and all scores; for a token classifier a list of labels with their character offsets, of the tokens
    of a checkpoint and of the words of a run; null for an input that cannot be read.
    """

    pairs: bool = False
    """Each input is a pair of texts, with a TAB between them. A run that was trained on pairs does so by
    itself."""
    out: Annotated[Path | None, optional("FILE", "standard output")] = None
    """Write the lines to a file."""

    name: ClassVar[str] = "classify"

    def run(self) -> int:
        """Returns 1 if a line failed."""
        task = self.check_model()
        read = self._reader(task)
        load: Callable[..., Any] = tfm_jax.runs.load_text_classifier
        if task == "image-classification":
            load = tfm_jax.runs.load_image_classifier
        with option_errors():
            classifier = load(self.directory, **self.load_options)

        def process(numbers: list[int], items: list[Item], advance: Advance) -> "list[Json]":
            found = classifier(items, batch_size=self.batch_size)
            advance(len(numbers))
            return [_as_json(classifier.labels, label) for label in found]

        def to_json(result: "Json") -> str:
            return json.dumps(result, allow_nan=False)

        with open_jsonl(self.out, to_json) as write:
            return 1 if self.process_lines(process, write, read) else 0

    def _reader(self, task: str | None) -> Callable[[str], Item]:
        """What reads an input of the model; its ValueError is that of one line."""
        if self.pairs and task not in ("text-classification", None):
            raise ValueError(
                f"--pairs: got {self.source}, a model of {task}; wanted one of text-classification."
            )
        if task == "image-classification":
            return _read_image
        trained = self.is_run and task is not None and tfm_jax.runs.read_task(self.directory).pairs
        if self.pairs and self.is_run and not trained:
            raise ValueError(f"--pairs: got {self.source}, a run of single texts; wanted one of pairs.")
        return _read_pair if self.pairs or trained else str


def _read_image(path: str) -> str:
    """The path of an image file that can be read."""
    from tfm_jax.data.image_files import decode_image

    try:
        content = Path(path).read_bytes()
    except (OSError, ValueError) as error:  # a ValueError for a NUL in the path
        raise ValueError(f"got {error_line(error)}; wanted the path of an image file.") from error
    decode_image("classify", content, path)  # a damaged file fails alone: a batch would fail as a whole
    return path


def _read_pair(line: str) -> tuple[str, str]:
    """The two texts of a line."""
    texts = line.split("\t")
    if len(texts) != 2:
        raise ValueError(f"got {len(texts) - 1} TABs; wanted two texts with one TAB between them.")
    return texts[0], texts[1]


def _as_json(labels: tuple[str, ...], found: "Label | list[TokenLabel]") -> "Json":
    """The labels of one input as JSON values."""
    if isinstance(found, list):
        return [
            {"start": x.start, "end": x.end, "label": x.label, "score": json_number(x.score)} for x in found
        ]
    scores: dict[str, Json] = dict(zip(labels, map(json_number, found.scores), strict=True))
    return {"label": found.label, "score": json_number(found.score), "scores": scores}
