"""Which installed fonts can draw a text, and what to write where none can."""

import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path

__all__ = ["drawable"]

BASE = "DejaVu Sans"  # comes with matplotlib
# Tried first, as they cover much and look well; any other installed font follows.
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
REGULAR = (400, 500, "normal", "regular", "medium")  # the weights of a regular face, as files state them


def drawable(texts: Iterable[str]) -> tuple[list[str], list[str], str | None]:
    r"""Finds fonts for all characters of `texts`, and replaces the characters that no installed font has.

    Args:
      texts: what is to be drawn.

    Returns:
      (texts, families, note): the texts, with `U+4E2D` for a character without a glyph, `\n` and the like for
      those that are not printed, and `␣` for the spaces of a blank text; font families for matplotlib, to be
      tried in this order; and what to install, or None where nothing is missing.
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
    """The names of the families that are not matplotlib's own, best first."""
    from matplotlib import font_manager, get_data_path

    manager = font_manager.fontManager
    # The manager reads a list from a cache, which does not know a font installed since.
    known = {str(entry.fname) for entry in manager.ttflist}
    for path in set(font_manager.findSystemFonts()) - known:
        try:
            manager.addfont(path)
        except (OSError, RuntimeError, ValueError):
            continue  # a format that matplotlib cannot read
    own = Path(get_data_path())
    names = {
        entry.name
        for entry in manager.ttflist
        if entry.style == "normal" and entry.weight in REGULAR and own not in Path(entry.fname).parents
    }
    # Fonts of last resort have a box for everything and a glyph for nothing.
    names = {name for name in names if "lastresort" not in name.lower().replace(" ", "").replace(".", "")}
    rank = lambda name: next(
        (i for i, start in enumerate(PREFERRED) if name.startswith(start)), len(PREFERRED)
    )
    yield from sorted(names, key=lambda name: (rank(name), name))


def _characters(family: str) -> set[str]:
    """The characters with a glyph in the file that matplotlib would take for this family."""
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
    unprinted = {
        c: c.encode("unicode_escape").decode() for c in text if unicodedata.category(c) in ("Cc", "Cf")
    }
    shown = "".join(unprinted.get(c, c) for c in text)
    return "␣" * len(shown) if shown.isspace() else shown


def _escape(text: str, missing: set[str]) -> str:
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
        f"code points, such as U+{ord(min(missing)):04X}. Install a font that has them (on Debian or Ubuntu: "
        f"apt install {package}) and draw again."
    )
