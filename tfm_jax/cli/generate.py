"""``tfm generate``: continuations of prompts by a decoder-only model."""

import dataclasses
import logging
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import tfm_jax  # subpackages load on first use: --help stays fast
from tfm_jax.cli._lines import Advance, decode_text
from tfm_jax.cli._options import optional
from tfm_jax.cli._text_command import TextCommand
from tfm_jax.console import log_to_stderr
from tfm_jax.ranges import Count, Range, Share, Size, Unit

if TYPE_CHECKING:
    from tfm_jax.generate import TextGenerator
    from tfm_jax.generate.logits_processors import Processor

__all__ = ["Generate"]

TEMPERATURE = Range("0, or a number from 0.000001 to 1000000", lambda x: x == 0 or 1e-6 <= x <= 1e6)
REPETITION_PENALTY = Range("a number from 0.000001 to 1000000", lambda x: 1e-6 <= x <= 1e6)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Generate(TextCommand):
    """Continue each prompt with the language model of a run or a checkpoint.

    The continuation of a single prompt is streamed. Those of several prompts are one line each, with line
    breaks as \\n.
    """

    tokens: Annotated[Size | None, optional("N", "the checkpoint's; 100 for a run")] = None
    """Maximum number of generated tokens."""
    temperature: Annotated[float | None, optional("T", "the checkpoint's; 0.8 for a run"), TEMPERATURE] = None
    """Sampling temperature; 0 is greedy."""
    top_k: Annotated[Count | None, optional("K")] = None
    """Sample from the K most likely tokens; 0 from all."""
    top_p: Annotated[Share | None, optional("P")] = None
    """Sample from the most likely tokens with total probability P (nucleus sampling); 1 from all."""
    min_p: Annotated[Unit | None, optional("P")] = None
    """Sample from tokens at least P times as likely as the most likely one; 0 from all."""
    repetition_penalty: Annotated[float | None, optional("R"), REPETITION_PENALTY] = None
    """Above 1, makes earlier tokens less likely; 1 changes nothing."""
    no_repeat_ngram: Annotated[Count | None, optional("N")] = None
    """Never repeat N consecutive tokens; 0 changes nothing."""

    name: ClassVar[str] = "generate"

    def run(self) -> int:
        """Returns 1 if a line failed."""
        generator = self.load()
        options = self.write_options(generator, [0])
        uses_beams = not self.is_run and generator.default_config.beams > 1
        if len(self.inputs) != 1 or uses_beams:
            return self.generate_lines(generator)
        with log_to_stderr("tfm_jax.generate", logging.INFO):  # compile times
            for chunk in generator.stream(decode_text(self.inputs[0]), **options):
                print(chunk, end="", flush=True)
        print()
        return 0

    def option_settings(self) -> dict[str, object]:
        """The options as settings of a generation_config.json; an option of sampling turns sampling on."""
        sampling: dict[str, object] = {
            "temperature": self.temperature,
            "top_k": self.top_k,
            "top_p": self.top_p,
            "min_p": self.min_p,
        }
        if self.temperature == 0:  # greedy, whatever the truncation: each one keeps the most likely token
            sampling = {"do_sample": False}
        elif any(value is not None for value in sampling.values()):
            sampling |= {"do_sample": True, "num_beams": 1}
        return sampling | {
            "repetition_penalty": self.repetition_penalty,
            "no_repeat_ngram_size": self.no_repeat_ngram,
            "max_new_tokens": self.tokens,
            "stop_strings": self.stop or None,
        }

    @property
    def max_length(self) -> int | None:
        """Maximum number of generated tokens; None means the checkpoint's."""
        return 100 if self.tokens is None and self.is_run else self.tokens

    def encode(self, generator: "TextGenerator", text: str) -> None:
        """Raises a ValueError for a prompt that the model cannot read."""
        generator.encode_prompts([text], self.max_length)

    def generate_batch(
        self, generator: "TextGenerator", numbers: list[int], texts: list[str], advance: Advance
    ) -> list[str]:
        """Continues a batch of prompts; line breaks are escaped."""
        options = self.write_options(generator, numbers)
        found = generator.write(texts, batch_size=self.batch_size, on_batch=advance, **options)
        escaped = str.maketrans({"\\": r"\\", "\n": r"\n", "\r": r"\r"})
        return [text.translate(escaped) for text in found]

    def write_options(self, generator: "TextGenerator", numbers: list[int]) -> dict[str, Any]:
        """The arguments of ``TextGenerator.write``; a checkpoint has its settings since it was loaded."""
        if not self.is_run:
            return {"key": self.checkpoint_keys(generator, numbers)}
        V = generator.tokenizer.vocab_size
        if self.top_k is not None and self.top_k > V:
            raise ValueError(f"--top-k: got {self.top_k}; wanted at most the vocabulary size, {V}.")
        temperature = 0.8 if self.temperature is None else self.temperature
        return {
            "key": None if temperature == 0 else self.keys(numbers),
            "max_length": self.max_length,
            "processors": self._processors(temperature),
            "stop": self.stop,
        }

    def _processors(self, temperature: float) -> "tuple[Processor, ...]":
        """The logits processors, in order; an option of 0 changes nothing and has none."""
        generate = tfm_jax.generate
        values = {
            generate.RepetitionPenalty: self.repetition_penalty,
            generate.NoRepeatNgram: self.no_repeat_ngram,
            generate.Temperature: temperature,
            generate.TopK: self.top_k,
            generate.TopP: self.top_p,
            generate.MinP: self.min_p,
        }
        return tuple(processor(value) for processor, value in values.items() if value)
