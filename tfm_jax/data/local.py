"""Data sets in files of one's own: jsonl, json, csv, tsv, parquet, text, image folders."""

import glob
import re
from pathlib import Path
from typing import Any

import datasets

from tfm_jax.data.builtin import SOURCES

__all__ = ["is_text_file", "load_local", "looks_local"]

_KINDS = {
    **dict.fromkeys((".jsonl", ".json", ".ndjson"), "json"),
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    **dict.fromkeys((".txt", ".text"), "text"),
    **dict.fromkeys((".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff"), "imagefolder"),
}
_PACKED = (".gz", ".bz2", ".xz", ".zst")
_SPLIT = re.compile(r"(?:^|[-._/ ])(?:(train(?:ing)?)|(valid(?:ation)?|val|dev)|(test(?:ing)?))(?=[-._/ ]|$)")
_TEXT_ROW = 1 << 16  # characters


def looks_local(source: str) -> bool:
    """Whether a source is the path of files, there or not: a name of the hub has at most one inner slash
    (its configuration, after a colon, may have more).

    Equivalent to::

        exists or begins with "/", "./", "../" or "~" or is a glob or has a suffix of a data file

    Args:
        source: what the user wrote.

    Returns:
        True for a path.
    """
    return bool(
        source.startswith(("/", "./", "../", "~"))
        or source in (".", "..")
        or re.search(r"[*?\[\]\\]", source)
        or source.partition(":")[0].count("/") > 1
        or source.endswith("/")
        or _kind(source)
        or Path(source).exists()
    )


def is_text_file(source: str) -> bool:
    """Whether a source is one file of plain text: one document, whatever rows it is read in.

    Equivalent to::

        Path(source).is_file() and its suffix is .txt or .text, before that of a compression

    Args:
        source: what the user wrote.

    Returns:
        True for such a file.
    """
    return _kind(source) == "text" and Path(source).expanduser().is_file()


def load_local(
    source: str, split: str | None, *, streaming: bool = False, cache_dir: str | None = None
) -> Any:
    """Load files, the files of a directory, or those that a glob finds.

    A single file is the split "train". Several are shared out by the word in their path: train, valid,
    validation, val, dev or test, "train" without one. A text file is one row, or several of at most 65,536
    characters, cut at line ends. A directory of pictures has one directory for each class; of
    pictures that a glob finds, too, and they need two classes to have labels.

    Args:
        source: the path; the files may be compressed (.gz, .bz2, .xz, .zst).
        split: the split; None for all of them.
        streaming: read while iterating.
        cache_dir: where the ``datasets`` library keeps its files; None is its own choice.

    Returns:
        What ``datasets.load_dataset`` returns.

    Raises:
        FileNotFoundError: there is no such file, or no data file in the directory.
        ValueError: files of several kinds or of an unknown one, or their content cannot be read.
    """
    path, base, files = _find(source)
    kinds = {_kind(file.name) for file in files}
    if "imagefolder" in kinds and {file.stem for file in files if _kind(file.name) != "imagefolder"} == {
        "metadata"
    }:
        kinds = {"imagefolder"}  # the labels may stand in a metadata.csv or metadata.jsonl
    if len(kinds) != 1 or None in kinds:
        raise ValueError(
            f"{source} holds files of several kinds or of an unknown one: {_suffixes(files)}; wanted one of "
            f"{', '.join(_KINDS)}, which may be compressed ({', '.join(_PACKED)}). Choose some by a glob, "
            "such as 'directory/*.jsonl'"
        )
    kind = kinds.pop()
    options: dict[str, Any] = {"split": split, "streaming": streaming, "cache_dir": cache_dir}
    if kind == "imagefolder" and path.is_dir():
        options["data_dir"] = str(base)
    elif path.is_file():
        options["data_files"] = str(path)
    else:
        options["data_files"] = _by_split(files, base)
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


def _find(source: str) -> tuple[Path, Path, list[Path]]:
    """The path, the directory that the source names before any wildcard, and its data files."""
    path = Path(source).expanduser()
    if path.is_file():
        return path, path.parent, [path]
    if path.is_dir():
        base = path
        files = [file for file in sorted(path.rglob("*")) if file.is_file() and _kind(file.name)]
        files = [file for file in files if not re.match("README|LICENSE", file.name)]
        files = [file for file in files if not re.search(r"(^|/)[._]", file.relative_to(base).as_posix())]
    else:
        base = next(parent for parent in path.parents if not glob.has_magic(str(parent)))
        files = [Path(name) for name in sorted(glob.glob(str(path), recursive=True)) if Path(name).is_file()]
    if not files:
        what = "no data file in the directory" if path.is_dir() else "no file or directory"
        *first, last = map(repr, SOURCES)
        raise FileNotFoundError(
            f"there is {what} {source!r} (from {Path.cwd()}); pass a path that is there, the name of a hub "
            f"data set, or {', '.join(first)} or {last}, which need no file"
        )
    return path, base, files


def _kind(name: str) -> str | None:
    """The kind of a file by its name, such as "json" for "a.jsonl.gz"; None for another file."""
    path = Path(name)
    return _KINDS.get((path.with_suffix("") if path.suffix in _PACKED else path).suffix.lower())


def _suffixes(files: list[Path]) -> str:
    return ", ".join(sorted({"".join(file.suffixes[-2:]) or file.name for file in files}))


def _by_split(files: list[Path], base: Path) -> dict[str, list[str]]:
    """The files of each split, by the last word in their path that is the name of one."""
    splits: dict[str, list[str]] = {}
    for file in files:
        words = _SPLIT.findall(file.relative_to(base).as_posix().lower())
        split = "train"
        if words:
            split = next(
                name for name, word in zip(("train", "validation", "test"), words[-1], strict=True) if word
            )
        splits.setdefault(split, []).append(str(file))
    return splits


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
