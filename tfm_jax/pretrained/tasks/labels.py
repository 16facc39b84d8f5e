"""Labels of a classifier and their scores, from its logits."""

from typing import Literal, NamedTuple

import jax
import numpy as np

from tfm_jax.pretrained.config_keys import Settings
from tfm_jax.pretrained.families import labels_of

__all__ = ["SCORES", "Label", "Scoring", "best", "scoring_of"]

Scoring = Literal["softmax", "sigmoid", "none"]
SCORES = {"softmax": jax.nn.softmax, "sigmoid": jax.nn.sigmoid, "none": lambda logits: logits}
"""Functions from logits to scores."""


class Label(NamedTuple):
    """The label of a text or an image.

    Args:
      label: the label with the highest score.
      score: its score.
      scores: of all labels, float32 [n_classes], in the order of the classifier's ``labels``.
    """

    label: str
    score: float
    scores: np.ndarray


def best(labels: tuple[str, ...], scores: np.ndarray) -> tuple[str, float, np.ndarray]:
    """The fields of a ``Label``, from all scores float32 [n_classes]."""
    index = int(scores.argmax())
    return labels[index], float(scores[index]), scores


def scoring_of(settings: Settings) -> Scoring:
    """The scoring of a checkpoint, by its ``problem_type``; a ValueError for an unknown one."""
    by_problem: dict[str | None, Scoring] = {
        None: "sigmoid" if len(labels_of(settings)) == 1 else "softmax",
        "regression": "none",
        "multi_label_classification": "sigmoid",
        "single_label_classification": "softmax",
    }
    problem = settings.get("problem_type")
    if problem not in by_problem:
        raise ValueError(f"config.json: got problem_type={problem!r}; wanted one of {list(by_problem)}.")
    return by_problem[problem]
