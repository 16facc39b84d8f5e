"""A run as a checkpoint of transformers."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tokenizers
from tokenizers import processors

from tfm_jax import data
from tfm_jax.fields import option_name
from tfm_jax.generate import TextGenerator
from tfm_jax.registry import Variant
from tfm_jax.runs.load import PROCESSOR_FILE, Dtype
from tfm_jax.runs.load_task import load_run
from tfm_jax.runs.task import TASK_FILE, Task, read_task
from tfm_jax.train.run_directory import read_config
from tfm_jax.values import to_text

if TYPE_CHECKING:
    from tfm_jax.pretrained.family import Misfit

__all__ = ["convert_run"]

_SINUSOIDAL_LENGTH = 1024
"""Positions that transformers computes at least, of a translation model without a limit of its own."""
_LONGER = 50
"""Tokens by which a translation may be longer than the longest source, as in ``TextGenerator.translate``."""


def convert_run(
    directory: str | Path,
    target: str | Path,
    *,
    average: int | None = None,
    dtype: Dtype | None = None,
    variants: Sequence[type] = (),
) -> str:
    """Saves the model of a run as a checkpoint that transformers loads, with the same logits.

    Equivalent to::

        params, config = pretrained.to_checkpoint(model, params, settings)    # labels, ids of special tokens
        pretrained.save(target, params, config, tokenizer)    # which adds BOS and EOS as the run does

    Args:
      directory: of the run.
      target: the directory to write. It is created, or must be empty.
      average, dtype, variants: as for ``load_run``.

    Returns:
      The class in transformers, such as "LlamaForCausalLM".

    Raises:
      FileNotFoundError: as for ``load_run``.
      FileExistsError: ``target`` is not empty.
      ValueError: no family of transformers holds the model: the message names the nearest, and the options
        with which a run fits; and as for ``load_run``.
    """
    from tfm_jax import pretrained  # slow: not before it is needed
    from tfm_jax.pretrained.to_checkpoint import NoFamilyError

    found: Any = load_run(directory, average=average, dtype=dtype, variants=variants)
    task, tokenizer = _task(directory, found), _read_tokenizer(directory, found)
    settings, length = _settings(task, tokenizer), _length(task)
    try:
        params, config = pretrained.to_checkpoint(found.model, found.params, settings, max_length=length)
    except NoFamilyError as error:
        raise ValueError(
            f"{directory}: got a model that no family of transformers holds; wanted one that fits. The "
            f"nearest is {error.architecture}: train with {_options(directory, error.misfits)}"
        ) from error
    generation = _generation(task, settings)
    config = dataclasses.replace(config, generation=generation, files=_files(directory, task, found))
    backend = found.tokenizer if task.labels and tokenizer else _with_template(task, tokenizer)
    pretrained.save(target, params, config, backend)
    return config.architecture


def _task(directory: str | Path, found: object) -> Task:
    """The task of a run; that of its model where an older version wrote none."""
    if isinstance(found, TextGenerator) and not (Path(directory) / TASK_FILE).is_file():
        return Task(task="translation" if found.is_encoder_decoder else "text-generation")
    return read_task(directory)


def _read_tokenizer(directory: str | Path, found: object) -> data.JsonTokenizer | None:
    """The tokenizer of a run of texts, with the ids of its special tokens."""
    return data.load_tokenizer(directory) if hasattr(found, "tokenizer") else None


def _length(task: Task) -> int | None:
    """The number of positions of the checkpoint."""
    if task.task == "translation":
        return max(_SINUSOIDAL_LENGTH, (task.max_length or 0) + _LONGER)
    return task.max_length


def _settings(task: Task, tokenizer: data.JsonTokenizer | None) -> dict[str, Any]:
    """The keys of config.json that do not describe the parameters."""
    settings: dict[str, Any] = {} if tokenizer is None else _ids(tokenizer)
    if (length := _length(task)) is not None:
        settings["max_position_embeddings"] = length
    if task.labels:
        settings["id2label"] = {str(i): label for i, label in enumerate(task.labels)}
        settings["label2id"] = {label: i for i, label in enumerate(task.labels)}
    if task.task in ("text-classification", "image-classification"):
        settings["problem_type"] = "single_label_classification"
    if task.task == "translation":
        # Without these keys transformers has the ids of its own vocabularies.
        settings["decoder_start_token_id"] = settings["bos_token_id"]
        settings["forced_eos_token_id"] = settings["eos_token_id"]
    return settings


def _ids(tokenizer: data.JsonTokenizer) -> dict[str, int | None]:
    return {f"{role}_token_id": getattr(tokenizer, f"{role}_id") for role in ("pad", "bos", "eos")}


def _generation(task: Task, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The generation_config.json: greedy decoding with the run's special tokens."""
    if task.task not in ("text-generation", "translation"):
        return {}
    names = ("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id")
    found = {name: settings[name] for name in names if settings.get(name) is not None}
    if task.task == "translation":  # the default of transformers is 20
        found["max_length"] = _length(task) if task.max_length is None else task.max_length + _LONGER
    return found


def _files(directory: str | Path, task: Task, found: Any) -> dict[str, bytes]:
    """The preprocessing of images; of texts the maximum length and the inputs of the model."""
    if task.task == "image-classification":
        return {PROCESSOR_FILE: (Path(directory) / PROCESSOR_FILE).read_bytes()}
    types = ["token_type_ids"] if getattr(found, "use_token_types", False) else []
    settings: dict[str, object] = {"model_input_names": ["input_ids", *types, "attention_mask"]}
    if task.max_length is not None:
        settings["model_max_length"] = task.max_length
    return {"tokenizer_config.json": json.dumps(settings).encode()}


def _with_template(task: Task, tokenizer: data.JsonTokenizer | None) -> tokenizers.Tokenizer | None:
    """The tokenizer of a generator: it adds BOS before a prompt, or EOS after a source, as the run does."""
    if tokenizer is None:
        return None
    generates = task.task == "text-generation"
    role_id = tokenizer.bos_id if generates else tokenizer.eos_id
    backend = tokenizers.Tokenizer.from_str(tokenizer.backend.to_str())
    added = [] if role_id is None else [str(backend.id_to_token(role_id))]
    single = [*added, "$A"] if generates else ["$A", *added]
    pair = [*added, "$A", "$B"] if generates else ["$A", "$B", *added]
    special = [(token, role_id) for token in added]
    backend.post_processor = processors.TemplateProcessing(single=single, pair=pair, special_tokens=special)
    return backend


def _options(directory: str | Path, misfits: Sequence["Misfit"]) -> str:
    """The options of an experiment with which its model fits."""
    fields = {misfit.field for misfit in misfits}
    if "patches" in fields:
        return "--init-from and a ViT, which has a class token"
    if fields >= {"pooling", "pooler"} and read_config(Path(directory) / "config.json").get("init_from"):
        misfits = [x for x in misfits if x.field != "pooler"]  # the first token gets that of the weights
    return ", ".join(_option(x.field, x.wanted) if x.field else x.description for x in misfits)


def _option(field: str, wanted: object) -> str:
    if field == "pooling":
        return f"--pooling {wanted}"
    if isinstance(wanted, bool):
        return option_name(f"model.{'' if wanted else 'no_'}{field}")
    option = option_name(f"model.{field}")
    return f"{option} '{to_text(wanted)}'" if isinstance(wanted, Variant) else f"{option} {wanted}"
