"""``--init-from``: initial weights from a run of an experiment or a checkpoint of transformers."""

import dataclasses
from collections.abc import Sequence
from typing import Literal, TypeVar

import jax
from flax import nnx

from experiments.config import RunConfig
from experiments.inputs import check_splits
from experiments.messages import exit_on_error
from experiments.runner import Run
from tfm_jax import nn, processes, runs
from tfm_jax.fields import option_name
from tfm_jax.train.checkpoint_files import consecutive_steps
from tfm_jax.types import Params

__all__ = ["ENCODERS", "EXECUTION_FIELDS", "load_initial_weights", "read_model_config", "start_run"]

C = TypeVar("C", bound=RunConfig)
ENCODERS = (nn.Encoder, nn.MaskedLanguageModel, nn.Classifier)
"""What a classifier starts from: from the encoder of any of these, without its head."""
EXECUTION_FIELDS = ("dtype", "param_dtype", "matmul_precision", "attention_implementation", "remat", "unroll")
"""Fields of a model's config that change how it runs, not what it computes."""
_RATES = ("dropout_rate", "attention_dropout_rate", "feed_forward_dropout_rate")
_FREE_FIELDS = (*EXECUTION_FIELDS, "initializers", *_RATES)
"""Fields of a model's config that may differ from those of the initial weights."""


def start_run(config: C, name: str, accepted: Sequence[type[nnx.Module]]) -> tuple[Run[C], Params]:
    """Opens a run, whose config has the model of its initial weights, and loads these; {} without any.

    Args:
      config: of the run.
      name: of the experiment.
      accepted: classes of models to start from.

    Raises:
      SystemExit: with one message, when the weights cannot be loaded, or as `runner.Run`.
    """
    with exit_on_error(name, config):
        config, initial = load_initial_weights(config, accepted)
        if initial is not None:
            check_splits(config)
    run = Run(config, name)
    if initial is None or config.init_from is None:
        return run, {}
    with run.setup():
        run.inputs.start_from(config.init_from)
        processes.from_main("preprocessing", lambda: initial.save_preprocessing(run.path))
    return run, initial.params


def load_initial_weights(
    config: C, accepted: Sequence[type[nnx.Module]]
) -> tuple[C, runs.TrainedModel | None]:
    """The config with the model of the weights of ``--init-from``, and these in its ``param_dtype``.

    A run that resumes from a checkpoint loads none.

    Raises:
      FileNotFoundError, pretrained.HubUnavailableError: there is no such run or checkpoint.
      ValueError: it is another kind of model, ``config.model`` differs from it, or a part is missing.
    """
    source = config.init_from
    resumes = config.resume and config.out is not None and consecutive_steps(config.out / "checkpoints")
    if source is None or resumes:
        return config, None
    pooler = _pooler(config, source)
    found = dataclasses.replace(read_model_config(source, config.INPUT), pooler=pooler)
    config = _with_pooler(config, pooler)
    names = [field.name for field in dataclasses.fields(nn.Config) if field.name not in _FREE_FIELDS]
    pairs = [(name, getattr(config.model, name), getattr(found, name)) for name in names]
    differences = [
        f"\n  {option_name(f'model.{name}')}: configured {configured}, the weights have {loaded}"
        for name, configured, loaded in pairs
        if configured != loaded
    ]
    if differences:
        raise ValueError(
            f"--init-from {source}: got another --model than that of the weights; wanted changes of "
            f"{', '.join(option_name(f'model.{name}') for name in _FREE_FIELDS)} alone:"
            + "".join(differences)
        )
    initial = runs.load_model(source)
    if initial.module not in accepted:
        names = " or ".join(sorted(f"nn.{kind.__name__}" for kind in accepted))
        raise ValueError(f"--init-from {source}: got an nn.{initial.module.__name__}; wanted an {names}.")
    free = {name: getattr(config.model, name) for name in _FREE_FIELDS}
    model = dataclasses.replace(initial.config, pooler=pooler, **free)
    params, keeps_pooler = initial.params, pooler is not None and initial.config.pooler == pooler
    params = _encoder(params, keeps_pooler) if initial.module in ENCODERS else params
    params = jax.tree.map(lambda x: x.astype(model.param_dtype), params)
    return dataclasses.replace(config, model=model), dataclasses.replace(initial, params=params)


def read_model_config(source: str, wanted: Literal["texts", "images"]) -> nn.Config:
    """``runs.read_model_config`` for a model of this input, without the pooler, which belongs to its task."""
    model = dataclasses.replace(runs.read_model_config(source), pooler=None)
    if wanted != (got := "texts" if model.patches is None else "images"):
        raise ValueError(f"{source}: got a model of {got}; wanted one of {wanted}.")
    return model


def _pooler(config: RunConfig, source: str) -> nn.Pooling | None:
    """The pooler of a classifier of the first token: that of the weights, or of their family's classifier."""
    if getattr(config, "pooling", None) != "first":
        return None
    if runs.is_run(source):
        return runs.read_model_config(source).pooler
    from tfm_jax.pretrained.families import classifier_pooler
    from tfm_jax.pretrained.weights.files import checkpoint_directory, read_json

    path = checkpoint_directory(source) / "config.json"
    return classifier_pooler(read_json(path), path)


def _with_pooler(config: C, pooler: nn.Pooling | None) -> C:
    if config.model.pooler is not None:  # by an option, which must be this one
        return config
    return dataclasses.replace(config, model=dataclasses.replace(config.model, pooler=pooler))


def _encoder(params: Params, keeps_pooler: bool) -> Params:
    """The encoder of a classifier, from the parameters of an ``nn.Encoder`` or of a model that has one."""
    encoder = params.get("encoder", params)
    return {"encoder": {name: x for name, x in encoder.items() if keeps_pooler or name != "pooler"}}
