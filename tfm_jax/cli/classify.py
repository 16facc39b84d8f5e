"""``tfm classify``: texts into labels."""

import dataclasses
import json
from pathlib import Path
from typing import Annotated, Any

import tfm_jax  # its rooms load when they are used: --help waits for none
from tfm_jax.cli.encoder import EncoderCommand
from tfm_jax.cli.lines import Advance, check_out, json_number, jsonl, optional

__all__ = ["Classify"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Classify(EncoderCommand):
    """Labels each text, or each of its tokens, with a classifier such as BertForSequenceClassification.

    Each line gives one of JSON: the label, its score and the scores of all; of a classifier of tokens a list
    of labels, each with its place in the text; null where the line is not UTF-8.
    """

    out: Annotated[Path | None, optional("FILE", "standard output")] = None
    """Write the lines to a file."""

    def use(self) -> int:
        """Gives 1 where a line could not be used."""
        self.check(self.text)
        check_out(self.out)
        classifier = tfm_jax.pretrained.load_text_classifier(
            self.model, self.dtype, self.mesh(), allow_pickle=self.allow_pickle
        )

        def use(numbers: list[int], texts: list[str], advance: Advance) -> list[Any]:
            found = classifier(texts, batch_size=self.batch_size)
            advance(len(numbers))
            return [self.said(classifier.labels, label) for label in found]

        with jsonl(self.out, lambda said: json.dumps(said, allow_nan=False)) as give:
            return 1 if self.answer(self.text, use, give) else 0

    def said(self, labels: tuple[str, ...], found: Any) -> Any:
        """What is written of a text."""
        if isinstance(found, list):
            return [
                {"start": x.start, "end": x.end, "label": x.label, "score": json_number(x.score)}
                for x in found
            ]
        scores = dict(zip(labels, map(json_number, found.scores), strict=True))
        return {"label": found.label, "score": json_number(found.score), "scores": scores}
