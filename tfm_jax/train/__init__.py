"""Training: pure steps, optimizers, data parallelism, checkpoints, the loop. Imports no models or data."""

from tfm_jax.train.checkpoint import Checkpoints, average_params, consecutive_steps, load_params
from tfm_jax.train.layerwise import freeze_layers, layer_factors, scale_by_layer
from tfm_jax.train.loop import Batches, EarlyStopping, FitResult, fit, resume
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
from tfm_jax.train.run_directory import RunDirectory, flatten, is_under, read_config
from tfm_jax.train.state import TrainState, init_state
from tfm_jax.train.step import EvalStep, LossFn, Metrics, TrainStep, make_eval_step, make_train_step
from tfm_jax.train.writers import JsonLines, Progress, TensorBoard, read_json_lines

__all__ = [
    "NO_DECAY",
    "Batches",
    "Checkpoints",
    "EarlyStopping",
    "EvalStep",
    "FitResult",
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
    "consecutive_steps",
    "data_mesh",
    "decay_mask",
    "fit",
    "flatten",
    "freeze_layers",
    "init_state",
    "inverse_sqrt",
    "is_under",
    "layer_factors",
    "load_params",
    "make_eval_step",
    "make_train_step",
    "means",
    "noam",
    "read",
    "read_config",
    "read_json_lines",
    "read_late",
    "resume",
    "scale_by_layer",
    "total",
    "warmup_cosine",
]
