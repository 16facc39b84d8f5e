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

from tfm_jax import ops
from tfm_jax.checks import check_shapes
from tfm_jax.ops import kv_cache, masks

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


def test_keys_instead_of_numbers_are_an_error():
    keys = jax.random.split(jax.random.key(0), 2)
    check_shapes("f", x=(keys, "T"))
    message = error_of("f", x=(keys, "T", "float"), y=(keys, "T", keys.dtype))
    assert message.startswith(
        "f: got x key<fry>[2], y key<fry>[2]; wanted x float[T], y key<fry>[T], but x has"
    )


def test_names_that_are_variables():
    check_shapes("f", {"x": (struct(3), "T")}, y=(struct(3), "T"))
    message = error_of("f", {"fix": (struct(3), "T")}, y=(struct(4), "T"))
    assert message == "f: got y float32[4], fix float32[3]; wanted y [T], fix [T], but fix has T = 3, not 4."


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


def test_what_passed_while_chex_was_off_is_checked_when_it_is_on():
    def check():
        check_shapes("f", x=(struct(7, 11, dtype=INT), "T T", "float"))

    for _ in range(2):
        chex.disable_asserts()
        try:
            check()
        finally:
            chex.enable_asserts()
        for _ in range(2):
            with pytest.raises(ValueError, match="but x has T = 11, not 7"):
                check()


def test_equal_arguments_are_asserted_once(monkeypatch):
    shapes, assert_shape = [], chex.assert_shape

    def count(arrays, wanted):
        if arrays != 0:
            shapes.append([x.shape for x in arrays])
        assert_shape(arrays, wanted)

    monkeypatch.setattr(chex, "assert_shape", count)
    for x in (struct(13, 17), np.ones((13, 17), np.float32), jnp.ones((13, 17))):
        check_shapes("f", x=(x, "S Hv", "float"))
    assert shapes == [[(13, 17)]]
    for x in (struct(13, 17), struct(13, 17, dtype=BOOL), struct(13, 19)):
        check_shapes("f", x=(x, "S Hv"))
    assert shapes[1:] == [[(13, 17)], [(13, 17)], [(13, 19)]]
    check_shapes("f", x=(struct(13, 17), "S Hv"), sizes={"Hv": 17})
    for _ in range(2):
        assert "Hv = 17, not 19" in error_of("f", x=(struct(13, 17), "S Hv"), sizes={"Hv": 19})
    assert len(shapes) == 7


X, COUNTS, HEADS = np.ones((2, 3), np.float32), np.ones((2, 3), np.int32), np.ones((3, 2, 4), np.float32)
LABELS = np.zeros(2, np.int32)
# Calls that the checks of shapes and dtypes reject and that run without them.
MISFITS = {
    "rms_norm": lambda: ops.rms_norm(X, np.ones(1, np.float32)),
    "cross_entropy": lambda: ops.cross_entropy(X, LABELS, weights=np.ones((1,), np.float32)),
    "repetition_penalty": lambda: ops.repetition_penalty(X, COUNTS, 1.5),
    "rotary": lambda: ops.rotary(HEADS, np.arange(3, dtype=np.float32)),
    "attention": lambda: ops.attention(HEADS, HEADS, HEADS, bias=np.ones((1, 3), np.float32)),
    "masks.dense": lambda: ops.attention(HEADS, HEADS, HEADS, masks.dense(np.ones((1, 3), bool))),
}
# Calls that are errors in any case: they would ignore an argument, or compute something else.
ERRORS = {
    "no offset": lambda: ops.attention(HEADS[:2], HEADS, HEADS, masks.causal()),
    "offset": lambda: ops.attention(HEADS, HEADS, HEADS, masks.causal(7)),
    "does not support": lambda: ops.attention(HEADS, HEADS, HEADS, soft_cap=2.0, implementation="xla"),
    "got a mask as bias": lambda: ops.attention(HEADS, HEADS, HEADS, bias=masks.causal()),
    "K divides N": lambda: ops.attention(HEADS, HEADS[:, :0], HEADS[:, :0]),
    "soft_cap": lambda: ops.attention(HEADS, HEADS, HEADS, soft_cap=-1.0),
    "with 0 batch dims": lambda: ops.attention(HEADS, HEADS, HEADS, np.ones(3, bool)),
    "eps": lambda: ops.layer_norm(X, eps=-1.0),
    "rate": lambda: ops.dropout(X, 1.0, None),
    "label_smoothing": lambda: ops.cross_entropy(X, LABELS, label_smoothing=1.5),
    "top_k": lambda: ops.top_k(X, 4),
    "V at least 1": lambda: ops.top_p(X[:, :0], 0.5),
    "last dimension": lambda: ops.rotary(HEADS[..., :3], np.arange(3)),
    "cache": lambda: kv_cache.append(HEADS, HEADS.repeat(2, 1), kv_cache.init_slots((), 2)),
    "a list": lambda: ops.rms_norm([1.0]),
    "PRNG key": lambda: ops.dropout(X, 0.5, 3),
    "no key_ids": lambda: ops.attention(HEADS[:2], HEADS, HEADS, masks.segments(LABELS)),
}


@pytest.mark.parametrize("name", MISFITS)
def test_chex_turns_off_the_checks_of_shapes_and_dtypes(name, disabled):
    MISFITS[name]()


@pytest.mark.parametrize("name", MISFITS)
def test_they_are_on_again(name):
    with pytest.raises(ValueError, match=f"^{name}: got .*; wanted .*, but "):
        MISFITS[name]()


@pytest.mark.parametrize("name", ERRORS)
def test_other_errors_do_not_depend_on_chex(name, disabled):
    with pytest.raises(ValueError, match=name):
        ERRORS[name]()
