"""``tfm translate``: texts through an encoder-decoder."""

import dataclasses
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from tfm_jax.cli._lines import Advance
from tfm_jax.cli._options import optional
from tfm_jax.cli._text_command import TextCommand
from tfm_jax.ranges import Size, real_range

if TYPE_CHECKING:
    from tfm_jax.generate import TextGenerator

__all__ = ["Translate"]

LENGTH_PENALTY = real_range(-10, 10)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Translate(TextCommand):
    """Translate each text to a line, with the encoder-decoder of a run or a checkpoint."""

    beams: Annotated[Size | None, optional("N", "the model's")] = None
    """Beam size; 1 is greedy."""
    length_penalty: Annotated[float | None, optional("ALPHA", "the model's"), LENGTH_PENALTY] = None
    """Divide log-probabilities by length ** ALPHA; for a run by ((5 + length) / 6) ** ALPHA."""
    max_length: Annotated[
        Size | None, optional("N", "the checkpoint's; for a run the padded source length + 50")
    ] = None
    """Maximum number of generated tokens."""

    name: ClassVar[str] = "translate"

    def run(self) -> int:
        """Returns 1 if a line failed."""
        return self.generate_lines(self.load())

    def option_settings(self) -> dict[str, object]:
        """The options as settings of a generation_config.json."""
        return {
            "num_beams": self.beams,
            "length_penalty": self.length_penalty,
            "max_new_tokens": self.max_length,
            "stop_strings": self.stop or None,
        }

    def encode(self, generator: "TextGenerator", text: str) -> None:
        """Raises a ValueError for a source that the model cannot read."""
        generator.encode_sources([text])

    def generate_batch(
        self, generator: "TextGenerator", numbers: list[int], texts: list[str], advance: Advance
    ) -> list[str]:
        """Translates a batch; line breaks become spaces."""
        options: dict[str, Any] = {"key": self.checkpoint_keys(generator, numbers)}
        if self.is_run:
            options |= {
                "beams": self.beams,
                "length_penalty": self.length_penalty,
                "max_length": self.max_length,
                "stop": self.stop,
            }
        found = generator.translate(texts, batch_size=self.batch_size, on_batch=advance, **options)
        return [" ".join(text.splitlines()) for text in found]
