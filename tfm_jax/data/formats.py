"""Files of one kind as a data set."""

import glob
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets

__all__ = ["read_files"]

_TEXT_ROW = 1 << 16  # characters


def read_files(
    kind: str,
    files: Mapping[str, Sequence[Path]],
    *,
    split: str | None,
    streaming: bool,
    cache_dir: str | None,
    separator: str | None,
    encoding: str,
    labels: Mapping[Path, str] | None,
) -> Any:
    """Read files that are named one by one.

    Args:
        kind: a value of `layout.KINDS`.
        files: of each split.
        split: the split, or a slice of it; None for all of them.
        streaming: read while iterating.
        cache_dir: where the ``datasets`` library keeps its files; None is its own choice.
        separator: of the fields of a table; None is that of its kind.
        encoding: of texts.
        labels: the class of each picture.

    Returns:
        What ``datasets.load_dataset`` returns.

    Raises:
        ValueError: the content cannot be read, or there is no such split.
    """
    source = ", ".join(str(file) for part in files.values() for file in part)
    options: dict[str, Any] = {"split": split, "streaming": streaming, "cache_dir": cache_dir}
    options["data_files"] = {name: [_literal(file) for file in part] for name, part in files.items()}
    if kind == "imagefolder" and labels is None:
        options["drop_labels"] = (
            None if any(p.name.startswith("metadata.") for ps in files.values() for p in ps) else True
        )
    elif kind == "imagefolder":
        return _pictures(files, labels, split, streaming)
    if kind == "text":
        options["sample_by"] = "document"
    if kind == "tsv":
        kind, options["sep"] = "csv", "\t"
    try:
        loaded = datasets.load_dataset(kind, **options)
    except StopIteration as error:  # what the library says to an empty json file
        raise ValueError(f"{source} is empty: it has no rows; choose another source") from error
    except datasets.exceptions.DatasetGenerationError as error:
        raise ValueError(f"{source} cannot be read as {kind}: {error.__cause__ or error}") from error
    return loaded.map(_cut_documents, batched=True, batch_size=1) if kind == "text" else loaded


def _literal(file: Path) -> str:
    path = str(file.absolute())
    if "::" in path or ":/" in path:
        link = Path(tempfile.mkdtemp()) / file.name.replace(":", "_")
        os.symlink(path, link)
        return glob.escape(str(link))
    return glob.escape(path)


def _pictures(files: Any, labels: Mapping[Path, str], split: str | None, streaming: bool) -> Any:
    names = sorted(set(labels.values()))
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=names)})
    made = datasets.DatasetDict()
    for name, part in files.items():
        rows = {"image": [str(file) for file in part], "label": [labels[file] for file in part]}
        made[name] = datasets.Dataset.from_dict(rows, features=features)
    if split is None:
        return made
    if split.partition("[")[0] not in made:
        raise ValueError(f'Unknown split "{split}". Should be one of {list(made)}.')
    (instruction,) = datasets.ReadInstruction.from_spec(split).to_absolute(
        {k: len(v) for k, v in made.items()}
    )
    rows = made[instruction.splitname]
    rows = rows.select(range(instruction.from_ or 0, len(rows) if instruction.to is None else instruction.to))
    return rows.to_iterable_dataset() if streaming else rows


def _cut_documents(batch: dict[str, list[str]]) -> dict[str, list[str]]:
    """Each text in rows of at most _TEXT_ROW characters, cut after a line where there is one."""
    rows = []
    for text in batch["text"]:
        while len(text) > _TEXT_ROW:
            end = text.rfind("\n", 0, _TEXT_ROW) + 1 or _TEXT_ROW
            rows.append(text[:end])
            text = text[end:]
        rows.append(text)
    return {"text": rows}
