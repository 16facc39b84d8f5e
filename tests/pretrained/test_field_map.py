"""Field maps: settings and fields of ``nn.Config``, read in both directions."""

import dataclasses

import pytest

from tfm_jax import nn
from tfm_jax.pretrained.config_keys import TrackedSettings
from tfm_jax.pretrained.families import FAMILIES
from tfm_jax.pretrained.field_map import Converter, Field, FieldMap, Group, Same, expect, resolved


def half(settings):
    return settings["width"] // 2


FLAG = Converter(lambda flag: "pre" if flag else "post", lambda value: value == "pre")
FIELDS = FieldMap(
    (
        Field("vocab_size"),
        Field("width", "d_model"),
        Same("width_again", "width", "d_model", unset=(None,)),
        Field("layers", "n_layers"),
        Field("heads", "n_heads"),
        Field("inner", "d_ff", half),
        Field("eps", "norm.eps", 1e-3),
        Field("norm_first", "norm_placement", True, FLAG),
        Field("rate", ("dropout_rate", "attention_dropout_rate"), 0.1),
        Group(lambda settings: {"window": settings.get("far")}, lambda model: {"far": model.window}),
    ),
    model={"norm": nn.RMSNorm, "attention_bias": True},
    only={"bias": True},
    written={"kind": "it"},
)
SETTINGS = {"vocab_size": 9, "width": 8, "layers": 1, "heads": 2}
READ = nn.Config(
    vocab_size=9,
    d_model=8,
    n_layers=1,
    n_heads=2,
    d_ff=4,
    norm=nn.RMSNorm(1e-3),
    attention_bias=True,
    dropout_rate=0.1,
    attention_dropout_rate=0.1,
)
WRITTEN = {
    "width_again": 8,
    "inner": 4,
    "eps": 1e-3,
    "norm_first": True,
    "rate": 0.1,
    "far": None,
    "kind": "it",
}


def read(fields=FIELDS, **settings):
    return fields.read(TrackedSettings(SETTINGS | settings, {}))


def test_read_takes_defaults_and_write_is_its_inverse():
    assert read() == READ
    assert FIELDS.write(READ) == SETTINGS | WRITTEN
    changed = {"inner": 5, "eps": 1e-2, "norm_first": False, "rate": 0.5, "far": 3, "width_again": 8}
    found = read(**changed)
    assert (found.d_ff, found.norm.eps, found.norm_placement, found.window) == (5, 1e-2, "post", 3)
    assert FIELDS.write(found) == SETTINGS | WRITTEN | changed
    assert read(**FIELDS.write(found)) == found


def test_null_means_a_computed_default_only():
    assert read(inner=None) == READ
    with pytest.raises(ValueError, match="got eps=None; wanted"):
        read(eps=None)


def test_all_problems_are_in_one_error_by_the_name_in_the_file():
    settings = {"vocab_size": 9, "bias": False, "width_again": 7, "size": 0, "inner": 0, "heads": 2}
    with pytest.raises(ValueError) as error:
        FIELDS.read(TrackedSettings(settings | {"width": 8}, {"size": "vocab_size"}))
    assert str(error.value) == (
        "got bias=False; wanted True, the only supported value. got size=0; wanted an integer of at least 1. "
        "got width_again=7; wanted 8, the value of width. got no layers; wanted a value for it. "
        "got inner=0; wanted an integer of at least 1."
    )


def test_the_variants_of_a_format_are_those_that_it_reads():
    learned = FIELDS.extended(Field("rows", "positions.max_length", 512), model={"positions": nn.Learned})
    assert read(learned).positions == nn.Learned(512)
    assert read(learned, rows=7).positions == nn.Learned(7)
    given = Group(lambda settings: {}, lambda model: {}, variants={"feed_forward": (nn.Mlp, nn.Glu)})
    wanted = {"norm": (nn.RMSNorm,), "positions": (nn.Learned,), "feed_forward": (nn.Mlp, nn.Glu)}
    assert learned.extended(given).variants() == wanted | {"pooler": (type(None),), "patches": (type(None),)}
    assert FIELDS.variants()["positions"] == (nn.Sinusoidal,)  # the default of nn.Config


def test_unsupported_variants_are_named():
    @dataclasses.dataclass(frozen=True)
    class Mine(nn.RMSNorm):
        pass

    assert FIELDS.unsupported_variants(READ) == {}
    found = dataclasses.replace(READ, norm=nn.LayerNorm(), positions=None)
    assert FIELDS.unsupported_variants(found) == {
        "norm": (nn.LayerNorm(), "RMSNorm"),
        "positions": (None, "Sinusoidal"),
    }
    assert expect(nn.RMSNorm(), nn.LayerNorm, nn.RMSNorm) == nn.RMSNorm()
    for value in (None, nn.LayerNorm(), Mine()):
        with pytest.raises(ValueError, match=r"got .*; wanted RMSNorm or Rope, which this format has"):
            expect(value, nn.RMSNorm, nn.Rope)


def test_extended_maps_leave_the_first_unchanged():
    more = FIELDS.extended(only={"x": 1}, model={"qk_norm": True}, written={"y": 2})
    assert read(more).qk_norm and not read().qk_norm
    assert more.write(READ)["y"] == 2 and "y" not in FIELDS.write(READ)
    with pytest.raises(ValueError, match="got x=2; wanted 1"):
        read(more, x=2)


def test_resolved_fills_in_what_none_means():
    found = resolved(nn.Config(d_model=8, n_heads=2, dropout_rate=0.5, attention_bias=True))
    assert (found.head_dim, found.n_kv_heads, found.n_decoder_layers) == (4, 2, 6)
    assert found.attention_output_bias and found.embedding_dropout_rate == 0.5


@pytest.mark.parametrize("family", FAMILIES, ids=[family.model_type for family in FAMILIES])
def test_no_setting_of_a_family_has_two_rows(family):
    for name in family.architectures:
        fields = family.fields_of(name)
        settings = [row.setting for row in fields.rows if isinstance(row, Field | Same)]
        assert len(settings) == len(set(settings)) and not set(settings) & fields.only.keys()
