"""The model of a run, or of a checkpoint of transformers, as the object of its task."""

import copy
import functools
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import jax
import tokenizers
from jax.sharding import Mesh

from tfm_jax import data, nn
from tfm_jax.data.tokenizers import with_special_tokens
from tfm_jax.generate import GenerationConfig, TextGenerator
from tfm_jax.runs.load import Dtype, TrainedModel, check_dtype, check_no_average, read_run
from tfm_jax.runs.task import TASK_FILE, Task, TaskName, is_run, read_task
from tfm_jax.train.run_directory import config_errors, read_config

if TYPE_CHECKING:
    from tfm_jax.pretrained import ImageClassifier, SentenceEncoder, TextClassifier, TokenClassifier

    TaskModel: TypeAlias = TextGenerator | TextClassifier | TokenClassifier | ImageClassifier

__all__ = [
    "load_image_classifier",
    "load_run",
    "load_sentence_encoder",
    "load_text_classifier",
    "load_text_generator",
]

_GENERATORS: tuple[TaskName, ...] = ("text-generation", "translation")
_TEXT_CLASSIFIERS: tuple[TaskName, ...] = ("text-classification", "token-classification")
_IMAGE_CLASSIFIERS: tuple[TaskName, ...] = ("image-classification",)
_LOADERS: dict[TaskName, str] = {
    **dict.fromkeys(_GENERATORS, "load_text_generator"),
    **dict.fromkeys(_TEXT_CLASSIFIERS, "load_text_classifier or load_sentence_encoder"),
    **dict.fromkeys(_IMAGE_CLASSIFIERS, "load_image_classifier"),
}
"""The functions that load a run, by its task."""
_OLD: dict[type, TaskName] = {nn.Decoder: "text-generation", nn.EncoderDecoder: "translation"}
"""Tasks of runs of older versions, which do not name them; they say too little of a classifier."""


def load_run(
    directory: str | Path,
    *,
    average: int | None = None,
    variants: Sequence[type] = (),
    dtype: Dtype | None = None,
) -> "TaskModel":
    """Loads the model of a run as the object of its task, with all that its use needs.

    Args:
      directory: of the run.
      average: how many of the last checkpoints to average. None means "average" of the run's config (1 if it
        has none), or as many as there are.
      variants: classes of variants that the run's config names and that are not registered, such as
        ``[MyNorm]``; a file imports nothing. ``nn.register_variant(MyNorm)`` does the same for every run.
      dtype: of the parameters, rounded after averaging, and of the activations; None is that of the run.
        "bfloat16" halves the memory of float32.

    Returns:
      By the run's ``task.json`` a ``generate.TextGenerator`` (it translates with an ``nn.EncoderDecoder``, by
      the beam search of the run's config, and continues prompts with an ``nn.Decoder``), a
      ``pretrained.TextClassifier``, ``TokenClassifier`` or ``ImageClassifier``. It prepares its input as the
      training did. Unless checkpoints are averaged, its weights are those that the run tested: the last ones,
      or of a classifier with ``--train.patience`` the best ones; of either the moving average (EMA) if the
      run keeps one.

    Raises:
      FileNotFoundError: a file is missing; a classifier of a version before 0.5 has no ``task.json``.
      ValueError: the directory is that of a checkpoint, the files do not fit together, the config names a
        variant that is not known, there are fewer checkpoints than ``average``, one of ``variants`` is no
        variant, or an unknown ``dtype``.
    """
    check_dtype("load_run", dtype)
    path = Path(directory)
    if not (path / "config.json").is_file():
        raise FileNotFoundError(
            f"load_run: got {directory}, without config.json; wanted the directory of a run."
        )
    if not is_run(path):
        raise ValueError(
            f"load_run: got {directory}, whose config.json is no run's; wanted the directory of a run. Load "
            "a checkpoint by the function of its task, such as runs.load_text_classifier."
        )
    return _load_run("load_run", directory, average=average, variants=variants, dtype=dtype)


def load_text_generator(
    source: str | Path,
    *,
    average: int | None = None,
    dtype: Dtype | None = None,
    allow_pickle: bool = False,
    generation: Mapping[str, Any] | None = None,
) -> TextGenerator:
    """Loads a model that continues prompts or translates, of a run or a checkpoint.

    Equivalent to::

        load_run(source, average=average, dtype=dtype)                   # of a run
        pretrained.load_text_generator(source, dtype, generation=...)    # of a checkpoint

    Args:
      source: the directory of a run; or a checkpoint, a directory or its name on the hub.
      average: as for `load_run`; only for a run.
      dtype: of the parameters and the activations; None is that of the run, or float32 for a checkpoint.
      allow_pickle: as for ``pretrained.load``; only for a checkpoint.
      generation: as for ``pretrained.load_text_generator``; only for a checkpoint.

    Returns:
      The generator.

    Raises:
      ValueError: an argument that is only for a run, with a checkpoint, or the other way round; a model for
        another task; and as the two functions.
      FileNotFoundError, pretrained.HubUnavailableError: as the two functions.
    """
    name = "load_text_generator"
    if _check_source(name, source, average, dtype, allow_pickle=allow_pickle, generation=generation):
        return _load_run(name, source, _GENERATORS, average=average, dtype=dtype)
    from tfm_jax import pretrained  # slow: not before it is needed

    options = {"allow_pickle": allow_pickle, "generation": generation}
    return pretrained.load_text_generator(source, dtype or "float32", **options)


def load_text_classifier(
    source: str | Path,
    *,
    average: int | None = None,
    dtype: Dtype | None = None,
    mesh: Mesh | None = None,
    allow_pickle: bool = False,
) -> "TextClassifier | TokenClassifier":
    """Loads a classifier of texts or of their tokens, of a run or a checkpoint.

    Equivalent to::

        load_run(source, average=average, dtype=dtype)                # of a run
        pretrained.load_text_classifier(source, dtype, mesh)          # of a checkpoint

    Args:
      source, average, dtype, allow_pickle: as for `load_text_generator`.
      mesh: of devices that share each batch, as for ``pretrained.load_sentence_encoder``.

    Returns:
      The classifier.

    Raises:
      ValueError, FileNotFoundError, pretrained.HubUnavailableError: as for `load_text_generator`.
    """
    name = "load_text_classifier"
    if _check_source(name, source, average, dtype, allow_pickle=allow_pickle):
        return _load_run(name, source, _TEXT_CLASSIFIERS, average=average, dtype=dtype, mesh=mesh)
    from tfm_jax import pretrained

    return pretrained.load_text_classifier(source, dtype or "float32", mesh, allow_pickle=allow_pickle)


def load_image_classifier(
    source: str | Path,
    *,
    average: int | None = None,
    dtype: Dtype | None = None,
    mesh: Mesh | None = None,
    allow_pickle: bool = False,
) -> "ImageClassifier":
    """Loads an image classifier, of a run or a checkpoint.

    Equivalent to::

        load_run(source, average=average, dtype=dtype)                # of a run
        pretrained.load_image_classifier(source, dtype, mesh)         # of a checkpoint

    Args:
      source, average, dtype, mesh, allow_pickle: as for `load_text_classifier`.

    Returns:
      The classifier.

    Raises:
      ValueError, FileNotFoundError, pretrained.HubUnavailableError: as for `load_text_generator`.
    """
    name = "load_image_classifier"
    if _check_source(name, source, average, dtype, allow_pickle=allow_pickle):
        return _load_run(name, source, _IMAGE_CLASSIFIERS, average=average, dtype=dtype, mesh=mesh)
    from tfm_jax import pretrained

    return pretrained.load_image_classifier(source, dtype or "float32", mesh, allow_pickle=allow_pickle)


def load_sentence_encoder(
    source: str | Path,
    *,
    average: int | None = None,
    dtype: Dtype | None = None,
    mesh: Mesh | None = None,
    allow_pickle: bool = False,
) -> "SentenceEncoder":
    """Loads an encoder of sentences, of a run that classifies texts or of a checkpoint.

    Equivalent to::

        classifier = load_text_classifier(source, average=average, dtype=dtype)        # of a run
        SentenceEncoder(encoder of it, classifier.params["encoder"], classifier.tokenizer, pooling)
        pretrained.load_sentence_encoder(source, dtype, mesh)                          # of a checkpoint

    Args:
      source, average, dtype, mesh, allow_pickle: as for `load_text_classifier`.

    Returns:
      The encoder. Its vectors of a run are the mean or the first token, whichever the classifier pools (the
      mean, for one of tokens), without a pooler's layer, and scaled to length 1.

    Raises:
      ValueError, FileNotFoundError, pretrained.HubUnavailableError: as for `load_text_generator`.
    """
    from tfm_jax import pretrained

    name = "load_sentence_encoder"
    if not _check_source(name, source, average, dtype, allow_pickle=allow_pickle):
        return pretrained.load_sentence_encoder(source, dtype or "float32", mesh, allow_pickle=allow_pickle)
    found = _load_run(name, source, _TEXT_CLASSIFIERS, average=average, dtype=dtype, mesh=mesh)
    return pretrained.SentenceEncoder(
        nn.functionalize(nn.Encoder, found.model.config),
        found.params["encoder"],
        found.tokenizer,
        pooling=read_task(source).pooling or "mean",
        max_length=found.max_length,
        mesh=mesh,
    )


def _check_source(
    function: str, source: str | Path, average: int | None, dtype: str | None, **of_checkpoints: object
) -> bool:
    """Whether the source is a run; raises for an argument that does not fit it."""
    check_dtype(function, dtype)
    if is_run(source):
        for name, value in of_checkpoints.items():
            if value:
                raise ValueError(
                    f"{function}: got {name}={value!r} for {source}, which is a run; wanted it for a "
                    f"checkpoint only. Leave {name} out."
                )
        return True
    check_no_average(function, source, average)
    return False


def _load_run(
    function: str,
    source: str | Path,
    wanted: Sequence[TaskName] = tuple(_LOADERS),
    *,
    average: int | None,
    variants: Sequence[type] = (),
    dtype: Dtype | None,
    mesh: Mesh | None = None,
) -> Any:
    """The object of the task of a run, which is one of the wanted ones."""
    directory = Path(source)
    is_old = not (directory / TASK_FILE).is_file()
    found = read_run(directory, average, variants, dtype) if is_old else None
    task = Task(task=_OLD[found.module]) if found and found.module in _OLD else read_task(directory)
    if task.task not in wanted:
        raise ValueError(
            f"{function}: got {directory}, a run for {task.task}; wanted one for {' or '.join(wanted)}. Load "
            f"it by runs.{_LOADERS[task.task]}."
        )
    found = found or read_run(directory, average, variants, dtype)
    if task.task in _GENERATORS:
        model: Any = nn.functionalize(found.module, found.config)
        assert found.tokenizer is not None
        return TextGenerator(model, found.params, found.tokenizer, _search(directory, found.tokenizer))
    return _classifier(directory, task, found, mesh)


def _search(directory: Path, tokenizer: data.JsonTokenizer) -> GenerationConfig | None:
    """The beam search that a run of translation tested with; None for the default of its model."""
    path = directory / "config.json"
    settings = read_config(path).get("search")
    if not settings:
        return None
    with config_errors(path):
        return GenerationConfig.from_tokenizer(tokenizer).updated(**settings)


def _classifier(directory: Path, task: Task, found: TrainedModel, mesh: Mesh | None) -> Any:
    """The object of a classifier's task."""
    from tfm_jax import pretrained
    from tfm_jax.pretrained.tasks.batch_runner import replicated

    pooling, rate = task.pooling, task.head_dropout_rate
    model = nn.functionalize(nn.Classifier, found.config, len(task.labels), pooling, rate)
    params = jax.device_put(found.params, replicated(mesh))
    if task.task in _IMAGE_CLASSIFIERS:
        processor = pretrained.load_image_processor(directory)
        options = {"channels": task.channels, "mesh": mesh}
        return pretrained.ImageClassifier(model, params, processor, task.labels, **options)
    of_tokens = task.task == "token-classification"
    kind: Any = pretrained.TextClassifier
    if of_tokens:
        kind = functools.partial(pretrained.TokenClassifier, of_words=True)
    assert found.tokenizer is not None
    return kind(
        model,
        params,
        _tokenizer(found.tokenizer, task),
        task.labels,
        max_length=_max_length(found.config, task),
        mesh=mesh,
        use_token_types=task.pairs and found.config.token_types > 1,
    )


def _max_length(config: nn.Config, task: Task) -> int:
    """The length that texts are truncated to, in tokens."""
    limit = None if config.positions is None else config.positions.max_length
    return min((x for x in (limit, task.max_length) if x is not None), default=sys.maxsize)


def _tokenizer(tokenizer: data.JsonTokenizer, task: Task) -> tokenizers.Tokenizer:
    """The tokenizer that adds the special tokens itself, as the examples of training have them."""
    if task.task == "text-classification" and not task.pairs:
        # Those of a single text are BOS and EOS, whatever post-processor a checkpoint's tokenizer has.
        tokenizer = copy.copy(tokenizer)
        tokenizer.backend = tokenizers.Tokenizer.from_str(tokenizer.backend.to_str())
        tokenizer.backend.post_processor = None  # pyright: ignore[reportAttributeAccessIssue]
    return with_special_tokens(tokenizer)
