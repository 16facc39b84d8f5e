"""The registry finds classes of variants by name, and keeps apart those of one name."""

import dataclasses

import pytest

from tfm_jax import nn, registry, values
from tfm_jax.registry import problem, register_variant, registered


class Colour(registry.Variant):
    """A kind."""


def make(name="Red", module="a", **options):
    cls = dataclasses.make_dataclass(name, [("depth", object)], bases=(Colour,), frozen=True, **options)
    cls.__module__ = module
    return cls


@pytest.fixture(autouse=True)
def own_registry(monkeypatch):
    monkeypatch.setattr(registry, "_REGISTERED", dict(registry._REGISTERED))


def test_a_registered_class_is_found_by_kind():
    red = register_variant(make())
    assert registered(Colour) == {"Red": red}
    assert "Red" not in registered(nn.Norm) and "LayerNorm" in registered(nn.Norm)
    assert values.variants(Colour | None) == {"Red": red, "None": type(None)}
    assert values.from_text(Colour, values.to_text(red(3))) == red(3)


def test_a_reloaded_class_replaces_the_old_one():
    old, new = make(), make()
    register_variant(old)
    register_variant(old)
    assert register_variant(new) is registered(Colour)["Red"] is new
    with pytest.raises(ValueError, match="wanted a registered variant"):
        values.to_text(old(1))


def test_two_classes_of_one_name_are_an_error():
    register_variant(make())
    with pytest.raises(
        ValueError, match=r"register_variant: got b.Red; wanted another name than that of a.Red"
    ):
        register_variant(make(module="b"))
    with pytest.raises(
        ValueError, match=r"variants: got b.LayerNorm; wanted another name than that of tfm_jax"
    ):
        registered(Colour, [make("LayerNorm", "b")])
    assert registered(Colour, [make()])["Red"] is not registered(Colour)["Red"]  # the same place


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (3, "got 3; wanted a class. Subclass a kind"),
        (int, "wanted a class. Subclass a kind"),
        (nn.LayerNorm(), "wanted a class. Subclass a kind, such as nn.Norm, and pass the class"),
        (type("Bare", (Colour,), {}), "Decorate Bare with @dataclass"),
        (type("Sub", (nn.RMSNorm,), {}), "Decorate Sub with @dataclass"),
        (dataclasses.dataclass(type("Open", (Colour,), {})), r"Decorate Open with @dataclass\(frozen=True\)"),
        (make(eq=False), "Decorate Red"),
        (nn.Norm, "Norm is a kind. Subclass it"),
        (dataclasses.dataclass(frozen=True)(type("Empty", (nn.Norm,), {})), "Define build in Empty"),
    ],
)
def test_what_is_no_class_of_variants_is_an_error(wrong, message):
    with pytest.raises(ValueError, match=f"^register_variant: .*{message}"):
        register_variant(wrong)
    with pytest.raises(ValueError, match=r"^variants: got .*; wanted classes of variants"):
        registered(Colour, [wrong])


def test_fields_must_be_hashable():
    assert problem(make()((1, 2))) is None
    assert "must be hashable" in problem(make()([1, 2]))


def test_variants_are_found_in_fields_and_tuples():
    red, blue = make(), make("Blue")
    nested = red((blue(1), (blue(2), "x")))
    assert list(registry.find_variants(nested)) == [nested, blue(1), blue(2)]
    register_variant(red), register_variant(blue)
    with pytest.raises(ValueError, match="malformed"):  # no kind in the annotation of the field
        values.from_text(Colour, values.to_text(nested))


def test_tuples_of_variants_round_trip():
    @dataclasses.dataclass(frozen=True)
    class Mix(Colour):
        parts: tuple[Colour, ...] = ()
        sizes: tuple[int, ...] = (1,)

    mix = Mix((Mix(), Mix(sizes=(2, 3))), ())
    text = values.to_text(mix, [Mix])
    assert text == "Mix(parts=(Mix(parts=(), sizes=(1,)), Mix(parts=(), sizes=(2, 3))), sizes=())"
    assert values.from_text(Colour, text, [Mix]) == mix
    red = make()
    with pytest.raises(ValueError, match=r"got nan; wanted finite numbers, strings, tuples and variants"):
        values.to_text(red(float("nan")), [red])
