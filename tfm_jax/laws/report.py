"""``Report``: what holds, what is violated by which case, and what is not supported, as text or data."""

import dataclasses
import json
import re
import traceback
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from typing import Any

from tfm_jax.laws.law import SEVERITIES, Law
from tfm_jax.laws.subject import Call, Unsupported

__all__ = ["Finding", "Report", "Transcript", "UnsupportedCase", "unsupported_case"]

STATUSES = ("holds", "violated", "not supported")
HIDDEN = re.compile(r"[/\\](tfm_jax[/\\]laws|jax[/\\]_src|jaxlib|hypothesis)[/\\]|^<frozen")
"""The files of frames that a user did not write."""
COLORS = {"green": "#4c1", "yellow": "#dfb317", "red": "#e05d44"}
WRAPPERS = (
    "A function of torch tensors or of NumPy arrays, or of [B, N, T, H], needs an adapter: laws.torch(f), "
    "laws.numpy(f), laws.heads_first(f); on the command line, --adapter."
)


@dataclasses.dataclass(frozen=True)
class UnsupportedCase:
    """The first case of a law that the function did not support.

    Args:
      reason: the exception, as one line.
      kind: its type.
      place: what is equal for exceptions of one type from one line of the user's code.
      called: the arguments of the call, by name, with dtypes and shapes; "" if the function was not called.
      traceback: the user's frames, and the message.
      signature: of the suite, if the function supports no call of it; else "".
    """

    reason: str
    kind: type[BaseException]
    place: tuple[object, ...]
    called: str
    traceback: str
    signature: str = ""


@dataclasses.dataclass(frozen=True)
class Finding:
    """The result of one law.

    Args:
      law: the law.
      cases: the number of cases in which the law was checked.
      unsupported: the number of cases that the function did not support.
      reason: the first of these exceptions, as text; "" without any.
      counterexample: the smallest case found that violates the law, with the message; None where it holds.
      severity: of the violation, or of the law.
      first_unsupported: more about the first exception; None without any.
    """

    law: Law
    cases: int
    unsupported: int
    reason: str
    counterexample: str | None
    severity: str
    first_unsupported: UnsupportedCase | None = None

    @property
    def status(self) -> str:
        """ "holds", "violated" or "not supported"."""
        if self.counterexample is not None:
            return "violated"
        return "holds" if self.cases else "not supported"

    def __str__(self) -> str:
        lines = [f"{self.status:13s} {self.law.name}: {self.law.sentence}"]
        if self.counterexample is not None:
            lines += [f"    {line}" for line in self.counterexample.splitlines()]
        elif self.unsupported:
            total = self.cases + self.unsupported
            lines.append(f"    {self.unsupported} of {total} cases not supported: {self.reason}")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """The finding as JSON data."""
        return {
            "law": self.law.name,
            "sentence": self.law.sentence,
            "severity": self.severity,
            "status": self.status,
            "cases": self.cases,
            "unsupported": self.unsupported,
            "reason": self.reason,
            "counterexample": self.counterexample,
        }


class Transcript:
    """Findings as text, in order: the traceback of one line of code is shown once."""

    def __init__(self) -> None:
        self._shown: set[tuple[object, ...]] = set()

    def text(self, finding: Finding) -> str:
        """The text of the next finding; "" if the text so far says all of it."""
        first_unsupported = finding.first_unsupported
        if first_unsupported is None or finding.status != "not supported":
            return str(finding)
        is_new = first_unsupported.place not in self._shown
        self._shown.add(first_unsupported.place)
        if first_unsupported.signature:
            return _supports_no_call(first_unsupported) if is_new else ""
        return "\n".join([str(finding), *(_details(first_unsupported) if is_new else ())])


def _details(first_unsupported: UnsupportedCase) -> Iterator[str]:
    if first_unsupported.called:
        yield f"    called with {first_unsupported.called}"
    yield from (f"    {line}" for line in first_unsupported.traceback.splitlines())


def _supports_no_call(first_unsupported: UnsupportedCase) -> str:
    head = "not supported: the function refuses every call of the suite's signature, which is"
    return "\n".join(
        [head, f"    {first_unsupported.signature}", *_details(first_unsupported), f"    {WRAPPERS}"]
    )


@dataclasses.dataclass(frozen=True)
class Report:
    """The findings of a suite; as text, one line per law, with the counterexamples.

    Args:
      suite: the name of the suite.
      findings: one per law.
    """

    suite: str
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether every law holds. A law that is not supported is not violated, but does not hold either."""
        return not self.violated and not self.unsupported

    @property
    def violated(self) -> tuple[str, ...]:
        """The names of the violated laws."""
        return self._with_status("violated")

    @property
    def unsupported(self) -> tuple[str, ...]:
        """The names of the laws for which the function supports no case."""
        return self._with_status("not supported")

    def _with_status(self, status: str) -> tuple[str, ...]:
        return tuple(found.law.name for found in self.findings if found.status == status)

    def __str__(self) -> str:
        transcript = Transcript()
        texts = filter(None, map(transcript.text, self.findings))
        return "\n".join([*texts, self.conclusion()])

    def by_severity(self) -> list[Finding]:
        """The violated laws, wrong results first."""
        violated = [found for found in self.findings if found.status == "violated"]
        return sorted(violated, key=lambda found: SEVERITIES.index(found.severity))

    def conclusion(self) -> str:
        """The violated laws once more if there are other laws, wrong results first, and the summary."""
        again = self.by_severity() if len(self.findings) > 1 else ()
        lines = [f"{x.severity:13s} {x.law.name}: {x.law.sentence}" for x in again]
        return "\n".join([*(["Violated:", *lines] if lines else ()), self.summary()])

    def summary(self) -> str:
        """The number of laws by status, in one line."""
        holding, violated, unsupported = (len(self._with_status(status)) for status in STATUSES)
        return (
            f"{len(self.findings)} laws of {self.suite}: {holding} hold, {violated} violated, "
            f"{unsupported} not supported"
        )

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON data: ``suite``, the number of laws by status, and ``findings``."""
        counts = {status.replace(" ", "_"): len(self._with_status(status)) for status in STATUSES}
        return {"suite": self.suite, **counts, "findings": [found.to_dict() for found in self.findings]}

    def to_markdown(self) -> str:
        """The report as a page of Markdown: the summary, a table of the laws, and the counterexamples."""
        lines = [
            f"## Laws of {self.suite}",
            "",
            f"{self.summary()}.",
            "",
            "| law | property | |",
            "| --- | --- | --- |",
        ]
        for found in self.findings:
            status = f"violated ({found.severity})" if found.status == "violated" else found.status
            sentence = found.law.sentence.replace("|", "\\|")
            lines.append(f"| `{found.law.name}` | {sentence} | {status} |")
        for found in self.by_severity():
            lines += ["", f"### {found.law.name}", "", found.law.sentence, ""]
            lines += ["```", str(found.counterexample), "```"]
        reasons = {x.reason: x.law.name for x in reversed(self.findings) if x.status == "not supported"}
        lines += (
            ["", *(f"Not supported, such as `{name}`: {x}" for x, name in reasons.items())] if reasons else []
        )
        return "\n".join(lines)

    def write_badge(self, path: Path | str) -> None:
        """Writes a badge: an SVG image, or for a name that ends in ".json" the data of a shields.io endpoint.

        Args:
          path: of the file.

        Returns:
          Nothing. The badge is green if all laws hold, yellow if only contracts are violated or laws are not
          supported, else red.

        Raises:
          ValueError: for another ending than ".svg" or ".json".
        """
        path = Path(path)
        label, message = (
            f"laws of {self.suite}",
            f"{len(self._with_status('holds'))} of {len(self.findings)} hold",
        )
        color = "green" if self.ok else "yellow"
        if any(found.severity == SEVERITIES[0] for found in self.by_severity()):
            color = "red"
        if path.suffix == ".json":
            data = {"schemaVersion": 1, "label": label, "message": message, "color": color}
            path.write_text(json.dumps(data) + "\n")
        elif path.suffix == ".svg":
            path.write_text(_svg(label, message, COLORS[color]))
        else:
            raise ValueError(f"write_badge: got {path}; wanted a name that ends in .svg or .json.")


def _svg(label: str, message: str, color: str) -> str:
    left, right = (7 * len(text) + 12 for text in (label, message))
    texts = [(left / 2, label), (left + right / 2, message)]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + right}" height="20" role="img">',
            f"  <title>{escape(label)}: {escape(message)}</title>",
            f'  <rect width="{left}" height="20" fill="#555"/>',
            f'  <rect x="{left}" width="{right}" height="20" fill="{color}"/>',
            '  <g fill="#fff" text-anchor="middle" font-family="Verdana,sans-serif" font-size="11">',
            *(f'    <text x="{x:g}" y="14">{escape(text)}</text>' for x, text in texts),
            "  </g>",
            "</svg>",
            "",
        ]
    )


def unsupported_case(unsupported: Unsupported, signature: str) -> UnsupportedCase:
    """What a report says about the first case that a function did not support.

    Args:
      unsupported: with the function's exception as its cause.
      signature: of the suite, for the names of the arguments.
    """
    error, reason = unsupported.__cause__, str(unsupported)
    called = "" if unsupported.call is None else _describe(unsupported.call, _names(signature))
    if error is None:
        return UnsupportedCase(reason, Unsupported, (reason,), called, "")
    frames = traceback.extract_tb(error.__traceback__)
    shown = [frame for frame in frames if not HIDDEN.search(frame.filename)][-4:]
    place = (
        type(error),
        *((x.filename, x.lineno) for x in shown[-1:]),
    )  # of a builtin function: its type alone
    lines = "".join(traceback.format_list(shown)).splitlines()
    message = str(error).strip().splitlines()[:8] or [""]
    text = [*lines, f"{type(error).__name__}: {message[0][:400]}", *(line[:200] for line in message[1:])]
    return UnsupportedCase(reason, type(error), place, called, "\n".join(text))


def _names(signature: str) -> list[str]:
    """The names of the positional arguments in a signature, such as "attend(q [B, T], k) -> y"."""
    inside = re.match(r"\w+\(", signature)
    if not inside:
        return []
    parts, depth = [""], 0
    for letter in signature[inside.end() :]:
        depth += (letter in "([") - (letter in ")]")
        if depth < 0:
            break
        if letter == "," and not depth:
            parts.append("")
        else:
            parts[-1] += letter
    found = [re.match(r"\s*(\w+)", part) for part in parts]
    return [match.group(1) if match else "" for match in found]


def _describe(call: Call, names: Sequence[str]) -> str:
    args = [
        f"{names[i] if i < len(names) and names[i] else f'argument {i}'} {text}"
        for i, text in enumerate(call.args)
    ]
    return ", ".join([*args, *(f"{name}={text}" for name, text in call.options.items())])
