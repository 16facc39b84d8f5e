"""The sources that need no network: digits, dates in many languages, the standard library's source."""

import datetime
import hashlib
import sysconfig
import tokenize
from pathlib import Path

import datasets
import numpy as np

__all__ = ["DATE_LOCALES", "DATE_STYLES", "SPLITS", "dates", "digits", "stdlib"]

SPLITS = ("train", "validation", "test")
DATE_LOCALES = ("en", "de", "fr", "es", "it", "pt", "nl", "pl", "ru", "zh", "ja", "ko")
DATE_STYLES = ("full", "long", "medium")
_FIRST_DAY, _LAST_DAY = datetime.date(1900, 1, 1), datetime.date(2099, 12, 31)
_DATE_ROWS = {"train": 50_000, "validation": 2_000, "test": 2_000}


def digits(split: str = "train") -> datasets.Dataset:
    """The 1,797 handwritten digits of 8x8 pixels that come with scikit-learn.

    Args:
        split: "train" (1,257 rows), "validation" (180) or "test" (360), the classes evenly shared, always the
            same rows.

    Returns:
        Rows ``{"image": float32 [8, 8] in [0, 1], "label": 0 to 9}``.

    Raises:
        ImportError: scikit-learn is not installed.
        ValueError: there is no such split.

    Alpaydin & Kaynak 1998, "Optical Recognition of Handwritten Digits" (UCI Machine Learning Repository).
    """
    _check_split("digits", split, SPLITS)
    try:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split
    except ImportError as error:
        raise ImportError("'digits' needs scikit-learn: pip install 'tfm_jax[experiments]'") from error
    data = load_digits()
    rest, test = train_test_split(
        np.arange(len(data.target)), test_size=360, stratify=data.target, random_state=0
    )
    train, validation = train_test_split(rest, test_size=180, stratify=data.target[rest], random_state=0)
    rows = np.sort({"train": train, "validation": validation, "test": test}[split])
    features = datasets.Features(
        {"image": datasets.Array2D((8, 8), "float32"), "label": datasets.ClassLabel(num_classes=10)}
    )
    images = (data.images[rows] / 16).astype(np.float32)  # pixels are counts from 0 to 16
    return datasets.Dataset.from_dict({"image": images, "label": data.target[rows]}, features=features)


def dates(split: str = "train", number: int | None = None, *, seed: int = 0) -> datasets.Dataset:
    """Dates as twelve languages write them, to be translated into ISO 8601.

    Equivalent to::

        {"source": babel.dates.format_date(day, style, locale), "target": day.isoformat()}

    Args:
        split: "train", "validation" or "test". Each day of the years 1900 to 2099 belongs to one of them
            (eight, one and one in ten).
        number: the number of rows; the first rows are the same whatever it is. None: 50,000 to train on,
            2,000 otherwise.
        seed: decides which days belong to which split, and the rows.

    Returns:
        Rows ``{"source": str, "target": str, "locale": one of DATE_LOCALES, "style": one of DATE_STYLES}``.
        No written form stands for two days.

    Raises:
        ImportError: Babel is not installed.
        ValueError: there is no such split, or ``number`` is below 1.
    """
    _check_split("dates", split, SPLITS)
    try:
        from babel.dates import format_date
    except ImportError as error:
        raise ImportError("'dates' needs Babel: pip install 'tfm_jax[experiments]'") from error
    number = _DATE_ROWS[split] if number is None else number
    if number < 1:
        raise ValueError(f"number {number} is not a number of rows; pass at least 1")
    all_days = np.random.default_rng(seed).permutation((_LAST_DAY - _FIRST_DAY).days + 1)
    tenth = len(all_days) // 10
    test, validation, train = np.split(all_days, [tenth, 2 * tenth])
    days = {"train": train, "validation": validation, "test": test}[split]
    # Drawn row by row, so that more rows begin with the same ones.
    rng = np.random.default_rng([seed, 1 + SPLITS.index(split)])
    draws = rng.integers(0, [len(days), len(DATE_LOCALES), len(DATE_STYLES)], size=(number, 3))
    rows: dict[str, list[str]] = {"source": [], "target": [], "locale": [], "style": []}
    for place, locale, style in draws:
        day = _FIRST_DAY + datetime.timedelta(days=int(days[place]))
        rows["source"].append(format_date(day, DATE_STYLES[style], locale=DATE_LOCALES[locale]))
        rows["target"].append(day.isoformat())
        rows["locale"].append(DATE_LOCALES[locale])
        rows["style"].append(DATE_STYLES[style])
    return datasets.Dataset.from_dict(rows)


def stdlib(split: str = "train") -> datasets.Dataset:
    """The source text of the standard library of the Python that is running, a row for each file.

    Left out are its tests, what is generated rather than written (the tables of ``encodings``, the help texts
    of ``pydoc_data``), and installed packages. A file belongs to a split by the hash of its path, one in
    twenty to "validation", so that another Python version shares them out in the same way.

    Args:
        split: "train" or "validation".

    Returns:
        Rows ``{"text": str, "path": str}``, sorted by path.

    Raises:
        FileNotFoundError: this Python has its standard library in another form than files.
        ValueError: there is no such split.
    """
    _check_split("stdlib", split, SPLITS[:2])
    root = Path(sysconfig.get_path("stdlib"))
    left_out = {"site-packages", "dist-packages", "test", "tests", "idle_test", "encodings", "pydoc_data"}
    rows: dict[str, list[str]] = {"text": [], "path": []}
    for file in sorted(root.rglob("*.py")):
        path = file.relative_to(root)
        held_out = hashlib.sha256(path.as_posix().encode()).digest()[0] < 256 / 20
        if left_out & set(path.parts) or held_out != (split == "validation"):
            continue
        with tokenize.open(file) as source:  # honours a file's own encoding
            rows["text"].append(source.read())
        rows["path"].append(path.as_posix())
    if not rows["text"]:
        raise FileNotFoundError(f"there are no source files of the standard library under {root}")
    return datasets.Dataset.from_dict(rows)


def _check_split(source: str, split: str, splits: tuple[str, ...]) -> None:
    if split not in splits:
        raise ValueError(f"{source!r} has no split {split!r}; it has {', '.join(map(repr, splits))}")
