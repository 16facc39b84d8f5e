"""The labelled texts of each split, the tokenizer, and the baseline on n-grams."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments.classification.config import DataConfig
from experiments.runner import load_or_make_tokenizer
from tfm_jax import data
from tfm_jax.data.sources import load_unsplit
from tfm_jax.data.splitting import content_digest, hold_out

__all__ = ["Corpus", "Labelled", "load_corpus", "make_tokenizer", "ngram_predict"]


class Labelled(NamedTuple):
    """Texts and their labels, int [texts]."""

    texts: list[str]
    labels: np.ndarray


class Corpus(NamedTuple):
    """The labelled texts of "train", "validation" and "test", the names of the classes, digests."""

    splits: dict[str, Labelled]
    class_names: list[str]
    digests: dict[str, str]


def load_corpus(config: DataConfig) -> Corpus:
    """Loads the labelled texts.

    Args:
      config: where they are.

    Returns:
      The texts, with the classes of the training texts, those of held-out ones included.

    Raises:
      FileNotFoundError, HubUnavailableError, ImportError, ValueError: as `data.load`, `data.texts`,
        `data.label_names` and `data.label_ids`, with the split; or a split is missing.
    """
    files = {"validation": config.validation, "test": config.test}
    shares = {name: 0.0 if file else config.held_out for name, file in files.items()}
    columns = [config.text_column, config.label]
    options = {"columns": columns, "separator": config.separator, "encoding": config.encoding}
    source = data.load_splits(config.source, validation=0.0, test=0.0, splits=config.splits, **options)
    data.texts(source["train"], config.text_column)  # errors name a row by its number in the source
    names = data.label_names(source["train"], config.label)
    splits = hold_out(source, by=[config.text_column], salt=config.held_out_salt, **shares)
    splits |= {name: load_unsplit(file, **options) for name, file in files.items() if file}
    if missing := {"validation", "test"} - splits.keys():
        raise ValueError(
            f"{config.source!r}: got no texts for {' and '.join(sorted(missing))}, and held_out is 0; wanted "
            "some. Hold a share out, or name a file for each"
        )
    labelled = {}
    for split in ("train", *files):
        try:
            texts = data.texts(splits[split], config.text_column)
            labelled[split] = Labelled(texts, data.label_ids(splits[split], names, config.label))
        except ValueError as error:
            raise ValueError(f"{split}: {error}") from error
    digests = {split: content_digest(splits[split], columns) for split in labelled}
    return Corpus(labelled, names, digests)


def make_tokenizer(config: DataConfig, texts: Sequence[str], directory: Path) -> data.Tokenizer:
    """Learns the tokenizer from the training texts and saves it; loads the saved one on a resume.

    Args:
      config: the kind of tokenizer.
      texts: the training texts.
      directory: of the run.

    Returns:
      The tokenizer.

    Raises:
      ValueError: from `data.train_bpe`, or for a saved one that cannot be read.
    """

    def make() -> data.Tokenizer:
        bpe = config.tokenizer == "bpe"
        return data.train_bpe(texts, config.vocab_size) if bpe else data.char_tokenizer(texts)

    return load_or_make_tokenizer(directory, make)


def ngram_predict(train: Labelled, texts: Sequence[str]) -> np.ndarray:
    """Predictions of logistic regression on character n-grams.

    Equivalent to::

        ngrams = TfidfVectorizer(analyzer="char_wb", ngram_range=(1, 4), sublinear_tf=True)
        LogisticRegression(C=10).fit(ngrams.fit_transform(train.texts), train.labels).predict(...)

    Args:
      train: the training texts.
      texts: the texts to classify.

    Returns:
      int [texts]
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    ngrams = TfidfVectorizer(analyzer="char_wb", ngram_range=(1, 4), sublinear_tf=True)
    model = make_pipeline(ngrams, LogisticRegression(C=10, max_iter=300))
    return model.fit(train.texts, train.labels).predict(texts)
