"""The command ``tfm``: a run's model translates or writes, from arguments, a file or standard input; laws are
tried on a function."""

import contextlib
import dataclasses
import itertools
import logging
import os
import pkgutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from tyro.conf import Positional, arg

import tfm_jax  # its rooms load when they are used: --help waits for none

__all__ = ["Generate", "Laws", "Translate", "main"]

BATCHES = 16
"""Batches between two times that results are printed; their lines are sorted by length."""


def _optional(metavar: str, default: str = "none") -> Any:
    """How --help shows an option that may be left out."""
    return arg(metavar=metavar, help_behavior_hint=f"(default: {default})")


@dataclasses.dataclass(frozen=True)
class _Command:
    """What the commands share."""

    run: Annotated[Positional[Path], arg(metavar="RUN")]
    """The run's directory, with config.json, tokenizer.json and checkpoints/."""
    text: Annotated[Positional[tuple[str, ...]], arg(metavar="[TEXT ...]", help_behavior_hint="")] = ()
    """Without any, and without --file, the lines of standard input."""
    file: Annotated[Path | None, _optional("FILE")] = None
    """Take the lines of a file."""
    batch_size: Annotated[int, arg(metavar="N")] = 32
    """Texts at once; with 1, each line of standard input is answered before the next is read."""
    average: Annotated[int | None, _optional("N", "as the run's config says, or 1")] = None
    """Use the mean of the last so many checkpoints."""

    def check(self) -> None:
        """Raises for what does not fit, before anything is read."""
        if self.text and self.file is not None:
            raise ValueError("the texts are arguments or the lines of --file, not both")
        if self.batch_size < 1:
            raise ValueError(f"--batch-size is at least 1, got {self.batch_size}")


@dataclasses.dataclass(frozen=True)
class Translate(_Command):
    """Translates texts with the encoder-decoder that a run has trained: a line for each."""

    beams: Annotated[int, arg(metavar="N")] = 4
    """Translations that are kept at every length; 1 is greedy."""
    length_penalty: Annotated[float, arg(metavar="ALPHA")] = 0.6
    """Log-probabilities are divided by ((5 + length) / 6) ** ALPHA; 0 is none."""
    max_length: Annotated[int | None, _optional("N", "50 more than the source's, its padding counted")] = None
    """Tokens of a translation at most."""

    def encode(self, generator: Any, text: str) -> None:
        """Raises for a text that the model cannot read."""
        generator.encode_sources([text])

    def use(self, generator: Any, texts: list[str], **options: Any) -> list[str]:
        """A line for each text."""
        options |= {"beams": self.beams, "length_penalty": self.length_penalty, "max_length": self.max_length}
        del options["numbers"]  # nothing is drawn
        found = generator.translate(texts, batch_size=self.batch_size, **options)
        return [" ".join(text.splitlines()) for text in found]


@dataclasses.dataclass(frozen=True)
class Generate(_Command):
    """Writes texts on with the language model that a run has trained.

    One text is written on as it comes; of several, each gives a line, with line breaks written as \\n.
    """

    tokens: Annotated[int, arg(metavar="N")] = 100
    """Tokens to write at most."""
    temperature: Annotated[float, arg(metavar="T")] = 0.8
    """Lower is more certain; 0 takes the likeliest token."""
    top_k: Annotated[int | None, _optional("K")] = None
    """Draw from the K likeliest tokens."""
    top_p: Annotated[float | None, _optional("P")] = None
    """Draw from the likeliest tokens that together have probability P."""
    min_p: Annotated[float | None, _optional("P")] = None
    """Draw from the tokens at least P times as likely as the likeliest."""
    repetition_penalty: Annotated[float | None, _optional("R")] = None
    """Make tokens that were there less likely, by a factor above 1."""
    no_repeat_ngram: Annotated[int | None, _optional("N")] = None
    """Never the same N tokens in a row twice."""
    stop: Annotated[tyro.conf.UseAppendAction[tuple[str, ...]], arg(metavar="TEXT")] = ()
    """End before this text."""
    seed: Annotated[int, arg(metavar="N")] = 0
    """Of what is drawn; each text draws its own, by its place in the input."""

    def encode(self, generator: Any, text: str) -> None:
        """Raises for a text that the model cannot read."""
        generator.encode_prompts([text], self.tokens)

    def use(self, generator: Any, texts: list[str], numbers: list[int], **options: Any) -> list[str]:
        """A line for each text."""
        options |= {"key": self.keys(numbers), "batch_size": self.batch_size, **self.options(generator)}
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


@dataclasses.dataclass(frozen=True)
class Laws:
    """Tries laws on a function: which it keeps, which it breaks, and how."""

    function: Annotated[Positional[str], arg(metavar="MODULE.FUNCTION")]
    """Called as the suite says; for attention with q [B, T, N, H], k and v [B, S, K, H], and a mask, bool
    [B, 1, T, S] or None."""
    suite: Annotated[str, arg(metavar="SUITE")] = "attention"
    """Which laws; an unknown name lists them all, and how each calls the function."""
    examples: Annotated[int, arg(metavar="N")] = 100
    """Cases a law; 500 are thorough."""
    seed: Annotated[int, arg(metavar="N")] = 0
    """The same seed tries the same cases."""

    def use(self) -> int:
        """Prints each finding as it comes; gives 1 where a law is broken or could not be asked."""
        sys.path.insert(0, os.getcwd())  # as python -m does: what one writes stands beside one
        try:
            function = pkgutil.resolve_name(self.function)
        except (ImportError, AttributeError) as error:
            raise ValueError(f"{self.function}: {error}") from error
        if not callable(function):
            raise ValueError(f"{self.function} is no function: {function!r}")
        laws, found = tfm_jax.laws, []
        if self.suite not in laws.SUITES:
            known = "\n".join(f"  {suite.name}: {suite.signature}" for suite in laws.SUITES.values())
            raise ValueError(f"there are no laws of {self.suite!r}; known are:\n{known}")
        suite = laws.SUITES[self.suite]
        for finding in laws.findings(function, suite, examples=self.examples, seed=self.seed):
            print(finding, flush=True)
            found.append(finding)
        report = laws.Report(suite.name, tuple(found))
        print(report.summary())
        return 0 if report.ok else 1


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
        argv: the arguments; None takes those of the process.

    Returns:
        The exit status: 0, 1 where some lines could not be used or a law does not hold, 2 where nothing could
        be done.

    Raises:
        SystemExit: on ``--help``, and on an argument that does not fit, after saying which.
    """
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal may not know all letters
    try:
        command = tyro.cli(
            Translate | Generate | Laws,
            prog="tfm",
            description="Uses the model of a run, or tries laws on a function.",
            args=argv,
            config=(tyro.conf.FlagCreatePairsOff,),
        )
        return command.use() if isinstance(command, Laws) else _use(command)
    except BrokenPipeError:  # who reads the output has enough of it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        return _say(f"{error.filename}: {error.strerror}" if error.strerror else str(error)) or 2
    except ValueError as error:
        return _say(str(error)) or 2
    except KeyboardInterrupt:
        return 130


def _use(command: Translate | Generate) -> int:
    command.check()
    generator = tfm_jax.runs.load_run(command.run, average=command.average)
    if generator.reads_a_source != isinstance(command, Translate):
        name = "translate" if generator.reads_a_source else "generate"
        raise ValueError(f"the model of {command.run} does something else: use tfm {name}")
    if isinstance(command, Generate) and len(command.text) == 1:
        options = {**command.options(generator), "key": command.keys([0])}
        with _compile_times():
            for piece in generator.stream(_text(command.text[0]), **options):
                print(piece, end="", flush=True)
        print()
        return 0
    with contextlib.ExitStack() as stack:
        lines, total = _lines(command, stack)
        advance = stack.enter_context(_bar(total))
        stack.enter_context(_compile_times())
        one_by_one = command.batch_size == 1 or (lines is sys.stdin.buffer and sys.stdin.isatty())
        size = 1 if one_by_one else BATCHES * command.batch_size
        lost, numbered = 0, enumerate(lines)
        while chunk := list(itertools.islice(numbered, size)):
            good = {}
            for number, line in chunk:
                try:
                    if text := _text(line):
                        command.encode(generator, text)
                        good[number] = text
                except ValueError as error:
                    lost += 1
                    _say(f"line {number + 1}: {error}")
            texts, numbers = [*good.values()], [*good]
            found = command.use(generator, texts, numbers=numbers, on_batch=advance) if good else []
            done = dict(zip(numbers, found, strict=True))
            advance(len(chunk) - len(good))
            for number, _ in chunk:
                print(done.get(number, ""), flush=True)
    return 1 if lost else 0


def _lines(command: _Command, stack: contextlib.ExitStack) -> tuple[Iterable[str | bytes], int | None]:
    """The lines; and how many there are, of a file."""
    if command.text:
        return command.text, None
    if command.file is None:
        if sys.stdin.isatty():
            _say("reading lines from the terminal; Ctrl-D ends them")
        return sys.stdin.buffer, None
    with command.file.open("rb") as file:
        total = sum(1 for _ in file)
    return stack.enter_context(command.file.open("rb")), total


def _text(line: str | bytes) -> str:
    try:
        # What of an argument was not UTF-8 stands in it as surrogates.
        data = line.encode(errors="surrogateescape") if isinstance(line, str) else line.rstrip(b"\r\n")
        return data.decode("utf-8-sig")
    except UnicodeError as error:
        raise ValueError(f"this is not UTF-8: {error}") from error


@contextlib.contextmanager
def _bar(total: int | None) -> Iterator[Callable[[int], None]]:
    """Shows how far a file is, on a terminal; gives what moves it."""
    console = Console(stderr=True)
    if total is None or not console.is_terminal:
        yield lambda n: None
        return
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("lines"), TimeRemainingColumn())
    # What is printed beside the bar goes where it went: into a pipe, or above the bar.
    with Progress(*columns, console=console, redirect_stdout=sys.stdout.isatty()) as progress:
        task = progress.add_task("", total=total)
        yield lambda n: progress.advance(task, n)


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


def _say(message: str) -> None:
    print(f"tfm: {message}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
