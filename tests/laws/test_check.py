"""What a report says: what holds, what breaks by which small case, what could not be asked."""

import sys

import hypothesis
import pytest
from hypothesis import strategies as st

from tests.mutants.attention import MUTANTS
from tfm_jax import cli, laws


@laws.law(st.integers(0, 1000))
def below_17(asked, x):
    """It is below 17.

    What follows the first line is not the sentence.
    """
    laws.same(min(asked(x), 17), asked(x))


@laws.law(st.integers(0, 1000))
def itself(asked, x):
    """It is what it was."""
    laws.same(asked(x), x)


def ask(function, *, plus=0):
    def asked(x):
        if x % 2:
            raise laws.Refused("odd")
        return function(x) + plus

    return asked


NUMBERS = laws.Suite("numbers", "f(x) -> x", ask, (below_17, itself))


def test_a_report_names_what_breaks_and_the_smallest_case():
    report = laws.check(lambda x: x, NUMBERS)
    assert not report.ok and report.broken == ("below_17",) and report.unasked == ()
    broken, held = report.findings
    assert broken.counter_example == "18\noutput: got 17., wanted 18."
    assert held.status == "holds" and held.asked == 100 and held.refused > 0
    text = str(report)
    assert "breaks          below_17: It is below 17." in text and "holds           itself" in text
    assert "follows" not in text
    assert text.splitlines()[-1] == "2 laws of numbers: 1 hold, 1 broken, 0 cannot be asked"


def test_a_profile_without_shrinking_tells_of_the_first_case_that_breaks(unshrunk):
    seen = []
    report = laws.check(lambda x: seen.append(x) or x, NUMBERS.only("below_17"))
    wrong = [x for x in seen if x > 17]
    # Each case is tried once more, to see that it fails again.
    assert set(wrong) == {wrong[0]} != {18}
    assert report.findings[0].counter_example.startswith(f"{wrong[0]}\n")


def test_cases_are_drawn_whatever_a_profile_leaves_out(profile):
    hypothesis.settings.register_profile("what failed before", phases=[hypothesis.Phase.reuse])
    profile("what failed before")
    report = laws.check(lambda x: x, NUMBERS)
    assert report.broken == ("below_17",) and report.findings[1].asked == 100


def test_options_are_the_suites_and_a_seed_says_which_cases():
    assert laws.check(lambda x: x, NUMBERS, plus=1).broken == ("below_17", "itself")
    seen = []

    def cases_of(seed):
        seen.clear()
        laws.check(lambda x: seen.append(x) or x, NUMBERS.only("itself"), seed=seed, examples=20)
        return list(seen)

    assert cases_of(1) == cases_of(1) != cases_of(2)


def test_what_is_always_refused_cannot_be_asked_and_is_not_kept():
    def refuses(q, k, v, mask):
        raise NotImplementedError("masks are for others\nsecond line")

    report = laws.check(refuses, laws.attention.only("definition", "causality"), examples=3)
    assert not report.ok and not report.broken and report.unasked == ("definition", "causality")
    assert "cannot be asked" in str(report) and "NotImplementedError: masks are for others" in str(report)
    assert "second line" not in str(report)

    @laws.holds(laws.attention.only("definition"), examples=3)
    def test():
        return refuses

    with pytest.raises(laws.LawViolated, match="cannot be asked"):
        test()


def test_holds_hands_its_arguments_on_and_raises_the_report():
    @laws.holds(NUMBERS)
    def test(start, *, step):
        return lambda x: x + start + step

    assert test.__name__ == "test"
    with pytest.raises(laws.LawViolated, match=r"breaks +below_17"):
        test(1, step=-1)

    @laws.holds(NUMBERS.only("itself"))
    def kept():
        return lambda x: x

    assert kept() is None


def test_an_error_in_a_law_is_no_breach():
    @laws.law(st.integers())
    def mistaken(asked, x):
        """It divides by 0."""
        asked(2 * x // 0)

    with pytest.raises(ZeroDivisionError):
        laws.check(lambda x: x, laws.Suite("numbers", "", ask, (mistaken,)))


def test_what_does_not_fit():
    with pytest.raises(ValueError, match="examples must be at least 1, got 0"):
        laws.check(lambda x: x, NUMBERS, examples=0)
    with pytest.raises(KeyError, match="'nothing'; the laws of numbers are below_17, itself"):
        NUMBERS.only("nothing")


def test_an_error_that_is_no_refusal_breaks_the_law():
    report = laws.check(lambda q, k, v, mask: [][0], laws.attention.only("no_mask"), examples=2)
    assert report.broken and "raised IndexError: list index out of range" in str(report)


def test_another_answer_each_time_breaks_the_law():
    count = iter(range(10**6))
    report = laws.check(lambda x: x + (next(count) == 3), NUMBERS.only("itself"))
    assert report.broken and "it does not give the same answer twice" in str(report)


def test_what_may_be_refused():
    @laws.holds(NUMBERS.only("itself"), may_refuse=("itself",))
    def test():
        def refuses(x):
            raise laws.Refused("no")

        return refuses

    assert test() is None


def test_another_shape_breaks_a_law():
    report = laws.check(lambda q, k, v, mask: v[..., :3], laws.attention.only("no_mask"), examples=30)
    assert "shape: got [1, 1, 1, 3], wanted [B, T, N, H] = [1, 1, 1, 4]" in str(report)


def test_a_counter_example_is_small_and_draws_the_mask():
    mutant = MUTANTS["an empty row is uniform"].function
    (found,) = laws.check(mutant, laws.attention.only("empty_rows")).findings
    lines = found.counter_example.splitlines()
    assert lines[0] == "B = 1, T = 1, S = 1, N = 1, K = 1, H = 4; mask (# = may attend):"
    assert lines[1] == "  ."
    assert [line[:3] for line in lines[2:5]] == ["q =", "k =", "v ="]
    assert lines[5].startswith("output of query 0: got [[[") and lines[5].endswith(
        "wanted [[[0., 0., 0., 0.]]]; at [0, 0, 1] -1.29999995, not 0"
    )


@pytest.mark.parametrize(
    "text, status, said",
    [
        ("mine.right", 0, "1 laws of attention: 1 hold, 0 broken, 0 cannot be asked"),
        ("mine.wrong", 1, "breaks          no_mask: Without a mask"),
        ("mine.refuses", 1, "0 hold, 0 broken, 1 cannot be asked"),
        ("mine.nothing", 2, "got mine.nothing; wanted a function (module 'mine' has no attribute 'nothing')"),
        ("nowhere.at_all", 2, "got nowhere.at_all; wanted a function (No module named 'nowhere')"),
        ("mine.number", 2, "got mine.number = 3; wanted a function"),
    ],
)
def test_the_command(text, status, said, tmp_path, monkeypatch, capsys):
    (tmp_path / "mine.py").write_text(
        "from tests.mutants.attention import attend as right\n"
        "number = 3\n"
        "def wrong(q, k, v, mask): return 2 * right(q, k, v, mask)\n"
        "def refuses(q, k, v, mask): raise ValueError('no')\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [*sys.path])
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    monkeypatch.setitem(laws.SUITES, "attention", laws.attention.only("no_mask"))
    assert cli.main(["laws", text, "--examples", "3"]) == status
    out, err = capsys.readouterr()
    assert said in out + err


def test_the_command_lists_the_suites(capsys):
    assert cli.main(["laws", "math.sqrt", "--suite", "bridges"]) == 2
    said = capsys.readouterr().err
    assert "--suite: got 'bridges'" in said and "attention: attend(q [B, T, N, H]" in said


def test_another_shape_is_no_equal():
    with pytest.raises(laws.Violation, match=r"output: got shape \[2, 1\], wanted \[3\]"):
        laws.same([[1.0], [1.0]], [1.0, 1.0, 1.0])
    assert laws.same([[1.0], [1.0]], 1.0) is None


def test_infinite_numbers_are_equal_and_no_reason_to_warn():
    inf = float("inf")
    assert laws.same([-inf, inf], [-inf, inf]) is None
    with pytest.raises(laws.Violation, match=r"at \[1\] 0, not -inf"):
        laws.same([-inf, 0.0], [-inf, -inf])


def test_one_number_instead_of_sum_and_weight_breaks_the_law():
    report = laws.check(lambda *_: 1.0, laws.cross_entropy.only("halves_add"), examples=2)
    assert report.broken and "wanted (sum, weight)" in str(report)


@pytest.mark.slow
def test_what_is_refused_always_keeps_no_law_of_caches():
    def refuses(tokens, pieces):
        raise ValueError("no")

    assert laws.check(refuses, laws.cached_decoder, examples=2).unasked == tuple(
        law.name for law in laws.cached_decoder
    )


def test_a_function_need_not_be_hashable():
    class Double:
        __hash__ = None

        def __call__(self, x):
            return 2 * x

    assert laws.check(Double(), laws.SUITES["transformations"].only("remat_is_plain"), examples=2).ok
