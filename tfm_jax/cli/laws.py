"""``tfm laws``: a function against a suite of laws."""

import contextlib
import dataclasses
import importlib
import importlib.util
import inspect
import json
import os
import pkgutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, UseAppendAction, arg

import tfm_jax  # subpackages load on first use: --help stays fast
from tfm_jax.cli._options import Command, optional
from tfm_jax.fields import option_name
from tfm_jax.ranges import Seed, Size

if TYPE_CHECKING:
    from tfm_jax.laws import Report, Suite

__all__ = ["Laws"]

METAVAR = "MODULE.FUNCTION|FILE.py:FUNCTION"


@dataclasses.dataclass(frozen=True)
class Laws(Command):
    """Check a function against a suite of laws, with a counterexample for each violated law."""

    function: Annotated[Positional[str], arg(metavar=METAVAR)]
    """The function. That of attention takes q [B, T, N, H], k, v [B, S, K, H], and mask, bool [B, 1, T, S] or
    None."""
    suite: Annotated[str, arg(metavar="SUITE")] = "attention"
    """The suite of laws. An unknown name lists all, and how they call the function."""
    adapter: UseAppendAction[tuple[Literal["torch", "numpy", "heads-first"], ...]] = ()
    """What the function takes: tensors of torch, arrays of NumPy, or [B, N, T, H] (repeatable)."""
    kv_heads: Literal["any", "equal"] = "any"
    """equal: for attention without grouped heads, the laws have K = N in every case."""
    heads: Annotated[Size | None, optional("N", "several")] = None
    """The one number of heads N that the attention supports."""
    head_dim: Annotated[Size | None, optional("H", "several")] = None
    """The one head dim H that the attention supports, at least 4."""
    examples: Annotated[Size, arg(metavar="N")] = 100
    """Examples per law; 500 are thorough."""
    seed: Annotated[Seed, arg(metavar="N")] = 0
    """The same seed gives the same examples."""
    json: bool = False
    """Print the report as JSON."""
    markdown: bool = False
    """Print the report as Markdown."""
    badge: Annotated[Path | None, optional("FILE")] = None
    """Write a badge: FILE.svg, or FILE.json for an endpoint of shields.io."""

    def check(self) -> None:
        """Checks that options fit together."""
        if self.json and self.markdown:
            raise ValueError("--json: got --markdown too; wanted one of both.")
        if self.badge is not None and self.badge.suffix not in (".svg", ".json"):
            raise ValueError(f"--badge: got {self.badge}; wanted a name that ends in .svg or .json.")
        if self.badge is not None and not self.badge.parent.is_dir():
            raise ValueError(f"--badge: got {self.badge}; wanted a file in a directory that exists.")
        if {"torch", "numpy"} <= set(self.adapter):
            raise ValueError("--adapter: got torch and numpy; wanted one of both.")

    def run(self) -> int:
        """Prints the report; returns 1 unless every law holds."""
        function, suite = self._function(), self._suite()
        report = self._report(function, suite, self._options(suite))
        if self.json:
            print(json.dumps(report.to_dict(), indent=2, ensure_ascii=False))
        elif self.markdown:
            print(report.to_markdown())
        else:
            print(report.conclusion())
        if self.badge is not None:
            report.write_badge(self.badge)
        return 0 if report.ok else 1

    def _report(self, function: Callable[..., object], suite: "Suite", options: dict[str, Any]) -> "Report":
        """The report; as text, each finding is printed when it is known."""
        from tfm_jax.laws.report import Transcript

        findings, transcript, laws = [], Transcript(), tfm_jax.laws
        for finding in laws.findings(function, suite, examples=self.examples, seed=self.seed, **options):
            findings.append(finding)
            if not (self.json or self.markdown) and (text := transcript.text(finding)):
                print(text, flush=True)
        return laws.Report(suite.name, tuple(findings))

    def _suite(self) -> "Suite":
        suites = tfm_jax.laws.SUITES
        if self.suite not in suites:
            known = "\n".join(f"  {suite.name}: {suite.signature}" for suite in suites.values())
            raise ValueError(f"--suite: got {self.suite!r}; wanted one of these:\n{known}")
        return suites[self.suite]

    def _options(self, suite: "Suite") -> dict[str, Any]:
        """The options of the suite that are set."""
        values = {"kv_heads": self.kv_heads, "heads": self.heads, "head_dim": self.head_dim}
        options = {name: value for name, value in values.items() if value not in (None, "any")}

        def takes(suite: "Suite", name: str) -> bool:
            return name in inspect.signature(suite.subject).parameters

        for name in options:
            if not takes(suite, name):
                wanted = ", ".join(x.name for x in tfm_jax.laws.SUITES.values() if takes(x, name))
                raise ValueError(f"{option_name(name)}: got --suite {suite.name}; wanted one of {wanted}.")
        if self.head_dim is not None and self.head_dim < 4:
            raise ValueError(f"--head-dim: got {self.head_dim}; wanted at least 4.")
        return options

    def _function(self) -> Callable[..., object]:
        with self._errors():
            function = _load(self.function)
        if not callable(function):
            raise ValueError(f"{METAVAR}: got {self.function} = {function!r}; wanted a function.")
        laws = tfm_jax.laws
        adapters = {"torch": laws.torch, "numpy": laws.numpy, "heads-first": laws.heads_first}
        for name in sorted(set(self.adapter), reverse=True):  # heads-first last, around the others
            function = adapters[name](function)
        return function

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """Makes what a module raises when it is imported an error of one line."""
        try:
            yield
        except OSError as error:
            raise ValueError(f"{METAVAR}: got {self.function}; wanted a file ({error.strerror}).") from error
        except Exception as error:
            reason = str(error) if isinstance(error, ImportError | AttributeError) else repr(error)
            raise ValueError(f"{METAVAR}: got {self.function}; wanted a function ({reason}).") from error


def _load(name: str) -> Any:
    path, _, attribute = name.rpartition(":")
    if path.endswith(".py"):
        module = _load_file(Path(path))
        for part in attribute.split("."):
            module = getattr(module, part)
        return module
    sys.path.insert(0, os.getcwd())  # as python -m does, to import a module of the current directory
    parent, _, attribute = name.rpartition(".")
    # First the function of a package, then its module of that name, as in tfm_jax.ops.attention.
    with contextlib.suppress(ImportError, AttributeError, ValueError):
        if callable(function := getattr(importlib.import_module(parent), attribute)):
            return function
    return pkgutil.resolve_name(name)


def _load_file(path: Path) -> Any:
    path.stat()  # an error that names the file
    sys.path.insert(0, str(path.parent.resolve()))  # as python FILE does, for its imports
    spec = importlib.util.spec_from_file_location(f"laws_of_{path.stem}", path)
    assert spec is not None and spec.loader is not None  # of a .py file
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module
