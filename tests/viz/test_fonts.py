"""Fonts: what an installed font can draw is drawn, what none can is written as a code point, with a note."""

import pytest

pytest.importorskip("matplotlib")
from matplotlib import font_manager

from tfm_jax.viz import fonts

CHINESE = "中文"


@pytest.fixture
def only_dejavu(monkeypatch):
    monkeypatch.setattr(fonts, "_installed", lambda: iter(()))


@pytest.fixture
def tiny_font(tmp_path, monkeypatch):
    """A font of its own, made here, with squares for the Chinese characters and for nothing else."""
    builder = pytest.importorskip("fontTools.fontBuilder").FontBuilder(1000)
    pen = pytest.importorskip("fontTools.pens.ttGlyphPen").TTGlyphPen(None)
    pen.moveTo((100, 0))
    for point in ((100, 800), (900, 800), (900, 0)):
        pen.lineTo(point)
    pen.closePath()
    names = [".notdef", *(f"uni{ord(c):04X}" for c in CHINESE)]
    builder.setupGlyphOrder(names)
    builder.setupCharacterMap({ord(c): f"uni{ord(c):04X}" for c in CHINESE})
    builder.setupGlyf(dict.fromkeys(names, pen.glyph()))
    builder.setupHorizontalMetrics(dict.fromkeys(names, (1000, 100)))
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": "Tiny Squares", "styleName": "Regular"})
    builder.setupOS2(sTypoAscender=800, usWeightClass=400)
    builder.setupPost()
    path = tmp_path / "tiny.ttf"
    builder.save(path)
    before = list(font_manager.fontManager.ttflist)
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: [str(path)])
    monkeypatch.setattr(
        font_manager.fontManager, "ttflist", [e for e in before if e.name.startswith("DejaVu")]
    )
    return "Tiny Squares"


def test_what_matplotlib_s_own_font_has_needs_no_other():
    texts = ["a", "é", "я", "λ", "<eos>", "▁Le", "$x$"]
    assert fonts.drawable(texts) == (texts, ["DejaVu Sans"], None)


def test_without_a_font_code_points_are_drawn_and_one_note_names_the_package(only_dejavu):
    texts, families, note = fonts.drawable(["a中b", "中文", "c", "龍"])
    assert texts == ["a U+4E2D b", "U+4E2D U+6587", "c", "U+9F8D"]
    assert families == ["DejaVu Sans"]
    assert "3 of the characters (中文龍)" in note and "U+4E2D" in note and "fonts-noto-cjk" in note
    assert "\n" not in note


def test_the_package_depends_on_the_script(only_dejavu):
    assert "install fonts-noto)" in fonts.drawable(["ꦏ"])[2]  # Javanese
    assert "fonts-noto-cjk" in fonts.drawable(["한"])[2]


def test_a_font_installed_since_is_found_by_its_character_map(tiny_font):
    texts, families, note = fonts.drawable(["中", "x", "文"])
    assert (texts, families, note) == (["中", "x", "文"], ["DejaVu Sans", tiny_font], None)
    texts, families, note = fonts.drawable(["中龍"])
    assert texts == ["中 U+9F8D"] and families == ["DejaVu Sans", tiny_font] and "(龍)" in note


def test_a_font_of_last_resort_does_not_count():
    # matplotlib brings one, which has a box for every character.
    assert "Last Resort" not in " ".join(fonts._installed())


def test_what_leaves_no_mark_is_made_visible():
    texts = fonts.drawable([" ", "\n", "a b", "\t", "\x00", "a\nb", "\u202f", "\u200f", "  "])[0]
    assert texts == ["␣", r"\n", "a b", r"\t", r"\x00", r"a\nb", "␣", r"\u200f", "␣␣"]
