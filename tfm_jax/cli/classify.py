"""``tfm classify``: labels of texts or of their tokens."""

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tfm_jax  # subpackages load on first use: --help stays fast
from tfm_jax.cli._encoder_command import EncoderCommand
from tfm_jax.cli._lines import Advance
from tfm_jax.cli._options import optional
from tfm_jax.cli._output import json_number, open_jsonl

if TYPE_CHECKING:
    from tfm_jax.pretrained.tasks.text_classification import Label, TokenLabel
    from tfm_jax.types import Json

__all__ = ["Classify"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Classify(EncoderCommand):
    """Classify each text, or each of its tokens, with a model such as BertForSequenceClassification.

    Writes one JSON value per line: the label, its score and all scores; for a token classifier a list of
    labels with their character offsets; null if the line is not UTF-8.
    """

    out: Annotated[Path | None, optional("FILE", "standard output")] = None
    """Write the lines to a file."""

    def run(self) -> int:
        """Returns 1 if a line failed."""
        classifier = tfm_jax.pretrained.load_text_classifier(
            self.model, self.dtype, self.mesh(), allow_pickle=self.allow_pickle
        )

        def process(numbers: list[int], texts: list[str], advance: Advance) -> "list[Json]":
            found = classifier(texts, batch_size=self.batch_size)
            advance(len(numbers))
            return [_as_json(classifier.labels, label) for label in found]

        def to_json(result: "Json") -> str:
            return json.dumps(result, allow_nan=False)

        with open_jsonl(self.out, to_json) as write:
            return 1 if self.process_lines(process, write) else 0


def _as_json(labels: tuple[str, ...], found: "Label | list[TokenLabel]") -> "Json":
    """The labels of one text as JSON values."""
    if isinstance(found, list):
        return [
            {"start": x.start, "end": x.end, "label": x.label, "score": json_number(x.score)} for x in found
        ]
    scores: dict[str, Json] = dict(zip(labels, map(json_number, found.scores), strict=True))
    return {"label": found.label, "score": json_number(found.score), "scores": scores}
