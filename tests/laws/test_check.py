"""Reports: what holds, what is violated by which small case, and what is not supported."""

from typing import NamedTuple

import hypothesis
import jax
import numpy as np
import pytest
from hypothesis import strategies as st

from tests.mutants.attention import MUTANTS
from tfm_jax import laws, ops
from tfm_jax.laws.check import check_law
from tfm_jax.laws.law import describe


@laws.law(st.integers(0, 1000))
def below_17(f, x):
    """The output is below 17.

    Only the first line is the sentence.
    """
    laws.assert_close(min(f(x), 17), f(x))


@laws.law(st.integers(0, 1000))
def identity(f, x):
    """The output is the input."""
    laws.assert_close(f(x), x)


def even_only(function, *, plus=0):
    def subject(x):
        if x % 2:
            raise laws.Unsupported("odd")
        return function(x) + plus

    return subject


NUMBERS = laws.Suite("numbers", "f(x) -> x", even_only, (below_17, identity))


def test_report_shows_violations_with_the_smallest_case():
    report = laws.check(lambda x: x, NUMBERS)
    assert not report.ok and report.violated == ("below_17",) and report.unsupported == ()
    violated, holding = report.findings
    assert violated.counterexample == "18\noutput: got 17.; wanted 18."
    assert holding.status == "holds" and holding.cases == 100 and holding.unsupported > 0
    text = str(report)
    assert "violated      below_17: The output is below 17." in text and "holds         identity" in text
    assert "first line" not in text
    assert text.splitlines()[-1] == "2 laws of numbers: 1 hold, 1 violated, 0 not supported"


def test_without_shrinking_the_first_counterexample_is_reported(unshrunk):
    seen = []
    report = laws.check(lambda x: seen.append(x) or x, NUMBERS.only("below_17"))
    wrong = [x for x in seen if x > 17]
    # hypothesis runs the failing case again, to see that it fails again.
    assert set(wrong) == {wrong[0]} != {18}
    assert report.findings[0].counterexample.startswith(f"{wrong[0]}\n")


def test_cases_are_generated_under_any_profile(profile):
    hypothesis.settings.register_profile("reuse only", phases=[hypothesis.Phase.reuse])
    profile("reuse only")
    report = laws.check(lambda x: x, NUMBERS)
    assert report.violated == ("below_17",) and report.findings[1].cases == 100


def test_options_go_to_the_suite_and_a_seed_determines_the_cases():
    assert laws.check(lambda x: x, NUMBERS, plus=1).violated == ("below_17", "identity")
    seen = []

    def cases_of(seed):
        seen.clear()
        laws.check(lambda x: seen.append(x) or x, NUMBERS.only("identity"), seed=seed, examples=20)
        return list(seen)

    assert cases_of(1) == cases_of(1) != cases_of(2)


def no_masks(q, k, v, mask):
    if mask is not None:
        raise NotImplementedError("masks are not implemented\nsecond line")
    return ops.attention(q, k, v)


def test_law_without_a_supported_case_does_not_hold():
    suite = laws.attention.only("definition", "no_mask", "causality")
    report = laws.check(no_masks, suite, examples=3)
    assert not report.ok and not report.violated and report.unsupported == ("definition", "causality")
    text = str(report)
    # The traceback of one line of code is shown once, with what the function was called with.
    assert text.count("5 of 5 cases not supported: NotImplementedError: masks are not implemented") == 2
    assert text.count("\n    second line\n") == text.count('raise NotImplementedError("masks are') == 1
    assert text.count("    called with q float32[1, 1, 1, 4], k float32[1, 1, 1, 4], v float32") == 1
    assert "mask bool[1, 1, 1, 1]" in text and "site-packages" not in text and "laws/subject.py" not in text

    @laws.holds(laws.attention.only("definition"), examples=3)
    def test():
        return no_masks

    with pytest.raises(laws.LawViolated, match="not supported"):
        test()


def test_function_that_supports_no_call_is_called_once_per_law():
    calls = []

    def wrong(q, k, v, mask):
        calls.append(q.shape)
        return q.transpose(1, 2)  # of torch: JAX wants all axes

    report = laws.check(wrong, laws.attention)
    assert len(report.unsupported) == len(report.findings) == len(laws.attention.laws) > 25
    assert len(calls) == 25 + 27  # the first law, and one case of each other
    text = str(report)
    assert len(text.splitlines()) < 15 and text.count("Traceback") == 0
    assert "the function refuses every call of the suite's signature, which is\n    attend(q [B, T" in text
    assert "return q.transpose(1, 2)" in text and "    TypeError: transpose permutation isn't" in text
    assert "laws.torch(f)" in text and text.endswith("0 violated, 28 not supported")


def test_first_law_alone_not_supported_is_not_every_call():
    report = laws.check(no_masks, laws.attention.only("causality", "no_mask"), examples=3)
    assert report.unsupported == ("causality",) and "refuses every call" not in str(report)


@laws.law(st.integers(0, 8))
def nine_sizes(f, x):
    """Only one size of nine is supported."""
    f(x)


@pytest.mark.parametrize(
    "raised, tries", [(TypeError, 5), (NotImplementedError, 5), (ValueError, 25), (AssertionError, 25)]
)
def test_number_of_cases_before_a_law_counts_as_not_supported(raised, tries):
    def f(x):
        raise raised("no")

    report = laws.check(f, laws.Suite("sizes", "f(x) -> y", laws.Subject, (nine_sizes, nine_sizes)))
    # hypothesis knows nine cases only.
    assert report.findings[0].unsupported == min(tries, 9)
    assert report.findings[1].unsupported == 1 and "called with x 0" in str(report)

    def of_its_size(x):
        raise TypeError(f"no {x}")

    report = laws.check(of_its_size, laws.Suite("sizes", "f(x) -> y", laws.Subject, (nine_sizes,)))
    assert report.findings[0].unsupported == 9


def test_one_supported_size_is_found():
    def only_7(x):
        if x != 7:
            raise ValueError("another size")

    report = laws.check(only_7, laws.Suite("sizes", "f(x) -> y", laws.Subject, (nine_sizes,)))
    assert report.ok and report.findings[0].unsupported == 8


def test_unsupported_cases_do_not_end_the_reduction_of_a_violation():
    """Few cases are unsupported, so that any draws find the violation; more than ``tries`` as it shrinks."""

    @laws.law(st.integers(0, 10_000))
    def identity(f, x):
        """The output is the input."""
        laws.assert_close(f(x), x)

    def wrong_for_large_numbers(x):
        if x < 300:
            raise ValueError("no")
        return x + 1

    subject = laws.Subject(wrong_for_large_numbers)
    found = [check_law(identity, subject, "f(x) -> x", seed=seed, tries=5) for seed in range(8)]
    assert [x.status for x in found] == ["violated"] * 8
    assert all(x.unsupported > 5 and not x.cases for x in found)


def test_the_last_line_of_an_error_in_a_callback_is_its_reason():
    def f(x):
        return laws.numpy(lambda x: 1 / x if x.all() else [][3])(x)

    subject = laws.Subject(jax.jit(f))
    with pytest.raises(laws.Unsupported, match=r"JaxRuntimeError: IndexError: list index out of range"):
        subject(np.zeros(2, np.float32))


def test_holds_passes_arguments_on_and_raises_the_report():
    @laws.holds(NUMBERS)
    def test(start, *, step):
        return lambda x: x + start + step

    assert test.__name__ == "test"
    with pytest.raises(laws.LawViolated, match=r"violated +below_17"):
        test(1, step=-1)

    @laws.holds(NUMBERS.only("identity"))
    def holding():
        return lambda x: x

    assert holding() is None


def test_allow_unsupported():
    @laws.holds(NUMBERS.only("identity"), allow_unsupported=("identity",))
    def test():
        def unsupported(x):
            raise laws.Unsupported("no")

        return unsupported

    assert test() is None


def test_error_in_a_law_is_raised():
    @laws.law(st.integers())
    def divides_by_0(f, x):
        """It divides by 0."""
        f(2 * x // 0)

    with pytest.raises(ZeroDivisionError):
        laws.check(lambda x: x, laws.Suite("numbers", "", even_only, (divides_by_0,)))


def test_invalid_arguments():
    with pytest.raises(ValueError, match="got examples=0; wanted at least 1"):
        laws.check(lambda x: x, NUMBERS, examples=0)
    with pytest.raises(KeyError, match=r"laws\.numbers: got 'nothing'; wanted one of below_17, identity"):
        NUMBERS.only("nothing")


def test_other_exceptions_violate_the_law():
    report = laws.check(lambda q, k, v, mask: [][0], laws.attention.only("no_mask"), examples=2)
    assert report.violated and "raised IndexError: list index out of range" in str(report)


def test_random_results_violate_the_law():
    count = iter(range(10**6))
    report = laws.check(lambda x: x + (next(count) == 3), NUMBERS.only("identity"))
    assert report.violated
    assert "two calls with the same arguments give different results" in str(report)


def test_counterexample_is_small_and_draws_the_mask():
    mutant = MUTANTS["a fully masked row is uniform"].function
    (found,) = laws.check(mutant, laws.attention.only("fully_masked_rows")).findings
    lines = found.counterexample.splitlines()
    assert lines[0] == "B = 1, T = 1, S = 1, N = 1, K = 1, H = 4; mask (# = may attend):"
    assert lines[1] == "  ."
    assert [line[:3] for line in lines[2:5]] == ["q =", "k =", "v ="]
    assert lines[5].startswith("output of query 0: got [[[") and lines[5].endswith(
        "wanted [[[0., 0., 0., 0.]]]; at [0, 0, 1] -1.29999995, not 0"
    )


@pytest.mark.slow
def test_function_that_always_raises_supports_no_law_of_caches():
    def raises(tokens, chunks):
        raise ValueError("no")

    report = laws.check(raises, laws.cached_decoder, examples=2)
    assert report.unsupported == tuple(law.name for law in laws.cached_decoder)


def test_a_case_of_arrays_is_shown_by_part():
    class Named(NamedTuple):
        x: np.ndarray
        n: int

    x = np.float32([0.5, 2])
    assert describe((x, np.array([True]))) == "argument 0 = [0.5, 2. ]\nargument 1 = [True]"
    assert describe(Named(x, 3)) == describe({"x": x, "n": 3}) == "x = [0.5, 2. ]\nn = 3"


def test_a_law_without_a_sentence_is_an_error():
    with pytest.raises(ValueError, match=r"laws\.law: got silent without a docstring; wanted the property"):

        @laws.law(st.integers())
        def silent(f, x):
            pass
