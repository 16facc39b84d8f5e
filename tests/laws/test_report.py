"""``Report``: severities, data, Markdown and badges."""

import json
from xml.etree import ElementTree

import pytest
from hypothesis import strategies as st

from tfm_jax import laws


def law_of(name, severity="wrong result", wrong=False):
    def statement(f, x):
        """The output | is the input."""
        if wrong:
            raise laws.Violation("output: got 1; wanted 0")
        f(x)

    statement.__name__ = name
    return laws.law(st.integers(), severity=severity)(statement)


def unsupported(f, x):
    """It is supported."""
    raise laws.Unsupported("no")


PROMISE, WRONG = law_of("promise", "contract", wrong=True), law_of("wrong", wrong=True)
HOLDS, UNSUPPORTED = law_of("holds"), laws.law(st.integers())(unsupported)


def report_of(*laws_of_suite):
    return laws.check(
        lambda x: x, laws.Suite("numbers", "f(x) -> x", laws.Subject, laws_of_suite), examples=9
    )


@pytest.fixture(scope="module")
def report():
    return report_of(HOLDS, PROMISE, WRONG, UNSUPPORTED)


def test_violated_laws_are_listed_again_wrong_results_first(report):
    assert str(report).splitlines()[-4:] == [
        "Violated:",
        "wrong result  wrong: The output | is the input.",
        "contract      promise: The output | is the input.",
        "4 laws of numbers: 1 hold, 2 violated, 1 not supported",
    ]
    assert "Violated:" not in str(report_of(HOLDS))


def test_severity_is_one_of_two():
    assert laws.attention["causality"].severity == "wrong result"
    assert laws.attention["fully_masked_rows"].severity == "contract"
    with pytest.raises(ValueError, match="Law: got severity='minor'; wanted one of wrong result, contract"):
        law_of("x", "minor")


@pytest.mark.parametrize(
    "wrong_from, severity, smallest", [(40, "wrong result", "40"), (101, "contract", "0")]
)
def test_a_violated_contract_does_not_hide_a_wrong_result(wrong_from, severity, smallest):
    @laws.law(st.integers(0, 100))
    def both(f, x):
        """A wrong result in large cases, a violated contract in all others."""
        if f(x) >= wrong_from:
            raise laws.Violation("wrong")
        raise laws.Violation("promise", severity="contract")

    (found,) = report_of(both).findings
    assert (found.severity, found.counterexample.splitlines()[0]) == (severity, smallest)


def test_few_laws_are_contracts():
    severities = [law.severity for suite in laws.SUITES.values() for law in suite]
    assert 20 < severities.count("contract") < len(severities) / 5


def test_report_as_data(report):
    data = json.loads(json.dumps(report.to_dict()))
    counts = {name: data[name] for name in ("suite", "holds", "violated", "not_supported")}
    assert counts == {"suite": "numbers", "holds": 1, "violated": 2, "not_supported": 1}
    promise = data["findings"][1]
    assert (promise["law"], promise["severity"], promise["status"]) == ("promise", "contract", "violated")
    assert promise["counterexample"] == "0\noutput: got 1; wanted 0"
    assert data["findings"][0]["cases"] == 9 and data["findings"][3]["reason"] == "no"


def test_report_as_markdown(report):
    lines = report.to_markdown().splitlines()
    assert lines[:3] == ["## Laws of numbers", "", f"{report.summary()}."]
    assert r"| `promise` | The output \| is the input. | violated (contract) |" in lines
    assert lines.index("### wrong") < lines.index("### promise") and lines.count("```") == 4
    assert lines[-1] == "Not supported, such as `unsupported`: no"


@pytest.mark.parametrize(
    "found, color",
    [
        ((HOLDS,), "green"),
        ((HOLDS, PROMISE), "yellow"),
        ((HOLDS, UNSUPPORTED), "yellow"),
        ((WRONG, PROMISE), "red"),
    ],
)
def test_badge(found, color, tmp_path):
    report = report_of(*found)
    report.write_badge(tmp_path / "badge.json")
    data = json.loads((tmp_path / "badge.json").read_text())
    held = "0" if WRONG in found else "1"
    message = f"{held} of {len(found)} hold"
    assert data == {"schemaVersion": 1, "label": "laws of numbers", "message": message, "color": color}
    report.write_badge(tmp_path / "badge.svg")
    root = ElementTree.parse(tmp_path / "badge.svg").getroot()
    assert [x.text for x in root.iter("{http://www.w3.org/2000/svg}text")] == ["laws of numbers", message]
    with pytest.raises(ValueError, match=r"write_badge: got .*badge\.png; wanted a name that ends in \.svg"):
        report.write_badge(tmp_path / "badge.png")
