"""Installed fonts for the characters of a text, and substitutes for characters without a glyph."""

import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path

__all__ = ["drawable"]

BASE = "DejaVu Sans"  # comes with matplotlib
# Tried first, for their coverage; any other installed font follows.
PREFERRED = (
    "Noto Sans CJK",
    "Noto Sans",
    "Source Han Sans",
    "WenQuanYi",
    "PingFang",
    "Hiragino Sans",
    "Microsoft YaHei",
    "Malgun Gothic",
    "Arial Unicode MS",
    "Unifont",
)
REGULAR = (400, 500, "normal", "regular", "medium")  # font weights that count as regular


def drawable(texts: Iterable[str]) -> tuple[list[str], list[str], str | None]:
    r"""Finds fonts for the characters of some texts, and replaces characters that no installed font has.

    Args:
      texts: the texts to draw.

    Returns:
      (texts, families, note): the texts, with code points such as `U+4E2D` for characters without a glyph,
      escapes such as `\n` for control characters, and `␣` for the spaces of a blank text; font families for
      matplotlib, in the order to try; and which package to install, or None if no glyph is missing.
    """
    texts = [_visible(text) for text in texts]
    families = [BASE]
    missing = set("".join(texts)) - _characters(BASE)
    for family in _installed() if missing else ():
        found = missing & _characters(family)
        if found:
            families.append(family)
            missing -= found
        if not missing:
            break
    return [_escape(text, missing) for text in texts], families, _note(missing) if missing else None


def _installed() -> Iterator[str]:
    """The installed families, without those that matplotlib brings, best first."""
    from matplotlib import font_manager, get_data_path

    manager = font_manager.fontManager
    # The manager's list is cached, and misses fonts that were installed later.
    known = {str(entry.fname) for entry in manager.ttflist}
    for path in set(font_manager.findSystemFonts()) - known:
        try:
            manager.addfont(path)
        except (OSError, RuntimeError, ValueError):
            continue  # a format that matplotlib cannot read
    matplotlib_data = Path(get_data_path())
    names = {
        entry.name
        for entry in manager.ttflist
        if entry.style == "normal"
        and entry.weight in REGULAR
        and matplotlib_data not in Path(entry.fname).parents
    }
    # Fonts of last resort draw a box for every character.
    names = {name for name in names if "lastresort" not in name.lower().replace(" ", "").replace(".", "")}
    yield from sorted(names, key=lambda name: (_preference(name), name))


def _preference(family: str) -> int:
    """The index of the family in PREFERRED; its length if it is not there."""
    return next((i for i, start in enumerate(PREFERRED) if family.startswith(start)), len(PREFERRED))


def _characters(family: str) -> set[str]:
    """The characters with a glyph in the font that matplotlib uses for this family."""
    from matplotlib import font_manager

    try:
        path = font_manager.fontManager.findfont(
            font_manager.FontProperties(family=family), fallback_to_default=False
        )
        font = font_manager.get_font(path)
    except (OSError, RuntimeError, ValueError):
        return set()
    return {chr(code) for code in font.get_charmap()} if font.scalable else set()


def _visible(text: str) -> str:
    """The text with control characters escaped, and `␣` for each space if it has nothing else."""
    unprintable = {
        c: c.encode("unicode_escape").decode() for c in text if unicodedata.category(c) in ("Cc", "Cf")
    }
    shown = "".join(unprintable.get(c, c) for c in text)
    return "␣" * len(shown) if shown.isspace() else shown


def _escape(text: str, missing: set[str]) -> str:
    """The text with code points instead of the missing characters."""
    spaced = "".join(f" U+{ord(c):04X} " if c in missing else c for c in text)
    return " ".join(spaced.split()) if missing & set(text) else text


def _note(missing: set[str]) -> str:
    some = "".join(sorted(missing)[:8]) + ("..." if len(missing) > 8 else "")
    east_asian = any(
        unicodedata.name(c, "").startswith(("CJK", "HIRAGANA", "KATAKANA", "HANGUL")) for c in missing
    )
    package = "fonts-noto-cjk" if east_asian else "fonts-noto"
    return (
        f"No installed font has a glyph for {len(missing)} of the characters ({some}): they are drawn as "
        f"code points, such as U+{ord(min(missing)):04X}. Install a font with these glyphs (on Debian or "
        f"Ubuntu: apt install {package}) and draw again."
    )
