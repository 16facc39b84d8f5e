"""Writes docs/scale.md: what training steps need on accelerators that are not there.

    python -m benchmarks.scale                          # all cases, one after another: an hour or more
    python -m benchmarks.scale --only "1.24 B, v5e"     # those whose name contains the text; the others stay
    python -m benchmarks.scale --print                  # writes the page again, from the saved cases

Each case compiles in a process of its own, with the real compiler of its platform (the extras ``tpu`` and
``cuda13``), and is saved as a line of docs/scale.json. No device is needed.
"""

import argparse
import dataclasses
import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tfm_jax.train.plan import cache, topologies
from tfm_jax.train.plan.compiling import compile_step
from tfm_jax.train.plan.formulas import Setting, traffic
from tfm_jax.train.plan.report import Report, make_report
from tfm_jax.train.plan.search import cheapest_fix

__all__ = ["CASES", "Case", "main", "page"]

ROOT = Path(__file__).parents[1]
DATA, PAGE = ROOT / "docs" / "scale.json", ROOT / "docs" / "scale.md"
COUNTED = ("all-gather", "all-reduce", "reduce-scatter")
LLAMA = ["--model.no-unroll", "--model.dtype", "bfloat16", "--model.remat", "full", "--data.length", "2048"]
MODELS = {
    "paper big": (
        "translation",
        [
            *("--model.vocab-size", "37000", "--model.d-model", "1024", "--model.n-heads", "16"),
            *("--model.n-layers", "6", "--model.d-ff", "4096", "--model.dtype", "bfloat16"),
            *("--model.no-unroll", "--data.max-length", "256"),
        ],
    ),
    "1.24 B": (
        "language_model",
        [
            *("--model.vocab-size", "128256", "--model.d-model", "2048", "--model.n-layers", "16"),
            *("--model.n-heads", "32", "--model.n-kv-heads", "8", "--model.d-ff", "8192", *LLAMA),
        ],
    ),
    "7 B": (
        "language_model",
        [
            *("--model.vocab-size", "32000", "--model.d-model", "4096", "--model.n-layers", "32"),
            *("--model.n-heads", "32", "--model.d-ff", "11008", "--model.no-tie-embeddings", *LLAMA),
        ],
    ),
}
"""The Transformer of Vaswani et al. 2017, and decoders of the sizes of Llama 3.2 1B and Llama 2 7B."""
BEFORE = {"1.24 B, v5e:16x16": 174.5}
"""GiB a device and step that release 0.3 exchanged, whose modules do not say where activations live: an
earlier measurement, which this program does not repeat."""
COMPILERS = {"tpu": "libtpu", "gpu": "jax-cuda13-pjrt"}
"""The package of the compiler of a platform."""


@dataclasses.dataclass(frozen=True)
class Case:
    """A model on a topology: its mesh and the examples of a batch."""

    model: str
    topology: str
    mesh: dict[str, int]
    batch: int

    @property
    def name(self) -> str:
        return f"{self.model}, {self.topology}"

    @property
    def options(self) -> list[str]:
        """Of the experiment."""
        sizes = [part for axis, n in self.mesh.items() for part in (f"--mesh.{axis}", str(n))]
        return [*MODELS[self.model][1], "--train.batch-size", str(self.batch), *sizes]

    @property
    def command(self) -> str:
        """``tfm plan ...``"""
        return " ".join(["tfm plan", MODELS[self.model][0], "--topology", self.topology, *self.options])


CASES = [
    Case("1.24 B", "v5e:16x16", {"data": 16, "fsdp": 16}, 512),
    Case("1.24 B", "h200:8", {"fsdp": 8}, 64),
    Case("paper big", "h200:8", {"data": 8}, 512),
    Case("7 B", "h200:8", {"fsdp": 8}, 32),
    Case("paper big", "v5e:16x16", {"data": 16, "fsdp": 16}, 4096),
    Case("7 B", "v5e:16x16", {"data": 4, "fsdp": 64}, 512),
    Case("1.24 B", "v5p:8x8x8", {"data": 32, "fsdp": 16}, 1024),
    Case("7 B", "v5p:8x8x8", {"data": 8, "fsdp": 64}, 1024),
    Case("paper big", "v5p:8x8x8", {"data": 32, "fsdp": 16}, 8192),
]
"""The first is the one to read first: its exchanges are compared with the formula."""


def run_case(case: Case) -> dict[str, Any]:
    """Compiles a case in this process."""
    topologies.prepare(case.topology)
    experiment = importlib.import_module(f"experiments.{MODELS[case.model][0]}.plan")
    task = experiment.plan(experiment.parse(case.options))
    step = compile_step(task, case.topology)
    report = make_report(task, case.topology, step, cheapest_fix(task, case.topology, step))
    setting = Setting(dict(step.mesh), task.model.config.remat, task.accumulate)
    formula = dataclasses.asdict(traffic(task, setting))
    return {
        "name": case.name,
        "versions": cache.versions(),
        "report": report.to_json(),
        "formula": formula,
    }


def page(saved: dict[str, dict[str, Any]]) -> str:
    """The page, of the cases that were compiled."""
    lines = [
        "# Scale",
        "",
        "Training steps compiled by the TPU and GPU compilers, without a device. Memory, bytes and counts",
        "are those of the compiled programs; times are estimates. `python -m benchmarks.scale` writes this",
        "page, and [plan.md](plan.md) says how to plan another step.",
        "",
        "| model, devices | mesh | tokens a step | memory a device | exchanged a device | estimate of a step "
        "| compiled in |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    lines += [
        _row(case, Report.from_json(saved[case.name]["report"])) for case in CASES if case.name in saved
    ]
    for case in CASES:
        if case.name in saved:
            lines += ["", *_section(case, saved[case.name])]
    missing = [case.name for case in CASES if case.name not in saved]
    if missing:
        lines += ["", f"Not compiled yet: {'; '.join(missing)}."]
    return "\n".join([*lines, ""])


def _row(case: Case, report: Report) -> str:
    mesh = " x ".join(f"{axis} {n}" for axis, n in report.mesh.items())
    seconds, mfu = report.seconds(), report.mfu(topologies.chip_of(case.topology))
    time = "" if seconds is None or mfu is None else f"{1e3 * seconds[0]:,.0f} to {1e3 * seconds[1]:,.0f} ms"
    share = "" if mfu is None else f", MFU {mfu[0]:.0%} to {mfu[1]:.0%}"
    memory = f"{_gib(report.memory)} of {_gib(report.capacity or 0)} GiB"
    verdict = "" if report.fits else ", does not fit"
    exchanged = f"{_gib(report.exchanged)} GiB" if report.collectives else ""
    return (
        f"| {case.name} | {mesh} | {report.tokens:,} | {memory}{verdict} | {exchanged} | {time}{share} "
        f"| {report.compile_seconds:,.0f} s |"
    )


def _section(case: Case, saved: dict[str, Any]) -> list[str]:
    """The collectives of a case, measured and by formula."""
    report, formula = Report.from_json(saved["report"]), saved["formula"]
    by_kind = {kind: sum(r.total for r in report.collectives if r.kind == kind) for kind in COUNTED}
    measured, expected = sum(by_kind.values()), sum(formula.values())
    pairs = zip(COUNTED, (formula["gathered"], formula["reduced"], formula["scattered"]), strict=True)
    lines = [f"## {case.name}", "", "```sh", case.command, "```", ""]
    compiler = COMPILERS[topologies.chip_of(case.topology).platform]
    if version := saved.get("versions", {}).get(compiler):
        lines += [f"Compiled with {compiler} {version}.{' ' + saved['note'] if 'note' in saved else ''}", ""]
    if report.fits is False:
        lines += [f"It does not fit: {_gib(report.memory)} GiB. {report.fix or ''}".strip(), ""]
    if not report.collectives:
        return lines[:-1]
    lines += ["| GiB a device and step | in the program | by formula |", "| --- | --- | --- |"]
    lines += [f"| {kind} | {_gib(by_kind[kind])} | {_gib(size)} |" for kind, size in pairs]
    lines += [f"| sum | {_gib(measured)} | {_gib(expected)} ({measured / expected - 1:+.1%}) |"]
    others = report.exchanged - measured
    if others:
        lines += [f"| other kinds | {_gib(others)} | |"]
    if before := BEFORE.get(case.name):
        lines += [
            "",
            f"Release 0.3 exchanged {before} GiB, by an earlier measurement of the same model, mesh and",
            "batch, which the command above does not repeat.",
        ]
    lines += ["", "| GiB | times | array | collective | line |", "| --- | --- | --- | --- | --- |"]
    for r in report.collectives[:10]:
        array = f"{r.dtype}[{','.join(map(str, r.shape))}]"
        lines.append(f"| {_gib(r.total)} | {r.count:,} | {array} | {r.kind} over {r.axes} | {r.source} |")
    lines += ["", f"Attention: {'; '.join(report.attention) or 'not in the program'}."]
    return lines


def _gib(size: float) -> str:
    return f"{size / 2**30:,.2f}"


def main() -> None:
    """Compiles the cases, or those that are named, and writes the page after each."""
    parser = argparse.ArgumentParser(
        description="Compiles training steps for accelerators; writes docs/scale.md"
    )
    parser.add_argument("--only", default="", help="a part of the names of the cases to compile")
    parser.add_argument("--print", action="store_true", help="write the page again, without compiling")
    parser.add_argument("--case", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case is not None:
        print(json.dumps(run_case(CASES[options.case])))
        return
    saved = json.loads(DATA.read_text()) if DATA.exists() else {}
    for number, case in enumerate(CASES):
        if options.print or options.only not in case.name:
            continue
        print(f"{case.name} ...", flush=True)
        command = [sys.executable, "-m", "benchmarks.scale", "--case", str(number)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
        if done.returncode:
            print(f"{case.name}: {done.stderr.strip().splitlines()[-1]}", file=sys.stderr, flush=True)
            continue
        saved[case.name] = json.loads(done.stdout.splitlines()[-1])
        DATA.write_text(json.dumps(saved, indent=1) + "\n")
        PAGE.write_text(page(saved))
    PAGE.write_text(page(saved))


if __name__ == "__main__":
    main()
