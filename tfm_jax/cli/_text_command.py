"""What ``tfm translate`` and ``tfm generate`` share: a run or a checkpoint generates text from text."""

import dataclasses
import functools
import json
import logging
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import tyro
from tyro.conf import Positional, arg

import tfm_jax  # subpackages load on first use: --help stays fast
from tfm_jax.cli._lines import Advance, LineCommand
from tfm_jax.cli._options import optional
from tfm_jax.console import log_to_stderr
from tfm_jax.ranges import Seed, Size

if TYPE_CHECKING:
    from tfm_jax.generate import TextGenerator
    from tfm_jax.types import Key

__all__ = ["TextCommand"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextCommand(LineCommand):
    """Options for the texts, the model and generation."""

    first: Annotated[Positional[str | None], arg(metavar="RUN", help_behavior_hint="")] = None
    """Directory of a run, with config.json, tokenizer.json and checkpoints/. Leave it out with --model."""
    rest: Annotated[Positional[tuple[str, ...]], arg(metavar="[TEXT ...]", help_behavior_hint="")] = ()
    """The texts. Without any, and without --file, the lines of standard input."""
    model: Annotated[str | None, optional("DIR")] = None
    """A pretrained checkpoint instead of a run: a directory, or owner/name on the Hugging Face hub."""
    dtype: Annotated[
        Literal["float32", "bfloat16"] | None,
        optional("{float32,bfloat16}", "the run's, or float32 for a checkpoint"),
    ] = None
    """Dtype of the parameters and the activations."""
    allow_pickle: bool = False
    """Read pytorch_model.bin if there is no safetensors file. Needs torch, which loads weights only."""
    average: Annotated[Size | None, optional("N", "the run's config, or 1")] = None
    """Average the parameters of the last N checkpoints of the run."""
    seed: Annotated[Seed, arg(metavar="N")] = 0
    """Seed for sampling. Each text has its own key, made from the seed and its line number."""
    stop: Annotated[tyro.conf.UseAppendAction[tuple[str, ...]], arg(metavar="TEXT")] = ()
    """Stop before this string."""
    generation: Annotated[tyro.conf.UseAppendAction[tuple[str, ...]], arg(metavar="NAME=VALUE")] = ()
    """Set a setting of generation_config.json, as in min_new_tokens=5; null unsets it. Only with --model."""

    needs_encoder_decoder: ClassVar[bool]

    @property
    def text(self) -> tuple[str, ...]:
        """The texts: with --model, all positional arguments."""
        first = () if self.model is None or self.first is None else (self.first,)
        return (*first, *self.rest)

    def check(self) -> None:
        """Checks that the options fit the kind of model, a run or a checkpoint."""
        super().check()
        if "" in self.stop:
            raise ValueError("--stop: got ''; wanted a string that is not empty.")
        if self.model is not None:
            if self.average is not None:
                raise ValueError("--average: got --model too; wanted a run, which has several checkpoints.")
            _ = self.generation_settings  # parsed here: an error comes before the model is loaded
            return
        if self.first is None:
            raise ValueError("got no model; wanted the directory of a run, or --model with a checkpoint.")
        for name in ("allow_pickle", "generation"):
            if getattr(self, name):
                option = f"--{name.replace('_', '-')}"
                raise ValueError(f"{option}: got a run; wanted a pretrained checkpoint. Use --model.")

    @functools.cached_property
    def generation_settings(self) -> dict[str, object]:
        """Settings that override the checkpoint's, from --generation and the other options."""
        settings = {name: value for name, value in self.option_settings().items() if value is not None}
        for text in self.generation:
            name, separator, value = text.partition("=")
            if not separator or not name:
                raise ValueError(f"--generation: got {text!r}; wanted NAME=VALUE.")
            if name in settings:
                raise ValueError(
                    f"--generation: got {name} twice, here or as another option; wanted it once."
                )
            try:
                settings[name] = json.loads(value)
            except ValueError:  # a string without quotes, such as never
                settings[name] = value
        return settings

    def option_settings(self) -> dict[str, object]:
        """The options as settings of a generation_config.json, by name; None for those not given."""
        raise NotImplementedError

    def load(self) -> "TextGenerator":
        """Loads the model with its tokenizer, a ``TextGenerator``."""
        if self.model is not None:
            generator = tfm_jax.pretrained.load_text_generator(
                self.model,
                self.dtype or "float32",
                allow_pickle=self.allow_pickle,
                generation=self.generation_settings,
            )
        else:
            generator = self._load_run(self.first or "")
        if generator.is_encoder_decoder != self.needs_encoder_decoder:
            kinds = ("a decoder-only model", "an encoder-decoder")
            got, wanted = kinds[:: 1 if self.needs_encoder_decoder else -1]
            command = "translate" if generator.is_encoder_decoder else "generate"
            raise ValueError(f"{self.model or self.first}: got {got}; wanted {wanted}. Use tfm {command}.")
        return generator

    def _load_run(self, directory: str) -> "TextGenerator":
        """Loads a run; an error about the option names it as the command line does."""
        try:
            return tfm_jax.runs.load_run(directory, average=self.average, dtype=self.dtype)
        except ValueError as error:
            message = str(error).replace("load_run: got average=", "--average: got ")
            raise ValueError(message) from error

    def generate_lines(self, generator: "TextGenerator") -> int:
        """Generates a line for each text; returns 1 if one failed."""

        def is_wanted(text: str) -> bool:
            if text:
                self.encode(generator, text)
            return bool(text)

        def process(numbers: list[int], texts: list[str], advance: Advance) -> list[str]:
            return self.generate_batch(generator, numbers, texts, advance)

        def write(text: str | None) -> None:
            print("" if text is None else text, flush=True)

        with log_to_stderr("tfm_jax.generate", logging.INFO):  # compile times
            return 1 if self.process_lines(process, write, is_wanted) else 0

    def encode(self, generator: "TextGenerator", text: str) -> None:
        """Raises a ValueError for a text that the model cannot read."""
        raise NotImplementedError

    def generate_batch(
        self, generator: "TextGenerator", numbers: list[int], texts: list[str], advance: Advance
    ) -> list[str]:
        """Generates a line for each text; ``numbers`` are their line numbers."""
        raise NotImplementedError

    def checkpoint_keys(self, generator: "TextGenerator", numbers: list[int]) -> "Key | None":
        """The PRNG keys if the checkpoint's settings ask for sampling; else None."""
        return self.keys(numbers) if generator.default_config.do_sample else None

    def keys(self, numbers: list[int]) -> "Key":
        """One PRNG key per line number."""
        import jax
        import jax.numpy as jnp

        key = jax.random.key(self.seed)
        return jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.array(numbers, jnp.uint32))
