"""Held-out examples: chosen by a hash of what the model reads, so that they stay held out.

A row's place is a number in [0, 1) that only its own input decides: not the other rows, their order, the
label or a seed. The test examples are those from 0 up to their share, the validation examples those from 1
down to theirs, so neither share moves an example of the other split.
"""

import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np

from tfm_jax.data.columns import check_columns

__all__ = [
    "SPLIT_SALT",
    "content_digest",
    "describe_splits",
    "hold_out",
    "input_hashes",
    "split_at_random",
    "split_by_hash",
    "split_text",
    "text_digest",
]

SPLIT_SALT = "tfm_jax"
"""What is hashed with each input. Another salt chooses other held-out examples."""


def input_hashes(dataset: datasets.Dataset, by: Sequence[str], salt: str = SPLIT_SALT) -> np.ndarray:
    """Where each row is between 0 and 1, by a hash of its input columns.

    Equivalent to::

        text = json.dumps([row[name] for name in by], sort_keys=True)
        hashlib.blake2b(text.encode(), digest_size=8, key=salt.encode()).digest()     # of 2**64, big-endian

    A picture is the bytes of its file; in the JSON the hash of bytes is in their place.

    Args:
        dataset: the rows.
        by: names of the input columns; ``"translation.en"`` is a field of a column.
        salt: hashed with each input; at most 64 bytes.

    Returns:
        uint64 [rows], of 2**64. Rows with equal inputs are at equal places.

    Raises:
        ValueError: there is no such column, no column is named, or the salt is too long.
    """
    key = salt.encode()
    if len(key) > hashlib.blake2b.MAX_KEY_SIZE:
        raise ValueError(f"salt: got {len(key)} bytes; wanted at most {hashlib.blake2b.MAX_KEY_SIZE}")
    if not by or isinstance(by, str):
        raise ValueError(f"by: got {by!r}; wanted a list of the names of input columns, such as ['text']")
    hashes = (hashlib.blake2b(text, digest_size=8, key=key).digest() for text in _contents(dataset, by))
    return np.frombuffer(b"".join(hashes), ">u8").astype(np.uint64)


def split_by_hash(
    dataset: datasets.Dataset,
    *,
    by: Sequence[str],
    validation: float = 0.1,
    test: float = 0.1,
    salt: str = SPLIT_SALT,
) -> dict[str, datasets.Dataset]:
    """Deterministic hold-out split by a hash of the input columns.

    The file that the rows come from may grow or be reordered: no training example becomes a validation or
    test example. Equal inputs are in one split. A larger share holds out what a smaller one does, and more.

    Equivalent to::

        place = input_hashes(dataset, by, salt) / 2**64
        place < test, place >= 1 - validation                      # "test", "validation"; the rest is "train"

    Where the share takes no row, the row with the lowest place (for validation, the highest) is taken, and
    those with the same input: each split has at least one row. (A file may shrink, too, until none of the
    rows that the share takes is left: a training example is then taken.)

    Args:
        dataset: the rows, in memory or on disk.
        by: names of the columns that the model reads, never the label; ``"translation.en"`` is a field.
        validation, test: the share of the rows, at least 0 (no such split), and together below 1. It is met
            within sampling error: of 1,000 rows at a share of 0.1, 81 to 119 with a probability of 0.95.
        salt: another one holds out other rows.

    Returns:
        "train", and "validation" and "test" unless their share is 0, each in the order of the rows.

    Raises:
        ValueError: a share is out of range, no row is left to train on, or as `input_hashes`.
    """
    _check_shares(validation=validation, test=test)
    places = input_hashes(dataset, by, salt)
    kinds = np.full(len(places), "train", object)
    if validation:
        top = places >= np.uint64(2**64 - max(1, int(validation * 2**64)))
        kinds[top] = "validation"
    if test:
        bottom = places < np.uint64(int(test * 2**64))
        kinds[bottom if bottom.any() else places == places.min(initial=2**64 - 1)] = "test"
    if validation and not (kinds == "validation").any() and (left := places[kinds != "test"]).size:
        kinds[places == left.max()] = "validation"
    wanted = ["train", *(["validation"] if validation else []), *(["test"] if test else [])]
    rows = {name: np.flatnonzero(kinds == name) for name in wanted}
    if empty := [name for name, found in rows.items() if not len(found)]:
        different = len(np.unique(places))
        raise ValueError(
            f"{len(places)} rows with {different} different inputs leave none for {' and '.join(empty)}; "
            f"wanted one for each of {', '.join(wanted)}. Pass a share of 0 for what is not needed, or files "
            "for each split (train.jsonl, validation.jsonl, test.jsonl)"
        )
    return {name: dataset.select(found, keep_in_memory=True) for name, found in rows.items()}


def split_text(texts: Sequence[str], *, validation: float = 0.1, test: float = 0.1) -> dict[str, list[str]]:
    """Contiguous split of one text, by position: the beginning, then the validation part, then the test part.

    A text that grows at its end gives training text no other part: the parts only move on.

    Equivalent to::

        text, n = "".join(texts), len("".join(texts))
        text[: n - n * (validation + test)], text[... : n - n * test], text[n - n * test :]   # at line ends

    A part begins after the last line end before its place; where that is further away than the end of the
    text, or in the part before, at the place itself.

    Args:
        texts: the pieces of the text, in order.
        validation, test: the share of the characters, at least 0 (no such split), and together below 1.

    Returns:
        "train", and "validation" and "test" unless their share is 0: the pieces, cut where a part ends.

    Raises:
        ValueError: a share is out of range, or the text is too short to give each part a character.
    """
    _check_shares(validation=validation, test=test)
    whole = "".join(texts)
    shares = {name: share for name, share in (("validation", validation), ("test", test)) if share}
    n, parts_left = len(whole), len(shares)
    if n <= parts_left:
        raise ValueError(
            f"a text of {n} characters cannot give {', '.join(['train', *shares])} a part each; "
            "pass a share of 0, or a text of its own for each"
        )
    held_out = list(itertools.accumulate(reversed(shares.values())))[::-1]  # of a part and those after it
    places = [n]
    for share in reversed(held_out):
        places.insert(0, max(parts_left, min(n - round(share * n), places[0] - 1)))
        parts_left -= 1
    starts = [0]
    for share, place in zip(held_out, places, strict=False):
        starts.append(_line_start(whole, place, share, after=starts[-1]))
    starts.append(n)
    parts = zip(("train", *shares), itertools.pairwise(starts), strict=True)
    return {name: _between(texts, start, end) for name, (start, end) in parts}


def hold_out(
    splits: Mapping[str, datasets.Dataset],
    *,
    by: Sequence[str],
    validation: float = 0.1,
    test: float = 0.1,
    salt: str | None = SPLIT_SALT,
) -> dict[str, datasets.Dataset]:
    """The splits with those that are missing, held out of "train".

    Equivalent to::

        shares = {"validation": validation, "test": test}
        split_by_hash(splits["train"], by=by, salt=salt, **shares of the splits that are missing) | the others

    Args:
        splits: by name, "train" among them.
        by, validation, test: as for `split_by_hash`; a share of 0 adds no such split.
        salt: as for `split_by_hash`; None takes those of `split_at_random`, as version 0.1 did.

    Returns:
        The splits by name.

    Raises:
        ValueError: as `split_by_hash`.
    """
    shares = {"validation": validation, "test": test}
    missing = {name: 0.0 if name in splits else share for name, share in shares.items()}
    _check_shares(**missing)
    if not any(missing.values()):
        return dict(splits)
    rows = splits["train"]
    made = (
        split_at_random(rows, **missing) if salt is None else split_by_hash(rows, by=by, salt=salt, **missing)
    )
    return dict(splits) | made


def split_at_random(
    dataset: datasets.Dataset, *, validation: float = 0.1, test: float = 0.1, seed: int = 0
) -> dict[str, datasets.Dataset]:
    """Random split by the number of rows alone, as version 0.1 had it; see `split_by_hash` for what is new.

    A file with one row more has other test rows, and some of them were training rows before.

    Equivalent to::

        order = np.random.default_rng(seed).permutation(len(dataset))
        test, validation, train = np.split(order, [n_test, n_test + n_validation])   # each sorted

    Args:
        dataset: the rows.
        validation, test: the share of the rows, from 0 (no such split) to 1; at least one row if not 0.
        seed: decides which rows.

    Returns:
        "train", and "validation" and "test" unless their share is 0.

    Raises:
        ValueError: no row is left to train on.
    """
    n = len(dataset)
    sizes = [max(1, round(share * n)) if share else 0 for share in (test, validation)]
    if min(sizes) < 0 or sum(sizes) >= n:
        raise ValueError(
            f"{n} rows cannot give {sizes[1]} for validation and {sizes[0]} to test, and some to train on; "
            "pass other shares, or files for each split (train.jsonl, validation.jsonl, test.jsonl)"
        )
    order = np.random.default_rng(seed).permutation(n)
    parts = zip(("test", "validation", "train"), np.split(order, np.cumsum(sizes)), strict=True)
    return {name: dataset.select(np.sort(rows), keep_in_memory=True) for name, rows in parts if len(rows)}


def content_digest(dataset: datasets.Dataset, columns: Sequence[str]) -> str:
    """A checksum of some columns of a data set, to know the same rows in the same order again.

    Equivalent to::

        lines = (json.dumps([row[name] for name in columns], sort_keys=True) for row in dataset)
        hashlib.blake2b("".join(line + "\\n" for line in lines).encode(), digest_size=8).hexdigest()

    Args:
        dataset: the rows; a stream must end.
        columns: names, as for `input_hashes`.

    Returns:
        16 hexadecimal digits.

    Raises:
        ValueError: there is no such column.
    """
    return _digest(_contents(dataset, columns))


def text_digest(*columns: Sequence[str]) -> str:
    """A checksum of texts in their order, to know the same ones again.

    Equivalent to::

        content_digest(Dataset.from_dict({"a": first, "b": second, ...}), ["a", "b", ...])

    Args:
        *columns: one or more sequences of texts, as long as one another.

    Returns:
        16 hexadecimal digits.
    """
    return _digest(json.dumps(row).encode() for row in zip(*columns, strict=True))


def describe_splits(sizes: Mapping[str, int]) -> str:
    """How many rows each split has, and what share of all: ``90 train (90.0 %), 10 test (10.0 %)``."""
    total = sum(sizes.values())
    return ", ".join(f"{n:,} {name} ({100 * n / total:.1f} %)" for name, n in sizes.items())


def _check_shares(**shares: float) -> None:
    for name, share in shares.items():
        if not 0 <= share < 1:
            raise ValueError(f"{name}: got {share}; wanted a share, at least 0 and below 1")
    if not sum(shares.values()) < 1:
        got = " and ".join(f"{name}={share}" for name, share in shares.items())
        raise ValueError(f"shares: got {got}; wanted less than 1 together, so that rows are left to train on")


def _digest(texts: Iterable[bytes]) -> str:
    checksum = hashlib.blake2b(digest_size=8)
    for text in texts:
        checksum.update(text + b"\n")
    return checksum.hexdigest()


def _contents(dataset: datasets.Dataset, names: Sequence[str]) -> Iterator[bytes]:
    """Each row's values under these names, as JSON."""
    columns = [_column(dataset, name) for name in names]
    for values in zip(*columns, strict=True):
        yield json.dumps(values, sort_keys=True, default=_plain).encode()


def _column(dataset: datasets.Dataset, name: str) -> Iterator[Any]:
    """The values of a column, or of a field of it; pictures as the bytes of their file."""
    outer, _, field = (name, "", "") if name in dataset.column_names else name.partition(".")
    check_columns(dataset, [outer], "by=[...]")
    column = dataset.select_columns([outer])
    if isinstance(column.features[outer], datasets.Image):
        column = column.cast_column(outer, datasets.Image(decode=False))
    for batch in column.with_format(None).iter(batch_size=1000):
        for value in batch[outer]:
            value = _bytes_of(value)
            if field:
                if not isinstance(value, Mapping) or field not in value:
                    raise ValueError(
                        f"by: got {name!r}; wanted a column, or a field of all rows; one has {value!r:.80}"
                    )
                value = value[field]
            yield value


def _bytes_of(value: Any) -> Any:
    """A picture as the bytes of its file, whatever it is called; anything else as it is."""
    if not isinstance(value, Mapping) or value.keys() != {"bytes", "path"}:
        return value
    return Path(value["path"]).read_bytes() if value["bytes"] is None and value["path"] else value["bytes"]


def _plain(value: Any) -> Any:
    """What JSON has no word for."""
    if isinstance(value, bytes | bytearray | memoryview):
        return {"blake2b": hashlib.blake2b(value).hexdigest()}
    return value.tolist() if hasattr(value, "tolist") else str(value)


def _line_start(text: str, place: int, share: float, after: int) -> int:
    """Where the line at a place begins; the place itself where that is not after another place, or further
    away than the end of the text. ``share`` of the text is after the place. Later in a longer text."""
    start = text.rfind("\n", 0, place) + 1
    near = start >= (1 - 2 * share) * len(text)  # by the share: a rounded place may wait while the text grows
    return start if start > after and near else place


def _between(texts: Iterable[str], start: int, end: int) -> list[str]:
    """The characters from start to end of texts that follow one another, in their pieces."""
    found, at = [], 0
    for text in texts:
        part = text[max(0, start - at) : max(0, end - at)]
        at += len(text)
        if part:
            found.append(part)
    return found
