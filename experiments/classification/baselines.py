"""Baselines: logistic regression on n-grams of texts, and the most frequent tag of each word."""

from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np

__all__ = ["frequent_tags_predict", "ngram_predict"]


def ngram_predict(training: Sequence[str], labels: np.ndarray, texts: Sequence[str]) -> np.ndarray:
    """Predictions of logistic regression on character n-grams.

    Equivalent to::

        ngrams = TfidfVectorizer(analyzer="char_wb", ngram_range=(1, 4), sublinear_tf=True)
        LogisticRegression(C=10).fit(ngrams.fit_transform(training), labels).predict(...)

    Args:
      training: the training texts.
      labels: of the training texts, int [texts].
      texts: the texts to classify.

    Returns:
      int [texts]
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    ngrams = TfidfVectorizer(analyzer="char_wb", ngram_range=(1, 4), sublinear_tf=True)
    model = make_pipeline(ngrams, LogisticRegression(C=10, max_iter=300))
    return model.fit(training, labels).predict(texts)


def frequent_tags_predict(
    training: Sequence[Sequence[str]], labels: Sequence[np.ndarray], sentences: Sequence[Sequence[str]]
) -> list[np.ndarray]:
    """The most frequent tag of each word in the training data; of an unknown word, that of all words.

    Args:
      training: the training sentences.
      labels: of each of their words, int [words].
      sentences: those to tag.

    Returns:
      int [words] for each sentence.
    """
    counts: defaultdict[str, Counter[int]] = defaultdict(Counter)
    total: Counter[int] = Counter()
    for words, tags in zip(training, labels, strict=True):
        total.update(tags.tolist())
        for word, tag in zip(words, tags.tolist(), strict=True):
            counts[word][tag] += 1
    default = total.most_common(1)[0][0]
    best = {word: tags.most_common(1)[0][0] for word, tags in counts.items()}
    return [np.array([best.get(word, default) for word in words], np.int64) for words in sentences]
