"""The laws of attention, tried on every peer that is installed: who keeps which. Writes ``docs/laws.md``.

    pip install -e '.[laws,bench]'
    python -m benchmarks.laws                       # a quarter of an hour; --examples 20 is quicker
    python -m benchmarks.laws torch keras           # these anew, the others as they were found last
    python -m benchmarks.laws --sentences           # the table of sentences anew, the rest as it is

What a peer breaks may be what it documents: the page says how each was called, and shows the smallest case.
What was found is kept in ``.cache/laws.json``, so that a run may be broken off.
"""

import argparse
import importlib.metadata
import json
import platform
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import peers
from benchmarks.sentences import sentences
from tfm_jax import laws

ROOT = Path(__file__).parents[1]
PAGE, FOUND = ROOT / "docs" / "laws.md", ROOT / ".cache" / "laws.json"
SUITES = (laws.attention, laws.masked_attention, laws.attention_dropout)
ALSO = ("jaxlib", "numpy", "hypothesis")
"""Distributions whose versions count beside those of the peers."""
LAST = "## The sentences of the explanation"
Results = dict[str, dict[str, laws.Report]]
"""By the name of a suite, by the name of a peer."""


def tried(peer: peers.Peer, examples: int) -> dict[str, Any]:
    """Every suite that it can be asked, as JSON takes it."""
    begun, suites = time.perf_counter(), {}
    for suite in SUITES:
        if suite.name in peer.suites:
            report = laws.check(peer.suites[suite.name], suite, examples=examples)
            suites[suite.name] = {
                found.law.name: [found.asked, found.refused, found.refusal, found.counter_example]
                for found in report.findings
            }
            print(f"{peer.name}: {report.summary()}", flush=True)
    return {
        "how": peer.how,
        "examples": examples,
        "seconds": round(time.perf_counter() - begun),
        "suites": suites,
    }


def results_of(known: dict[str, Any]) -> Results:
    """The reports that were kept, of laws that there still are."""
    return {
        suite.name: {
            name: laws.Report(
                suite.name, tuple(laws.Finding(law, *kept["suites"][suite.name][law.name]) for law in suite)
            )
            for name, kept in known.items()
            if {law.name for law in suite} <= set(kept["suites"].get(suite.name, ()))
        }
        for suite in SUITES
    }


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


def page(known: dict[str, Any]) -> Iterator[str]:
    """The lines of the page, but for the table of sentences."""
    modules = dict(peers.found(list(peers.MODULES)))
    absent = [name for name, found in modules.items() if found is None]
    unasked = [
        name for name, found in modules.items() if found and not known.keys() & {x.name for x in found}
    ]
    versions = [
        f"{name} {importlib.metadata.version(name)}" for name in (*ALSO, *modules) if name not in absent
    ]
    results = results_of(known)
    yield "# The laws, and who keeps them\n"
    yield "Written by `python -m benchmarks.laws`, as it ran: nothing here is put in by hand.\n"
    yield f"- On a CPU; Python {platform.python_version()}; {', '.join(versions)}."
    yield f"- Not installed, and not asked: {', '.join(absent) or 'none'}."
    yield f"- Installed, and not asked in these runs: {', '.join(unasked) or 'none'}.\n"
    yield (
        "*holds*: in all cases that were tried. *holds\\**: in all that it did not refuse by a ValueError, "
        "TypeError or RuntimeError (a failed assertion is counted with these). **breaks**: in the case that "
        "is shown below; what a peer documents to be otherwise is a breach too. –: it refused all cases. "
        "A law holds in the cases that were tried; it is no proof.\n"
    )
    yield "## The peers\n"
    rows = [[n, str(kept["examples"]), str(kept["seconds"]), kept["how"]] for n, kept in known.items()]
    yield from table(["peer", "cases a law", "seconds", "how it was called"], rows)
    for suite in SUITES:
        yield from of_suite(suite, results[suite.name])
    yield from refusals(results)
    yield from counter_examples(results)


def write(body: str) -> None:
    """The page: this, and the table of sentences."""
    last = "\n".join(table(["what it says", "laws", "functions"], list(map(list, sentences()))))
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(
        f"{body}\n\n{LAST}\n\nThe project began with a text that explains the Transformer step by step. What "
        f"each of its sentences says, in our words, and the laws that say it of a function.\n\n{last}\n"
    )


def main() -> None:
    """Tries, and writes the page after each peer."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="DISTRIBUTION", help=f"of {', '.join(peers.MODULES)}")
    parser.add_argument("--examples", type=int, default=100, help="cases a law (default: 100)")
    parser.add_argument("--sentences", action="store_true", help="write the table of sentences alone anew")
    given = parser.parse_args()
    warnings.simplefilter("ignore")  # peers warn of what they will change
    if given.sentences:
        write(PAGE.read_text().split(LAST)[0].rstrip())
        return
    known = json.loads(FOUND.read_text()) if FOUND.exists() else {}
    for _, of_module in peers.found(given.names or list(peers.MODULES)):
        for peer in of_module or ():
            known[peer.name] = tried(peer, given.examples)
            FOUND.parent.mkdir(exist_ok=True)
            FOUND.write_text(json.dumps(known))
            write("\n".join(page(known)))
    print(f"written: {PAGE}")


if __name__ == "__main__":
    main()
