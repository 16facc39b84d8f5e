import datetime
import itertools
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfm_jax import data
from tfm_jax.data import builtin
from tfm_jax.data.builtin import CONTINENTS, DATE_LOCALES, DATE_STYLES, NAME_KINDS

SPLITS = ("train", "validation", "test")


def written_forms(days):
    """Every way to write each day: (text, day)."""
    dates = pytest.importorskip("babel.dates")
    locales = [dates.Locale.parse(name) for name in DATE_LOCALES]
    for day in days:
        for locale in locales:
            for style in DATE_STYLES:
                yield dates.format_date(day, style, locale=locale), day


def days_between(first, last, step=1):
    ordinals = range(
        datetime.date(first, 1, 1).toordinal(), datetime.date(last, 12, 31).toordinal() + 1, step
    )
    return map(datetime.date.fromordinal, ordinals)


@pytest.mark.slow
def test_no_written_form_means_two_days():
    meaning = {}  # 28 years have each of the 14 possible calendars
    for text, day in written_forms(days_between(1996, 2023)):
        assert meaning.setdefault(text, day) == day, f"{text!r} is {day} and {meaning[text]}"


def test_every_written_form_has_the_whole_year():
    """Two years are then as distinct as two days of one year."""
    for text, day in written_forms(days_between(1900, 2099, step=13)):
        assert re.findall(r"\d{3,}", text) == [str(day.year)]


def test_sources_are_the_target_dates_as_babel_formats_them():
    dates = pytest.importorskip("babel.dates")
    rows = builtin.dates("test", 400)
    assert rows.column_names == ["source", "target", "locale", "style"]
    for row in rows:
        day = datetime.date.fromisoformat(row["target"])
        assert row["source"] == dates.format_date(day, row["style"], locale=row["locale"])
    assert set(rows["locale"]) == set(DATE_LOCALES) and {"zh", "en"} < set(DATE_LOCALES)
    assert len(DATE_LOCALES) >= 8 and set(rows["style"]) == set(DATE_STYLES)


@settings(max_examples=5)
@given(st.integers(0, 2**31))
def test_no_day_is_shared_between_splits(seed):
    pytest.importorskip("babel")
    days = [set(builtin.dates(split, 600, seed=seed)["target"]) for split in SPLITS]
    assert not days[0] & days[1] and not days[0] & days[2] and not days[1] & days[2]


def test_most_days_are_in_the_training_split():
    pytest.importorskip("babel")
    days = [len(set(builtin.dates(split, 3000)["target"])) for split in SPLITS]
    assert days[0] > 2850 and 2300 < days[1] < 2600 and 2300 < days[2] < 2600


def test_dates_are_a_function_of_seed_and_number():
    pytest.importorskip("babel")
    rows = builtin.dates("train", 30, seed=3).to_list()
    assert rows == builtin.dates("train", 70, seed=3).to_list()[:30]
    assert rows != builtin.dates("train", 30, seed=4).to_list()
    locales = [list(builtin.dates(split, 30)["locale"]) for split in SPLITS]
    assert locales[0] != locales[1] != locales[2] != locales[0]
    assert len({row["source"] for row in rows}) > 25


def test_digits_splits():
    pytest.importorskip("sklearn")
    parts = {split: builtin.digits(split) for split in SPLITS}
    assert {split: len(part) for split, part in parts.items()} == {
        "train": 1257,
        "validation": 180,
        "test": 360,
    }
    images = np.concatenate([np.array(part["image"], np.float32) for part in parts.values()])
    assert images.shape == (1797, 8, 8) and images.min() == 0 and images.max() == 1
    assert len(np.unique(images.reshape(1797, -1), axis=0)) == 1797, "no image is in two splits"
    for part in parts.values():
        counts = np.bincount(part["label"], minlength=10)
        assert counts.max() - counts.min() <= 0.05 * len(part), "stratified"
    assert builtin.digits("test")["label"] == parts["test"]["label"]


def test_digits_become_batches():
    pytest.importorskip("sklearn")
    examples = data.image_classification_examples(builtin.digits("validation"))
    batch = examples.take(np.arange(180))
    assert (
        batch["images"].shape == (180, 8, 8, 1)
        and batch["images"].dtype == np.float32
        and examples.classes == 10
    )


def test_stdlib_is_that_of_the_running_python():
    train, validation = builtin.stdlib("train"), builtin.stdlib("validation")
    paths = [*train["path"], *validation["path"]]
    assert len(set(paths)) == len(paths) and {"json/decoder.py", "dataclasses.py"} < set(paths)
    assert train["path"] == sorted(train["path"], key=lambda path: path.split("/"))
    assert not any(re.search(r"(^|/)(tests?|site-packages|dist-packages)/", path) for path in paths)
    assert 0.01 < len(validation) / len(paths) < 0.1
    text = dict(zip(paths, [*train["text"], *validation["text"]], strict=True))["dataclasses.py"]
    assert text == Path(sys.modules["dataclasses"].__file__).read_text(encoding="utf-8")
    assert builtin.stdlib("validation")["path"] == validation["path"]


@pytest.fixture(scope="module")
def names():
    pytest.importorskip("babel")
    return {split: builtin.names(split) for split in SPLITS}


def test_names_are_what_babel_calls_them(names):
    babel = pytest.importorskip("babel")
    locales = {name: babel.Locale.parse(name) for name in DATE_LOCALES}
    tables = {
        "territory": "territories",
        "language": "languages",
        "script": "scripts",
        "currency": "currencies",
    }
    rows = names["validation"]
    assert rows.column_names == ["text", "language", "kind", "code"]
    labels = {name: rows.features[name].int2str(rows[name]) for name in ("language", "kind")}
    assert set(labels["language"]) == set(DATE_LOCALES) and set(labels["kind"]) == set(NAME_KINDS)
    for row, language, kind in zip(rows, labels["language"], labels["kind"], strict=True):
        locale, code = locales[language], row["code"]
        city = kind == "city"
        assert row["text"] == (
            locale.time_zones[code]["city"] if city else getattr(locale, tables[kind])[code]
        )


def test_no_text_and_no_thing_is_in_two_splits_or_has_two_labels(names):
    texts = [text for rows in names.values() for text in rows["text"]]
    assert len(set(texts)) == len(texts) and all(text.strip() for text in texts)
    things = [set(zip(rows["kind"], rows["code"], strict=True)) for rows in names.values()]
    assert not things[0] & things[1] and not things[0] & things[2] and not things[1] & things[2]
    shares = np.array([len(rows) for rows in names.values()]) / len(texts)
    np.testing.assert_allclose(shares, [200 / 256, 24 / 256, 32 / 256], atol=0.03)
    assert "Berlin" not in texts  # in many languages


def test_names_are_loaded_as_a_source(names):
    splits = data.load_splits("names", columns=["text", "language"])
    assert {name: rows.to_dict() for name, rows in splits.items()} == {
        name: rows.select_columns(["text", "language"]).to_dict() for name, rows in names.items()
    }


@pytest.fixture(scope="module")
def places():
    pytest.importorskip("babel")
    return {split: builtin.places(split) for split in SPLITS}


def test_places_are_babels_english_names(places):
    core = pytest.importorskip("babel.core")
    english = core.Locale.parse("en")
    cities = set()
    for zone, territory in core.get_global("zone_territories").items():
        last_part = zone.split("/")[-1].replace("_", " ")
        cities.add((english.time_zones.get(zone, {}).get("city", last_part), territory))
    for row in places["validation"]:
        text, territory = row["text"], row["territory"]
        currencies = {code for code, *_ in core.get_global("territory_currencies").get(territory, [])}
        others = {english.territories[territory], *map(english.currencies.get, currencies)}
        assert text in others or (text, territory) in cities


@pytest.mark.parametrize(
    ("text", "continent", "territory"),
    [
        ("Kenya", "Africa", "KE"),
        ("Kenyan Shilling", "Africa", "KE"),
        ("Paris", "Europe", "FR"),
        ("São Paulo", "America", "BR"),  # CLDR's name; the zone has another one
        ("Buenos Aires", "America", "AR"),  # the zone's name
        ("Sydney", "Oceania", "AU"),
        ("Honolulu", "Oceania", "US"),  # a city of a territory on two continents ...
        ("United States", None, None),  # ... which itself is on neither
        ("US Dollar", None, None),
        ("Euro", None, None),  # of several territories
        ("Norwegian Krone", None, None),  # also of a territory without a zone
        ("Reykjavik", None, None),  # by its zone in an ocean
    ],
)
def test_a_place_is_on_the_continent_of_its_time_zones(places, text, continent, territory):
    rows = [row for part in places.values() for row in part if row["text"] == text]
    expected = [{"text": text, "continent": continent, "territory": territory}]
    named = [row | {"continent": CONTINENTS[row["continent"]]} for row in rows]
    assert named == (expected if continent else [])


def test_no_text_and_no_territory_is_in_two_splits_of_places(places):
    texts = [text for rows in places.values() for text in rows["text"]]
    assert len(set(texts)) == len(texts) > 500 and all(text.strip() for text in texts)
    territories = [set(rows["territory"]) for rows in places.values()]
    for one, other in itertools.combinations(territories, 2):
        assert not one & other
    shares = np.array([len(part) for part in territories]) / sum(map(len, territories))
    np.testing.assert_allclose(shares, [7 / 16, 3 / 16, 6 / 16], atol=0.08)
    for rows in places.values():
        assert rows.features["continent"].names == list(CONTINENTS)
        assert np.bincount(rows["continent"], minlength=5).min() >= 0.05 * len(rows)


def test_places_are_deterministic_and_loaded_as_a_source(places):
    splits = data.load_splits("places")
    assert {name: rows.to_list() for name, rows in splits.items()} == {
        name: rows.to_list() for name, rows in places.items()
    }


def test_a_text_of_two_territories_or_continents_is_in_no_split(monkeypatch):
    rows = [
        ("Here", "Asia", "AA"),
        ("Here", "Asia", "AB"),
        ("There", "Asia", "AA"),
        ("There", "Africa", "AA"),
    ]
    rows += [("Twice", "Asia", "AC"), ("Twice", "Asia", "AC")]
    monkeypatch.setattr(builtin, "_places", lambda: iter(rows))
    texts = [text for split in SPLITS for text in builtin.places(split)["text"]]
    assert texts == ["Twice"]


def test_unknown_splits_and_numbers():
    with pytest.raises(
        ValueError, match="digits: got split 'dev'; wanted one of 'train', 'validation', 'test'"
    ):
        builtin.digits("dev")
    with pytest.raises(ValueError, match="stdlib: got split 'test'; wanted one of 'train', 'validation'"):
        builtin.stdlib("test")
    with pytest.raises(ValueError, match="names: got split 'dev'"):
        builtin.names("dev")
    with pytest.raises(ValueError, match="places: got split 'dev'"):
        builtin.places("dev")
    with pytest.raises(ValueError, match="dates: got split 'dev'"):
        builtin.dates("dev")
    with pytest.raises(ValueError, match="dates: got number=0; wanted at least 1"):
        builtin.dates("train", 0)


@pytest.mark.parametrize(
    ("module", "call", "message"),
    [
        ("babel.dates", builtin.dates, "dates: got no Babel"),
        ("babel", builtin.names, "names: got no Babel"),
        ("babel", builtin.places, "places: got no Babel"),
        ("sklearn.datasets", builtin.digits, "digits: got no scikit-learn"),
    ],
)
def test_a_missing_extra_is_named(module, call, message, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=message + r".*pip install 'tfm_jax\[experiments\]'"):
        call()
