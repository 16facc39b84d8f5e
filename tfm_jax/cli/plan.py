"""``tfm plan``: what the training step of an experiment needs on accelerators that are not there."""

import dataclasses
import time
from collections.abc import Sequence
from typing import Annotated, Any

from tyro.conf import Positional, Suppress, arg

from tfm_jax.cli._options import Command
from tfm_jax.ranges import Size

__all__ = ["Plan", "split"]

DEFAULT_SEARCH = 6


@dataclasses.dataclass(frozen=True)
class Plan(Command):
    """Compile an experiment's training step for devices that are not there, and print what it needs: memory,
    FLOPs, collectives and an estimate of its time. All other options are those of the experiment."""

    experiment: Annotated[Positional[str], arg(metavar="EXPERIMENT")]
    """The experiment, such as language_model: an entry point of the group tfm_jax.experiments. With --help
    after it, its options."""
    topology: Annotated[str, arg(metavar="TOPOLOGY")] = "cpu:8"
    """The devices: cpu:8, v5e:16x16, v5p:8x8x8, v6e:16x16, tpu7x:4x4x4, h100:8, h200:8, b200:8, or other
    sizes of these chips. TPUs need the extra tpu, GPUs cuda13."""
    search: Annotated[Size | None, arg(metavar="N", help_behavior_hint="(6 without a number)")] = None
    """Rank meshes and remat policies by a formula of memory and bytes, compile the best N, and print them."""
    options: Suppress[tuple[str, ...]] = ()
    """Those of the experiment."""

    def check(self) -> None:
        """Raises where an option is one that the search would replace."""
        varied = [
            name
            for name in (option.partition("=")[0] for option in self.options)
            if name.startswith("--mesh.") or name == "--model.remat"
        ]
        if self.search is not None and varied:
            raise ValueError(
                f"plan: got {', '.join(varied)} beside --search, which tries all; wanted one of both. "
                "Leave the options of the mesh and of recomputation out."
            )

    def run(self) -> int:
        """Prints the report, or the table of a search."""
        from tfm_jax.train.plan import task, topologies

        topologies.prepare(self.topology)
        experiment = task.find_experiment(self.experiment)
        config = experiment.parse(self.options)
        if self.search is None:
            report = self._report(experiment, config)
            from tfm_jax.train.plan.report import render

            print(render(report))
            return 1 if report.fits is False else 0
        return self._search(experiment, config, self.search)

    def _report(self, experiment: Any, config: Any) -> Any:
        """The report of a config, from the cache or compiled."""
        from tfm_jax.train.plan import cache
        from tfm_jax.train.plan.compiling import check_mesh, compile_step
        from tfm_jax.train.plan.report import make_report
        from tfm_jax.train.plan.search import cheapest_fix
        from tfm_jax.values import to_dict

        task = experiment.plan(config)
        check_mesh(task, self.topology)  # errors come before a compilation, and also with a saved report
        package = type(config).__module__.partition(".")[0]
        key = cache.key_of(self.experiment, self.topology, to_dict(config), package)
        if (report := cache.load(key)) is None:
            step = compile_step(task, self.topology)
            report = make_report(task, self.topology, step, cheapest_fix(task, self.topology, step))
            cache.save(key, report)
        return report

    def _search(self, experiment: Any, config: Any, count: int) -> int:
        from tfm_jax.train.plan import topologies
        from tfm_jax.train.plan.search import mesh_options, rank
        from tfm_jax.train.plan.task import with_changes

        ranked = rank(experiment.plan(config), self.topology)
        chip = topologies.chip_of(self.topology)
        print(
            f"{len(ranked)} settings ranked by formula; compiles the best {min(count, len(ranked))}",
            flush=True,
        )
        found, started = [], time.monotonic()
        for number, x in enumerate(ranked[:count], 1):
            print(f"  {number} of {count}: {x.setting} ...", end=" ", flush=True)
            changed = with_changes(config, x.setting.mesh, remat=x.setting.remat)
            found.append((x, self._report(experiment, changed)))
            print(f"{time.monotonic() - started:.0f} s", flush=True)
        seconds = {id(report): report.seconds() or (0.0, 0.0) for _, report in found}
        found.sort(key=lambda pair: (pair[1].fits is False, seconds[id(pair[1])][1], pair[1].exchanged))
        print("\nGiB a device, by the compiler and by formula; the time of a step is an estimate")
        heads = [f"{text:>10}" for text in ("memory", "formula", "exchanged", "formula")]
        print(*heads, f"{'step':>22} {'MFU':>12}  setting")
        for x, report in found:
            print(_table_row(x, report, chip))
        best = found[0][1]
        remat = found[0][0].setting.remat
        options = mesh_options(best.mesh) + (f" --model.remat {remat}" if remat else "")
        if best.fits is False:
            print("\nNone of them fits. Use more devices, a smaller batch, or --train.accumulate.")
            return 1
        print(f"\nThe best of these: {options.strip() or 'one device'}")
        return 0


def _table_row(x: Any, report: Any, chip: Any) -> str:
    """A line of the table: sizes in GiB a device, by the compiler and by formula."""
    from tfm_jax.train.plan.report import milliseconds

    gib = [f"{size / 2**30:.2f}" for size in (report.memory, x.memory, report.exchanged, x.traffic.total)]
    seconds, mfu = report.seconds(), report.mfu(chip)
    time_text = "" if seconds is None else f"{milliseconds(seconds[0])} to {milliseconds(seconds[1])}"
    mfu_text = "" if mfu is None else f"{mfu[0]:.0%} to {mfu[1]:.0%}"
    verdict = "  does not fit" if report.fits is False else ""
    return " ".join(f"{text:>10}" for text in gib) + f" {time_text:>22} {mfu_text:>12}  {x.setting}{verdict}"


def split(argv: Sequence[str]) -> tuple[list[str], tuple[str, ...]]:
    """The arguments of ``tfm plan`` itself, and those of the experiment.

    Args:
      argv: after ``plan``: ``EXPERIMENT [--topology T] [--search [N]] [the experiment's options]``.
    """
    own: list[str] = []
    rest: list[str] = []
    arguments = list(argv)
    if arguments and not arguments[0].startswith("-"):
        own.append(arguments.pop(0))
    elif "-h" in arguments or "--help" in arguments:
        return ["--help"], ()
    while arguments:
        argument = arguments.pop(0)
        name, equals, _ = argument.partition("=")
        if name not in ("--topology", "--search"):
            rest.append(argument)
            continue
        own.append(argument)
        if equals:
            continue
        if name == "--search" and not (arguments and arguments[0].lstrip("-").isdigit()):
            own.append(str(DEFAULT_SEARCH))
        elif arguments:
            own.append(arguments.pop(0))
    return own, tuple(rest)
