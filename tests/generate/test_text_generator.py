"""TextGenerator: independent of batching, cut at stop strings, streamed in chunks."""

import dataclasses
import functools
import logging
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tfm_jax import data, generate, nn
from tfm_jax.generate import text_generator
from tfm_jax.generate.constraints import SuppressFrom
from tfm_jax.ops import masks

TOKENIZER = data.char_tokenizer("abcdefgh")
V = TOKENIZER.vocab_size + 3  # ids that only the model has
CONFIG = nn.Config(
    vocab_size=V, d_model=16, n_heads=2, d_ff=8, n_layers=1, positions=nn.Rope(), tie_embeddings=False
)
PROMPTS = ["abc", "", "hgfedcbahgfedcbahgfe", "dd", "e"]
KEY, LENGTH = jax.random.key(3), 40
KNOWN = (SuppressFrom(TOKENIZER.vocab_size),)


@functools.cache
def build(module=nn.Decoder, config=CONFIG, tokenizer=TOKENIZER):
    model = nn.functionalize(module, config)
    large = 3.0 if module is nn.EncoderDecoder else 2.0  # makes the tokens vary and some outputs end
    params = jax.tree.map(lambda p: p * large, model.init(jax.random.key(7)))
    return generate.TextGenerator(model, params, tokenizer)


@functools.cache
def outputs(batch_size=32):
    return build().write(PROMPTS, key=KEY, max_length=LENGTH, batch_size=batch_size)


def test_output_is_independent_of_batch_size():
    generator, keys = build(), jax.random.split(KEY, len(PROMPTS))
    alone = generate.sample(
        generator.model,
        generator.params,
        jnp.asarray([[1, *TOKENIZER.encode(PROMPTS[2])]], jnp.int32),
        generate.GenerationConfig((2,), max_length=LENGTH, processors=KNOWN),
        key=keys[2:3],
    )
    assert TOKENIZER.decode(alone.tokens[0]) == outputs()[2]
    assert outputs() == outputs(1) == outputs(2) == outputs(100)
    assert len(set(outputs())) == len(PROMPTS) and len(outputs()[1]) > 20


def test_one_key_per_prompt():
    keys = jax.random.split(KEY, len(PROMPTS))
    assert build().write(PROMPTS[::-1], key=keys[::-1], max_length=LENGTH) == outputs()[::-1]


def test_write_without_a_key_is_greedy():
    generator = build()
    valid = jnp.arange(16)[None] >= 15
    wanted = generate.greedy(
        generator.model,
        generator.params,
        jnp.where(valid, 1, 0),
        generate.GenerationConfig((2,), max_length=8, processors=KNOWN),
        valid=valid,
    )
    assert generator.write([""], key=None, max_length=8) == [TOKENIZER.decode(wanted.tokens[0])]


@pytest.mark.parametrize("at", [0, 3, 14, 15, 16, 20])
def test_stop_string_cuts_like_str_partition(at):
    stop = outputs()[1][at : at + 3]  # from 14 and 15 on it crosses the end of the first block
    got = build().write(PROMPTS, key=KEY, max_length=LENGTH, stop=[stop])
    assert got == [text.partition(stop)[0] for text in outputs()]
    assert "".join(stream_prompt(1, stop=[stop])) == got[1]


def test_first_complete_stop_string_counts():
    text = outputs()[1]
    early, late, longer = text[14:17], text[18:20], text[13:21]
    assert [text.find(stop) for stop in (early, late, longer)] == [14, 18, 13]
    for stop in ([late, early], [longer, early], [early, longer]):
        assert build().write(PROMPTS, key=KEY, max_length=LENGTH, stop=stop)[1] == text[:14], stop
    assert build().write(PROMPTS, key=KEY, max_length=LENGTH, stop=[longer])[1] == text[:13]


def test_generation_ends_with_the_last_output(monkeypatch):
    blocks, stream = [], generate.stream

    def counted(*args, **options):
        for block in stream(*args, **options):
            blocks.append(block)
            yield block

    monkeypatch.setattr(text_generator, "stream", counted)
    texts = outputs.__wrapped__()
    assert len(blocks) == 3 + 2  # for the short prompts, and for the long one
    blocks.clear()
    build().write(PROMPTS, key=KEY, max_length=LENGTH, stop=[text[2:4] for text in texts if text])
    assert len(blocks) == 2


def stream_prompt(i, **options):
    keys = jax.random.split(KEY, len(PROMPTS))[i : i + 1]
    return build().stream(PROMPTS[i], key=keys, max_length=LENGTH, **options)


def test_stream_equals_write():
    chunks = list(stream_prompt(1))
    assert "".join(chunks) == outputs()[1]
    assert len(chunks) > 5 and all(chunks)
    assert list(stream_prompt(1, every=LENGTH)) == [outputs()[1]]
    options = {"key": jax.random.key(9), "max_length": LENGTH}
    assert "".join(build().stream("ab", **options)) == build().write(["ab"], **options)[0]


@functools.cache
def translated(batch_size=32):
    return build(nn.EncoderDecoder).translate(PROMPTS, batch_size=batch_size)


def test_translate_equals_beam_search():
    generator, wanted = build(nn.EncoderDecoder), []
    config = generate.GenerationConfig((2,), start_id=1, beams=4, length_penalty=0.6, processors=KNOWN)
    for text in PROMPTS:
        ids = np.array([*TOKENIZER.encode(text), 2])
        S = 16 if len(ids) <= 16 else 32
        source = jnp.asarray(np.pad(ids, (0, S - len(ids))), jnp.int32)[None]  # right padding
        best = generate.beam_search(
            generator.model,
            generator.params,
            source,
            config,
            source_mask=masks.padding(source != 0),
        )
        wanted.append(TOKENIZER.decode(best.tokens[0, 0]))
    assert translated() == wanted == translated(1) == translated(100)
    assert len(set(wanted)) > 2


def test_translate_max_length():
    options = {"beams": 2, "max_length": 4, "length_penalty": 0.0}
    got = build(nn.EncoderDecoder).translate(PROMPTS[:2], **options)
    lengths = [[len(TOKENIZER.encode(text)) for text in texts] for texts in (got, translated()[:2])]
    assert max(lengths[0]) <= 4 < max(lengths[1])
    assert build(nn.EncoderDecoder).translate(PROMPTS, max_length=0) == [""] * len(PROMPTS)


def test_empty_inputs_and_on_batch():
    assert build().write(["ab", "c"], key=None, max_length=0) == ["", ""]
    assert build().write([], key=KEY, max_length=3) == build(nn.EncoderDecoder).translate([]) == []
    sizes = []
    build().write(PROMPTS, key=KEY, max_length=LENGTH, batch_size=2, on_batch=sizes.append)
    assert sizes == [2, 2, 1]
    sizes.clear()
    build(nn.EncoderDecoder).translate(PROMPTS, batch_size=1, on_batch=sizes.append)
    assert sizes == [1] * 5


def test_learned_positions_limit_the_input():
    generator = build(config=dataclasses.replace(CONFIG, positions=nn.Learned(24)))
    (text,) = generator.write(["abcdefgh"], key=KEY, max_length=16)  # 9 tokens, and 15 of the output are read
    assert isinstance(text, str)
    message = (
        r"got 'abcdefgha' of 10 tokens; wanted at most 9, as the model has 24 positions for prompt and out"
    )
    with pytest.raises(ValueError, match=message):
        generator.write(["abcdefgha"], key=KEY, max_length=16)
    translator = build(nn.EncoderDecoder, dataclasses.replace(CONFIG, positions=nn.Learned(24)))
    with pytest.raises(ValueError, match="of 25 tokens; wanted at most 24, as the model has 24 positions"):
        translator.translate(["a" * 24])
    (text,) = translator.translate(["abc"])  # source + 50 would be too many
    assert len(TOKENIZER.encode(text)) <= 24


def test_compilation_is_logged_once_per_shape(caplog):
    generator = build(config=dataclasses.replace(CONFIG, d_ff=7))
    with caplog.at_level(logging.INFO, "tfm_jax.generate"):
        generator.write(PROMPTS[:2], key=KEY, max_length=3)
        first = list(caplog.messages)
        generator.write(PROMPTS[3:], key=KEY, max_length=3)
        generator.write(PROMPTS[:2], key=None, max_length=3, processors=(generate.TopK(2),))
    messages = [re.sub(r"\d+\.\d s$", "", message) for message in caplog.messages]
    assert messages == [f"compiled {how} for 2 x 16 + 3 tokens in " for how in ("sampling", "greedy")]
    assert len(first) == 1
    seconds = [float(message.split()[-2]) for message in first]
    assert min(seconds) >= 0.0 and max(seconds) < 60


def test_several_outputs_per_text():
    config = generate.GenerationConfig(max_length=3, beams=3, n_best=2)
    generator = dataclasses.replace(build(), generation_config=config)
    with pytest.raises(
        ValueError, match="TextGenerator: got n_best=2; wanted 1, as it returns one text per in"
    ):
        generator.write(PROMPTS[:1], key=None)


def test_do_sample_requires_a_key():
    generator, config = build(), generate.GenerationConfig(max_length=3, do_sample=True)
    sampler = dataclasses.replace(generator, generation_config=config)
    for call in (sampler.write, lambda texts, key: sampler.stream(texts[0], key=key)):
        with pytest.raises(ValueError, match="got key=None with do_sample=True; wanted a PRNG key"):
            call(PROMPTS[:1], key=None)
    greedy = dataclasses.replace(generator, generation_config=dataclasses.replace(config, do_sample=False))
    assert greedy.write(PROMPTS[:1], key=None) == generator.write(PROMPTS[:1], key=None, max_length=3)


def test_unknown_characters():
    options = {"key": KEY, "max_length": LENGTH}
    assert TOKENIZER.encode("é") == [TOKENIZER.unk_id]
    assert build().write(["aéb"], **options) == build().write(["aüb"], **options)


class NoSpecial(data.ByteTokenizer):
    """A tokenizer without special tokens."""

    def __init__(self):
        super().__init__()
        self.pad_id = self.bos_id = self.eos_id = None


def test_tokenizer_without_special_tokens():
    generator = build(config=dataclasses.replace(CONFIG, vocab_size=259), tokenizer=NoSpecial())
    (text,) = generator.write(["ab"], key=KEY, max_length=9)
    assert len(text) >= 3
    with pytest.raises(ValueError, match="got an empty prompt with a tokenizer without BOS"):
        generator.write(["ab", ""], key=KEY, max_length=9)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stop": [""]}, "got an empty stop string; wanted non-empty ones"),
        ({"stop": "ab"}, "got stop='ab', one string; wanted a list"),
        ({"prompts": "ab"}, "got prompts='ab', one string; wanted a list"),
        ({"prompts": ["ab", None]}, r"got prompts\[1\]=None; wanted a string"),
        (
            {"key": jax.random.split(KEY, 2)},
            r"TextGenerator: got key .*\[2\]; wanted .* Pass one key, or one per prompt",
        ),
        ({"batch_size": 0}, "TextGenerator: got batch_size=0; wanted an integer from 1 to "),
        ({"max_length": -1}, "GenerationConfig: got max_length=-1; wanted an integer from 0 to "),
        ({"processors": (generate.TopK(V + 1),)}, "top_k: got k=16; wanted at most V = 15"),
        ({"prompts": ["\ud800"]}, "surrogates not allowed"),
    ],
)
def test_bad_options(options, message):
    options = {"prompts": ["ab"], "key": KEY, "max_length": 3, **options}
    with pytest.raises(ValueError, match=message):
        build().write(options.pop("prompts"), **options)


def test_tokenizer_with_a_larger_vocabulary():
    larger = data.char_tokenizer("abcdefghijklmnop")
    assert larger.vocab_size > V
    generator = build(tokenizer=larger)
    ids = {text: larger.encode(text)[-1] for text in "ap"}
    assert ids["a"] < V <= ids["p"]
    assert generator.write(["ab", "a"], key=KEY, max_length=3)
    wanted = rf"text 1 \('p'\): got the token 'p' with the id {ids['p']}; wanted ids below {V}, the model"
    for read in (generator.encode_prompts, functools.partial(generator.write, key=KEY)):
        with pytest.raises(ValueError, match=wanted):
            read(["a", "p"], max_length=3)
    translator = build(nn.EncoderDecoder, tokenizer=larger)
    assert translator.translate(["ab"])
    with pytest.raises(ValueError, match=wanted):
        translator.translate(["a", "p"])


def test_wrong_models_and_tokenizers():
    with pytest.raises(ValueError, match=r"got an encoder-decoder; wanted a decoder. Call translate"):
        build(nn.EncoderDecoder).stream("a", key=KEY, max_length=3)
    with pytest.raises(ValueError, match=r"got a decoder; wanted an encoder-decoder. Call write"):
        build().translate(["a"])
    config = dataclasses.replace(CONFIG, vocab_size=259)
    with pytest.raises(ValueError, match=r"got start_id=None, eos_ids=.*; wanted both to translate"):
        build(nn.EncoderDecoder, config, NoSpecial()).translate(["a"])


def test_nan_parameters_are_an_error():
    for module, run in (
        (nn.Decoder, lambda g: g.write(["ab"], key=KEY, max_length=LENGTH)),
        (nn.EncoderDecoder, lambda g: g.translate(["ab"])),
    ):
        broken = jax.tree.map(lambda p: p * jnp.nan, build(module).params)
        with pytest.raises(ValueError, match="got no valid token after 0; wanted finite logits"):
            run(dataclasses.replace(build(module), params=broken))
