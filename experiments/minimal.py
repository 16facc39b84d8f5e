"""A language model in one file: the data, the model, the loss, the training loop, the samples.

It learns the names of countries, cities, languages, scripts and currencies in eight languages, a character at
a time, and then makes up new ones: ``python experiments/minimal.py``, under two minutes on two CPU cores,
without a network.
"""

import time

import jax
import jax.numpy as jnp
import optax

from tfm_jax import data, generate, nn, train
from tfm_jax.ops import masks

LANGUAGES = ("en", "de", "fr", "es", "it", "pt", "nl", "pl")


def name_texts(rows):
    """The names as texts that begin with their language, such as "fr:îles Pitcairn"."""
    languages = rows.features["language"].names
    named = [(languages[label], name) for label, name in zip(rows["language"], rows["text"], strict=True)]
    return [f"{language}:{name}" for language, name in named if language in LANGUAGES]


def make_loader(texts, tokenizer, batch_size, seed=None):
    """Batches of sequences of 64 tokens. Short texts are packed: several share a sequence, each with its id.

    With a seed the batches are shuffled and never end; without one they are one pass in order.
    """
    sequences = data.language_model_examples(texts, tokenizer, length=64)
    return data.Loader(sequences, data.UniformBatchSampler(len(sequences), batch_size, seed))


def make_model(vocab_size):
    """A decoder-only Transformer as pure functions: ``init(key) -> params``, ``apply(params, tokens)``."""
    config = nn.Config(
        vocab_size=vocab_size,
        d_model=128,
        n_layers=2,
        n_heads=4,
        d_ff=256,
        norm=nn.RMSNorm(),
        positions=nn.Rope(),
        feed_forward=nn.Glu(),
        dropout_rate=0.1,
    )
    return nn.functionalize(nn.Decoder, config)


def make_loss(model):
    """Cross-entropy of each next token, as ``(sum, weight)``: sums of batches add, and divide once."""

    def loss_fn(params, batch, key):  # the key is for dropout; None in evaluation
        same_text = masks.segments(batch["segment_ids"])  # the decoder itself adds the causal mask
        decoder = model.bind(params)
        hidden = decoder.hidden(batch["tokens"], same_text, positions=batch["positions"], key=key)
        # The logits of all tokens never exist at once.
        return decoder.cross_entropy(hidden, batch["labels"], weights=batch["weights"]), {}

    return loss_fn


def train_model(model, training, validation, steps, seed, every=150):
    """Trains with AdamW and prints the losses, in nats per character; returns the parameters."""
    init_key, run_key = jax.random.split(jax.random.key(seed))
    schedule = optax.warmup_cosine_decay_schedule(0.0, 5e-3, warmup_steps=steps // 10, decay_steps=steps)
    optimizer = optax.adamw(schedule, b2=0.98, weight_decay=0.1)
    loss_fn = make_loss(model)
    step = jax.jit(train.make_train_step(loss_fn, optimizer, clip_norm=1.0), donate_argnums=0)
    eval_step = jax.jit(train.make_eval_step(loss_fn))

    state = train.init_state(model.init(init_key), optimizer, run_key)
    started_at = time.monotonic()
    for number, batch in zip(range(1, steps + 1), training, strict=False):
        state, metrics = step(state, batch)
        if number in (1, steps) or number % every == 0:
            loss = train.means(metrics)["loss"]
            new = train.means(train.evaluate(eval_step, state.params, validation))["loss"]
            seconds = time.monotonic() - started_at
            print(f"step {number:4}: loss {loss:.3f}, of new names {new:.3f} ({seconds:.0f} s)")
    return state.params


def sample_texts(model, params, tokenizer, language, n, seed):
    """Makes up ``n`` names in a language: the prompt is "fr:", the model continues it until EOS."""
    prompt = jnp.array([[tokenizer.bos_id, *tokenizer.encode(f"{language}:")]] * n)
    config = generate.GenerationConfig(
        eos_ids=(tokenizer.eos_id,), max_length=50, processors=(generate.Temperature(0.8),)
    )
    generated = generate.sample(model, params, prompt, config, key=jax.random.key(seed))
    return [tokenizer.decode(tokens) for tokens in generated.tokens]


def main(steps=450, batch_size=32, seed=0):
    """Trains the model, and prints five new names in each language."""
    splits = data.load_splits("names")
    texts, new_texts = name_texts(splits["train"]), name_texts(splits["validation"])
    tokenizer = data.char_tokenizer(texts)
    training = make_loader(texts, tokenizer, batch_size, seed)
    validation = make_loader(new_texts, tokenizer, batch_size)
    model = make_model(tokenizer.vocab_size)
    print(f"{len(texts):,} names, such as {texts[0]!r}; {tokenizer.vocab_size} tokens")
    params = train_model(model, training, validation, steps, seed)
    for number, language in enumerate(LANGUAGES):
        print(f"{language}: {', '.join(sample_texts(model, params, tokenizer, language, 5, number))}")


if __name__ == "__main__":
    main()
