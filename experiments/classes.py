"""The classes of an experiment: each that is tested has training examples."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

__all__ = ["Classes", "align_classes"]

_SHOWN = 20


class Classes(NamedTuple):
    """The names of the classes, and the indices of the examples of each split that have no other class."""

    names: list[str]
    kept: dict[str, list[int]]


def align_classes(
    name: str,
    names: Sequence[str],
    labels: Mapping[str, Sequence[Sequence[str]]],
    *,
    drop: bool,
    resumes: bool = False,
) -> Classes:
    """Checks that each class of the held-out examples has training examples, or drops the examples of others.

    The choice of held-out examples ignores labels, so all examples of a rare class may be held out. A label
    may also be no class that the data declare, such as the -1 of an example without a label.

    Args:
      name: of the experiment, for what is printed.
      names: of the classes, in the order of their ids.
      labels: the class names of each example of "train" and of the other splits.
      drop: ``--data.drop-missing-classes``: drop held-out examples of classes without a training example, and
        all examples with a label that is none of the names.
      resumes: print the classes without a training example instead of an error, as the run that resumes may
        have started so with a version before 0.5.

    Returns:
      The classes that are left, and the examples.

    Raises:
      ValueError: a class has held-out examples and no training example, or a label of a training example is
        no class (both without ``drop``); no example of a split is left, or the training examples have fewer
        than two classes.
    """
    counts = {split: Counter(label for row in rows for label in row) for split, rows in labels.items()}
    unknown = [label for label in counts["train"] if label not in names]
    if unknown and not drop:
        raise ValueError(
            f"got labels that are none of the {len(names)} classes of the data: "
            f"{_described(unknown, counts)}; wanted one of {_listed(list(map(repr, names)))}. Correct them, "
            "or drop their examples with --data.drop-missing-classes"
        )
    training = [label for label in counts["train"] if label in names]
    if len(training) < 2:
        got = next(iter(training), "none")
        raise ValueError(
            f"got training examples of one class, {got!r}; wanted two or more classes. Choose another column "
            "of labels (--data.label-column, or --data.label of images), or add examples of other classes"
        )
    found = dict.fromkeys([*names, *(label for rows in counts.values() for label in rows)])
    missing = [label for label in found if label not in training and any(label in x for x in counts.values())]
    everything = {split: list(range(len(rows))) for split, rows in labels.items()}
    if not missing:
        _print_untested(name, names, counts)
        return Classes(list(names), everything)
    listed = _described(missing, counts)
    if resumes and not drop and set(missing) <= set(names):
        print(f"{name}: classes without a training example: {listed}")
        return Classes(list(names), everything)
    if not drop:
        raise ValueError(
            f"got classes without a training example: {listed}; wanted training examples of each. Add some, "
            "hold out others with another --data.held-out-salt, or drop those held out with "
            "--data.drop-missing-classes"
        )
    kept = _without(name, labels, set(missing), listed)
    left = [label for label in names if label not in missing]
    _print_untested(name, left, counts)
    return Classes(left, kept)


def _without(
    name: str, labels: Mapping[str, Sequence[Sequence[str]]], missing: set[str], listed: str
) -> dict[str, list[int]]:
    """The examples without the missing classes; prints how many are dropped."""
    kept = {
        split: [i for i, row in enumerate(rows) if not set(row) & missing] for split, rows in labels.items()
    }
    if empty := [split for split, rows in kept.items() if not rows]:
        raise ValueError(
            f"got --data.drop-missing-classes and no example of a class with training examples in "
            f"{' and '.join(empty)}; wanted some, with labels. Missing classes: {listed}"
        )
    dropped = ", ".join(f"{len(labels[split]) - len(rows)} of {len(labels[split])} {split}"
                        for split, rows in kept.items() if len(rows) < len(labels[split]))  # fmt: skip
    print(f"{name}: dropped {dropped} examples of missing classes: {listed}")
    return kept


def _print_untested(name: str, names: Sequence[str], counts: Mapping[str, Counter[str]]) -> None:
    """Prints the classes that only training examples have: no result says anything about them."""
    held_out = [rows for split, rows in counts.items() if split != "train"]
    alone = [label for label in names if label in counts["train"] and not any(label in x for x in held_out)]
    if alone and held_out:
        listed = _listed([f"{label!r} ({counts['train'][label]} in train)" for label in alone])
        print(f"{name}: classes that only training examples have: {listed}")
    if unused := [label for label in names if not any(label in rows for rows in counts.values())]:
        print(f"{name}: classes without an example: {_listed(list(map(repr, unused)))}")


def _described(labels: Sequence[str], counts: Mapping[str, Counter[str]]) -> str:
    """Labels with the number of their examples in each split."""
    return _listed([f"{label!r} ({_places(label, counts)})" for label in labels])


def _places(label: str, counts: Mapping[str, Counter[str]]) -> str:
    return ", ".join(f"{rows[label]} in {split}" for split, rows in counts.items() if rows[label])


def _listed(texts: Sequence[str]) -> str:
    return ", ".join(texts[:_SHOWN]) + f" and {len(texts) - _SHOWN} more" * (len(texts) > _SHOWN)
