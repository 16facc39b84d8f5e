"""The words of the field: phrases that may not come back, in code, comments, messages, tests and docs.

CONTRIBUTING.md has the glossary. An entry here is a regular expression, what to write instead, a sentence
that it must find, and one of ordinary English that it must not find. Line breaks do not hide a phrase.
"""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PLACES = ("tfm_jax", "experiments", "tests", "benchmarks", "docs")
FILES = sorted(
    path
    for path in (*(p for place in PLACES for p in (ROOT / place).rglob("*")), ROOT / "README.md")
    if path.suffix in (".py", ".md") and path != Path(__file__)
)
NOUNS = "(mask|position|value|row|key|query|querie|token|logit|tile|column)s?"

FORBIDDEN = [
    # (regular expression, instead, a bad sentence, a good one)
    (
        rf"\b(closed|shut|opened|open)[ _]{NOUNS}\b",
        "masked / unmasked",
        "NaN in a closed position is ignored.",
        "The file is closed; an open interval of positions follows.",
    ),
    (r"\bclosed by (-inf|a mask|the mask)", "masked", "It is closed by -inf.", "It is closed by the caller."),
    (r"\bempty_rows\b", "fully_masked_rows", "the law empty_rows", "empty rows of a CSV file"),
    (
        r"\bstands? (in|for|at|there|where|before|behind|beside|alone|on)\b",
        "is, are, at position; means",
        "The token stands at position 0.",
        "A reader understands at once.",
    ),
    (
        r"\b(is|are|was|were|be|been|being) (not )?(told|asked|said)\b",
        "configured, declared, required",
        "What it is not told it takes from the file.",
        "A query asks and a key answers, as the text says.",
    ),
    (r"\btold (apart|otherwise|where|by|from)\b", "distinguished", "They are told apart.", "We told you."),
    (r"\bof one's own\b", "a separate", "a program of one's own", "a directory of its own"),
    (r"\breach(es)? no one\b", "never reaches the output", "NaN there reaches no one.", "No one reaches it."),
    (r"\bthat which\b", "what, the one that", "that which is masked", "the mask that is passed"),
    (r"\bmend(s|ed|ing)?\b", "fix", "The rows are mended.", "We recommended an amended file."),
    (r"\b(museum|strangers|keepers)\b", "mutants, peers, truncation", "in the museum", "a music stranger"),
    (r"\brecipes?\b", "GenerationConfig, configuration", "the recipe of a checkpoint", "the receipt"),
    (r"\bas one likes\b", "any", "as many as one likes", "as many as the caller passes"),
    (r"\b(begin|end) tokens?\b", "BOS token, EOS token", "after the end token", "the end of the tokens"),
    (
        r"\bremembers?( what)? of\b|\bis remembered\b",
        "KV cache",
        "what a decoder remembers of its tokens",
        "Remember the flag.",
    ),
    (
        r"\b(lower|higher|upper|same|own) floors?\b|\bfloor \d\b|\b(this|own) room\b|\brooms\b|\bthe house\b"
        r"|\bdoors?\b",
        "layer, package, public function",
        "A lower floor never imports a higher one.",
        "There is room for 4 tokens after floor division.",
    ),
    (
        r"\b(Honours|HONOURS)\b|\.honours\b|\.refuses\(",
        "Capabilities, unsupported",
        "if backend.refuses(request):",
        "A backend honours the mask or refuses it.",
    ),
    (r"\bspread (over|across|out)\b", "sharded over", "spread over the devices", "the spread of the weights"),
    (r"\bin the place of\b", "instead of, in place of", "0 in the place of -1", "0 in place of -1"),
    (r"\bBy (``|`|where\b|which\b)", "write the sentence actively", "By ``where`` it is nan.", "By default"),
    (
        r"\b(of|at least|at most|the last) so many\b",
        "of that length; the last n",
        "after a prompt of so many tokens",
        "There are so many.",
    ),
    (r"\bgo(es)? by (its|their|the|his)\b", "uses, reads", "A row goes by its text.", "Time goes by."),
    (r"\bbreach(es)?\b", "violation", "a breach of the law", "a reach of the branch"),
    (
        r"\ba (key|vector|row|line|program|process|case|list|number|file) a "
        r"(row|token|core|line|law|batch|shape|head|device|position|step|sequence|class)\b",
        "one ... per ...",
        "a key a row",
        "a key and a row; a line as a row",
    ),
    (r"\bsurely\b|\bat_hand\b", "definitely, is_concrete", "if surely(lambda: T > S):", "sure"),
    (
        r"\b(what|which) (it|they|one) (is|are) (given|told)\b",
        "its arguments",
        "It does what it is given.",
        "what the caller passes",
    ),
    (r"\b[Cc]ounter-example", "counterexample", "the smallest counter-example", "a counter of examples"),
    (r"\b(gives?|given) up\b", "free, stop", "A tensor is given up at once.", "given upper case"),
    (
        r"\b(goes|go|went|going) on (with|from|by)\b",
        "continue, resume",
        "It goes on with the run.",
        "It goes on one device.",
    ),
    (r"\bhand(s|ed)? (on|over)\b", "pass", "It hands on its arguments.", "on the other hand"),
]


def as_one_line(text: str) -> str:
    """A text without its line breaks, indentation, comment signs and breaks of string literals."""
    text = re.sub(r'"\s*\n\s*f?"(?!")', "", text)
    return re.sub(r"\s*\n\s*(#+ |\| )?", " ", text)


@pytest.mark.parametrize("pattern", [row[0] for row in FORBIDDEN])
def test_no_forbidden_phrase(pattern, texts):
    found = [
        f"{path}: ...{text[max(0, match.start() - 40) : match.end() + 40]}..."
        for path, text in texts.items()
        for match in re.finditer(pattern, text)
    ]
    instead = next(row[1] for row in FORBIDDEN if row[0] == pattern)
    assert not found, f"{len(found)} times /{pattern}/; write: {instead}\n" + "\n".join(found)


@pytest.mark.parametrize("pattern, instead, bad, good", FORBIDDEN)
def test_each_phrase_is_found_and_ordinary_english_is_not(pattern, instead, bad, good):
    assert re.search(pattern, as_one_line(bad.replace(" ", "\n    # ", 1)))
    assert not re.search(pattern, good)
    assert not re.search(pattern, instead)


def test_a_line_break_does_not_hide_a_phrase():
    assert as_one_line("# It reaches\n    # no one.") == "# It reaches no one."
    assert as_one_line('"It reaches "\n    f"no one."') == '"It reaches no one."'


@pytest.fixture(scope="module")
def texts():
    return {str(path.relative_to(ROOT)): as_one_line(path.read_text()) for path in FILES}
