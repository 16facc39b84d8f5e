"""What a run was trained on and what it held out, so that a run that starts from it does not mix them.

Each run writes hashes of its inputs, ``inputs.npz``. A run with ``--init-from RUN`` splits by the salt and
the share of RUN, leaves out of its training data what RUN held out, and keeps RUN's hashes for itself and for
the runs that start from it.
"""

import dataclasses
import hashlib
import os
import re
import zipfile
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import datasets
import numpy as np

from experiments.config import RunConfig
from tfm_jax import processes, runs
from tfm_jax.data.splitting import input_hashes
from tfm_jax.fields import option_name
from tfm_jax.train.run_directory import read_config

__all__ = [
    "INPUTS_FILE",
    "START_FILE",
    "Hashes",
    "Rows",
    "RunInputs",
    "check_splits",
    "hash_lines",
    "hash_texts",
    "inherit_splits",
    "is_permuted",
    "keep_lines",
]

C = TypeVar("C", bound=RunConfig)
Hashes = Mapping[str, np.ndarray]
"""uint64 [examples] by split."""
Rows = dict[str, list[tuple[str, int]]]
"""The examples of each split, as the split and the index that they had."""
INPUTS_FILE = "inputs.npz"
"""Sorted hashes of the inputs of "train", "validation" and "test": of a run and all that it started from."""
START_FILE = "start_inputs.npz"
"""A copy of the `INPUTS_FILE` of the run that this one started from, for a resume."""
_SPLITS = ("train", "validation", "test")
_OPTIONS = ("held_out", "held_out_salt")
_WINDOW = 3
_FACTORS = np.array([0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB], np.uint64)
"""Odd factors, which tell the order of the lines in a window."""
_LONG_LINE = 200
_WORDS = 8
"""The mean number of words in a part of a long line."""


class RunInputs:
    """The inputs of a run and of the one that it started from.

    Args:
      name: of the experiment, for messages.
      directory: of the run.
      by_permutation: whether it, as its start, holds examples out as version 0.1 did: without a salt.
    """

    def __init__(self, name: str, directory: Path, by_permutation: bool = False):
        self._name, self._directory, self._by_permutation = name, directory, by_permutation
        self._source = ""
        self._start = _read(directory / START_FILE)
        self._own: Hashes = {}

    def start_from(self, source: str) -> None:
        """Reads what the run at ``source`` was trained on and held out; nothing of a checkpoint.

        Raises:
          ValueError: it has no list, and its salt and share do not say what it held out.
        """
        if not runs.is_run(source):
            return
        self._source, saved = source, read_config(Path(source) / "config.json").get("data", {})
        self._start = _read(Path(source) / INPUTS_FILE)
        files = [name for name in _SPLITS[1:] if saved.get(name)]
        by_permutation = "held_out_salt" in saved and saved["held_out_salt"] is None
        if self._start is None and (by_permutation or files):
            how = f"by files ({', '.join(files)})" if files else "by a permutation, as version 0.1 did,"
            raise ValueError(
                f"--init-from {source}: got a run that held examples out {how} and no {INPUTS_FILE}, the "
                "list of them; wanted it, so that none is trained on. Resume that run once, by --resume and "
                "its --out: that writes the list. To start from its weights on other data: tfm convert RUN "
                "DIR and --init-from DIR"
            )
        if self._start is None:
            print(
                f"{self._name}: {source} has no {INPUTS_FILE}, so its share and salt alone say what it held "
                "out; resume it once, by --resume and its --out, to have it",
                flush=True,
            )
        if (start := self._start) is not None:
            processes.from_main("inputs of the start", lambda: _write(self._directory / START_FILE, start))

    def regroup(self, hashes: Hashes, files: Collection[str | None] = ()) -> Rows | None:
        """The splits without what the start held out; None if there is no start: all stays as it is.

        Training examples that the start held out are left out. If it held out by a permutation, its examples
        are again in the splits where they were, but for splits that are files.

        Args:
          hashes: of the inputs of each split.
          files: the splits that are files of their own.
        """
        self._own, start = hashes, self._start
        if start is None:
            return None
        rows: Rows = {name: [] for name in hashes}
        held_out, dropped = np.union1d(start["validation"], start["test"]), 0
        for name, x in hashes.items():
            to = np.full(len(x), name, object)
            if self._by_permutation and name not in files:
                for split in (s for s in _SPLITS if s in hashes and s not in files):
                    to[np.isin(x, start[split])] = split
            to[np.isin(x, held_out) & (to == "train")] = ""
            for i, split in enumerate(to):
                if split:
                    rows[split].append((name, i))
                else:
                    dropped += 1
        if not rows["train"]:
            raise ValueError(
                f"--init-from {self._source}: got {dropped:,} training examples, all of which it held out; "
                "wanted some that it did not. Add examples"
            )
        if empty := [name for name, x in hashes.items() if len(x) and not rows[name]]:
            raise ValueError(
                f"--init-from {self._source}: got examples for {' and '.join(empty)} that it was trained on, "
                "all of them, and no others; wanted some others. Add examples"
            )
        self._own = {name: np.array([hashes[s][i] for s, i in x], np.uint64) for name, x in rows.items()}
        self._report(dropped)
        return rows

    def is_known(self, hashes: np.ndarray) -> np.ndarray:
        """Whether the start was trained on each input: bool [inputs]."""
        return np.isin(hashes, [] if self._start is None else self._start["train"])

    def _report(self, dropped: int) -> None:
        known = {name: int(self.is_known(x).sum()) for name, x in self._own.items() if name != "train"}
        seen = " and ".join(f"{n:,} of {len(self._own[name]):,} {name} inputs" for name, n in known.items())
        start = self._source or "the run that this one started from"
        left_out = f"left out {dropped:,} training inputs that it held out"
        print(f"{self._name}: {start}: {left_out}; it was trained on {seen}", flush=True)

    def write(self) -> None:
        """Writes the `INPUTS_FILE`, by process 0 of several."""
        if self._own and processes.is_main():
            start = self._start or {}
            nothing = np.zeros(0, np.uint64)
            merged = [np.union1d(self._own.get(s, nothing), start.get(s, nothing)) for s in _SPLITS]
            _write(self._directory / INPUTS_FILE, dict(zip(_SPLITS, merged, strict=True)))


def inherit_splits(config: C) -> C:
    """The config with the share and the salt of the run of ``init_from``, if that is one."""
    found = _options_of(config.init_from)
    own: Any = getattr(config, "data", None)
    found = {name: value for name, value in found.items() if hasattr(own, name)}
    if not found:
        return config
    changes: dict[str, Any] = {"data": dataclasses.replace(own, **found)}
    return dataclasses.replace(config, **changes)


def is_permuted(config: RunConfig) -> bool:
    """Whether a run holds examples out as version 0.1 did: by a permutation, without a salt."""
    return getattr(getattr(config, "data", None), "held_out_salt", "") is None


def check_splits(config: RunConfig) -> None:
    """Raises a ValueError where the splits are not chosen as those of the run of ``init_from``."""
    own: Any = getattr(config, "data", None)
    for name, wanted in _options_of(config.init_from).items():
        if hasattr(own, name) and (got := getattr(own, name)) != wanted:
            option = option_name(f"data.{name}")
            raise ValueError(
                f"--init-from {config.init_from}: got {option} {got}; wanted {wanted}, by which that run "
                "held examples out: another one would train on them, or test on its training examples. "
                f"Give {option} {wanted}, or leave it out. To start from its weights on other data: tfm "
                "convert RUN DIR and --init-from DIR"
            )


def hash_texts(*columns: Sequence[str]) -> np.ndarray:
    """Hashes of inputs of one or more texts each: uint64 [inputs]."""
    names = [str(i) for i in range(len(columns))]
    table = datasets.Dataset.from_dict(dict(zip(names, map(list, columns), strict=True)))
    return input_hashes(table, names)


def hash_lines(parts: Sequence[str]) -> np.ndarray:
    """Hashes of each three consecutive lines of a document in parts: uint64 [max(1, lines - 2)].

    A line of more than 200 characters is several, which end after some of its words, wherever it starts.
    """
    hashes = np.fromiter((_hash_line(line) for part in parts for line in _lines(part)), np.uint64)
    hashes = np.pad(hashes, (0, max(0, _WINDOW - len(hashes))))
    count = len(hashes) - _WINDOW + 1
    windows = (factor * hashes[i : i + count] for i, factor in enumerate(_FACTORS))
    return sum(windows, np.zeros(count, np.uint64))  # modulo 2**64


def _hash_line(line: str) -> int:
    text = line.rstrip().encode(errors="surrogatepass")
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big")


def _lines(text: str) -> Iterator[str]:
    """The lines of a text, the long ones in several parts; together they are the text."""
    for line in text.splitlines(keepends=True):
        start = 0
        for word in re.finditer(r"\S+\s", line) if len(line) > _LONG_LINE else ():
            if zlib.crc32(word[0].encode(errors="surrogatepass")) % _WORDS == 0:
                yield line[start : word.end()]
                start = word.end()
        if start < len(line):
            yield line[start:]


def keep_lines(parts: Sequence[str], kept: Collection[int]) -> list[str]:
    """A document without the lines of which any three that `hash_lines` hashed are not ``kept``."""
    lines = [list(_lines(part)) for part in parts]
    total = sum(map(len, lines))
    stays = np.ones(total, bool)
    for i in set(range(max(1, total - _WINDOW + 1))).difference(kept):
        stays[i : i + _WINDOW] = False
    numbers = iter(stays.tolist())
    texts = ["".join([line for line in part if next(numbers)]) for part in lines]
    return [text for text in texts if text]


def _options_of(source: str | None) -> dict[str, Any]:
    """The options that choose the held-out examples of a run; none of a checkpoint or of another source."""
    if source is None or not runs.is_run(source):
        return {}
    saved = read_config(Path(source) / "config.json").get("data")
    if not isinstance(saved, dict) or not saved.get("held_out"):
        return {}  # it held out files alone
    return {name: saved[name] for name in _OPTIONS if name in saved}


def _read(path: Path) -> dict[str, np.ndarray] | None:
    if not path.is_file():
        return None
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            return {name: file[name].astype(np.uint64) for name in _SPLITS}
    except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"{path}: got no lists of hashes ({error}); wanted the file as the run wrote it. Put a copy of "
            "it back, or resume that run once by --resume and its --out"
        ) from error


def _write(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    new = path.with_name(path.name + ".new")
    with new.open("wb") as file:
        np.savez(file, allow_pickle=False, **dict(arrays))
    os.replace(new, path)
