"""Train, validation and test splits: by a hash of the input, by position, or at random.

The hash of a row is a number in [0, 1) that only its own input decides: not the other rows, their order, the
label or a seed. Test examples are those below the test share; validation examples are those from 1 down to
1 - share, so that neither share moves an example of the other split.
"""

import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import datasets
import numpy as np

from tfm_jax.data.columns import check_columns, iter_column

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
"""The key of the hash. Another salt holds out other examples."""


def input_hashes(dataset: datasets.Dataset, by: Sequence[str], salt: str = SPLIT_SALT) -> np.ndarray:
    """Keyed 64-bit hash of the input columns of each row.

    Equivalent to::

        text = json.dumps([row[name] for name in by], sort_keys=True)
        hashlib.blake2b(text.encode(), digest_size=8, key=salt.encode()).digest()     # as big-endian uint64

    An image is the bytes of its file; in the JSON, bytes are represented by their hash.

    Args:
      dataset: the rows.
      by: names of the input columns; ``"translation.en"`` is a field of a column.
      salt: the key of the hash; at most 64 bytes.

    Returns:
      uint64 [rows]. Rows with equal inputs have equal hashes.

    Raises:
      ValueError: the data set has no such column, ``by`` is empty, or the salt is too long.
    """
    key = salt.encode()
    if len(key) > hashlib.blake2b.MAX_KEY_SIZE:
        raise ValueError(
            f"input_hashes: got a salt of {len(key)} bytes; wanted at most {hashlib.blake2b.MAX_KEY_SIZE}. "
            "Shorten it."
        )
    if not by or isinstance(by, str):
        raise ValueError(
            f"input_hashes: got by={by!r}; wanted a list of names of input columns. Pass, for example, "
            "by=['text']."
        )
    hashes = (
        hashlib.blake2b(text, digest_size=8, key=key).digest()
        for text in _contents("input_hashes", dataset, by)
    )
    return np.frombuffer(b"".join(hashes), ">u8").astype(np.uint64)


def split_by_hash(
    dataset: datasets.Dataset,
    *,
    by: Sequence[str],
    validation: float = 0.1,
    test: float = 0.1,
    salt: str = SPLIT_SALT,
) -> dict[str, datasets.Dataset]:
    """Hold-out split by a hash of the input columns, stable when the data set grows or is reordered.

    No training example becomes a validation or test example. Equal inputs are in one split. A larger share
    holds out what a smaller one does, and more.

    Equivalent to::

        u = input_hashes(dataset, by, salt) / 2**64
        u < test, u >= 1 - validation                      # "test", "validation"; the rest is "train"

    Each split has at least one row: if the share takes none, it is the row with the lowest hash (for
    validation, the highest) and those with the same input. (A data set may also shrink until none of the rows
    that the share takes is left: then a training example is held out.)

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
    _check_shares("split_by_hash", validation=validation, test=test)
    hashes = input_hashes(dataset, by, salt)
    split_of = np.full(len(hashes), "train", object)
    if validation:
        highest = hashes >= np.uint64(2**64 - max(1, int(validation * 2**64)))
        split_of[highest] = "validation"
    if test:
        lowest = hashes < np.uint64(int(test * 2**64))
        split_of[lowest if lowest.any() else hashes == hashes.min(initial=2**64 - 1)] = "test"
    if validation and not (split_of == "validation").any() and (left := hashes[split_of != "test"]).size:
        split_of[hashes == left.max()] = "validation"
    wanted = ["train", *(["validation"] if validation else []), *(["test"] if test else [])]
    rows = {name: np.flatnonzero(split_of == name) for name in wanted}
    if empty := [name for name, indices in rows.items() if not len(indices)]:
        raise ValueError(
            f"split_by_hash: got {len(hashes)} rows with {len(np.unique(hashes))} different inputs, which "
            f"leave none for {' and '.join(empty)}; wanted one for each of {', '.join(wanted)}. Pass a "
            "share of 0 for what is not needed, or files for each split (train.jsonl, validation.jsonl, "
            "test.jsonl)."
        )
    return {name: dataset.select(indices, keep_in_memory=True) for name, indices in rows.items()}


def split_text(texts: Sequence[str], *, validation: float = 0.1, test: float = 0.1) -> dict[str, list[str]]:
    """Contiguous split of one text by position: train, then validation, then test.

    No training text becomes validation or test text when the text grows at its end: the boundaries only move
    forward.

    Equivalent to::

        text, n = "".join(texts), len("".join(texts))
        text[: n - n * (validation + test)], text[... : n - n * test], text[n - n * test :]   # at line ends

    A part starts after the last line end before its boundary; or at the boundary itself, if that line end is
    further away than the end of the text, or in an earlier part.

    Args:
      texts: consecutive parts of the text.
      validation, test: the share of the characters, at least 0 (no such split), and together below 1.

    Returns:
      "train", and "validation" and "test" unless their share is 0, each as parts of ``texts``.

    Raises:
      ValueError: a share is out of range, or the text has fewer characters than splits.
    """
    _check_shares("split_text", validation=validation, test=test)
    text = "".join(texts)
    shares = {name: share for name, share in (("validation", validation), ("test", test)) if share}
    n, parts_left = len(text), len(shares)
    if n <= parts_left:
        raise ValueError(
            f"split_text: got a text of {n} characters; wanted one for each of "
            f"{', '.join(['train', *shares])}. Pass a share of 0, or a separate text per split."
        )
    held_out = list(itertools.accumulate(reversed(shares.values())))[::-1]  # of a part and those after it
    boundaries = [n]
    for share in reversed(held_out):
        boundaries.insert(0, max(parts_left, min(n - round(share * n), boundaries[0] - 1)))
        parts_left -= 1
    starts = [0]
    for share, boundary in zip(held_out, boundaries, strict=False):
        starts.append(_line_start(text, boundary, share, after=starts[-1]))
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
    """Adds the validation and test splits that are missing, taken from "train".

    Equivalent to::

        shares = {"validation": validation, "test": test}
        split_by_hash(splits["train"], by=by, salt=salt, **shares of the missing splits) | the others

    Args:
      splits: by name, with "train".
      by, validation, test: as for `split_by_hash`; a share of 0 adds no such split.
      salt: as for `split_by_hash`; None uses `split_at_random`, as version 0.1 did.

    Returns:
      The splits by name.

    Raises:
      ValueError: as `split_by_hash`.
    """
    shares = {"validation": validation, "test": test}
    missing = {name: 0.0 if name in splits else share for name, share in shares.items()}
    _check_shares("hold_out", **missing)
    if not any(missing.values()):
        return dict(splits)
    train = splits["train"]
    if salt is None:
        return dict(splits) | split_at_random(train, validation=missing["validation"], test=missing["test"])
    return dict(splits) | split_by_hash(
        train, by=by, salt=salt, validation=missing["validation"], test=missing["test"]
    )


def split_at_random(
    dataset: datasets.Dataset, *, validation: float = 0.1, test: float = 0.1, seed: int = 0
) -> dict[str, datasets.Dataset]:
    """Random split by the number of rows, as in version 0.1; prefer `split_by_hash`.

    With one more row the test examples are others, and some of them were training examples before.

    Equivalent to::

        order = np.random.default_rng(seed).permutation(len(dataset))
        test, validation, train = np.split(order, [n_test, n_test + n_validation])   # each sorted

    Args:
      dataset: the rows.
      validation, test: the share of the rows, from 0 (no such split) to 1; at least one row if not 0.
      seed: of the permutation.

    Returns:
      "train", and "validation" and "test" unless their share is 0.

    Raises:
      ValueError: no row is left to train on.
    """
    n = len(dataset)
    sizes = [max(1, round(share * n)) if share else 0 for share in (test, validation)]
    if min(sizes) < 0 or sum(sizes) >= n:
        raise ValueError(
            f"split_at_random: got {n} rows, {sizes[1]} of them for validation and {sizes[0]} for test; "
            "wanted some to train on. Pass other shares, or files for each split (train.jsonl, "
            "validation.jsonl, test.jsonl)."
        )
    order = np.random.default_rng(seed).permutation(n)
    parts = zip(("test", "validation", "train"), np.split(order, np.cumsum(sizes)), strict=True)
    return {name: dataset.select(np.sort(rows), keep_in_memory=True) for name, rows in parts if len(rows)}


def content_digest(dataset: datasets.Dataset, columns: Sequence[str]) -> str:
    """Checksum of columns of a data set, which depends on the order of the rows.

    Equivalent to::

        lines = (json.dumps([row[name] for name in columns], sort_keys=True) for row in dataset)
        hashlib.blake2b("".join(line + "\\n" for line in lines).encode(), digest_size=8).hexdigest()

    Args:
      dataset: the rows; a stream must be finite.
      columns: names, as for `input_hashes`.

    Returns:
      16 hexadecimal digits.

    Raises:
      ValueError: the data set has no such column.
    """
    return _digest(_contents("content_digest", dataset, columns))


def text_digest(*columns: Sequence[str]) -> str:
    """Checksum of texts, which depends on their order.

    Equivalent to::

        content_digest(Dataset.from_dict({"a": first, "b": second, ...}), ["a", "b", ...])

    Args:
      *columns: one or more sequences of texts, all of one length.

    Returns:
      16 hexadecimal digits.
    """
    return _digest(json.dumps(row).encode() for row in zip(*columns, strict=True))


def describe_splits(sizes: Mapping[str, int]) -> str:
    """The size and share of each split, as a text: ``90 train (90.0 %), 10 test (10.0 %)``."""
    total = sum(sizes.values())
    return ", ".join(f"{n:,} {name} ({100 * n / total:.1f} %)" for name, n in sizes.items())


def _check_shares(function: str, **shares: float) -> None:
    for name, share in shares.items():
        if not 0 <= share < 1:
            raise ValueError(f"{function}: got {name}={share}; wanted a share, at least 0 and below 1.")
    if not sum(shares.values()) < 1:
        got = " and ".join(f"{name}={share}" for name, share in shares.items())
        raise ValueError(f"{function}: got {got}; wanted less than 1 together, to leave rows to train on.")


def _digest(texts: Iterable[bytes]) -> str:
    checksum = hashlib.blake2b(digest_size=8)
    for text in texts:
        checksum.update(text + b"\n")
    return checksum.hexdigest()


def _contents(function: str, dataset: datasets.Dataset, names: Sequence[str]) -> Iterator[bytes]:
    """The values of each row under these names, as JSON."""
    columns = [_column(function, dataset, name) for name in names]
    for values in zip(*columns, strict=True):
        yield json.dumps(values, sort_keys=True, default=_as_json).encode()


def _column(function: str, dataset: datasets.Dataset, name: str) -> Iterator[object]:
    """The values of a column, or of a field of it; images as the bytes of their file."""
    outer, _, field = (name, "", "") if name in dataset.column_names else name.partition(".")
    check_columns(function, dataset, [outer], "by=[...]")
    column = dataset.select_columns([outer])
    if isinstance(column.features[outer], datasets.Image):
        column = column.cast_column(outer, datasets.Image(decode=False))
    for value in map(_image_bytes, iter_column(column.with_format(None), outer)):
        if not field:
            yield value
        elif isinstance(value, Mapping) and field in value:
            yield value[field]
        else:
            raise ValueError(
                f"{function}: got the column {name!r} and the value {value!r:.80}; wanted a column, or a "
                "field of all rows. Name another one."
            )


def _image_bytes(value: object) -> object:
    """The bytes of an image file, whatever its name; any other value unchanged."""
    if not isinstance(value, Mapping) or value.keys() != {"bytes", "path"}:
        return value
    return Path(value["path"]).read_bytes() if value["bytes"] is None and value["path"] else value["bytes"]


def _as_json(value: object) -> object:
    """A representation of what JSON lacks."""
    if isinstance(value, bytes | bytearray | memoryview):
        return {"blake2b": hashlib.blake2b(value).hexdigest()}
    tolist = getattr(value, "tolist", None)
    return str(value) if tolist is None else tolist()


def _line_start(text: str, boundary: int, share: float, after: int) -> int:
    """The start of the line at a boundary, or the boundary itself; never earlier in a longer text.

    It is the boundary if the line starts at or before ``after``, or further away than the end of the text.
    ``share`` of the text is after the boundary.
    """
    start = text.rfind("\n", 0, boundary) + 1
    # By the share, since a rounded boundary may not move while the text grows.
    is_near = start >= (1 - 2 * share) * len(text)
    return start if start > after and is_near else boundary


def _between(texts: Iterable[str], start: int, end: int) -> list[str]:
    """The characters from start to end of consecutive texts, divided as the texts are."""
    parts, offset = [], 0
    for text in texts:
        part = text[max(0, start - offset) : max(0, end - offset)]
        offset += len(text)
        if part:
            parts.append(part)
    return parts
