"""The laws of attention, checked on attention of other libraries; writes docs/laws.md and docs/laws.json.

    pip install -e '.[laws,bench]'
    python -m benchmarks.laws                                # all installed libraries: about an hour
    python -m benchmarks.laws torch flax --suites attention  # these, merged into docs/laws.json
    python -m benchmarks.laws --page                         # only the page, from docs/laws.json

docs/laws.json is written after each peer, so an interrupted run keeps its results. A violated law may be
documented behavior: each peer's entry says how the function was called.
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
from tfm_jax.laws.report import Finding

DOCS = Path(__file__).parents[1] / "docs"
PAGE, DATA = DOCS / "laws.md", DOCS / "laws.json"
SUITES = {suite.name: suite for suite in (laws.attention, laws.masked_attention, laws.attention_dropout)}
OUTCOMES = ("holds", "violated", "not supported")
TEMPLATE = """\
# Laws of attention in other libraries

A law is a property that a function must have. `tfm_jax.laws` has {n_laws} laws in {n_suites} suites.
This page shows which laws of attention hold for the attention functions of other libraries.
It is written by `python -m benchmarks.laws` from [laws.json](laws.json).

To check your own function: `print(laws.check(my_attention, laws.attention))`; see [suites.md](suites.md).

## Method

Each law was checked on {examples} random cases. A case that violates it was reduced to the smallest one.

- *Holds*: in all cases checked. This is no proof.
- *Violated*: there is a counterexample. The behavior may be documented.
- *Not supported*: the function raised ValueError, TypeError, RuntimeError or AssertionError in every case.
  A law also holds if the function raised in some cases; `unsupported` in the data file is their number.

{not_run}Environments:

{environments}

## Summary

The number of laws that hold / are violated / are not supported; – if the suite was not run.

{summary}

## Laws that several functions violate

{violated}

## Statements about the Transformer

Statements of an introduction to the Transformer, the laws that check them, and the functions.

{statements}

## Full table

[laws.json](laws.json) has one entry per function in `peers`: `called` (how the function was called) and
`runs`, with `examples` (cases per law), `environment` and `not_run` (laws that are newer than the run) of
each suite. It has one entry per function and law in `findings`: `peer`, `suite`, `law`, `sentence`,
`outcome`, `cases` (the number checked, null if not recorded), `unsupported`, `reason` (the first exception),
`counterexample`, and `environment` if it was run later than the rest of its suite.
"""
Data = dict[str, Any]
"""The content of docs/laws.json: ``peers``, by name, and ``findings``, one per peer, suite and law."""


def environment_of(distribution: str) -> str:
    """The versions that matter for a peer."""
    names = dict.fromkeys(("jax", "jaxlib", "numpy", "hypothesis", distribution))
    versions = [f"{name} {importlib.metadata.version(name)}" for name in names]
    return ", ".join(["CPU", f"Python {platform.python_version()}", *versions])


def check_peer(peer: peers.Peer, distribution: str, suites: list[str], examples: int) -> Data:
    """The entry of a peer, and its findings, in the form of docs/laws.json."""
    runs, findings = {}, []
    for name in suites:
        if name in peer.suites:
            start = time.perf_counter()
            report = laws.check(peer.suites[name], SUITES[name], examples=examples)
            print(f"{peer.name}: {report.summary()} ({time.perf_counter() - start:.0f} s)", flush=True)
            runs[name] = {"examples": examples, "environment": environment_of(distribution)}
            findings += [_as_json(peer.name, name, found) for found in report.findings]
    return {"peers": {peer.name: {"called": peer.called, "runs": runs}}, "findings": findings}


def _as_json(peer: str, suite: str, found: Finding) -> dict[str, Any]:
    return {
        "peer": peer,
        "suite": suite,
        "law": found.law.name,
        "sentence": found.law.sentence,
        "outcome": found.status,
        "cases": found.cases,
        "unsupported": found.unsupported,
        "reason": found.reason,
        "counterexample": found.counterexample,
    }


def merge(old: Data, new: Data) -> Data:
    """The old data, with the new runs in place of those of the same peers and suites.

    Findings of laws that do not exist any more are dropped. New peers come last; findings are in the order of
    peers and ``SUITES``.
    """
    entries = dict(old["peers"])
    for name, entry in new["peers"].items():
        runs = {**entries.get(name, {}).get("runs", {}), **entry["runs"]}
        entries[name] = {"called": entry["called"], "runs": runs}
    replaced = {(name, suite) for name, entry in new["peers"].items() for suite in entry["runs"]}
    kept = [found for found in old["findings"] if (found["peer"], found["suite"]) not in replaced]
    law_names = {name: {law.name for law in suite} for name, suite in SUITES.items()}
    existing = [x for x in [*kept, *new["findings"]] if x["law"] in law_names.get(x["suite"], ())]
    names, suites = list(entries), list(SUITES)
    existing.sort(key=lambda found: (names.index(found["peer"]), suites.index(found["suite"])))
    return {"peers": entries, "findings": existing}


def read() -> Data:
    return json.loads(DATA.read_text()) if DATA.exists() else {"peers": {}, "findings": []}


def write(data: Data) -> None:
    """Writes docs/laws.json, one line per peer and finding, and docs/laws.md."""
    entries = [f"    {_compact(name)}: {_compact(entry)}" for name, entry in data["peers"].items()]
    findings = [f"    {_compact(found)}" for found in data["findings"]]
    lines = [
        '{"peers": {',
        ",\n".join(entries),
        "  },",
        '  "findings": [',
        ",\n".join(findings),
        "  ]",
        "}",
        "",
    ]
    DATA.write_text("\n".join(lines))
    PAGE.write_text(page(data))


def _compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def table(head: list[str], rows: list[list[str]]) -> Iterator[str]:
    for row in (head, ["---"] * len(head), *rows):
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |"


def summary_rows(data: Data) -> list[list[str]]:
    """Per peer and suite: the number of laws that hold, are violated, and are not supported."""
    rows = []
    for name in data["peers"]:
        row = [name]
        for suite in SUITES:
            found = [x["outcome"] for x in data["findings"] if (x["peer"], x["suite"]) == (name, suite)]
            row.append(" / ".join(str(found.count(outcome)) for outcome in OUTCOMES) if found else "–")
        rows.append(row)
    return rows


def most_violated_rows(data: Data, at_least: int = 4) -> list[list[str]]:
    """The laws that several peers violate: law, sentence, number of peers."""
    rows = []
    for suite in SUITES.values():
        for law in suite:
            found = [x for x in data["findings"] if (x["suite"], x["law"]) == (suite.name, law.name)]
            n = sum(x["outcome"] == "violated" for x in found)
            if n >= at_least:
                rows.append([f"`{suite.name}.{law.name}`", law.sentence, f"{n} of {len(found)}"])
    return rows


def not_run_lines(data: Data) -> list[str]:
    """One line per law that was not run on some peers, as it is newer than their runs."""
    missing: dict[str, list[str]] = {}
    for name, entry in data["peers"].items():
        for suite, run in entry["runs"].items():
            for law in run.get("not_run", ()):
                missing.setdefault(f"{suite}.{law}", []).append(name)
    return [f"Not run: `{law}` on {'; '.join(names)}." for law, names in missing.items()]


def page(data: Data) -> str:
    """The text of docs/laws.md."""
    runs = [run for entry in data["peers"].values() for run in entry["runs"].values()]
    environments = [x["environment"] for x in [*runs, *data["findings"]] if "environment" in x]
    return TEMPLATE.format(
        n_laws=sum(len(suite.laws) for suite in laws.SUITES.values()),
        n_suites=len(laws.SUITES),
        examples=" to ".join(str(n) for n in sorted({run["examples"] for run in runs})),
        not_run="".join(f"{line}\n\n" for line in not_run_lines(data)),
        environments="\n".join(f"- {x}" for x in dict.fromkeys(environments)),
        summary="\n".join(table(["function", *(f"`{name}`" for name in SUITES)], summary_rows(data))),
        violated="\n".join(table(["law", "property", "violated by"], most_violated_rows(data))),
        statements="\n".join(table(["statement", "laws", "functions"], list(map(list, sentences())))),
    )


def main() -> None:
    """Checks the peers, and writes both files after each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "names", nargs="*", metavar="DISTRIBUTION", help=f"of {', '.join(peers.MODULES)} (default: all)"
    )
    parser.add_argument("--suites", nargs="+", choices=list(SUITES), default=list(SUITES))
    parser.add_argument("--examples", type=int, default=100, help="cases per law (default: 100)")
    parser.add_argument("--page", action="store_true", help="only write docs/laws.md, from docs/laws.json")
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # deprecation warnings of the libraries
    if options.page:
        write(read())
        return
    for distribution, found in peers.load(options.names or list(peers.MODULES)):
        if found is None:
            print(f"{distribution}: not installed")
        for peer in found or ():
            if not peer.suites.keys() & set(options.suites):
                continue
            write(merge(read(), check_peer(peer, distribution, options.suites, options.examples)))
    print(f"written: {PAGE}, {DATA}")


if __name__ == "__main__":
    main()
