"""``tfm translate`` and ``tfm generate``: a trained model translates, or writes texts on."""

import contextlib
import dataclasses
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import tyro
from tyro.conf import Positional, arg

import tfm_jax  # its rooms load when they are used: --help waits for none
from tfm_jax.cli.lines import Advance, LineCommand, optional, text_of

__all__ = ["Generate", "Translate"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Command(LineCommand):
    """What the two share."""

    run: Annotated[Positional[Path], arg(metavar="RUN")]
    """The run's directory, with config.json, tokenizer.json and checkpoints/."""
    text: Annotated[Positional[tuple[str, ...]], arg(metavar="[TEXT ...]", help_behavior_hint="")] = ()
    """Without any, and without --file, the lines of standard input."""
    average: Annotated[int | None, optional("N", "as the run's config says, or 1")] = None
    """Use the mean of the last so many checkpoints."""

    def load(self) -> Any:
        """The model and its tokenizer."""
        generator = tfm_jax.runs.load_run(self.run, average=self.average)
        if generator.reads_a_source != isinstance(self, Translate):
            name = "translate" if generator.reads_a_source else "generate"
            raise ValueError(f"the model of {self.run} does something else: use tfm {name}")
        return generator

    def lines(self, generator: Any) -> int:
        """Answers each line; gives 1 where one could not be used."""

        def wanted(text: str) -> bool:
            if text:
                self.encode(generator, text)
            return bool(text)

        use = lambda numbers, texts, advance: self.write(generator, numbers, texts, advance)
        give = lambda text: print("" if text is None else text, flush=True)
        with _compile_times():
            return 1 if self.answer(self.text, use, give, wanted) else 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Translate(_Command):
    """Translates texts with the encoder-decoder that a run has trained: a line for each."""

    beams: Annotated[int, arg(metavar="N")] = 4
    """Translations that are kept at every length; 1 is greedy."""
    length_penalty: Annotated[float, arg(metavar="ALPHA")] = 0.6
    """Log-probabilities are divided by ((5 + length) / 6) ** ALPHA; 0 is none."""
    max_length: Annotated[int | None, optional("N", "50 more than the source's, its padding counted")] = None
    """Tokens of a translation at most."""

    def use(self) -> int:
        """Gives 1 where a line could not be used."""
        self.check(self.text)
        return self.lines(self.load())

    def encode(self, generator: Any, text: str) -> None:
        """Raises for a text that the model cannot read."""
        generator.encode_sources([text])

    def write(self, generator: Any, numbers: list[int], texts: list[str], advance: Advance) -> list[str]:
        """A line for each text."""
        del numbers  # nothing is drawn
        options = {"beams": self.beams, "length_penalty": self.length_penalty, "max_length": self.max_length}
        found = generator.translate(texts, batch_size=self.batch_size, on_batch=advance, **options)
        return [" ".join(text.splitlines()) for text in found]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Generate(_Command):
    """Writes texts on with the language model that a run has trained.

    One text is written on as it comes; of several, each gives a line, with line breaks written as \\n.
    """

    tokens: Annotated[int, arg(metavar="N")] = 100
    """Tokens to write at most."""
    temperature: Annotated[float, arg(metavar="T")] = 0.8
    """Lower is more certain; 0 takes the likeliest token."""
    top_k: Annotated[int | None, optional("K")] = None
    """Draw from the K likeliest tokens."""
    top_p: Annotated[float | None, optional("P")] = None
    """Draw from the likeliest tokens that together have probability P."""
    min_p: Annotated[float | None, optional("P")] = None
    """Draw from the tokens at least P times as likely as the likeliest."""
    repetition_penalty: Annotated[float | None, optional("R")] = None
    """Make tokens that were there less likely, by a factor above 1."""
    no_repeat_ngram: Annotated[int | None, optional("N")] = None
    """Never the same N tokens in a row twice."""
    stop: Annotated[tyro.conf.UseAppendAction[tuple[str, ...]], arg(metavar="TEXT")] = ()
    """End before this text."""
    seed: Annotated[int, arg(metavar="N")] = 0
    """Of what is drawn; each text draws its own, by its place in the input."""

    def use(self) -> int:
        """Gives 1 where a line could not be used."""
        self.check(self.text)
        generator = self.load()
        if len(self.text) != 1:
            return self.lines(generator)
        options = {**self.options(generator), "key": self.keys([0])}
        with _compile_times():
            for piece in generator.stream(text_of(self.text[0]), **options):
                print(piece, end="", flush=True)
        print()
        return 0

    def encode(self, generator: Any, text: str) -> None:
        """Raises for a text that the model cannot read."""
        generator.encode_prompts([text], self.tokens)

    def write(self, generator: Any, numbers: list[int], texts: list[str], advance: Advance) -> list[str]:
        """A line for each text."""
        options = {"key": self.keys(numbers), "batch_size": self.batch_size, "on_batch": advance}
        options |= self.options(generator)
        escaped = str.maketrans({"\\": r"\\", "\n": r"\n", "\r": r"\r"})
        return [text.translate(escaped) for text in generator.write(texts, **options)]

    def options(self, generator: Any) -> dict[str, Any]:
        """How to write, as ``TextGenerator`` takes it."""
        make, V = tfm_jax.generate, generator.tokenizer.vocab_size
        if self.top_k is not None and self.top_k > V:
            raise ValueError(f"--top-k {self.top_k} is more than the {V} tokens that there are")
        values = {
            make.RepetitionPenalty: self.repetition_penalty,
            make.NoRepeatNgram: self.no_repeat_ngram,
            make.Temperature: self.temperature or None,
            make.TopK: self.top_k,
            make.TopP: self.top_p,
            make.MinP: self.min_p,
        }
        processors = tuple(kind(value) for kind, value in values.items() if value is not None)
        return {"max_length": self.tokens, "processors": processors, "stop": self.stop}

    def keys(self, numbers: list[int]) -> Any:
        """A key for each place in the input; none without a temperature."""
        import jax
        import jax.numpy as jnp

        if self.temperature == 0:
            return None
        key = jax.random.key(self.seed)
        return jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.array(numbers, jnp.uint32))


@contextlib.contextmanager
def _compile_times() -> Iterator[None]:
    """Shows what the text generator says of its compilations, on standard error."""
    logger, handler = logging.getLogger("tfm_jax.generate"), logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("tfm: %(message)s"))
    before = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False  # other libraries put a handler on the root: each line would come twice
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before[0])
        logger.propagate = before[1]
