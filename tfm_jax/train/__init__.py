"""Training: pure steps, optimizers, data parallelism, checkpoints, the loop. Imports no models or data."""

from tfm_jax.train.checkpoint import Checkpoints
from tfm_jax.train.checkpoint_files import average_params, load_params
from tfm_jax.train.layerwise import freeze_layers, scale_by_layer
from tfm_jax.train.loop import Batches, EarlyStopping, fit, resume
from tfm_jax.train.meshes import make_mesh
from tfm_jax.train.metric_logger import NotFiniteError
from tfm_jax.train.metrics import add_auxiliary, evaluate, means
from tfm_jax.train.optimizers import (
    adamw,
    hold,
    inverse_sqrt,
    noam,
    rewarm,
    warmup_constant,
    warmup_cosine,
)
from tfm_jax.train.parallel import Jit, Pmap
from tfm_jax.train.placement import bytes_per_device, to_one_device
from tfm_jax.train.profiling import Profile
from tfm_jax.train.replicas import replica, replicas
from tfm_jax.train.state import TrainState, init_state
from tfm_jax.train.step import LossFn, make_eval_step, make_train_step
from tfm_jax.train.writers import JsonLines, Progress, TensorBoard

__all__ = [
    "Batches",
    "Checkpoints",
    "EarlyStopping",
    "Jit",
    "JsonLines",
    "LossFn",
    "NotFiniteError",
    "Pmap",
    "Profile",
    "Progress",
    "TensorBoard",
    "TrainState",
    "adamw",
    "add_auxiliary",
    "average_params",
    "bytes_per_device",
    "evaluate",
    "fit",
    "freeze_layers",
    "hold",
    "init_state",
    "inverse_sqrt",
    "load_params",
    "make_eval_step",
    "make_mesh",
    "make_train_step",
    "means",
    "noam",
    "replica",
    "replicas",
    "resume",
    "rewarm",
    "scale_by_layer",
    "to_one_device",
    "warmup_constant",
    "warmup_cosine",
]
