"""Wrong ways to save a model and to load it."""

import functools
import io

import jax
import jax.numpy as jnp
import numpy as np

from tests.mutants import tiny
from tests.mutants.mutant import Mutant

JIT = False
L = 11


def init(key):
    embed, head, layers = jax.random.split(key, 3)
    return {
        "embed": jax.random.normal(embed, (tiny.V, tiny.D)),
        "head": jax.random.normal(head, (tiny.D, tiny.V)),
        **{
            f"layer.{i}": jax.random.normal(jax.random.fold_in(layers, i), (tiny.D, tiny.D)) for i in range(L)
        },
    }


def forward(params, tokens):
    x = params["embed"][tokens]
    for i in range(L):
        x = jnp.tanh(x @ params[f"layer.{i}"])
    return x @ params["head"]


def save(params):
    file = io.BytesIO()
    np.savez(file, **params)
    return file.getvalue()


def load(saved, fresh):
    with np.load(io.BytesIO(saved)) as file:
        return fresh | {name: jnp.asarray(file[name]) for name in file.files}


def round_trip(key, tokens, *, save=save, load=load):
    params = init(key)
    loaded = load(save(params), init(jax.random.key(0)))
    return forward(params, tokens), forward(loaded, tokens)


def part(**parts):
    return functools.partial(round_trip, **parts)


def in_order_of_names(saved, fresh):
    loaded = load(saved, fresh)
    names = [f"layer.{i}" for i in range(L)]
    return loaded | {name: loaded[found] for name, found in zip(names, sorted(names), strict=True)}


def without_head(params):
    return save({name: x for name, x in params.items() if name != "head"})


def tied(saved, fresh):
    loaded = load(saved, fresh)
    return loaded | {"head": loaded["embed"].T}


RIGHT = round_trip
MUTANTS = {
    "the head is taken for tied, and not saved": Mutant(
        part(save=without_head), ["loaded_is_saved"], "tinygrad/tinygrad#13796"
    ),
    "the head is tied on loading": (part(load=tied), ["loaded_is_saved"]),
    "half precision is saved": (
        part(save=lambda params: save({name: x.astype(jnp.float16) for name, x in params.items()})),
        ["loaded_is_saved"],
    ),
    "layer 10 comes before layer 2": (part(load=in_order_of_names), ["loaded_is_saved"]),
    "names that are not found are let pass": (
        part(save=lambda params: save({f"model.{name}": x for name, x in params.items()})),
        ["loaded_is_saved", "another_is_another"],
    ),
    "what was loaded is thrown away": (
        part(load=lambda saved, fresh: fresh),
        ["loaded_is_saved", "another_is_another"],
    ),
}
