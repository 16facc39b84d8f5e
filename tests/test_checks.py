"""Arguments that are not arrays, keys or strings: the error names the function and the argument."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfm_jax import checks, data, generate, nn, ops, train
from tfm_jax.ops import kv_cache, masks

X, W, WIDE, LABELS = (
    np.ones((3, 4), np.float32),
    np.ones((4, 5), np.float32),
    np.ones(4, np.float32),
    np.arange(3),
)
HEADS = np.ones((3, 2, 4), np.float32)
LOGITS, COUNTS = np.ones((3, 4), np.float32), np.ones((3, 4), np.int32)
CONFIG = nn.Config(vocab_size=7, d_model=4, n_layers=1, n_heads=2, d_ff=5, qk_norm=True, dropout_rate=0.5)
NEW_KEY, OLD_KEY = jax.random.key(3), jax.random.PRNGKey(3)
ATTEND = {name: jax.random.normal(NEW_KEY, (3, 2, 4)) for name in "qkv"}
NEW, SLOTS = np.ones((2, 1, 4), np.float32), kv_cache.init_slots((), 3)

# A function, and its array arguments by name.
FUNCTIONS = {
    "layer_norm": (ops.layer_norm, {"x": X, "scale": WIDE, "bias": WIDE}),
    "rms_norm": (ops.rms_norm, {"x": X, "scale": WIDE}),
    "sinusoidal": (lambda positions: ops.sinusoidal(positions, 4), {"positions": LABELS}),
    "rotary": (ops.rotary, {"x": HEADS, "positions": LABELS}),
    "alibi": (
        lambda **positions: ops.alibi(2, **positions),
        {"query_positions": LABELS, "key_positions": LABELS},
    ),
    "relative_buckets": (ops.relative_buckets, {"query_positions": LABELS, "key_positions": LABELS}),
    "feed_forward": (
        ops.feed_forward,
        {"x": X, "w_in": W, "w_out": W.T, "b_in": np.ones(5, np.float32), "b_out": WIDE},
    ),
    "gated_feed_forward": (ops.gated_feed_forward, {"x": X, "w_gate": W, "w_in": W, "w_out": W.T}),
    "dropout": (lambda x: ops.dropout(x, 0.5, None), {"x": X}),
    "attention": (
        ops.attention,
        {"q": HEADS, "k": HEADS, "v": HEADS, "bias": np.ones((2, 3, 3), np.float32)},
    ),
    "cross_entropy": (ops.cross_entropy, {"logits": LOGITS, "labels": LABELS, "weights": X[:, 0]}),
    "linear_cross_entropy": (
        ops.linear_cross_entropy,
        {"hidden": X, "kernel": W, "labels": LABELS, "weights": X[:, 0], "bias": np.ones(5, np.float32)},
    ),
    "temperature": (lambda logits: ops.temperature(logits, 0.5), {"logits": LOGITS}),
    "top_k": (lambda logits: ops.top_k(logits, 2), {"logits": LOGITS}),
    "top_p": (lambda logits: ops.top_p(logits, 0.5), {"logits": LOGITS}),
    "min_p": (lambda logits: ops.min_p(logits, 0.5), {"logits": LOGITS}),
    "repetition_penalty": (
        lambda **arrays: ops.repetition_penalty(**arrays, penalty=2.0),
        {"logits": LOGITS, "seen": COUNTS > 0},
    ),
    "frequency_penalty": (
        lambda **arrays: ops.frequency_penalty(**arrays, penalty=2.0),
        {"logits": LOGITS, "counts": COUNTS},
    ),
    "no_repeat_ngram": (
        lambda **arrays: ops.no_repeat_ngram(**arrays, length=2, n=2),
        {"logits": LOGITS, "tokens": COUNTS},
    ),
    "token_counts": (lambda tokens: ops.token_counts(tokens, 4), {"tokens": COUNTS}),
    "kv_cache.append": (
        lambda buffer, new: kv_cache.append(buffer, new, SLOTS),
        {"buffer": np.zeros((2, 3, 4), np.float32), "new": NEW},
    ),
    "kv_cache.advance": (
        lambda positions: kv_cache.advance(SLOTS, positions),
        {"positions": np.zeros(1, np.int32)},
    ),
}
ARGUMENTS = [(function, name) for function, (_, arrays) in FUNCTIONS.items() for name in arrays]


@pytest.mark.parametrize(("function", "name"), ARGUMENTS)
def test_a_list_instead_of_an_array_is_an_error(function, name):
    call, arrays = FUNCTIONS[function]
    with pytest.raises(ValueError, match=f"^{function}: got {name}=.*, a list; wanted an array"):
        call(**arrays | {name: arrays[name].tolist()})


FLOATS = [
    (function, name)
    for function, name in ARGUMENTS
    if FUNCTIONS[function][1][name].dtype == np.float32
    and name not in ("weights", "new", "buffer")
    and function != "dropout"  # which accepts integers if nothing is dropped
]


@pytest.mark.parametrize(("function", "name"), FLOATS)
def test_integers_instead_of_floats_are_an_error(function, name):
    call, arrays = FUNCTIONS[function]
    with pytest.raises(ValueError, match=rf"^{function}: got .*\b{name}\b.*int32"):
        call(**arrays | {name: arrays[name].astype(np.int32)})


@pytest.mark.parametrize("function", FUNCTIONS)
def test_numpy_and_jax_arrays_give_equal_results(function):
    call, arrays = FUNCTIONS[function]
    got, want = call(**arrays), call(**jax.tree.map(jnp.asarray, arrays))
    jax.tree.map(np.testing.assert_array_equal, got, want)
    assert all(isinstance(x, jax.Array) for x in jax.tree.leaves(got))


def build(module):
    model = nn.functionalize(module, CONFIG)
    return model, jax.tree.map(jnp.zeros_like, jax.eval_shape(model.init, jax.random.key(0)))


@pytest.mark.parametrize(
    ("module", "inputs", "name"),
    [
        (nn.Encoder, ([[1, 2]],), "nn.Embedding: got tokens"),
        (nn.Decoder, ([[1, 2]],), "nn.Decoder: got tokens"),
        (nn.EncoderDecoder, ([[1, 2]], LABELS), "nn.EncoderDecoder: got source"),
        (nn.EncoderDecoder, (LABELS, [1, 2]), "nn.EncoderDecoder: got target"),
        (nn.Classifier, (LABELS, [True, True, False]), "nn.Classifier: got valid"),
        (nn.MaskedLanguageModel, ([[1, 2]],), "nn.Embedding: got tokens"),
    ],
)
def test_models_reject_lists(module, inputs, name):
    model, params = build(module)
    with pytest.raises(ValueError, match=f"^{name}=.*; wanted an array"):
        model.apply(params, *inputs)


def test_layers_reject_lists_and_integers():
    linear = nn.functionalize(nn.Linear, (2,), (3,), axes="D F", bias=False)
    params = {"kernel": jnp.ones((2, 3))}
    with pytest.raises(ValueError, match=r"^nn.Linear: got x=\[1.0, 2.0\], a list"):
        linear.apply(params, [1.0, 2.0])
    with pytest.raises(ValueError, match=r"^nn.Linear: got x int32"):
        linear.apply(params, jnp.array([1, 2]))
    norm = nn.functionalize(nn.LayerNorm().build, 2, axis="D", dtype="float32")
    with pytest.raises(ValueError, match=r"^layer_norm: got x=\[1.0, 2.0\], a list"):
        norm.apply({"scale": jnp.ones(2), "bias": jnp.ones(2)}, [1.0, 2.0])
    layers = {"MultiHeadAttention": "Linear", "EncoderBlock": "layer_norm"}
    layers |= {"LanguageModelHead": "LanguageModelHead", "EncoderStack": "Stack"}
    for layer, named in layers.items():
        model, params = build(getattr(nn, layer))
        with pytest.raises(ValueError, match=rf"^(nn.)?{named}: got x=\[\[.*, a list"):
            model.apply(params, [[1.0] * 4])
    layer = nn.functionalize(nn.Mlp().build, CONFIG)
    with pytest.raises(ValueError, match=r"^nn.FeedForward: got x=\[\[.*, a list"):
        layer.apply(layer.init(NEW_KEY), [[1.0] * 4])
    images = nn.functionalize(nn.Encoder, nn.Config(d_model=4, n_heads=2, patches=nn.Patches(1, 1)))
    params = jax.tree.map(jnp.zeros_like, jax.eval_shape(images.init, jax.random.key(0)))
    with pytest.raises(ValueError, match=r"^nn.PatchEmbedding: got images=.*, a list"):
        images.apply(params, [[[0.0]]])


def test_decoding_rejects_lists():
    model, params = build(nn.Decoder)
    for call in (
        lambda x: generate.greedy(model, params, x, max_length=2),
        lambda x: generate.sample(model, params, x, max_length=2, key=jax.random.key(0)),
        lambda x: generate.beam_search(model, params, x, max_length=2),
        lambda x: generate.prefill(model, params, x, generate.init_cache(model, params, 1, 2)),
        lambda x: generate.extend(model, params, x, generate.init_cache(model, params, 1, 2)),
    ):
        with pytest.raises(ValueError, match=r"^generate: got \w+=\[\[1, 2\]\], a list; wanted an array"):
            call([[1, 2]])
    with pytest.raises(ValueError, match=r"^generate: got valid="):
        generate.greedy(model, params, jnp.ones((1, 2), jnp.int32), valid=[[True, True]], max_length=2)


@pytest.mark.parametrize("x", [np.array(["a"]), np.array([None, 1], object)])
def test_arrays_of_other_than_numbers_are_an_error(x):
    with pytest.raises(ValueError, match=r"^f: got x of dtype .*; wanted an array of numbers"):
        checks.as_array("f", "x", x)


TRACED = {
    "dropout: got rate": lambda x: ops.dropout(X, x, NEW_KEY),
    "attention: got dropout_rate": lambda x: ops.attention(**ATTEND, dropout_rate=x, key=NEW_KEY),
    "cross_entropy: got label_smoothing": lambda x: ops.cross_entropy(LOGITS, LABELS, label_smoothing=x),
    "cross_entropy: got z_loss": lambda x: ops.cross_entropy(LOGITS, LABELS, z_loss=x),
}
SIZES = {
    "top_k: got k": lambda n: ops.top_k(LOGITS, n),
    "no_repeat_ngram: got n": lambda n: ops.no_repeat_ngram(LOGITS, COUNTS, 2, n),
    "token_counts: got V": lambda n: ops.token_counts(COUNTS, n),
    "init_slots: got capacity": lambda n: kv_cache.init_slots((), n).positions,
    "linear_cross_entropy: got chunk_size": lambda n: ops.linear_cross_entropy(X, W, LABELS, chunk_size=n),
    "alibi: got n_heads": lambda n: ops.alibi(n, LABELS, LABELS),
}


@pytest.mark.parametrize("name", TRACED)
def test_a_static_number_must_not_be_traced(name):
    with pytest.raises(ValueError, match=rf"^{name}=.*Tracer.*known before tracing"):
        jax.jit(TRACED[name])(0.5)
    with pytest.raises(ValueError, match=rf"^{name}=array.*, not an array"):
        TRACED[name](np.array([0.5, 0.5]))


@pytest.mark.parametrize("name", SIZES)
def test_a_size_must_not_be_an_array(name):
    for call in (jax.jit(SIZES[name]), SIZES[name]):
        with pytest.raises(ValueError, match=rf"^{name}=.*; wanted an integer .*, not an array"):
            call(jnp.int32(2))


@given(st.integers(-(2**63), 2**63 - 1))
def test_integers_beyond_int32_never_wrap(value):
    x = np.array([0, value])
    if -(2**31) <= value < 2**31:
        assert checks.as_array("f", "x", x).tolist() == [0, value]
    else:
        with pytest.raises(ValueError, match=f"^f: got x with {value}; wanted integers within int32"):
            checks.as_array("f", "x", x)


# Keys.
DRAWS = {
    "dropout": lambda key: ops.dropout(X, 0.5, key),
    "feed_forward": lambda key: ops.feed_forward(X, W, W.T, dropout_rate=0.5, key=key),
    "gated_feed_forward": lambda key: ops.gated_feed_forward(X, W, W, W.T, dropout_rate=0.5, key=key),
    "attention": lambda key: ops.attention(**ATTEND, dropout_rate=0.5, key=key),
    "init": lambda key: nn.functionalize(nn.Linear, (2,), (3,), axes="D F", bias=True).init(key),
    "init_state": lambda key: jax.random.key_data(train.init_state({}, optax.sgd(0.1), key).key),
}


@pytest.mark.parametrize("function", DRAWS)
def test_both_forms_of_keys_give_equal_numbers_and_others_are_errors(function):
    draw = DRAWS[function]
    jax.tree.map(np.testing.assert_array_equal, draw(OLD_KEY), draw(NEW_KEY))
    for key, got in (
        (3, "3"),
        ([1, 2], r"\[1, 2\]"),
        (jnp.ones(2), r"float32\[2\]"),
        (OLD_KEY[:1], r"uint32\[1\]"),
    ):
        with pytest.raises(ValueError, match=rf"^{function}: got key={got}; wanted a PRNG key"):
            draw(key)
    for keys in (jax.random.split(NEW_KEY, 2), jax.random.split(OLD_KEY, 2)):
        with pytest.raises(
            ValueError, match=rf"^{function}: got key with keys of shape \[2\]; wanted one key"
        ):
            draw(keys)


def test_models_and_decoding_accept_both_forms_of_keys():
    model = nn.functionalize(nn.Decoder, CONFIG)
    params = model.init(OLD_KEY)
    tokens = jnp.array([[1, 2, 3], [4, 5, 6]])
    apply = jax.jit(lambda key: model.apply(params, tokens, key=key))
    np.testing.assert_array_equal(apply(OLD_KEY), apply(NEW_KEY))
    with pytest.raises(ValueError, match=r"^nn: got key=3; wanted a PRNG key"):
        model.apply(params, tokens, key=3)

    def sample(key):
        return generate.sample(model, params, tokens, key=key, max_length=3)

    for old, new in ((OLD_KEY, NEW_KEY), (jax.random.split(OLD_KEY, 2), jax.random.split(NEW_KEY, 2))):
        np.testing.assert_array_equal(sample(old).tokens, sample(new).tokens)
    with pytest.raises(ValueError, match=r"^generate: got key=3; wanted a PRNG key"):
        sample(3)
    with pytest.raises(ValueError, match=r"got keys \[3\]; wanted one key, or one per sequence \[2\]"):
        sample(jax.random.split(OLD_KEY, 3))
    writer = generate.TextGenerator(model, params, data.char_tokenizer("abc"))
    for old, new in ((OLD_KEY, NEW_KEY), (jax.random.split(OLD_KEY, 2), jax.random.split(NEW_KEY, 2))):
        first, second = (writer.write(["a", "b"], key=key, max_length=3) for key in (old, new))
        assert first == second


def test_train_steps_accept_both_forms_of_keys():
    def loss_fn(params, batch, key):
        loss = ops.dropout(params["w"] * batch["x"], 0.5, key).sum()
        return (loss, jnp.float32(1)), {}

    optimizer = optax.sgd(0.1)
    step = jax.jit(train.make_train_step(loss_fn, optimizer))
    old, new = (
        step(train.TrainState(jnp.int32(0), {"w": X}, optimizer.init({}), None, key), {"x": X})
        for key in (OLD_KEY, NEW_KEY)
    )
    np.testing.assert_array_equal(old[0].params["w"], new[0].params["w"])


# Texts.
@given(st.lists(st.text(max_size=3), max_size=4), st.sampled_from([None, 3, b"x", ["a"]]), st.data())
def test_an_element_that_is_not_a_string_is_named_by_its_index(texts, wrong, draw):
    assert checks.as_texts("f", "texts", iter(texts)) == texts
    i = draw.draw(st.integers(0, len(texts)))
    texts.insert(i, wrong)
    with pytest.raises(ValueError, match=rf"^f: got texts\[{i}\]=.*; wanted a string"):
        checks.as_texts("f", "texts", texts)


TOKENIZER = data.char_tokenizer("abc")


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("texts", TOKENIZER.encode_batch),
        ("texts", data.ByteTokenizer().encode_batch),
        ("texts", lambda texts: data.train_bpe(texts, 260)),
        (
            "texts",
            lambda texts: data.text_classification_examples(
                texts, np.array([0, 1]), TOKENIZER, 2, max_length=9
            ),
        ),
        ("texts", lambda texts: data.language_model_examples(texts, TOKENIZER, 4)),
        ("sources", lambda texts: data.translation_examples(texts, ["a", "b"], TOKENIZER)),
        ("targets", lambda texts: data.translation_examples(["a", "b"], texts, TOKENIZER)),
    ],
)
def test_functions_of_data_reject_other_than_lists_of_strings(name, call):
    with pytest.raises(ValueError, match=rf"got {name}\[1\]=None; wanted a string"):
        call(["a", None])
    with pytest.raises(ValueError, match=f"got {name}='ab', one string; wanted a list of strings"):
        call("ab")


def test_a_mask_as_the_bias_and_a_list_as_the_mask_are_errors():
    with pytest.raises(ValueError, match="got a mask as bias"):
        ops.attention(**ATTEND, bias=masks.causal())
    with pytest.raises(ValueError, match=r"^mask: got .*; wanted a mask such as"):
        ops.attention(**ATTEND, mask=[[True] * 3] * 3)
