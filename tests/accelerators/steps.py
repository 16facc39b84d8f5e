"""Programs of a small decoder, compiled for TPUs and GPUs that are not there."""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import optax

from tests.train.plan.accelerators import devices_or_skip, optimized_programs
from tfm_jax import nn, train
from tfm_jax.train.plan import programs
from tfm_jax.train.plan.topologies import compile_for

TOPOLOGIES = ("v5e:2x4", "h200:8")
MESH = ("data", "fsdp", "expert")
# All different; the activations of a device are larger than any weight.
B, T, V, D, F, N, H, L = 64, 256, 1152, 256, 768, 4, 64, 2
TOKENS = B * T // 8
"""Of a device."""
CONFIG = nn.Config(
    vocab_size=V,
    d_model=D,
    n_layers=L,
    n_heads=N,
    d_ff=F,
    norm=nn.RMSNorm(),
    positions=nn.Rope(),
    feed_forward=nn.Glu(),
    scale_embeddings=False,
    dtype="bfloat16",
)


@dataclasses.dataclass(frozen=True)
class Program:
    """A compiled training step.

    Args:
      text: of the optimized program.
      temporary: bytes of temporary memory on a device.
      params: the shape of each parameter, by its path.
    """

    text: str
    temporary: int
    params: dict[str, tuple[int, ...]]

    def collectives(self, kind: str) -> list[programs.Collective]:
        return [x for x in programs.collectives(self.text) if x.kind == kind]


@functools.lru_cache(maxsize=8)
def compile_step(
    topology: str, config: nn.Config, batch: tuple[int, int] = (B, T), mesh: tuple[int, ...] = (2, 4, 1)
) -> Program:
    """The training step of a language model on a mesh of data x fsdp x expert; skips without the compiler."""
    sizes = dict(zip(MESH, mesh, strict=True))
    devices = devices_or_skip(topology)[: math.prod(mesh)]
    model = nn.functionalize(nn.Decoder, config)
    optimizer = train.adamw(optax.constant_schedule(1e-3), 0.01)

    def loss_fn(params: Any, batch: Any, key: Any) -> Any:
        decoder = model.bind(params)
        return decoder.cross_entropy(decoder.hidden(batch["tokens"]), batch["labels"]), {}

    parallel = train.Jit(train.make_mesh(**sizes, devices=devices), axes=model.axes())
    step = parallel.compile(train.make_train_step(loss_fn, optimizer, clip_norm=1.0))
    key = jax.random.key(0)
    state = jax.eval_shape(lambda: train.init_state(model.init(key), optimizer, key))
    inputs = {name: jax.ShapeDtypeStruct(batch, jnp.int32) for name in ("tokens", "labels")}
    with optimized_programs(), jax.numpy_dtype_promotion("standard"):
        compiled = compile_for(topology, step.lower(parallel.abstract(state), inputs))
    leaves = jax.tree_util.tree_leaves_with_path(state.params)
    return Program(
        compiled.as_text(),
        compiled.memory_analysis().temp_size_in_bytes,
        {jax.tree_util.keystr(path): x.shape for path, x in leaves},
    )
