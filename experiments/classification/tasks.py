"""The tasks of the experiment as values: classes of texts, of pairs of texts, and of the words of sentences.

Labels are an array of one per text or pair, or a list of arrays with one per word.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import datasets
import numpy as np

from experiments.classification.baselines import frequent_tags_predict, ngram_predict
from experiments.classification.config import Config, DataConfig
from experiments.classification.entities import are_entity_tags, entity_f1
from experiments.classification.predict import Batches, predict, predict_words
from tfm_jax import data, nn, runs, viz
from tfm_jax.data.columns import check_columns
from tfm_jax.data.labels import label_texts, tag_names, tag_texts
from tfm_jax.data.token_classification import read_conll
from tfm_jax.types import Params

__all__ = ["TASKS", "Labelled", "PairTask", "Task", "TextTask", "TokensTask"]

InputT = TypeVar("InputT")
LabelsT = TypeVar("LabelsT")
Examples = data.TextClassificationExamples | data.TokenClassificationExamples
Metrics = Callable[[Params], Mapping[str, float]]


class Labelled(NamedTuple, Generic[InputT, LabelsT]):
    """Inputs and their labels."""

    texts: list[InputT]
    labels: LabelsT


class Task(Protocol[InputT, LabelsT]):
    """What differs between the tasks of this experiment."""

    @property
    def unit(self) -> str:
        """What an example is called, in the plural."""
        ...

    @property
    def baseline_name(self) -> str: ...

    def columns(self, config: DataConfig) -> tuple[str, ...]:
        """The columns of the input."""
        ...

    def table(self, dataset: datasets.Dataset, config: DataConfig, where: str) -> datasets.Dataset:
        """The columns of the input and the labels, of a source or a file; a ValueError without them."""
        ...

    def read(self, dataset: datasets.Dataset, config: DataConfig) -> list[InputT]: ...

    def plain_texts(self, inputs: Sequence[InputT]) -> list[str]:
        """The texts of inputs, to learn a tokenizer from."""
        ...

    def class_names(self, dataset: datasets.Dataset, config: DataConfig) -> list[str]: ...

    def label_names(
        self, dataset: datasets.Dataset, names: Sequence[str], config: DataConfig
    ) -> list[list[str]]:
        """The names of the labels of each example, one of ``names`` or not."""
        ...

    def labels(self, found: Sequence[Sequence[str]], names: Sequence[str]) -> LabelsT:
        """Names as class ids."""
        ...

    def examples(
        self, labelled: Labelled[InputT, LabelsT], tokenizer: data.JsonTokenizer, classes: int, config: Config
    ) -> Examples:
        """The examples; ``config.model`` has the vocabulary size."""
        ...

    def describe(self, config: Config, names: Sequence[str]) -> runs.Task: ...

    def metrics(
        self,
        model: nn.Pure[nn.Classifier],
        batches: Batches,
        labelled: Labelled[InputT, LabelsT],
        examples: Examples,
        names: Sequence[str],
    ) -> Metrics | None:
        """Further metrics of validation, from the weights; ``batches`` are one pass in order."""
        ...

    def predict(
        self, model: nn.Pure[nn.Classifier], params: Params, batches: Batches, examples: Examples
    ) -> LabelsT: ...

    def baseline(self, training: Labelled[InputT, LabelsT], texts: list[InputT]) -> LabelsT: ...

    def report(
        self,
        labelled: Labelled[InputT, LabelsT],
        predicted: LabelsT,
        baseline: LabelsT,
        names: Sequence[str],
        path: Path,
    ) -> dict[str, float]:
        """Prints the results of the test and some errors, draws ``confusion.png``; returns the results."""
        ...


@dataclasses.dataclass(frozen=True)
class TextTask:
    """One label for each text."""

    unit: str = "texts"
    baseline_name: str = "n-grams"
    column_option: str = "--data.text-column"

    def columns(self, config: DataConfig) -> tuple[str, ...]:
        return (config.text_column or "text",)

    def table(self, dataset: datasets.Dataset, config: DataConfig, where: str) -> datasets.Dataset:
        wanted = [*self.columns(config), config.label]
        check_columns(where, dataset, wanted, f"{self.column_option} and --data.label-column")
        return dataset.select_columns(wanted)

    def read(self, dataset: datasets.Dataset, config: DataConfig) -> list[Any]:
        return data.texts(dataset, *self.columns(config))

    def plain_texts(self, inputs: Sequence[Any]) -> list[str]:
        return list(inputs)

    def show(self, text: Any) -> str:
        """The beginning of an input."""
        return f"{text:.60}"

    def class_names(self, dataset: datasets.Dataset, config: DataConfig) -> list[str]:
        return data.label_names(dataset, config.label)

    def label_names(
        self, dataset: datasets.Dataset, names: Sequence[str], config: DataConfig
    ) -> list[list[str]]:
        return [[name] for name in label_texts("label_ids", dataset, names, config.label)]

    def labels(self, found: Sequence[Sequence[str]], names: Sequence[str]) -> np.ndarray:
        id_of = {name: i for i, name in enumerate(names)}
        return np.array([id_of[name] for (name,) in found], np.int64)

    def examples(
        self, labelled: Labelled[Any, np.ndarray], tokenizer: data.JsonTokenizer, classes: int, config: Config
    ) -> data.TextClassificationExamples:
        return data.text_classification_examples(
            labelled.texts,
            labelled.labels,
            tokenizer,
            classes,
            max_length=config.data.max_length,
            vocab_size=config.model.vocab_size,
        )

    def describe(self, config: Config, names: Sequence[str]) -> runs.Task:
        return runs.Task(
            task="text-classification",
            labels=tuple(names),
            pooling=config.head_pooling,
            head_dropout_rate=config.head_dropout_rate,
            max_length=config.data.max_length,
        )

    def metrics(
        self,
        model: nn.Pure[nn.Classifier],
        batches: Batches,
        labelled: Labelled[Any, np.ndarray],
        examples: Examples,
        names: Sequence[str],
    ) -> Metrics | None:
        return None

    def predict(
        self, model: nn.Pure[nn.Classifier], params: Params, batches: Batches, examples: Examples
    ) -> np.ndarray:
        return predict(model, params, batches, len(examples))

    def baseline(self, training: Labelled[Any, np.ndarray], texts: list[Any]) -> np.ndarray:
        return ngram_predict(training.texts, training.labels, texts)

    def report(
        self,
        labelled: Labelled[Any, np.ndarray],
        predicted: np.ndarray,
        baseline: np.ndarray,
        names: Sequence[str],
        path: Path,
    ) -> dict[str, float]:
        texts, labels = labelled.texts, labelled.labels
        _draw(labels, predicted, names, path, self.unit)
        for i in np.flatnonzero(predicted != labels)[:5]:
            print(
                f"  {self.show(texts[i])}  is {names[int(labels[i])]}, predicted {names[int(predicted[i])]}"
            )
        correct = {
            "this model": int((predicted == labels).sum()),
            self.baseline_name: int((baseline == labels).sum()),
        }
        for name, count in correct.items():
            print(f"  {name:10}  {count:,} of {len(texts):,} test {self.unit} correct")
        return {
            "test_accuracy": correct["this model"] / len(texts),
            "ngram_accuracy": correct[self.baseline_name] / len(texts),
            f"test_{self.unit}": len(texts),
        }


@dataclasses.dataclass(frozen=True)
class PairTask(TextTask):
    """One label for each pair of texts, such as a premise and a hypothesis."""

    unit: str = "pairs"
    column_option: str = "--data.text-columns"

    def columns(self, config: DataConfig) -> tuple[str, ...]:
        return config.text_columns or ("sentence1", "sentence2")

    def read(self, dataset: datasets.Dataset, config: DataConfig) -> list[Any]:
        first, second = (data.texts(dataset, name) for name in self.columns(config))
        return list(zip(first, second, strict=True))

    def plain_texts(self, inputs: Sequence[Any]) -> list[str]:
        return [text for pair in inputs for text in pair]

    def show(self, text: Any) -> str:
        return f"{text[0]:.40} | {text[1]:.40}"

    def examples(
        self, labelled: Labelled[Any, np.ndarray], tokenizer: data.JsonTokenizer, classes: int, config: Config
    ) -> data.TextClassificationExamples:
        return data.text_pair_classification_examples(
            labelled.texts,
            labelled.labels,
            tokenizer,
            classes,
            max_length=config.data.max_length,
            token_types=config.model.token_types > 1,
            vocab_size=config.model.vocab_size,
        )

    def describe(self, config: Config, names: Sequence[str]) -> runs.Task:
        return dataclasses.replace(super().describe(config, names), pairs=True)

    def baseline(self, training: Labelled[Any, np.ndarray], texts: list[Any]) -> np.ndarray:
        joined, tested = (["\n".join(pair) for pair in pairs] for pairs in (training.texts, texts))
        return ngram_predict(joined, training.labels, tested)


@dataclasses.dataclass(frozen=True)
class TokensTask:
    """One label for each word of a sentence, such as the entity that it is a part of."""

    unit: str = "sentences"
    baseline_name: str = "most frequent tags"

    def columns(self, config: DataConfig) -> tuple[str, ...]:
        return (config.text_column or "tokens",)

    def table(self, dataset: datasets.Dataset, config: DataConfig, where: str) -> datasets.Dataset:
        wanted = [*self.columns(config), config.label]
        if dataset.column_names == ["text"] and config.text_column != "text":
            return read_conll(dataset, where).rename_columns(
                dict(zip(["tokens", "tags"], wanted, strict=True))
            )
        how = (
            "--data.text-column and --data.label-column. A file of a word and its tag per line needs a name "
            "that ends in .conll or .txt"
        )
        check_columns(where, dataset, wanted, how)
        return dataset.select_columns(wanted)

    def read(self, dataset: datasets.Dataset, config: DataConfig) -> list[list[str]]:
        return data.sentences(dataset, *self.columns(config))

    def plain_texts(self, inputs: Sequence[list[str]]) -> list[str]:
        return list(map(" ".join, inputs))

    def class_names(self, dataset: datasets.Dataset, config: DataConfig) -> list[str]:
        return tag_names(dataset, config.label)

    def label_names(
        self, dataset: datasets.Dataset, names: Sequence[str], config: DataConfig
    ) -> list[list[str]]:
        tags, words = tag_texts("tag_ids", dataset, names, config.label), self.read(dataset, config)
        for row, (of_row, sentence) in enumerate(zip(tags, words, strict=True)):
            if len(of_row) != len(sentence):
                raise ValueError(
                    f"got {len(sentence)} tokens and {len(of_row)} tags in row {row}; wanted a tag for each "
                    "token. Correct or drop the row"
                )
        return tags

    def labels(self, found: Sequence[Sequence[str]], names: Sequence[str]) -> list[np.ndarray]:
        id_of = {name: i for i, name in enumerate(names)}
        return [np.array([id_of[name] for name in row], np.int64) for row in found]

    def examples(
        self,
        labelled: Labelled[list[str], list[np.ndarray]],
        tokenizer: data.JsonTokenizer,
        classes: int,
        config: Config,
    ) -> data.TokenClassificationExamples:
        return data.token_classification_examples(
            labelled.texts,
            labelled.labels,
            tokenizer,
            classes,
            max_length=config.data.max_length,
            vocab_size=config.model.vocab_size,
        )

    def describe(self, config: Config, names: Sequence[str]) -> runs.Task:
        return runs.Task(
            task="token-classification",
            labels=tuple(names),
            head_dropout_rate=config.head_dropout_rate,
            max_length=config.data.max_length,
        )

    def metrics(
        self,
        model: nn.Pure[nn.Classifier],
        batches: Batches,
        labelled: Labelled[list[str], list[np.ndarray]],
        examples: Examples,
        names: Sequence[str],
    ) -> Metrics | None:
        if not are_entity_tags(names):
            return None

        def metrics(params: Params) -> dict[str, float]:
            predicted = self.predict(model, params, batches, examples)
            return {"validation/entity_f1": _f1(labelled.labels, predicted, names)}

        return metrics

    def predict(
        self, model: nn.Pure[nn.Classifier], params: Params, batches: Batches, examples: Examples
    ) -> list[np.ndarray]:
        assert isinstance(examples, data.TokenClassificationExamples)
        return predict_words(model, params, batches, examples)

    def baseline(
        self, training: Labelled[list[str], list[np.ndarray]], texts: list[list[str]]
    ) -> list[np.ndarray]:
        return frequent_tags_predict(training.texts, training.labels, texts)

    def report(
        self,
        labelled: Labelled[list[str], list[np.ndarray]],
        predicted: list[np.ndarray],
        baseline: list[np.ndarray],
        names: Sequence[str],
        path: Path,
    ) -> dict[str, float]:
        words = [word for sentence in labelled.texts for word in sentence]
        labels, found = np.concatenate(labelled.labels), np.concatenate(predicted)
        has_token = found >= 0
        _draw(labels[has_token], found[has_token], names, path, "words")
        for i in np.flatnonzero(found != labels)[:5]:
            guess = names[int(found[i])] if has_token[i] else "nothing: it has no token, or is cut off"
            print(f"  {words[i]:.60}  is {names[int(labels[i])]}, predicted {guess}")
        results = {}
        for title, name, tags in (
            ("this model", "test", predicted),
            (self.baseline_name, "baseline", baseline),
        ):
            correct = int((np.concatenate(tags) == labels).sum())
            results[f"{name}_accuracy"] = correct / len(words)
            line = f"  {title:18}  {correct:,} of {len(words):,} words correct"
            if are_entity_tags(names):
                results[f"{name}_entity_f1"] = _f1(labelled.labels, tags, names)
                line += f", entity F1 {100 * results[f'{name}_entity_f1']:.1f} %"
            print(line)
        return {**results, "test_sentences": len(labelled.texts), "test_words": len(words)}


TASKS: dict[str, Task[Any, Any]] = {"text": TextTask(), "pair": PairTask(), "tokens": TokensTask()}
"""The values of ``--data.task``."""


def _f1(labels: Sequence[np.ndarray], predicted: Sequence[np.ndarray], names: Sequence[str]) -> float:
    tags = [*names, "O"]  # -1, a word without a prediction, is no entity
    return entity_f1(*([[tags[i] for i in row] for row in rows] for rows in (labels, predicted)))


def _draw(labels: np.ndarray, predicted: np.ndarray, names: Sequence[str], path: Path, unit: str) -> None:
    n = len(names)
    matrix = np.bincount(labels * n + predicted, minlength=n * n).reshape(n, n)
    print(viz.confusion_matrix(matrix, names, path / "confusion.png", title=f"test {unit}") or "")
