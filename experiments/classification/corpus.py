"""From a source's name to labelled texts and a tokenizer; and n-grams, which need no model."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments import runner
from experiments.classification.config import DataConfig
from tfm_jax import data

__all__ = ["Corpus", "Labelled", "load_corpus", "make_tokenizer", "ngram_predict"]


class Labelled(NamedTuple):
    """Texts, and their labels int [texts]."""

    texts: list[str]
    labels: np.ndarray


class Corpus(NamedTuple):
    """The labelled texts of "train", "validation" and "test", names of classes, checksums."""

    splits: dict[str, Labelled]
    class_names: list[str]
    digests: dict[str, str]


def load_corpus(config: DataConfig) -> Corpus:
    """Loads the labelled texts.

    Args:
        config: says where they are.

    Returns:
        Them, with the classes that the training rows have, those that are held out of them included.

    Raises:
        FileNotFoundError, data.HubUnavailableError, ImportError, ValueError: as `data.load`, `data.texts`,
            `data.label_names` and `data.label_ids`, with the split; or a split is missing.
    """
    own = {"validation": config.validation, "test": config.test}
    shares = {name: 0.0 if source else config.held_out for name, source in own.items()}
    columns = [config.text_column, config.label]
    options = {"columns": columns, "separator": config.separator, "encoding": config.encoding}
    source = data.load_splits(config.source, validation=0.0, test=0.0, splits=config.splits, **options)
    data.texts(source["train"], config.text_column)  # a row without one is named by its number in the source
    names = data.label_names(source["train"], config.label)
    splits = data.hold_out(source, by=[config.text_column], salt=config.held_out_salt, **shares)
    splits |= {name: data.load_unsplit(source, **options) for name, source in own.items() if source}
    if missing := {"validation", "test"} - splits.keys():
        raise ValueError(
            f"{config.source!r} has no texts for {' and '.join(sorted(missing))}, and held_out is 0: "
            "hold a share out, or name a file for each"
        )
    labelled = {}
    for split in ("train", *own):
        try:
            texts = data.texts(splits[split], config.text_column)
            labelled[split] = Labelled(texts, data.label_ids(splits[split], names, config.label))
        except ValueError as error:
            raise ValueError(f"{split}: {error}") from error
    digests = {split: data.content_digest(splits[split], columns) for split in labelled}
    return Corpus(labelled, names, digests)


def make_tokenizer(config: DataConfig, texts: Sequence[str], directory: Path) -> data.Tokenizer:
    """Makes the tokenizer from the training texts and saves it; takes the saved one where a run goes on.

    Args:
        config: says which kind.
        texts: the training texts.
        directory: of the run.

    Returns:
        The tokenizer.

    Raises:
        ValueError: from `data.train_bpe`, or for a saved one that cannot be read.
    """
    bpe = config.tokenizer == "bpe"
    make = lambda: data.train_bpe(texts, config.vocab_size) if bpe else data.char_tokenizer(texts)
    return runner.saved_tokenizer(directory, make)


def ngram_predict(train: Labelled, texts: Sequence[str]) -> np.ndarray:
    """The classes that a logistic regression of character n-grams finds, for each text.

    Equivalent to::

        ngrams = TfidfVectorizer(analyzer="char_wb", ngram_range=(1, 4), sublinear_tf=True)
        LogisticRegression(C=10).fit(ngrams.fit_transform(train.texts), train.labels).predict(...)

    Args:
        train: what it learns from.
        texts: to classify.

    Returns:
        int [texts]
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    ngrams = TfidfVectorizer(analyzer="char_wb", ngram_range=(1, 4), sublinear_tf=True)
    model = make_pipeline(ngrams, LogisticRegression(C=10, max_iter=300))
    return model.fit(train.texts, train.labels).predict(texts)
