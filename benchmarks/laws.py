"""The laws of attention, tried on every peer that is installed: who keeps which. Writes ``docs/laws.md``.

    pip install -e '.[laws,bench]'
    python -m benchmarks.laws                       # minutes; --examples 30 is quicker
    python -m benchmarks.laws --sentences           # the table of sentences anew, the rest as it is

What a peer breaks may be what it documents: the page says how each was called, and shows the smallest case.
"""

import argparse
import importlib.metadata
import platform
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

from benchmarks import peers
from benchmarks.sentences import sentences
from tfm_jax import laws

PAGE = Path(__file__).parents[1] / "docs" / "laws.md"
SUITES = (laws.attention, laws.masked_attention, laws.attention_dropout)
ALSO = ("jaxlib", "numpy", "hypothesis")
"""Distributions whose versions count beside those of the peers."""
LAST = "## The sentences of the explanation"
Results = dict[str, dict[str, laws.Report]]
"""By the name of a suite, by the name of a peer."""


def tried(chosen: list[peers.Peer], examples: int) -> Results:
    """Every suite on every peer that it can be asked of."""
    results: Results = {suite.name: {} for suite in SUITES}
    for peer in chosen:
        for suite in SUITES:
            if suite.name in peer.suites:
                begun = time.perf_counter()
                report = laws.check(peer.suites[suite.name], suite, examples=examples)
                results[suite.name][peer.name] = report
                print(f"{peer.name}: {report.summary()} ({time.perf_counter() - begun:.0f} s)", flush=True)
    return results


def table(head: list[str], rows: list[list[str]]) -> Iterator[str]:
    for row in (head, ["---"] * len(head), *rows):
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |"


def word(found: laws.Finding) -> str:
    """The cell of a finding."""
    if found.status == "holds" and found.refused:
        return "holds*"
    return {"holds": "holds", "breaks": "**breaks**", "cannot be asked": "–"}[found.status]


def of_suite(suite: laws.Suite, reports: dict[str, laws.Report]) -> Iterator[str]:
    yield f"\n## laws.{suite.name}\n\n`{suite.signature}`\n"
    rows = []
    for at, law in enumerate(suite):
        rows.append([f"`{law.name}`", *(word(report.findings[at]) for report in reports.values())])
    yield from table(["law", *reports], rows)
    yield ""
    yield from table(["law", "what holds"], [[f"`{law.name}`", law.sentence] for law in suite])


def counter_examples(results: Results) -> Iterator[str]:
    yield "\n## Counter-examples\n\nThe smallest case that was found, a peer and a law."
    for name in dict.fromkeys(name for reports in results.values() for name in reports):
        broken = [
            (suite, found)
            for suite, reports in results.items()
            for found in (reports[name].findings if name in reports else ())
            if found.counter_example is not None
        ]
        if broken:
            yield f"\n<details><summary>{name}: {len(broken)}</summary>\n"
            for suite, found in broken:
                yield f"`laws.{suite}`, `{found.law.name}`: {found.law.sentence}\n"
                yield f"```\n{found.counter_example}\n```\n"
            yield "</details>"


def refusals(results: Results) -> Iterator[str]:
    yield "\n## What was refused\n\nThe first exception, of some cases (\\*) or of all (–).\n"
    count = lambda found: f"{found.refused} of {found.asked + found.refused}"
    rows = [
        [name, f"`{suite}.{found.law.name}`", count(found), found.refusal]
        for suite, reports in results.items()
        for name, report in reports.items()
        for found in report.findings
        if found.refused and found.counter_example is None
    ]
    yield from table(["peer", "law", "cases", "said"], rows)


def page(examples: int) -> Iterator[str]:
    """The lines of the page, but for the table of sentences."""
    begun = time.perf_counter()
    modules = dict(peers.found(list(peers.MODULES)))
    chosen = [peer for of_module in modules.values() for peer in of_module or ()]
    results = tried(chosen, examples)
    versions = [f"{name} {importlib.metadata.version(name)}" for name in ALSO]
    versions += [f"{name} {importlib.metadata.version(name)}" for name, found in modules.items() if found]
    yield "# The laws, and who keeps them\n"
    yield "Written by `python -m benchmarks.laws`, as it ran: nothing here is put in by hand.\n"
    yield f"- {examples} cases a law, on a CPU, {(time.perf_counter() - begun) / 60:.0f} minutes."
    yield f"- Python {platform.python_version()}; {', '.join(versions)}."
    absent = [name for name, found in modules.items() if found is None]
    yield f"- Not installed, and not asked: {', '.join(absent) or 'none'}.\n"
    yield (
        "*holds*: in all cases that were tried. *holds\\**: in all that it did not refuse by a ValueError, "
        "TypeError or RuntimeError (a failed assertion is counted with these). **breaks**: in the case that "
        "is shown below; what a peer documents to be otherwise is a breach too. –: it refused all cases. "
        "A law holds in the cases that were tried; it is no proof.\n"
    )
    yield "## The peers\n"
    yield from table(["peer", "how it was called"], [[peer.name, f"`{peer.how}`"] for peer in chosen])
    for suite in SUITES:
        yield from of_suite(suite, results[suite.name])
    yield from refusals(results)
    yield from counter_examples(results)


def main() -> None:
    """Tries, and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--examples", type=int, default=100, help="cases a law (default: 100)")
    parser.add_argument("--sentences", action="store_true", help="write the table of sentences alone anew")
    given = parser.parse_args()
    warnings.simplefilter("ignore")  # peers warn of what they will change
    kept = PAGE.read_text().split(LAST)[0].rstrip() if given.sentences else None
    body = kept or "\n".join(page(given.examples))
    rows = [[said, names, functions] for said, names, functions in sentences()]
    last = "\n".join(table(["what it says", "laws", "functions"], rows))
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(
        f"{body}\n\n{LAST}\n\nThe project began with a text that explains the Transformer step by step. What "
        f"each of its sentences says, in our words, and the laws that say it of a function.\n\n{last}\n"
    )
    print(f"written: {PAGE}")


if __name__ == "__main__":
    main()
