"""``tfm translate`` and ``tfm generate``: a trained model translates, or writes texts on."""

import dataclasses
import json
import logging
from typing import Annotated, Any, Literal

import tyro
from tyro.conf import Positional, arg

import tfm_jax  # its rooms load when they are used: --help waits for none
from tfm_jax.cli.lines import Advance, LineCommand, log_lines, optional, text_of
from tfm_jax.ranges import Count, Range, Seed, Share, Size, Unit, real_number

__all__ = ["Generate", "Translate"]

LENGTH_PENALTY = real_number(-10, 10)
TEMPERATURE = Range("0, or a number from 0.000001 to 1000000", lambda x: x == 0 or 1e-6 <= x <= 1e6)
REPETITION_PENALTY = Range("a number from 0.000001 to 1000000", lambda x: 1e-6 <= x <= 1e6)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Command(LineCommand):
    """What the two share."""

    first: Annotated[Positional[str | None], arg(metavar="RUN", help_behavior_hint="")] = None
    """The run's directory, with config.json, tokenizer.json and checkpoints/; not beside --model."""
    rest: Annotated[Positional[tuple[str, ...]], arg(metavar="[TEXT ...]", help_behavior_hint="")] = ()
    """Without any, and without --file, the lines of standard input."""
    model: Annotated[str | None, optional("DIR")] = None
    """A pretrained checkpoint in the place of a run: a directory, or a name of the Hugging Face hub."""
    dtype: Annotated[Literal["float32", "bfloat16"] | None, optional("{float32,bfloat16}", "float32")] = None
    """Of a pretrained checkpoint's parameters."""
    allow_pickle: bool = False
    """Read a checkpoint's pytorch_model.bin where there is no safetensors file; needs torch."""
    average: Annotated[Size | None, optional("N", "as the run's config says, or 1")] = None
    """Use the mean of the last so many checkpoints of the run."""
    seed: Annotated[Seed, arg(metavar="N")] = 0
    """Of what is drawn; each text draws its own, by its place in the input."""
    stop: Annotated[tyro.conf.UseAppendAction[tuple[str, ...]], arg(metavar="TEXT")] = ()
    """End before this text; may be repeated."""
    generation: Annotated[tyro.conf.UseAppendAction[tuple[str, ...]], arg(metavar="NAME=VALUE")] = ()
    """Any setting of a checkpoint's generation_config.json by its name there, such as min_new_tokens=5; the
    value is JSON, and null takes the checkpoint's away. May be repeated; only with --model."""

    @property
    def text(self) -> tuple[str, ...]:
        """The texts: beside --model all that is no option."""
        first = () if self.model is None or self.first is None else (self.first,)
        return (*first, *self.rest)

    def load(self) -> Any:
        """The model and its tokenizer."""
        if "" in self.stop:
            raise ValueError("--stop: got ''; wanted a text that is not empty.")
        if self.model is not None:
            if self.average is not None:
                raise ValueError("--average is of a run's checkpoints: not with --model")
            load = tfm_jax.pretrained.load_text_generator
            generator = load(
                self.model,
                self.dtype or "float32",
                allow_pickle=self.allow_pickle,
                generation=self.generation_settings(),
            )
        elif self.first is not None:
            if self.dtype is not None:
                raise ValueError("--dtype is of a pretrained checkpoint: only with --model")
            if self.allow_pickle:
                raise ValueError("--allow-pickle is of a pretrained checkpoint: only with --model")
            if self.generation:
                raise ValueError("--generation is of a pretrained checkpoint: only with --model")
            generator = tfm_jax.runs.load_run(self.first, average=self.average)
        else:
            raise ValueError("say which model: the directory of a run, or --model with a checkpoint")
        if generator.is_encoder_decoder != isinstance(self, Translate):
            name, where = (
                "translate" if generator.is_encoder_decoder else "generate",
                self.model or self.first,
            )
            raise ValueError(f"the model of {where} does something else: use tfm {name}")
        return generator

    def generation_settings(self) -> dict[str, Any]:
        """The settings in the place of the checkpoint's, by its names."""
        found = {name: value for name, value in self.settings().items() if value is not None}
        for text in self.generation:
            name, separator, value = text.partition("=")
            if not separator or not name:
                raise ValueError(f"--generation: got {text!r}; wanted NAME=VALUE.")
            if name in found:
                raise ValueError(
                    f"--generation: {name} is there twice, or is what another option says; leave one."
                )
            try:
                found[name] = json.loads(value)
            except ValueError:  # a word, such as never
                found[name] = value
        return found

    def lines(self, generator: Any) -> int:
        """Answers each line; gives 1 where one could not be used."""

        def wanted(text: str) -> bool:
            if text:
                self.encode(generator, text)
            return bool(text)

        use = lambda numbers, texts, advance: self.write(generator, numbers, texts, advance)
        give = lambda text: print("" if text is None else text, flush=True)
        with log_lines("tfm_jax.generate", logging.INFO):  # compilations
            return 1 if self.answer(self.text, use, give, wanted) else 0

    def keys(self, numbers: list[int]) -> Any:
        """A key for each place in the input."""
        import jax
        import jax.numpy as jnp

        key = jax.random.key(self.seed)
        return jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.array(numbers, jnp.uint32))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Translate(_Command):
    """Translates texts with the encoder-decoder of a run or of a checkpoint: a line for each."""

    beams: Annotated[Size | None, optional("N", "as the checkpoint says; of a run, 4")] = None
    """Translations that are kept at every length; 1 is greedy."""
    length_penalty: Annotated[
        float | None,
        optional("ALPHA", "as the checkpoint says; of a run, 0.6"),
        LENGTH_PENALTY,
    ] = None
    """Log-probabilities are divided by length ** ALPHA; of a run by ((5 + length) / 6) ** ALPHA."""
    max_length: Annotated[
        Size | None,
        optional("N", "as the checkpoint says; of a run, 50 more than the source's, padding counted"),
    ] = None
    """Tokens of a translation at most."""

    def use(self) -> int:
        """Gives 1 where a line could not be used."""
        self.check(self.text)
        return self.lines(self.load())

    def settings(self) -> dict[str, Any]:
        """What a checkpoint is told, by its names."""
        lengths = {"num_beams": self.beams, "length_penalty": self.length_penalty}
        return {**lengths, "max_new_tokens": self.max_length, "stop_strings": self.stop or None}

    def encode(self, generator: Any, text: str) -> None:
        """Raises for a text that the model cannot read."""
        generator.encode_sources([text])

    def write(self, generator: Any, numbers: list[int], texts: list[str], advance: Advance) -> list[str]:
        """A line for each text."""
        options: dict[str, Any] = {"key": self.keys(numbers) if generator.default_config.do_sample else None}
        if self.model is None:
            options |= {
                "beams": self.beams,
                "length_penalty": self.length_penalty,
                "max_length": self.max_length,
                "stop": self.stop,
            }
        found = generator.translate(texts, batch_size=self.batch_size, on_batch=advance, **options)
        return [" ".join(text.splitlines()) for text in found]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Generate(_Command):
    """Writes texts on with the language model of a run or of a checkpoint.

    One text is written on as it comes; of several, each gives a line, with line breaks written as \\n.
    """

    tokens: Annotated[Size | None, optional("N", "as the checkpoint says; of a run, 100")] = None
    """Tokens to write at most."""
    temperature: Annotated[
        float | None,
        optional("T", "as the checkpoint says; of a run, 0.8"),
        TEMPERATURE,
    ] = None
    """Lower is more certain; 0 takes the likeliest token."""
    top_k: Annotated[Count | None, optional("K")] = None
    """Draw from the K likeliest tokens; 0 keeps all."""
    top_p: Annotated[Share | None, optional("P")] = None
    """Draw from the likeliest tokens that together have probability P; 1 keeps all."""
    min_p: Annotated[Unit | None, optional("P")] = None
    """Draw from the tokens at least P times as likely as the likeliest; 0 keeps all."""
    repetition_penalty: Annotated[float | None, optional("R"), REPETITION_PENALTY] = None
    """Make tokens that were there less likely, by a factor above 1; 1 changes nothing."""
    no_repeat_ngram: Annotated[Count | None, optional("N")] = None
    """Never the same N tokens in a row twice; 0 changes nothing."""

    def use(self) -> int:
        """Gives 1 where a line could not be used."""
        self.check(self.text)
        generator = self.load()
        options = self.options(generator, [0])
        if len(self.text) != 1 or (self.model is not None and generator.default_config.beams > 1):
            return self.lines(generator)
        with log_lines("tfm_jax.generate", logging.INFO):  # compilations
            for piece in generator.stream(text_of(self.text[0]), **options):
                print(piece, end="", flush=True)
        print()
        return 0

    def settings(self) -> dict[str, Any]:
        """What a checkpoint is told, by its names."""
        warm = {"temperature": self.temperature, "top_k": self.top_k, "top_p": self.top_p}
        warm["min_p"] = self.min_p
        if self.temperature == 0:
            # The likeliest token is among those that each of the others keeps.
            warm, draws = {}, {"do_sample": False}
        else:
            is_said = any(value is not None for value in warm.values())
            draws = {"do_sample": True, "num_beams": 1} if is_said else {}
        penalties = {
            "repetition_penalty": self.repetition_penalty,
            "no_repeat_ngram_size": self.no_repeat_ngram,
        }
        ends = {"max_new_tokens": self.tokens, "stop_strings": self.stop or None}
        return {**warm, **draws, **penalties, **ends}

    def encode(self, generator: Any, text: str) -> None:
        """Raises for a text that the model cannot read."""
        generator.encode_prompts([text], self.longest)

    @property
    def longest(self) -> int | None:
        """How many tokens to write; None is as a checkpoint says."""
        return 100 if self.tokens is None and self.model is None else self.tokens

    def write(self, generator: Any, numbers: list[int], texts: list[str], advance: Advance) -> list[str]:
        """A line for each text."""
        options = {"batch_size": self.batch_size, "on_batch": advance, **self.options(generator, numbers)}
        escaped = str.maketrans({"\\": r"\\", "\n": r"\n", "\r": r"\r"})
        return [text.translate(escaped) for text in generator.write(texts, **options)]

    def options(self, generator: Any, numbers: list[int]) -> dict[str, Any]:
        """How to write, as ``TextGenerator`` takes it; a checkpoint's recipe was told when it was loaded."""
        if self.model is not None:
            return {"key": self.keys(numbers) if generator.default_config.do_sample else None}
        V = generator.tokenizer.vocab_size
        if self.top_k is not None and self.top_k > V:
            raise ValueError(f"--top-k: got {self.top_k}; wanted at most the {V} tokens that there are.")
        temperature = 0.8 if self.temperature is None else self.temperature
        return {
            "key": None if temperature == 0 else self.keys(numbers),
            "max_length": self.longest,
            "processors": self.processors(temperature),
            "stop": self.stop,
        }

    def processors(self, temperature: float) -> tuple[Any, ...]:
        """What changes the logits, in their order; a 0 changes nothing."""
        make = tfm_jax.generate
        values = {
            make.RepetitionPenalty: self.repetition_penalty,
            make.NoRepeatNgram: self.no_repeat_ngram,
            make.Temperature: temperature,
            make.TopK: self.top_k,
            make.TopP: self.top_p,
            make.MinP: self.min_p,
        }
        return tuple(kind(value) for kind, value in values.items() if value)
