"""Training: a pure step, optimizers, where it runs, checkpoints, the loop. Knows no model and no data."""

from tfm_jax.train.checkpoint import Checkpoints, average_params, load_params, unbroken_steps
from tfm_jax.train.layerwise import freeze_layers, layer_factors, scale_by_layer
from tfm_jax.train.loop import Batches, EarlyStop, Fitted, fit, resume
from tfm_jax.train.metric_logger import NotFiniteError, Writer
from tfm_jax.train.metrics import add, means, read, read_late, total
from tfm_jax.train.optimizers import (
    NO_DECAY,
    Schedule,
    adam_noam,
    adamw,
    decay_mask,
    inverse_sqrt,
    noam,
    warmup_cosine,
)
from tfm_jax.train.parallel import Jit, Parallel, Pmap, data_mesh
from tfm_jax.train.run_directory import RunDirectory, flat, is_free, read_object
from tfm_jax.train.state import TrainState, init_state
from tfm_jax.train.step import EvalStep, LossFn, Metrics, TrainStep, make_eval_step, make_train_step
from tfm_jax.train.writers import JsonLines, Progress, TensorBoard, read_json_lines
from tfm_jax.values import plain

__all__ = [
    "NO_DECAY",
    "Batches",
    "Checkpoints",
    "EarlyStop",
    "EvalStep",
    "Fitted",
    "Jit",
    "JsonLines",
    "LossFn",
    "Metrics",
    "NotFiniteError",
    "Parallel",
    "Pmap",
    "Progress",
    "RunDirectory",
    "Schedule",
    "TensorBoard",
    "TrainState",
    "TrainStep",
    "Writer",
    "adam_noam",
    "adamw",
    "add",
    "average_params",
    "data_mesh",
    "decay_mask",
    "fit",
    "flat",
    "freeze_layers",
    "init_state",
    "inverse_sqrt",
    "is_free",
    "layer_factors",
    "load_params",
    "make_eval_step",
    "make_train_step",
    "means",
    "noam",
    "plain",
    "read",
    "read_json_lines",
    "read_late",
    "read_object",
    "resume",
    "scale_by_layer",
    "total",
    "unbroken_steps",
    "warmup_cosine",
]
