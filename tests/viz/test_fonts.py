"""Characters without a glyph in any installed font become code points, with a note that names a package."""

import pytest

pytest.importorskip("matplotlib")
from matplotlib import font_manager

from tfm_jax.viz import _fonts

CHINESE = "中文"


@pytest.fixture
def only_dejavu(monkeypatch):
    monkeypatch.setattr(_fonts, "_installed", lambda: iter(()))


@pytest.fixture
def tiny_font(tmp_path, monkeypatch):
    """The only installed font: squares for the Chinese characters, and no other glyph."""
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


def test_the_font_of_matplotlib_is_enough_for_its_characters():
    texts = ["a", "é", "я", "λ", "<eos>", "▁Le", "$x$"]
    assert _fonts.drawable(texts) == (texts, ["DejaVu Sans"], None)


def test_without_a_font_code_points_are_drawn_and_the_note_names_a_package(only_dejavu):
    texts, families, note = _fonts.drawable(["a中b", "中文", "c", "龍"])
    assert texts == ["a U+4E2D b", "U+4E2D U+6587", "c", "U+9F8D"]
    assert families == ["DejaVu Sans"]
    assert "3 of the characters (中文龍)" in note and "U+4E2D" in note and "fonts-noto-cjk" in note
    assert "\n" not in note


def test_the_package_depends_on_the_script(only_dejavu):
    assert "install fonts-noto)" in _fonts.drawable(["ꦏ"])[2]  # Javanese
    assert "fonts-noto-cjk" in _fonts.drawable(["한"])[2]


def test_a_newly_installed_font_is_found(tiny_font):
    texts, families, note = _fonts.drawable(["中", "x", "文"])
    assert (texts, families, note) == (["中", "x", "文"], ["DejaVu Sans", tiny_font], None)
    texts, families, note = _fonts.drawable(["中龍"])
    assert texts == ["中 U+9F8D"] and families == ["DejaVu Sans", tiny_font] and "(龍)" in note


def test_fonts_of_last_resort_are_ignored():
    # matplotlib brings one, which has a box for every character.
    assert "Last Resort" not in " ".join(_fonts._installed())


def test_white_space_and_control_characters_are_made_visible():
    texts = _fonts.drawable([" ", "\n", "a b", "\t", "\x00", "a\nb", "\u202f", "\u200f", "  "])[0]
    assert texts == ["␣", r"\n", "a b", r"\t", r"\x00", r"a\nb", "␣", r"\u200f", "␣␣"]
