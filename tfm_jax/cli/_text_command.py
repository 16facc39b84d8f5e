"""What ``tfm translate`` and ``tfm generate`` share: a model generates text from text."""

import dataclasses
import functools
import json
import logging
from typing import TYPE_CHECKING, Annotated, ClassVar

import tyro
from tyro.conf import arg

import tfm_jax  # subpackages load on first use: --help stays fast
from tfm_jax.cli._lines import Advance
from tfm_jax.cli._model_command import ModelCommand, option_errors
from tfm_jax.console import log_to_stderr
from tfm_jax.ranges import Seed

if TYPE_CHECKING:
    from tfm_jax.generate import TextGenerator
    from tfm_jax.types import Key

__all__ = ["TextCommand"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextCommand(ModelCommand):
    """Options for generation."""

    seed: Annotated[Seed, arg(metavar="N")] = 0
    """Seed for sampling. Each text has its own key, made from the seed and its line number."""
    stop: Annotated[tyro.conf.UseAppendAction[tuple[str, ...]], arg(metavar="TEXT")] = ()
    """Stop before this string."""
    generation: Annotated[tyro.conf.UseAppendAction[tuple[str, ...]], arg(metavar="NAME=VALUE")] = ()
    """Set a setting of generation_config.json, as in min_new_tokens=5; null unsets it. Only for a
    checkpoint."""

    only_for_checkpoints: ClassVar[tuple[str, ...]] = ("allow_pickle", "generation")

    def check(self) -> None:
        """Checks the options of generation too."""
        super().check()
        if "" in self.stop:
            raise ValueError("--stop: got ''; wanted a string that is not empty.")
        _ = self.generation_settings  # parsed here: an error comes before the model is loaded

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
        self.check_model()
        options = {} if self.is_run else {"generation": self.generation_settings}
        with option_errors():
            generator = tfm_jax.runs.load_text_generator(self.directory, **self.load_options, **options)
        self.check_generator(generator)
        return generator

    def generate_lines(self, generator: "TextGenerator") -> int:
        """Generates a line for each text; returns 1 if one failed."""

        def read(text: str) -> str | None:
            if text:
                self.encode(generator, text)
            return text or None

        def process(numbers: list[int], texts: list[str], advance: Advance) -> list[str]:
            return self.generate_batch(generator, numbers, texts, advance)

        def write(text: str | None) -> None:
            print("" if text is None else text, flush=True)

        with log_to_stderr("tfm_jax.generate", logging.INFO):  # compile times
            return 1 if self.process_lines(process, write, read) else 0

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
