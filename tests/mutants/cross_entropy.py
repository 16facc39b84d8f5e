"""Wrong cross-entropies, each with a bug that was seen somewhere, in our own words; and the right one."""

import functools

import jax
import jax.numpy as jnp

from tests.mutants.mutant import Mutant

IGNORED = -100
OPTIONS = {"ignore_index": IGNORED}


def log_softmax(logits):
    logits = logits - jax.lax.stop_gradient(logits.max(-1, keepdims=True))
    return logits - jnp.log(jnp.exp(logits).sum(-1, keepdims=True))


def target(labels, V, smoothing):
    return (1 - smoothing) * jax.nn.one_hot(labels, V) + smoothing / V


def weights_of(labels, weights):
    weights = jnp.ones(labels.shape, jnp.float32) if weights is None else weights
    return jnp.where(labels == IGNORED, 0, weights)


def summed(losses, weights, counted):
    return (losses * weights).sum(), counted.sum()


def loss(
    logits,
    labels,
    weights,
    smoothing,
    *,
    wide=jnp.float32,
    log_softmax=log_softmax,
    target=target,
    weights_of=weights_of,
    summed=summed,
):
    log_p = log_softmax(logits.astype(wide)).astype(jnp.float32)
    losses = -(target(labels, logits.shape[-1], smoothing) * log_p).sum(-1)
    weights = weights_of(labels, weights)
    return summed(losses, weights, weights)


def over_the_others(labels, V, smoothing):
    hot = jax.nn.one_hot(labels, V)
    return (1 - smoothing) * hot + smoothing / (V - 1) * (1 - hot)


def all_count(labels, weights):
    return jnp.ones(labels.shape, jnp.float32)


def weights_alone(labels, weights):
    return jnp.ones(labels.shape, jnp.float32) if weights is None else weights


def as_class(of):
    """An ignored label is a class."""
    return part(
        weights_of=weights_alone,
        target=lambda labels, V, smoothing: target(of(labels, V), V, smoothing),
    )


def ignored_in_the_weight(logits, labels, weights, smoothing):
    total, _ = loss(logits, labels, weights, smoothing)
    return total, weights_alone(labels, weights).sum()


def mean_of_the_tokens(losses, weights, counted):
    return (losses * weights).sum() / (counted.sum() + 1e-9), jnp.float32(1)


def weights_normalised(losses, weights, counted):
    return (losses * weights / jnp.maximum(weights.sum(), 1e-9)).sum() * losses.size, counted.sum()


def class_0_is_padding(labels, weights):
    return jnp.where(labels == 0, 0, weights_of(labels, weights))


def in_bfloat16(logits):
    return jax.lax.reduce_precision(log_softmax(logits), 8, 7)


def of_each_class_alone(logits):
    return jax.nn.log_sigmoid(logits)


@jax.custom_vjp
def unweighted_backward(logits, labels, weights, smoothing):
    return loss(logits, labels, weights, smoothing)


def _forward(logits, labels, weights, smoothing):
    slope = jax.nn.softmax(logits) - target(labels, logits.shape[-1], smoothing)
    return loss(logits, labels, weights, smoothing), slope


unweighted_backward.defvjp(_forward, lambda slope, given: (slope * given[0], None, None, None))


def smoothed_apart(logits, labels, weights, smoothing):
    """A second sum for the smoothing, without the weights."""
    total, weight = loss(logits, labels, weights, 0)
    spread = -log_softmax(logits.astype(jnp.float32)).mean(-1).sum()
    return (1 - smoothing) * total + smoothing * spread, weight


def part(**parts):
    return functools.partial(loss, **parts)


RIGHT = loss
# name: (the function, laws that it must break)
MUTANTS = {
    "the mean of the tokens, weight 1": (
        part(summed=mean_of_the_tokens),
        ["halves_add", "weight_is_what_counts", "definition"],
    ),
    "weights are normalised": (part(summed=weights_normalised), ["halves_add", "definition"]),
    "divided by the size of the batch": (
        part(summed=lambda losses, weights, counted: ((losses * weights).sum() / len(losses), counted.sum())),
        ["definition", "compiled_is_eager"],
    ),
    "the weight counts tokens, not weights": (
        part(summed=lambda losses, w, counted: ((losses * w).sum(), (counted > 0).sum(dtype=jnp.float32))),
        ["weight_is_what_counts"],
    ),
    "without weights the weight is 1": (
        lambda logits, labels, weights, smoothing: (
            loss(logits, labels, weights, smoothing)[0],
            jnp.float32(1) if weights is None else weights_of(labels, weights).sum(),
        ),
        ["no_weights", "weight_is_what_counts"],
    ),
    "padding counts": Mutant(
        part(weights_of=all_count),
        ["definition", "ignored_tokens_change_nothing", "ignored_tokens_have_no_gradient"],
        "NovaSky-AI/SkyRL#462",
    ),
    "ignored tokens count in the weight": Mutant(
        ignored_in_the_weight, ["ignored_tokens_change_nothing"], "tracel-ai/burn#5568"
    ),
    "label -100 is the last class": (
        as_class(lambda labels, V: jnp.where(labels < 0, V - 1, labels)),
        ["ignored_tokens_change_nothing", "ignored_tokens_have_no_gradient"],
    ),
    "label -100 is class 0": (
        as_class(lambda labels, V: jnp.maximum(labels, 0)),
        ["ignored_tokens_change_nothing", "ignored_tokens_have_no_gradient"],
    ),
    "class 0 is taken for padding": (part(weights_of=class_0_is_padding), ["classes_alike", "definition"]),
    "smoothing over V - 1": (part(target=over_the_others), ["smoothing", "gradients_of_smoothing"]),
    "smoothing of the label alone": (
        part(target=lambda labels, V, smoothing: (1 - smoothing) * jax.nn.one_hot(labels, V)),
        ["smoothing", "gradients_of_smoothing"],
    ),
    "smoothing added on top": (
        part(target=lambda labels, V, smoothing: jax.nn.one_hot(labels, V) + smoothing / V),
        ["smoothing"],
    ),
    "smoothing forgotten": (part(target=lambda labels, V, smoothing: target(labels, V, 0)), ["smoothing"]),
    "padding is smoothed too": (
        smoothed_apart,
        ["smoothing", "gradients_of_smoothing"],
    ),
    "the sum of log p": (
        lambda *inputs: (-loss(*inputs)[0], loss(*inputs)[1]),
        ["never_negative", "definition"],
    ),
    "logarithms to base 2": (
        part(log_softmax=lambda logits: log_softmax(logits) / jnp.log(2.0)),
        ["equal_logits", "definition"],
    ),
    "a sigmoid a class": (
        part(log_softmax=of_each_class_alone),
        ["only_differences_of_logits", "equal_logits"],
    ),
    "a softmax of the softmax": (
        part(log_softmax=lambda logits: log_softmax(jax.nn.softmax(logits))),
        ["definition", "large_logits"],
    ),
    "no largest logit is taken off": (
        part(log_softmax=lambda logits: logits - jnp.log(jnp.exp(logits).sum(-1, keepdims=True))),
        ["large_logits"],
    ),
    "the logarithm of a rounded softmax": (
        part(log_softmax=lambda logits: jnp.log(jax.nn.softmax(logits) + 1e-6)),
        ["large_logits", "gradients"],
    ),
    "in bfloat16": (part(log_softmax=in_bfloat16), ["computed_in_float32", "definition"]),
    "the sum in bfloat16": (
        lambda logits, *rest: tuple(x.astype(logits.dtype) for x in loss(logits, *rest)),
        ["computed_in_float32"],
    ),
    "the backward pass forgets the weights": (
        unweighted_backward,
        ["gradients", "ignored_tokens_have_no_gradient"],
    ),
}
