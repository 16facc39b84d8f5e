"""Mutants of saving and loading a model."""

import functools
import io

import jax
import jax.numpy as jnp
import numpy as np

from tests.mutants import _tiny as tiny
from tests.mutants._mutant import Mutant

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


def load(saved, initial):
    with np.load(io.BytesIO(saved)) as file:
        return initial | {name: jnp.asarray(file[name]) for name in file.files}


def round_trip(key, tokens, *, save=save, load=load):
    params = init(key)
    loaded = load(save(params), init(jax.random.key(0)))
    return forward(params, tokens), forward(loaded, tokens)


def variant(**parts):
    return functools.partial(round_trip, **parts)


def load_layers_by_sorted_name(saved, initial):
    loaded = load(saved, initial)
    names = [f"layer.{i}" for i in range(L)]
    return loaded | {name: loaded[found] for name, found in zip(names, sorted(names), strict=True)}


def save_without_head(params):
    return save({name: x for name, x in params.items() if name != "head"})


def load_tied(saved, initial):
    loaded = load(saved, initial)
    return loaded | {"head": loaded["embed"].T}


RIGHT = round_trip
MUTANTS = {
    "an untied head is not saved": Mutant(
        variant(save=save_without_head), ["round_trip_is_exact"], "tinygrad/tinygrad#13796"
    ),
    "the head is tied on loading": Mutant(variant(load=load_tied), ["round_trip_is_exact"]),
    "float16 is saved": Mutant(
        variant(save=lambda params: save({name: x.astype(jnp.float16) for name, x in params.items()})),
        ["round_trip_is_exact"],
    ),
    "layer 10 comes before layer 2": Mutant(
        variant(load=load_layers_by_sorted_name), ["round_trip_is_exact"]
    ),
    "unknown names are ignored": Mutant(
        variant(save=lambda params: save({f"model.{name}": x for name, x in params.items()})),
        ["round_trip_is_exact", "different_models_differ"],
    ),
    "loaded parameters are discarded": Mutant(
        variant(load=lambda saved, initial: initial),
        ["round_trip_is_exact", "different_models_differ"],
    ),
}
