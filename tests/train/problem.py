"""A two-layer regression and an endless iterator, to test training without a model or a data set."""

import jax
import jax.numpy as jnp
import numpy as np

WIDTHS = (3, 5, 2)


def init(key):
    first, second = jax.random.split(key)
    n_in, n_hidden, n_out = WIDTHS
    return {
        "hidden": {"kernel": jax.random.normal(first, (n_in, n_hidden)), "bias": jnp.zeros(n_hidden)},
        "out": {"kernel": jax.random.normal(second, (n_hidden, n_out))},
    }


def predict(params, x, key=None):
    hidden = jnp.tanh(jnp.einsum("bi,ih->bh", x, params["hidden"]["kernel"]) + params["hidden"]["bias"][None])
    if key is not None:
        hidden = hidden * jax.random.bernoulli(key, 0.9, hidden.shape).astype(hidden.dtype)
    return jnp.einsum("bh,ho->bo", hidden, params["out"]["kernel"])


def loss_fn(params, batch, key):
    """Weighted squared error, without dropout: the same for any split of the batch."""
    error = jnp.sum((predict(params, batch["x"]) - batch["y"]) ** 2, axis=1)
    weight = batch["weights"]
    near = jnp.asarray(error < 1.0, jnp.float32)
    return (jnp.sum(error * weight), jnp.sum(weight)), {"near": (jnp.sum(near * weight), jnp.sum(weight))}


def dropout_loss(params, batch, key):
    error = jnp.sum((predict(params, batch["x"], key) - batch["y"]) ** 2, axis=1)
    return (jnp.sum(error * batch["weights"]), jnp.sum(batch["weights"])), {}


def make_batch(seed, size=16):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(size, WIDTHS[0])).astype(np.float32)
    y = np.stack([x.sum(1), np.abs(x[:, 0])], axis=1)
    return {"x": x, "y": y, "weights": rng.integers(0, 5, size).astype(np.float32)}


class Batches:
    """A resumable iterator. Batch i is a function of i; the state is the next i."""

    def __init__(self, size=16, end=None):
        self.size, self.end, self.next = size, end, 0

    def __iter__(self):
        return self

    def __next__(self):
        if self.next == self.end:
            raise StopIteration
        self.next += 1
        return make_batch(self.next - 1, self.size)

    def get_state(self):
        return {"next": self.next}

    def set_state(self, state):
        self.next = state["next"]
