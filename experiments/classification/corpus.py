"""The labelled texts of each split."""

from typing import Any, NamedTuple

from experiments.classes import align_classes
from experiments.classification.config import DataConfig
from experiments.classification.tasks import TASKS, Labelled
from experiments.inputs import RunInputs
from tfm_jax import data
from tfm_jax.data.sources import load_unsplit
from tfm_jax.data.splitting import content_digest, hold_out, input_hashes

__all__ = ["Corpus", "load_corpus"]


class Corpus(NamedTuple):
    """The labelled texts of "train", "validation" and "test", the names of the classes, digests."""

    splits: dict[str, Labelled[Any, Any]]
    class_names: list[str]
    digests: dict[str, str]


def load_corpus(
    config: DataConfig,
    name: str = "classification",
    inputs: RunInputs | None = None,
    *,
    resumes: bool = False,
) -> Corpus:
    """Loads the labelled texts.

    Args:
      config: where they are.
      name: of the experiment, for what is printed.
      inputs: of the run, which may start from another one.
      resumes: as for `align_classes`.

    Returns:
      The texts, with the classes of the training texts, those of held-out ones included.

    Raises:
      FileNotFoundError, HubUnavailableError, ImportError, ValueError: as `data.load` and `align_classes`, and
        for what is no text or no label, with the split; or a split is missing.
    """
    task = TASKS[config.task]
    files = {"validation": config.validation, "test": config.test}
    shares = {split: 0.0 if file else config.held_out for split, file in files.items()}
    options = {"separator": config.separator, "encoding": config.encoding, "names": config.columns}
    source = data.load_splits(config.source, validation=0.0, test=0.0, splits=config.splits, **options)
    source = {split: task.table(rows, config, config.source) for split, rows in source.items()}
    task.read(source["train"], config)  # errors name a row by its number in the source
    names = task.class_names(source["train"], config)
    task.label_names(source["train"], names, config)
    columns = task.columns(config)
    splits = hold_out(source, by=columns, salt=config.held_out_salt, **shares)
    for split, file in files.items():
        if file:
            splits[split] = task.table(load_unsplit(file, **options), config, file)
    if missing := {"validation", "test"} - splits.keys():
        raise ValueError(
            f"{config.source!r}: got no {task.unit} for {' and '.join(sorted(missing))}, and "
            "--data.held-out 0; wanted some. Hold a share out, or name a file for each "
            "(--data.validation, --data.test)"
        )
    texts, labels = {}, {}
    for split in ("train", *files):
        try:
            texts[split] = task.read(splits[split], config)
            labels[split] = task.label_names(splits[split], names, config)
        except ValueError as error:
            raise ValueError(f"{split}: {error}") from error
    hashes = {split: input_hashes(splits[split], columns) for split in texts}
    rows = inputs.regroup(hashes, [split for split, file in files.items() if file]) if inputs else None
    if rows is not None:  # without what the run's start held out
        texts = {split: [texts[s][i] for s, i in part] for split, part in rows.items()}
        labels = {split: [labels[s][i] for s, i in part] for split, part in rows.items()}
    classes = align_classes(name, names, labels, drop=config.drop_missing_classes, resumes=resumes)
    labelled = {}
    for split, kept in classes.kept.items():
        ids = task.labels([labels[split][i] for i in kept], classes.names)
        labelled[split] = Labelled([texts[split][i] for i in kept], ids)
    digests = {split: content_digest(splits[split], [*columns, config.label]) for split in labelled}
    return Corpus(labelled, classes.names, digests)
