"""Texts in, texts out: the same whatever the batch, cut where they stop, in pieces that join to the whole."""

import dataclasses
import functools
import logging
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfm_jax import data, generate, nn
from tfm_jax.generate import text_generator as text_module
from tfm_jax.generate.batching import OnlyBelow, Row, batches, check_ids
from tfm_jax.ops import masks

TOKENIZER = data.char_tokenizer("abcdefgh")
V = TOKENIZER.vocab_size + 3  # the model has ids that the tokenizer has not
CONFIG = nn.Config(
    vocab_size=V, d_model=16, n_heads=2, d_ff=8, n_layers=1, positions=nn.Rope(), tie_embeddings=False
)
PROMPTS = ["abc", "", "hgfedcbahgfedcbahgfe", "dd", "e"]
KEY, LENGTH = jax.random.key(3), 40


@functools.cache
def build(module=nn.Decoder, config=CONFIG, tokenizer=TOKENIZER):
    model = nn.functionalize(module, config)
    large = 3.0 if module is nn.EncoderDecoder else 2.0  # the tokens then vary, and rows end
    params = jax.tree.map(lambda p: p * large, model.init(jax.random.key(7)))
    return generate.TextGenerator(model, params, tokenizer)


@functools.cache
def written(batch_size=32):
    return build().write(PROMPTS, key=KEY, max_length=LENGTH, batch_size=batch_size)


def cut(text, stop):
    return text.partition(stop)[0]


def test_every_batch_size_gives_what_each_prompt_gives_alone():
    generator, keys = build(), jax.random.split(KEY, len(PROMPTS))
    alone = generate.sample(
        generator.model,
        generator.params,
        jnp.asarray([[1, *TOKENIZER.encode(PROMPTS[2])]], jnp.int32),
        key=keys[2:3],
        max_length=LENGTH,
        eos_id=2,
        processors=(OnlyBelow(TOKENIZER.vocab_size),),
    )
    assert TOKENIZER.decode(alone.tokens[0]) == written()[2]
    assert written() == written(1) == written(2) == written(100)
    assert len(set(written())) == len(PROMPTS) and len(written()[1]) > 20


def test_a_prompt_with_its_own_key_is_the_same_in_another_order():
    keys = jax.random.split(KEY, len(PROMPTS))
    assert build().write(PROMPTS[::-1], key=keys[::-1], max_length=LENGTH) == written()[::-1]


def test_without_a_key_it_is_the_likeliest():
    generator = build()
    valid = jnp.arange(16)[None] >= 15
    wanted = generate.greedy(
        generator.model,
        generator.params,
        jnp.where(valid, 1, 0),
        max_length=8,
        valid=valid,
        processors=(OnlyBelow(TOKENIZER.vocab_size),),
    )
    assert generator.write([""], key=None, max_length=8) == [TOKENIZER.decode(wanted.tokens[0])]


@pytest.mark.parametrize("at", [0, 3, 14, 15, 16, 20])
def test_a_stop_text_cuts_as_python_cuts(at):
    whole = written()[1]
    stop = whole[at : at + 3]  # from 14 and 15 on it goes over the end of the first block
    got = build().write(PROMPTS, key=KEY, max_length=LENGTH, stop=[stop])
    assert got == [cut(text, stop) for text in written()]
    assert "".join(stream(1, stop=[stop])) == got[1]


def test_of_several_stop_texts_the_one_that_is_complete_first_counts():
    whole = written()[1]
    early, late, longer = whole[14:17], whole[18:20], whole[13:21]
    assert [whole.find(stop) for stop in (early, late, longer)] == [14, 18, 13]
    for stop in ([late, early], [longer, early], [early, longer]):
        assert build().write(PROMPTS, key=KEY, max_length=LENGTH, stop=stop)[1] == whole[:14], stop
    assert build().write(PROMPTS, key=KEY, max_length=LENGTH, stop=[longer])[1] == whole[:13]


def test_generation_ends_when_every_row_has_stopped(monkeypatch):
    blocks, real = [], text_module.stream

    def counted(*args, **options):
        for block in real(*args, **options):
            blocks.append(block)
            yield block

    monkeypatch.setattr(text_module, "stream", counted)
    whole = written.__wrapped__()
    assert len(blocks) == 3 + 2  # of the short prompts, and of the long one
    blocks.clear()
    build().write(PROMPTS, key=KEY, max_length=LENGTH, stop=[text[2:4] for text in whole if text])
    assert len(blocks) == 2


def stream(i, **options):
    keys = jax.random.split(KEY, len(PROMPTS))[i : i + 1]
    return build().stream(PROMPTS[i], key=keys, max_length=LENGTH, **options)


def test_the_pieces_of_a_stream_join_to_the_whole():
    pieces = list(stream(1))
    assert "".join(pieces) == written()[1]
    assert len(pieces) > 5 and all(pieces)
    assert list(stream(1, every=LENGTH)) == [written()[1]]
    one = {"key": jax.random.key(9), "max_length": LENGTH}
    assert "".join(build().stream("ab", **one)) == build().write(["ab"], **one)[0]


@given(
    st.text("aé€😀b", max_size=12), st.lists(st.text("aé€b", min_size=1, max_size=4), max_size=3), st.data()
)
def test_no_piece_ends_within_a_character_or_where_a_stop_text_may_have_begun(whole, stop, draw):
    tokenizer = data.ByteTokenizer()
    row, given, ids = Row(tokenizer, tokenizer.encode("é"), stop, ()), "", tokenizer.encode(whole)
    while ids and not row.over:
        n = draw.draw(st.integers(1, 5))
        row.add(ids[:n])
        ids = ids[n:]
        certain = row.certain()
        assert certain.startswith(given) and "\ufffd" not in certain
        given = certain
    # the plain loop: a character at a time, until the text ends with a stop text
    wanted = whole
    for n in range(len(whole) + 1):
        ends = [s for s in stop if whole[:n].endswith(s)]
        if ends:
            wanted = whole[: n - len(max(ends, key=len))]
            break
    assert row.text() == wanted and wanted.startswith(given)


def test_half_a_character_at_the_very_end_is_shown():
    row = Row(data.ByteTokenizer(), [], [], ())
    row.add([*data.ByteTokenizer().encode("a€")[:-1]])
    assert row.certain() == "a" and row.text() == "a\ufffd"


@functools.cache
def translated(batch_size=32):
    return build(nn.EncoderDecoder).translate(PROMPTS, batch_size=batch_size)


def test_every_batch_size_gives_the_translations_of_beam_search():
    generator, wanted = build(nn.EncoderDecoder), []
    for text in PROMPTS:
        ids = np.array([*TOKENIZER.encode(text), 2])
        S = 16 if len(ids) <= 16 else 32
        source = jnp.asarray(np.pad(ids, (0, S - len(ids))), jnp.int32)[None]  # on the other side
        best = generate.beam_search(
            generator.model,
            generator.params,
            source,
            source_mask=masks.padding(source != 0),
            max_length=S + 50,
            processors=(OnlyBelow(TOKENIZER.vocab_size),),
        )
        wanted.append(TOKENIZER.decode(best.tokens[0, 0]))
    assert translated() == wanted == translated(1) == translated(100)
    assert len(set(wanted)) > 2


def test_a_translation_has_at_most_max_length_tokens():
    options = {"beams": 2, "max_length": 4, "length_penalty": 0.0}
    got = build(nn.EncoderDecoder).translate(PROMPTS[:2], **options)
    lengths = [[len(TOKENIZER.encode(text)) for text in texts] for texts in (got, translated()[:2])]
    assert max(lengths[0]) <= 4 < max(lengths[1])
    assert build(nn.EncoderDecoder).translate(PROMPTS, max_length=0) == [""] * len(PROMPTS)


def test_nothing_in_nothing_out_and_batches_are_told():
    assert build().write(["ab", "c"], key=None, max_length=0) == ["", ""]
    assert build().write([], key=KEY, max_length=3) == build(nn.EncoderDecoder).translate([]) == []
    told = []
    build().write(PROMPTS, key=KEY, max_length=LENGTH, batch_size=2, on_batch=told.append)
    assert told == [2, 2, 1]
    told.clear()
    build(nn.EncoderDecoder).translate(PROMPTS, batch_size=1, on_batch=told.append)
    assert told == [1] * 5


@given(st.lists(st.integers(1, 70), max_size=9), st.integers(1, 9), st.sampled_from([None, 70]))
def test_batches_have_few_shapes_and_every_row_once(lengths, batch_size, reach):
    ids = [np.full(n, i + 1, np.int32) for i, n in enumerate(lengths)]
    found = list(batches(ids, batch_size, reach))
    assert sorted(i for batch in found for i in batch.rows) == list(range(len(ids)))
    assert len({len(batch.tokens) for batch in found}) <= 1
    for batch in found:
        B, P = batch.tokens.shape
        assert P in (16, 32, 64, reach or 128) and len(batch.rows) <= B <= batch_size
        for tokens, valid, i in zip(batch.tokens, batch.valid, batch.filled, strict=True):
            np.testing.assert_array_equal(tokens, np.pad(ids[i], (P - lengths[i], 0)))
            np.testing.assert_array_equal(valid, tokens > 0)
            assert P == 16 or lengths[i] > P // 2  # its own bucket, whoever is beside it
        assert (batch.filled[: len(batch.rows)] == batch.rows).all()
        assert (batch.filled[len(batch.rows) :] == batch.rows[-1]).all()


def test_the_positions_that_were_learned_are_all_used_and_no_more():
    generator = build(config=dataclasses.replace(CONFIG, positions=nn.Learned(24)))
    (text,) = generator.write(["abcdefgh"], key=KEY, max_length=16)  # 9 tokens, 15 more are read
    assert isinstance(text, str)
    message = r"'abcdefgha' is 10 tokens long: the model has learned 24 positions, of which 15 are for the o"
    with pytest.raises(ValueError, match=message):
        generator.write(["abcdefgha"], key=KEY, max_length=16)
    translator = build(nn.EncoderDecoder, dataclasses.replace(CONFIG, positions=nn.Learned(24)))
    with pytest.raises(ValueError, match="is 25 tokens long: the model has learned 24 positions;"):
        translator.translate(["a" * 24])
    (text,) = translator.translate(["abc"])  # 50 more than the source would be too many
    assert len(TOKENIZER.encode(text)) <= 24


def test_the_first_call_of_a_shape_says_how_long_it_compiled(caplog):
    generator = build(config=dataclasses.replace(CONFIG, d_ff=7))
    with caplog.at_level(logging.INFO, "tfm_jax.generate"):
        generator.write(PROMPTS[:2], key=KEY, max_length=3)
        first = list(caplog.messages)
        generator.write(PROMPTS[3:], key=KEY, max_length=3)
        generator.write(PROMPTS[:2], key=None, max_length=3, processors=(generate.TopK(2),))
    said = [re.sub(r"\d+\.\d s$", "", message) for message in caplog.messages]
    assert said == [f"compiled {how} for 2 x 16 + 3 tokens in " for how in ("sampling", "greedy")]
    assert len(first) == 1
    seconds = [float(message.split()[-2]) for message in first]
    assert min(seconds) >= 0.0 and max(seconds) < 60


def test_a_recipe_that_draws_wants_a_key():
    generator = build()
    drawn = dataclasses.replace(generator, recipe=generate.GenerationConfig(max_length=3, do_sample=True))
    for call in (drawn.write, lambda texts, key: drawn.stream(texts[0], key=key)):
        with pytest.raises(ValueError, match="key=None with a recipe that draws tokens; wanted a key"):
            call(PROMPTS[:1], key=None)
    fixed = dataclasses.replace(generator, recipe=dataclasses.replace(drawn.recipe, do_sample=False))
    assert fixed.write(PROMPTS[:1], key=None) == generator.write(PROMPTS[:1], key=None, max_length=3)


@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        ("eos_ids", (-1,)),
        ("eos_ids", 2),
        ("pad_id", None),
        ("max_length", -1),
        ("max_total", 2.5),
        ("min_length", -1),
        ("beams", True),
        ("length_penalty", float("nan")),
        ("stopping", "never"),
        ("processors", [generate.TopK(2)]),
        ("do_sample", 1),
    ],
)
def test_a_recipe_of_another_kind_is_refused_by_name(field, wrong):
    with pytest.raises(ValueError, match=f"GenerationConfig: got {field}="):
        generate.GenerationConfig(**{field: wrong})


def test_an_unknown_character_is_read_as_the_unknown_token():
    options = {"key": KEY, "max_length": LENGTH}
    assert TOKENIZER.encode("é") == [TOKENIZER.unk_id]
    assert build().write(["aéb"], **options) == build().write(["aüb"], **options)


class NoSpecial(data.ByteTokenizer):
    """As a tokenizer of somebody else may be."""

    def __init__(self):
        super().__init__()
        self.pad_id = self.bos_id = self.eos_id = None


def test_a_tokenizer_without_special_tokens_writes_to_the_full_length():
    generator = build(config=dataclasses.replace(CONFIG, vocab_size=259), tokenizer=NoSpecial())
    (text,) = generator.write(["ab"], key=KEY, max_length=9)
    assert len(text) >= 3
    with pytest.raises(ValueError, match="an empty prompt needs a tokenizer with a begin token"):
        generator.write(["ab", ""], key=KEY, max_length=9)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"stop": [""]}, "a stop text must not be empty"),
        ({"stop": "ab"}, "got stop='ab', one string; wanted a list"),
        ({"prompts": "ab"}, "got prompts='ab', one string; wanted a list"),
        ({"prompts": ["ab", None]}, r"got prompts\[1\]=None; wanted a string"),
        ({"key": jax.random.split(KEY, 2)}, r"one a prompt \[1\], got \[2\]"),
        ({"batch_size": 0}, "TextGenerator: got batch_size=0; wanted an integer from 1 to"),
        ({"max_length": -1}, "GenerationConfig: got max_length=-1; wanted an integer from 0 to"),
        ({"processors": (generate.TopK(V + 1),)}, "top_k: got k=16; wanted at most V = 15"),
        ({"prompts": ["\ud800"]}, "surrogates not allowed"),
    ],
)
def test_what_cannot_be_written_is_one_clear_error(options, said):
    options = {"prompts": ["ab"], "key": KEY, "max_length": 3, **options}
    with pytest.raises(ValueError, match=said):
        build().write(options.pop("prompts"), **options)


def test_of_a_tokenizer_with_more_ids_only_those_that_a_text_gives_are_refused():
    larger = data.char_tokenizer("abcdefghijklmnop")
    assert larger.vocab_size > V
    generator = build(tokenizer=larger)
    ids = {text: larger.encode(text)[-1] for text in "ap"}
    assert ids["a"] < V <= ids["p"]
    assert generator.write(["ab", "a"], key=KEY, max_length=3)
    wanted = rf"text 1 \('p'\): got the token 'p' with the id {ids['p']}; wanted ids below {V}, those that"
    for read in (generator.encode_prompts, functools.partial(generator.write, key=KEY)):
        with pytest.raises(ValueError, match=wanted):
            read(["a", "p"], max_length=3)
    translator = build(nn.EncoderDecoder, tokenizer=larger)
    assert translator.translate(["ab"])
    with pytest.raises(ValueError, match=wanted):
        translator.translate(["a", "p"])


def test_an_id_without_a_text_is_named_alone():
    """As that of a special token, which decoding leaves out."""
    with pytest.raises(ValueError, match=r"text 1 \('b<new>'\): got the id 9; wanted ids below 7"):
        check_ids(["a", "b<new>"], [[1], [2, 9]], 7, lambda i: "")


def test_models_and_tokenizers_of_another_kind_are_refused():
    with pytest.raises(ValueError, match="an encoder-decoder, which translates"):
        build(nn.EncoderDecoder).stream("a", key=KEY, max_length=3)
    with pytest.raises(ValueError, match="this is a decoder, which writes"):
        build().translate(["a"])
    config = dataclasses.replace(CONFIG, vocab_size=259)
    with pytest.raises(ValueError, match="needs a begin and an end token"):
        build(nn.EncoderDecoder, config, NoSpecial()).translate(["a"])


def test_parameters_that_are_not_numbers_are_an_error_not_a_text():
    for module, run in (
        (nn.Decoder, lambda g: g.write(["ab"], key=KEY, max_length=LENGTH)),
        (nn.EncoderDecoder, lambda g: g.translate(["ab"])),
    ):
        broken = jax.tree.map(lambda p: p * jnp.nan, build(module).params)
        with pytest.raises(ValueError, match="no token to choose after 0: the parameters are not finite"):
            run(dataclasses.replace(build(module), params=broken))
