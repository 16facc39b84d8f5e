"""Shapes and dtypes in axis letters: binding, conflicts, optional arguments, messages, symbolic sizes."""

import re

import chex
import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfm_jax.checks import check_shapes

FLOAT, INT, BOOL = jnp.float32, jnp.int32, jnp.bool_
LETTERS = ("T", "N", "Hv", "D")


def struct(*shape, dtype=FLOAT):
    return jax.ShapeDtypeStruct(shape, dtype)


@pytest.fixture
def disabled():
    """chex's assertions are off for one test."""
    chex.disable_asserts()
    try:
        yield
    finally:
        chex.enable_asserts()


def error_of(*args, **kwargs):
    with pytest.raises(ValueError) as error:
        check_shapes(*args, **kwargs)
    return str(error.value)


names = st.lists(st.sampled_from(LETTERS), max_size=4)
sizes = st.lists(st.integers(0, 5), max_size=2).map(tuple)


@st.composite
def arguments(draw):
    """Arguments that fit: their axes, and arrays of those sizes."""
    size = draw(st.fixed_dictionaries({name: st.integers(0, 5) for name in LETTERS}))
    lead = draw(sizes)
    result = {}
    for i in range(draw(st.integers(1, 3))):
        axes, has_lead = draw(names), draw(st.booleans())
        shape = (*(lead if has_lead else ()), *(size[name] for name in axes))
        result[f"x{i}"] = (struct(*shape), " ".join(["..."] * has_lead + axes))
    return result


@given(arguments())
def test_sizes_that_agree_pass(arguments):
    check_shapes("f", **arguments)


@given(arguments(), st.data())
def test_a_size_that_differs_from_the_same_letter_is_an_error(arguments, data):
    bound = [(name, i) for name, (x, _) in arguments.items() for i in range(len(x.shape))]
    if not bound:
        return
    name, i = data.draw(st.sampled_from(bound))
    x, axes = arguments[name]
    wrong = struct(*x.shape[:i], x.shape[i] + 1, *x.shape[i + 1 :])
    message = error_of("f", **arguments, y=(wrong, axes)) if axes else ""
    n_lead = len(x.shape) - len([word for word in axes.split() if word != "..."])
    if i < n_lead:
        assert f"but y has [...] = {list(wrong.shape[:n_lead])}, not {list(x.shape[:n_lead])}." in message
    else:
        letter = axes.split()[i - len(x.shape)]
        assert f" has {letter} = " in message
        assert {str(x.shape[i]), str(x.shape[i] + 1)} <= set(re.findall(r"\d+", message.split("but ")[1]))


@given(arguments(), st.sampled_from(["one more", "one fewer"]))
def test_another_rank_is_an_error(arguments, which):
    for name, (x, axes) in arguments.items():
        n = len(x.shape)
        if "..." in axes:
            if which == "one more" or len(axes.split()) == 1:
                continue
            wrong = struct(*x.shape[: len(axes.split()) - 2])
        elif which == "one fewer" and not n:
            continue
        else:
            wrong = struct(*x.shape, 3) if which == "one more" else struct(*x.shape[1:])
        assert f"but {name} has rank {len(wrong.shape)}, not " in error_of(
            "f", **arguments | {name: (wrong, axes)}
        )


@given(sizes, st.data())
def test_leading_axes_that_may_be_1_or_missing(lead, data):
    ones = tuple(data.draw(st.sampled_from([1, n])) for n in lead)
    fewer = ones[data.draw(st.integers(0, len(ones))) :]
    x = (struct(*lead, 7), "... D")
    check_shapes("f", x=x, y=(struct(*ones, 7), "...|1 D"), z=(struct(7), "...|1 D"))
    check_shapes("f", x=x, y=(struct(*fewer, 7), "*... D"), z=(struct(*ones, 7), "*... D"))
    check_shapes("f", y=(struct(*ones, 7), "...|1 D"), sizes={"...": lead})
    for axes in ("...|1 D", "*... D"):
        for wrong in ((2, *lead), *((n + 2, *lead[1:]) for n in lead[:1])):
            assert "but y has [...] = " in error_of("f", x=x, y=(struct(*wrong, 7), axes))
    if 0 < len(fewer) < len(lead):
        assert "but y has [...] = " in error_of("f", x=x, y=(struct(*fewer, 7), "...|1 D"))


@given(sizes, sizes)
def test_leading_axes_that_broadcast_with_each_other(a, b):
    x, y = (struct(*a, 7), "*... T"), (struct(*b, 9), "*... S")
    try:
        np.broadcast_shapes(a, b)
    except ValueError:
        assert "[...] = " in error_of("f", x=x, y=y)
    else:
        check_shapes("f", x=x, y=y)


def test_an_axis_that_may_be_1():
    x = (struct(3, 4), "N T")
    for n in (1, 3):
        check_shapes("f", bias=(struct(n, 4), "N|1 T|1"), x=x)
    assert "but bias has N = 2, not 3." in error_of("f", bias=(struct(2, 4), "N|1 T|1"), x=x)
    assert "but bias has N = 2, not 3." in error_of("f", bias=(struct(2), "N|1"), sizes={"N": 3})
    check_shapes("f", x=(struct(2, 3), "2 T"))
    assert (
        error_of("f", x=(struct(2, 3), "4 T"))
        == "f: got x float32[2, 3]; wanted x [4, T], but x has 2, not 4."
    )


KINDS = {"float": (jnp.float16, jnp.bfloat16, np.float64), "int": (np.int8, np.uint32), "bool": (np.bool_,)}


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_of_dtypes(kind):
    for other, dtypes in KINDS.items():
        for dtype in map(np.dtype, dtypes):
            x = struct(2, dtype=dtype)
            check_shapes("f", x=(x, "T", dtype), y=(x, "T"))
            if other == kind:
                check_shapes("f", x=(x, "T", kind))
            else:
                assert error_of("f", x=(x, "T", kind)) == (
                    f"f: got x {dtype}[2]; wanted x {kind}[T], but x has dtype {dtype}. Cast x first."
                )
    assert "wanted x float32[T], but x has dtype float16." in error_of(
        "f", x=(struct(2, dtype=jnp.float16), "T", jnp.dtype(FLOAT))
    )


def test_an_optional_argument_is_skipped():
    check_shapes("f", x=(None, "T N", "bool"), y=(struct(3), "T"))
    message = error_of("f", x=(None, "T N"), y=(struct(3), "T"), z=(struct(4), "T"))
    assert message == "f: got y float32[3], z float32[4]; wanted y [T], z [T], but z has T = 4, not 3."


def test_arrays_of_every_sort_and_numbers():
    for x in (np.ones((2, 3)), jnp.ones((2, 3)), struct(2, 3)):
        check_shapes("f", x=(x, "T D", "float"))
    jax.jit(lambda x: check_shapes("f", x=(x, "T D", "float")))(jnp.ones((2, 3)))
    jax.vmap(lambda x: check_shapes("f", x=(x, "D", "float")))(jnp.ones((2, 3)))
    check_shapes("f", x=(3, "", "int"), y=(0.5, "...|1", "float"), sizes={"...": (2,)})
    with pytest.raises(
        ValueError, match=r"^f: got x float32\[2, 3\]; wanted x \[T\], but x has rank 2, not 1\."
    ):
        jax.jit(lambda x: check_shapes("f", x=(x, "T")))(jnp.ones((2, 3)))


def test_symbolic_sizes():
    b, t, s = jax.export.symbolic_shape("b, t, s")
    check_shapes(
        "f",
        x=(struct(b, t, 4), "... T D"),
        y=(struct(b, 1, 4), "...|1 T|1 4"),
        z=(struct(t + s, b * t, 1), "S F 1"),
        w=(struct(s + t, t * b), "S F"),
    )
    message = error_of("f", x=(struct(b, t), "... T"), y=(struct(b, 2 * t), "... T"))
    assert message == (
        "f: got x float32[b, t], y float32[b, 2*t]; wanted x [..., T], y [..., T], but y has T = 2*t, not t."
    )
    assert "y has [...] = [s], not [b]." in error_of(
        "f", x=(struct(b, t), "... T"), y=(struct(s, t), "...|1 T")
    )


def test_how_to_fix_it():
    x, y = (struct(2, 3), "... D", "float"), (struct(2, 4), "... D")
    assert error_of("f", x=x, y=y, fix="Do this.").endswith("not 3. Do this.")
    assert error_of("f", x=x, y=y, fix={"D": "Do this.", "y": "Do that."}).endswith("not 3. Do that.")
    assert error_of("f", x=x, y=y, fix={"D": "Do this.", "x": "Do that."}).endswith("not 3. Do this.")
    fixes = {"rank": "More axes.", "dtype": "Other dtype.", "...": "Other leading axes."}
    assert error_of("f", x=(struct(), "... D"), fix=fixes).endswith("not 1 or more. More axes.")
    assert error_of("f", x=(struct(2, dtype=INT), "D", "float"), fix=fixes).endswith("int32. Other dtype.")
    assert error_of("f", x=x, y=(struct(3, 3), "... D"), fix=fixes).endswith("not [2]. Other leading axes.")
    assert error_of("f", x=x, y=y, fix=fixes).endswith("not 3.")


@pytest.mark.parametrize("axes", ["t", "TH", "T ...", "T|2", "4|1", "T,N", "... *... T", "..|1", "Hvv v"])
def test_axes_of_another_form_are_an_error(axes):
    assert error_of("f", x=(struct(2), axes)).startswith(f"check_shapes: got axes {axes!r}; wanted letters")


def test_chex_turns_it_off(disabled):
    check_shapes("f", x=(struct(2, 3, dtype=INT), "... T N H", "float"), y=(struct(4), "T N"), sizes={"T": 5})
    check_shapes("f", x=(struct(2), "*... T"), y=(struct(2, 3, 4), "...|1 T"), z=(struct(), "T|1"))


def test_it_is_on_again():
    assert "but x has rank 1" in error_of("f", x=(struct(2), "T N"))
