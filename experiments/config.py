"""The configs that experiments share, as dataclasses; a field's docstring is the help of its option."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import optax
from jax.sharding import Mesh

from experiments.messages import check_options
from tfm_jax import nn, train
from tfm_jax.ranges import Count, NotNegative, Positive, Rate, Seed, Share, Size, integer_range
from tfm_jax.train.optimizers import Schedule
from tfm_jax.train.profiling import read_steps

__all__ = [
    "Buckets",
    "Classes",
    "Longer",
    "MeshConfig",
    "OptimizerConfig",
    "RunConfig",
    "SmallData",
    "TrainConfig",
]

Buckets = Annotated[int, integer_range(1, 256)]
"""A number of batch shapes, each of which is compiled."""
Classes = Annotated[int, integer_range(1, 2**20)]
"""A number of vocabulary entries or classes."""
Examples = Annotated[int, integer_range(1, 2**20)]
"""A number of examples in an update."""
Longer = Literal["hold", "rewarm", "continue"]
"""What a schedule does after the steps that it was planned for."""


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """AdamW with a schedule; Adam without weight decay."""

    schedule: Literal["noam", "cosine", "inverse_sqrt", "constant"] = "cosine"
    """The learning rate after the warm-up; noam is the paper's, which depends on the model's width."""
    learning_rate: Positive = 1e-3
    """The peak of the schedule; noam computes its own from width and warm-up."""
    noam_factor: Positive = 1.0
    """A factor of noam; 1 in the paper."""
    warmup: Size = 100
    """Warm-up steps, to the peak."""
    weight_decay: NotNegative = 0.0
    """Decoupled weight decay; not of biases, norms and position embeddings."""
    b1: Rate = 0.9
    """Decay of the first moment."""
    b2: Rate = 0.98
    """Decay of the second moment."""
    eps: Positive = 1e-9
    """Added to the root of the second moment."""
    mu_dtype: Literal["bfloat16"] | None = None
    """The first moment's dtype between steps: bfloat16 saves two bytes a parameter; None is the weights'."""
    clip_norm: Positive | None = 1.0
    """Largest global norm of the gradient; None does not clip."""
    frozen_layers: Count = 0
    """Number of first layers that are not trained, nor is the embedding; 0 trains all."""
    layer_decay: Share = 1.0
    """Layer-wise learning-rate decay: ratio of a layer's rate to that of the layer above; 1 is one rate."""
    when_longer: Longer | None = None
    """The schedule of a resume with more --train.steps: hold keeps the rate of the last planned step; rewarm
    starts the schedule again, warm-up included, for the added steps; continue, not of a cosine, which ends,
    computes the schedule further. None is hold for a cosine, else continue."""
    extended: tuple[tuple[Size, Longer], ...] = ()
    """How often the run was made longer: the steps planned until then, and what the schedule does after them.
    A resume adds to it; a new run with the same value has the same rates."""

    def __post_init__(self) -> None:
        check_options(self, "train.optimizer")
        ends = [end for end, _ in self.extended]
        if ends != sorted(set(ends)):
            raise ValueError(
                f"--train.optimizer.extended: got steps {ends}; wanted increasing ones. Leave it out: a "
                "resume with more --train.steps adds to it"
            )
        if self.schedule == "cosine" and "continue" in (self.when_longer, *(way for _, way in self.extended)):
            raise ValueError(
                "--train.optimizer.when-longer: got continue with --train.optimizer.schedule cosine, which "
                "ends; wanted hold or rewarm. Choose one of them"
            )

    def longer(self, planned: int) -> "OptimizerConfig":
        """The config of a run that continues after its planned steps."""
        way = self.when_longer or ("hold" if self.schedule == "cosine" else "continue")
        return dataclasses.replace(self, extended=(*self.extended, (planned, way)))

    def build(self, d_model: int, steps: int) -> tuple[optax.GradientTransformation, Schedule]:
        """Makes the optimizer and its schedule, a function of the step and of this config alone."""
        ends = [*(end for end, _ in self.extended), steps]
        if len(ends) > 1 and ends[-2] >= steps:
            raise ValueError(
                f"--train.steps: got {steps}, with --train.optimizer.extended of {ends[-2]} steps; wanted "
                "more. Give more --train.steps, or clear the plan by --set train.optimizer.extended="
            )
        schedule = self._schedule(d_model, ends[0])
        for (start, way), end in zip(self.extended, ends[1:], strict=True):
            schedule = self._after(schedule, start, way, d_model, end - start)
        moments = {"b1": self.b1, "b2": self.b2, "eps": self.eps, "mu_dtype": self.mu_dtype}
        adamw = train.adamw(schedule, self.weight_decay, **moments)
        if self.frozen_layers == 0 and self.layer_decay == 1:
            return adamw, schedule
        return optax.chain(adamw, train.scale_by_layer(self.layer_decay, self.frozen_layers)), schedule

    def _schedule(self, d_model: int, steps: int) -> Schedule:
        return {
            "noam": lambda: train.noam(d_model, self.warmup, self.noam_factor),
            "cosine": lambda: train.warmup_cosine(self.learning_rate, self.warmup, steps),
            "inverse_sqrt": lambda: train.inverse_sqrt(self.learning_rate, self.warmup),
            "constant": lambda: train.warmup_constant(self.learning_rate, self.warmup),
        }[self.schedule]()

    def _after(self, schedule: Schedule, start: int, way: Longer, d_model: int, added: int) -> Schedule:
        """The schedule with what it does after its planned steps."""
        if way == "rewarm" and added <= self.warmup:
            raise ValueError(
                f"--train.optimizer.when-longer rewarm: got {added} added steps with "
                f"--train.optimizer.warmup {self.warmup}; wanted more than the warm-up. Give more "
                "--train.steps, or hold"
            )
        return {
            "hold": lambda: train.hold(schedule, start),
            "rewarm": lambda: train.rewarm(schedule, start, self._schedule(d_model, added)),
            "continue": lambda: schedule,
        }[way]()


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Steps, batches, evaluation, checkpoints."""

    steps: Size = 1000
    """Total number of updates; more on a resume make the run longer."""
    batch_size: Examples = 64
    """Examples per update, over all devices."""
    accumulate: Examples = 1
    """Gradient accumulation: microbatches per update, run in sequence to save memory."""
    gradient_dtype: Literal["float32", "bfloat16"] = "float32"
    """The dtype in which devices add their gradients: bfloat16 halves what they send, and rounds each
    device's part. Under jit it needs --model.dtype bfloat16: a float32 model sends float32 gradients."""
    optimizer: OptimizerConfig = OptimizerConfig()
    ema_decay: Rate | None = None
    """Decay of the moving average of the weights, which is then evaluated; None keeps no average."""
    evaluate_every: Size = 100
    """Steps between evaluations."""
    checkpoint_every: Size = 100
    """Steps between checkpoints; a multiple of evaluate_every."""
    keep: Size = 5
    """Number of last checkpoints to keep, besides the best."""
    patience: Size | None = None
    """Early stopping after this many evaluations without a new best; None trains all steps."""
    log_every: Size = 10
    """Steps between lines of metrics.jsonl."""
    seed: Seed = 0
    """Seed of the weights, the dropout and the order of the data."""

    def __post_init__(self) -> None:
        check_options(self, "train")
        if self.checkpoint_every % self.evaluate_every:
            raise ValueError(
                f"--train.checkpoint-every: got {self.checkpoint_every}; wanted a multiple of "
                f"--train.evaluate-every {self.evaluate_every}, so that each checkpoint has its metrics."
            )


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """The device mesh: the product of the sizes is the number of devices. One size may be "auto": as many as
    the others leave. On a CPU, JAX_NUM_CPU_DEVICES=8 simulates eight."""

    data: Size | Literal["auto"] = 1
    """Number of devices for data parallelism: they share each batch."""
    fsdp: Size | Literal["auto"] = 1
    """Fully sharded data parallelism: they share each batch, the weights and the optimizer's state."""
    tensor: Size | Literal["auto"] = 1
    """Tensor parallelism: they share the heads, the feed-forward width and the vocabulary."""
    sequence: Size | Literal["auto"] = 1
    """Sequence parallelism: they share the positions of each sequence; attention goes round a ring."""
    expert: Size | Literal["auto"] = 1
    """Expert parallelism: they share the experts of a mixture."""

    def __post_init__(self) -> None:
        check_options(self, "mesh")

    def build(self) -> Mesh:
        """The mesh, over the first of all devices; a ValueError where it does not fit them."""
        return train.make_mesh(
            data=self.data,
            fsdp=self.fsdp,
            tensor=self.tensor,
            sequence=self.sequence,
            expert=self.expert,
        )


@dataclasses.dataclass(frozen=True)
class SmallData:
    """The defaults of an experiment for small data, which `small_data.fit_to_data` chooses.

    Args:
      unit: what is counted, such as "pairs".
      values: the values of fields, by dotted name, for fewer of them than a limit; by limit.
      column: the field of the data's config that names a column, of which characters are counted; None
        counts rows.
    """

    unit: str
    values: Mapping[int, Mapping[str, object]]
    column: str | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunConfig:
    """The config of any experiment; each adds its model and its data."""

    if TYPE_CHECKING:
        model: nn.Config = nn.Config()  # each experiment declares it, at its place in the options

    train: TrainConfig = TrainConfig()
    mesh: MeshConfig = MeshConfig()
    parallel: Literal["jit", "pmap"] = "jit"
    """How a step runs on the devices. A run of one can be resumed under the other; on several devices their
    dropout differs."""
    out: Path | None = None
    """Directory of the run; None makes a new one in runs/."""
    resume: bool = False
    """Resume the run in --out from its last checkpoint, with its settings. More --train.steps make it
    longer. Options of logging, evaluation, checkpoints and the use of the trained model may change; those of
    the model and its training may not."""
    resume_step: Size | None = None
    """With --resume: the step of the checkpoint. Later ones are moved to set_aside, in --out."""
    distributed: str = "auto"
    """How processes connect: auto, where Slurm, Open MPI, Kubernetes or a TPU pod declares several tasks; on,
    the same, but an error without them; off; or HOST:PORT,COUNT,INDEX: the address of process 0, the number
    of processes and the number of this one. Without a value it is on."""
    profile: str | None = None
    """Steps to trace with jax.profiler, the first and the last one, such as 10:13; the trace goes to profile/
    in the run's directory."""
    compilation_cache: str = "auto"
    """Directory of compiled programs, which a second start loads; off compiles again. auto: tfm_jax/compiled
    in the user's cache directory, at most 2 GiB, unless JAX_COMPILATION_CACHE_DIR is set."""
    restore_concurrent_gb: Positive = 96.0
    """Gigabytes of a checkpoint that a resume reads at a time: bounds the host's memory beside the state. It
    must exceed the largest array."""
    init_from: str | None = None
    """Initial weights, with their model and tokenizer: the directory of a run, or a checkpoint of
    transformers (a directory, or its name on the hub). Of --model only the dtypes, the dropout rates,
    attention-implementation, remat and unroll may then be set."""

    MAY_CHANGE: ClassVar[tuple[str, ...]] = (
        "mesh",
        "parallel",
        "out",
        "resume",
        "resume_step",
        "distributed",
        "profile",
        "compilation_cache",
        "train.steps",
        "train.optimizer.when_longer",
        "train.optimizer.extended",
        "train.evaluate_every",
        "train.checkpoint_every",
        "train.keep",
        "train.patience",
        "train.log_every",
        "restore_concurrent_gb",
    )
    """Fields that may change on a resume."""
    LOCATIONS: ClassVar[tuple[str, ...]] = ("init_from", "data.source", "data.validation", "data.test")
    """Fields with the places of data and weights; a resume compares digests of their content instead."""
    INPUT: ClassVar[Literal["texts", "images"]] = "texts"
    """The input of the model."""
    SMALL_DATA: ClassVar[SmallData | None] = None
    """Values for small data, of fields that no option sets; None has the defaults for all data."""

    def __post_init__(self) -> None:
        check_options(self, "")
        if self.resume_step is not None and not self.resume:
            raise ValueError(
                f"--resume-step: got {self.resume_step} without --resume; wanted both, or neither."
            )
        narrow = self.train.gradient_dtype == "bfloat16"
        if narrow and self.parallel == "jit" and self.model.dtype == "float32":
            raise ValueError(
                "--train.gradient-dtype: got bfloat16 and --model.dtype float32; "
                "wanted bfloat16 for both, as jit adds the gradients that the model's products give. Add "
                "--model.dtype bfloat16, or leave the gradients in float32."
            )
        if self.profile is not None:
            try:
                last = read_steps(self.profile)[1]
            except ValueError as error:
                raise ValueError(f"--profile: {error}") from error
            if last > self.train.steps:
                raise ValueError(
                    f"--profile: got {self.profile}; wanted steps up to --train.steps {self.train.steps}."
                )

    @classmethod
    def for_data(cls, source: str | None) -> "type[RunConfig]":
        """The class whose defaults suit a data source (the value of ``--data.source``, None without it)."""
        return cls
