"""Built-in data sets, which need no network: digits, dates, names, places, and the source of Python."""

import collections
import datetime
import hashlib
import sysconfig
import tokenize
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import datasets
import numpy as np

__all__ = [
    "CONTINENTS",
    "DATE_LOCALES",
    "DATE_STYLES",
    "NAME_KINDS",
    "SOURCES",
    "SPLITS",
    "dates",
    "digits",
    "names",
    "places",
    "stdlib",
]

SPLITS = ("train", "validation", "test")
DATE_LOCALES = ("en", "de", "fr", "es", "it", "pt", "nl", "pl", "ru", "zh", "ja", "ko")
DATE_STYLES = ("full", "long", "medium")
NAME_KINDS = ("territory", "language", "script", "currency", "city")
CONTINENTS = ("Africa", "America", "Asia", "Europe", "Oceania")
_CONTINENT_OF_ZONE = {**{name: name for name in CONTINENTS[:4]}, "Australia": "Oceania", "Pacific": "Oceania"}
_FIRST_DAY, _LAST_DAY = datetime.date(1900, 1, 1), datetime.date(2099, 12, 31)
_DATE_ROWS = {"train": 50_000, "validation": 2_000, "test": 2_000}


def digits(split: str = "train") -> datasets.Dataset:
    """Handwritten digits: the 1,797 images of 8x8 pixels in scikit-learn.

    Args:
      split: "train" (1,257 rows), "validation" (180) or "test" (360), stratified, always the same rows.

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
        raise _missing("digits", "scikit-learn") from error
    pixels, labels = map(np.asarray, load_digits(return_X_y=True))
    rest, test = train_test_split(np.arange(len(labels)), test_size=360, stratify=labels, random_state=0)
    train, validation = train_test_split(rest, test_size=180, stratify=labels[rest], random_state=0)
    rows = np.sort({"train": train, "validation": validation, "test": test}[split])
    features = datasets.Features(
        {"image": datasets.Array2D((8, 8), "float32"), "label": datasets.ClassLabel(num_classes=10)}
    )
    images = (pixels[rows].reshape(-1, 8, 8) / 16).astype(np.float32)  # pixels are counts from 0 to 16
    return datasets.Dataset.from_dict({"image": images, "label": labels[rows]}, features=features)


def dates(split: str = "train", number: int | None = None, *, seed: int = 0) -> datasets.Dataset:
    """Dates in twelve languages, to be translated into ISO 8601.

    Equivalent to::

        {"source": babel.dates.format_date(day, style, locale), "target": day.isoformat()}

    Args:
      split: "train", "validation" or "test". Each day of the years 1900 to 2099 belongs to one of them
        (eight, one and one in ten).
      number: the number of rows; fewer rows are a prefix of more. None: 50,000 for "train", 2,000
        otherwise.
      seed: of the split of the days and of the rows.

    Returns:
      Rows ``{"source": str, "target": str, "locale": one of DATE_LOCALES, "style": one of DATE_STYLES}``.
      No written form means two days.

    Raises:
      ImportError: Babel is not installed.
      ValueError: there is no such split, or ``number`` is below 1.
    """
    _check_split("dates", split, SPLITS)
    try:
        from babel.dates import format_date
    except ImportError as error:
        raise _missing("dates", "Babel") from error
    number = _DATE_ROWS[split] if number is None else number
    if number < 1:
        raise ValueError(f"dates: got number={number}; wanted at least 1. Pass a number of rows.")
    all_days = np.random.default_rng(seed).permutation((_LAST_DAY - _FIRST_DAY).days + 1)
    tenth = len(all_days) // 10
    test, validation, train = np.split(all_days, [tenth, 2 * tenth])
    days = {"train": train, "validation": validation, "test": test}[split]
    # Drawn row by row, so that fewer rows are a prefix of more.
    rng = np.random.default_rng([seed, 1 + SPLITS.index(split)])
    draws = rng.integers(0, [len(days), len(DATE_LOCALES), len(DATE_STYLES)], size=(number, 3))
    rows: dict[str, list[str]] = {"source": [], "target": [], "locale": [], "style": []}
    for day_index, locale, style in draws:
        day = _FIRST_DAY + datetime.timedelta(days=int(days[day_index]))
        rows["source"].append(format_date(day, DATE_STYLES[style], locale=DATE_LOCALES[locale]))
        rows["target"].append(day.isoformat())
        rows["locale"].append(DATE_LOCALES[locale])
        rows["style"].append(DATE_STYLES[style])
    return datasets.Dataset.from_dict(rows)


def names(split: str = "train") -> datasets.Dataset:
    """Names of territories, languages, scripts, currencies and cities, in twelve languages.

    For two tasks: classify the language of a name, or the kind of thing that it names.

    Args:
      split: "train", "validation" or "test". A thing is in one of them in all languages, by the hash of its
        code: about eight, one and one in ten.

    Returns:
      Rows ``{"text": str, "language": DATE_LOCALES, "kind": NAME_KINDS, "code": str}``, where "language"
      and "kind" are class labels. A text with two meanings or in two languages is in no split.

    Raises:
      ImportError: Babel is not installed.
      ValueError: there is no such split.
    """
    text, label = datasets.Value("string"), datasets.ClassLabel
    return _rows_of(
        "names",
        split,
        _names,
        lambda text, language, kind, code: f"{kind}/{code}",
        shares={"test": 32, "validation": 24},
        features={
            "text": text,
            "language": label(names=list(DATE_LOCALES)),
            "kind": label(names=list(NAME_KINDS)),
            "code": text,
        },
    )


def places(split: str = "train") -> datasets.Dataset:
    """English names of territories, their cities and their currencies, with their continent.

    The splits are small and have different territories, so that the meaning of a name helps more than its
    letters.

    Args:
      split: "train", "validation" or "test". The names of a territory are in one of them, by the hash of its
        code: about seven, three and six in sixteen.

    Returns:
      Rows ``{"text": str, "continent": CONTINENTS, "territory": str}``, where "continent" is a class label,
      that of the time zones. No split has the name and the currencies of a territory on several
      continents, a currency of several territories, or a text that names things of two territories.

    Raises:
      ImportError: Babel is not installed.
      ValueError: there is no such split.
    """
    text = datasets.Value("string")
    return _rows_of(
        "places",
        split,
        lambda: sorted(set(_places())),
        lambda text, continent, territory: f"territory/{territory}",
        shares={"test": 96, "validation": 48},
        features={
            "text": text,
            "continent": datasets.ClassLabel(names=list(CONTINENTS)),
            "territory": text,
        },
    )


def stdlib(split: str = "train") -> datasets.Dataset:
    """Source code of the standard library of the running Python, one row per file.

    Without tests, generated files (``encodings``, ``pydoc_data``) and installed packages. The hash of its
    path decides the split of a file (one in twenty is in "validation"), so that all Python versions agree.

    Args:
      split: "train" or "validation".

    Returns:
      Rows ``{"text": str, "path": str}``, sorted by path.

    Raises:
      FileNotFoundError: the standard library of this Python is not in files.
      ValueError: there is no such split.
    """
    _check_split("stdlib", split, SPLITS[:2])
    root = Path(sysconfig.get_path("stdlib"))
    skipped = {"site-packages", "dist-packages", "test", "tests", "idle_test", "encodings", "pydoc_data"}
    rows: dict[str, list[str]] = {"text": [], "path": []}
    for file in sorted(root.rglob("*.py")):
        path = file.relative_to(root)
        held_out = hashlib.sha256(path.as_posix().encode()).digest()[0] < 256 / 20
        if skipped & set(path.parts) or held_out != (split == "validation"):
            continue
        with tokenize.open(file) as source:  # in the encoding that the file declares
            rows["text"].append(source.read())
        rows["path"].append(path.as_posix())
    if not rows["text"]:
        raise FileNotFoundError(
            f"stdlib: got no source files under {root}; wanted those of the standard library. Use a "
            "Python that has them."
        )
    return datasets.Dataset.from_dict(rows)


def _names() -> Iterator[tuple[str, str, str, str]]:
    """Text, locale, kind and code of every name, sorted by code."""
    from babel import Locale

    tables: dict[str, dict[str, dict[str, str]]] = {kind: {} for kind in NAME_KINDS}
    for name in DATE_LOCALES:
        locale = Locale.parse(name)
        cities = {zone: names["city"] for zone, names in locale.time_zones.items() if "city" in names}
        of_locale = (locale.territories, locale.languages, locale.scripts, locale.currencies, cities)
        for kind, table in zip(NAME_KINDS, of_locale, strict=True):
            tables[kind][name] = dict(table)
    for kind, of_kind in tables.items():
        for code in sorted(set().union(*of_kind.values())):
            yield from ((of_kind[name][code], name, kind, code) for name in of_kind if code in of_kind[name])


def _places() -> Iterator[tuple[str, str, str]]:
    """Text, continent and territory of every name."""
    from babel import Locale
    from babel.core import get_global

    english, users_of = Locale.parse("en"), collections.defaultdict(set)
    for territory, currencies in get_global("territory_currencies").items():
        for code, *_ in currencies:
            users_of[code].add(territory)
    for territory, zones in get_global("territory_zones").items():
        continent_of = {zone: _CONTINENT_OF_ZONE.get(zone.partition("/")[0]) for zone in zones}
        yield from ((_city(english, zone), c, territory) for zone, c in continent_of.items() if c)
        continents = set(continent_of.values())
        if len(continents) == 1 and (continent := continents.pop()) is not None:
            currencies = [code for code, users in users_of.items() if users == {territory}]
            texts = [english.territories.get(territory), *map(english.currencies.get, currencies)]
            yield from ((text, continent, territory) for text in texts if text)


def _city(locale: Any, zone: str) -> str:
    """The name of a time zone's city: CLDR's, or that in the zone's identifier."""
    return locale.time_zones.get(zone, {}).get("city", zone.rpartition("/")[2].replace("_", " "))


def _rows_of(
    source: str,
    split: str,
    read: Callable[[], Iterable[tuple[str, ...]]],
    key: Callable[..., str],
    *,
    shares: Mapping[str, int],
    features: Mapping[str, datasets.Value | datasets.ClassLabel],
) -> datasets.Dataset:
    """The rows of a split, by the first byte of the hash of their key; ``shares`` are numbers out of 256.

    Drops texts, the first value of a row, that occur twice.
    """
    _check_split(source, split, SPLITS)
    try:
        rows = list(read())
    except ImportError as error:
        raise _missing(source, "Babel") from error
    counts = collections.Counter(text for text, *_ in rows)
    test, validation = shares["test"], shares["validation"]

    def split_of(row: tuple[str, ...]) -> str:
        first = hashlib.sha256(key(*row).encode()).digest()[0]
        return "test" if first < test else "validation" if first < test + validation else "train"

    kept = [row for row in rows if counts[row[0]] == 1 and split_of(row) == split]
    columns = {name: [row[i] for row in kept] for i, name in enumerate(features)}
    return datasets.Dataset.from_dict(columns, features=datasets.Features(features))


def _check_split(source: str, split: str, splits: tuple[str, ...]) -> None:
    if split not in splits:
        raise ValueError(
            f"{source}: got split {split!r}; wanted one of {', '.join(map(repr, splits))}. Name one of them."
        )


def _missing(source: str, package: str) -> ImportError:
    return ImportError(
        f"{source}: got no {package}; wanted it to make this data set. Run pip install "
        "'tfm_jax[experiments]'."
    )


SOURCES = {
    "digits": (digits, SPLITS),
    "dates": (dates, SPLITS),
    "names": (names, SPLITS),
    "places": (places, SPLITS),
    "stdlib": (stdlib, SPLITS[:2]),
}
"""The built-in data sets by name: a function of the split, and the splits."""
