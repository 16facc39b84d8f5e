"""docs/laws.md and docs/laws.json agree with each other, with the laws and with the public functions."""

import functools
import re

import pytest

import tfm_jax
from benchmarks import laws as benchmark
from benchmarks.sentences import SENTENCES
from tfm_jax import laws
from tfm_jax.pretrained.families import FAMILIES


@pytest.fixture(scope="module")
def data():
    return benchmark.read()


def test_page_is_short_and_written_from_the_data(data):
    text = benchmark.PAGE.read_text()
    assert text == benchmark.page(data), "run python -m benchmarks.laws --page"
    assert len(text.splitlines()) <= 100


@pytest.mark.parametrize("suite", benchmark.SUITES)
def test_data_has_every_law_with_its_sentence(data, suite):
    tested = [name for name, entry in data["peers"].items() if suite in entry["runs"]]
    assert len(tested) >= 9
    for peer in tested:
        found = [x for x in data["findings"] if (x["peer"], x["suite"]) == (peer, suite)]
        not_run = data["peers"][peer]["runs"][suite].get("not_run", [])
        wanted = [(law.name, law.sentence) for law in laws.SUITES[suite] if law.name not in not_run]
        assert len(wanted) + len(not_run) == len(laws.SUITES[suite].laws)
        assert [(x["law"], x["sentence"]) for x in found] == wanted, f"run python -m benchmarks.laws: {peer}"


def test_outcomes_agree_with_counterexamples_and_counts(data):
    for found in data["findings"]:
        assert found["outcome"] in benchmark.OUTCOMES
        assert (found["counterexample"] is not None) == (found["outcome"] == "violated"), found
        if found["outcome"] != "violated":
            assert (found["cases"] == 0) == (found["outcome"] == "not supported"), found
            assert bool(found["reason"]) == bool(found["unsupported"]), found


def test_merge_replaces_the_run_of_a_peer_and_suite(data):
    run = {"examples": 3, "environment": "CPU"}
    new = [dict(x, cases=3) for x in data["findings"] if (x["peer"], x["suite"]) == ("torch", "attention")]
    entry = {"called": "f(q, k, v, mask)", "runs": {"attention": run}}
    merged = benchmark.merge(data, {"peers": {"torch": entry}, "findings": new})
    assert list(merged["peers"]) == list(data["peers"])
    old_runs = data["peers"]["torch"]["runs"]
    assert merged["peers"]["torch"] == {"called": entry["called"], "runs": {**old_runs, "attention": run}}
    assert [x["law"] for x in merged["findings"]] == [x["law"] for x in data["findings"]]
    changed = [x for x in merged["findings"] if x not in data["findings"]]
    assert {(x["peer"], x["suite"]) for x in changed} == {("torch", "attention")}


def test_laws_and_functions_of_the_statements_exist():
    assert len(SENTENCES) >= 16
    for _, names, functions in SENTENCES:
        for name in names:
            suite, law = name.split(".")
            assert laws.SUITES[suite][law].name == law
        assert functions
        for name in functions:
            assert callable(functools.reduce(getattr, name.split("."), tfm_jax))


def test_page_names_existing_laws():
    known = {f"{suite.name}.{law.name}" for suite in laws.SUITES.values() for law in suite}
    names = re.findall(r"`(\w+)\.(\w+)`", benchmark.PAGE.read_text())
    named = {f"{suite}.{law}" for suite, law in names if suite in laws.SUITES}
    assert len(named) > 30 and named <= known


def test_page_of_suites_names_all_of_them():
    text = (benchmark.DOCS / "suites.md").read_text()
    assert not [name for name in laws.SUITES if f"`{name}`" not in text and f"`{name}(" not in text]


def test_numbers_of_the_readme():
    text = (benchmark.DOCS.parent / "README.md").read_text()
    assert len(text.splitlines()) <= 140
    assert set(re.findall(r"(\d+) suites", text)) == {str(len(laws.SUITES))}
    assert set(re.findall(r"(\d+) families", text)) == {str(len(FAMILIES))}


def test_readme_agrees_with_the_data(data):
    def violated(suite, law):
        found = [x for x in data["findings"] if (x["suite"], x["law"]) == (suite, law)]
        return {x["peer"].split(",")[0].split(".")[0].split()[0] for x in found if x["outcome"] == "violated"}

    others = {"jax", "flax", "equinox", "haiku", "torch", "x-transformers", "keras"}
    assert violated("attention", "masked_values_do_not_leak") == others
    assert violated("attention", "fully_masked_rows") == {"jax", "flax", "equinox", "haiku", "keras"}
    found = [x["outcome"] for x in data["findings"] if x["law"] == "offset_is_required"]
    assert found.count("violated") == 10 and len(found) == 14
