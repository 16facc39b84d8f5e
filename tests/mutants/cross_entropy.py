"""Mutants of cross-entropy."""

import functools

import jax
import jax.numpy as jnp

from tests.mutants._mutant import Mutant

IGNORE_INDEX = -100
OPTIONS = {"ignore_index": IGNORE_INDEX}


def log_softmax(logits):
    logits = logits - jax.lax.stop_gradient(logits.max(-1, keepdims=True))
    return logits - jnp.log(jnp.exp(logits).sum(-1, keepdims=True))


def target(labels, V, smoothing):
    return (1 - smoothing) * jax.nn.one_hot(labels, V) + smoothing / V


def weights_of(labels, weights):
    weights = jnp.ones(labels.shape, jnp.float32) if weights is None else weights
    return jnp.where(labels == IGNORE_INDEX, 0, weights)


def reduce(losses, weights):
    return (losses * weights).sum(), weights.sum()


def loss(
    logits,
    labels,
    weights,
    smoothing,
    *,
    log_softmax=log_softmax,
    target=target,
    weights_of=weights_of,
    reduce=reduce,
):
    log_p = log_softmax(logits.astype(jnp.float32)).astype(jnp.float32)
    losses = -(target(labels, logits.shape[-1], smoothing) * log_p).sum(-1)
    return reduce(losses, weights_of(labels, weights))


def variant(**parts):
    return functools.partial(loss, **parts)


def smoothed_over_other_classes(labels, V, smoothing):
    hot = jax.nn.one_hot(labels, V)
    return (1 - smoothing) * hot + smoothing / (V - 1) * (1 - hot)


def all_ones(labels, weights):
    return jnp.ones(labels.shape, jnp.float32)


def passed_weights(labels, weights):
    return jnp.ones(labels.shape, jnp.float32) if weights is None else weights


def ignored_label_as_class(class_of):
    return variant(
        weights_of=passed_weights,
        target=lambda labels, V, smoothing: target(class_of(labels, V), V, smoothing),
    )


def ignored_tokens_in_the_weight(logits, labels, weights, smoothing):
    total, _ = loss(logits, labels, weights, smoothing)
    return total, passed_weights(labels, weights).sum()


def mean_over_tokens(losses, weights):
    return (losses * weights).sum() / (weights.sum() + 1e-9), jnp.float32(1)


def normalized_weights(losses, weights):
    return (losses * weights / jnp.maximum(weights.sum(), 1e-9)).sum() * losses.size, weights.sum()


def label_0_is_padding(labels, weights):
    return jnp.where(labels == 0, 0, weights_of(labels, weights))


@jax.custom_vjp
def unweighted_backward(logits, labels, weights, smoothing):
    return loss(logits, labels, weights, smoothing)


def _forward(logits, labels, weights, smoothing):
    gradient = jax.nn.softmax(logits) - target(labels, logits.shape[-1], smoothing)
    return loss(logits, labels, weights, smoothing), gradient


unweighted_backward.defvjp(
    _forward, lambda gradient, cotangents: (gradient * cotangents[0], None, None, None)
)


def unweighted_smoothing(logits, labels, weights, smoothing):
    total, weight = loss(logits, labels, weights, 0)
    uniform = -log_softmax(logits.astype(jnp.float32)).mean(-1).sum()
    return (1 - smoothing) * total + smoothing * uniform, weight


RIGHT = loss
MUTANTS = {
    "the mean over tokens, with weight 1": Mutant(
        variant(reduce=mean_over_tokens),
        ["chunks_add", "weight_is_the_sum_of_weights", "definition"],
    ),
    "weights are normalized": Mutant(variant(reduce=normalized_weights), ["chunks_add", "definition"]),
    "divided by the batch size": Mutant(
        variant(reduce=lambda losses, weights: ((losses * weights).sum() / len(losses), weights.sum())),
        ["definition", "compiled_matches_eager"],
    ),
    "the weight counts tokens, not weights": Mutant(
        variant(
            reduce=lambda losses, weights: (
                (losses * weights).sum(),
                (weights > 0).sum(dtype=jnp.float32),
            )
        ),
        ["weight_is_the_sum_of_weights"],
    ),
    "without weights the weight is 1": Mutant(
        lambda logits, labels, weights, smoothing: (
            loss(logits, labels, weights, smoothing)[0],
            jnp.float32(1) if weights is None else weights_of(labels, weights).sum(),
        ),
        ["default_weights_are_1", "weight_is_the_sum_of_weights"],
    ),
    "padding counts": Mutant(
        variant(weights_of=all_ones),
        ["definition", "ignored_tokens_change_nothing", "ignored_tokens_have_no_gradient"],
        "NovaSky-AI/SkyRL#462",
    ),
    "ignored tokens count in the weight": Mutant(
        ignored_tokens_in_the_weight, ["ignored_tokens_change_nothing"], "tracel-ai/burn#5568"
    ),
    "label -100 is the last class": Mutant(
        ignored_label_as_class(lambda labels, V: jnp.where(labels < 0, V - 1, labels)),
        ["ignored_tokens_change_nothing", "ignored_tokens_have_no_gradient"],
    ),
    "label -100 is class 0": Mutant(
        ignored_label_as_class(lambda labels, V: jnp.maximum(labels, 0)),
        ["ignored_tokens_change_nothing", "ignored_tokens_have_no_gradient"],
    ),
    "label 0 counts as padding": Mutant(
        variant(weights_of=label_0_is_padding), ["class_permutation_invariance", "definition"]
    ),
    "smoothing over V - 1 classes": Mutant(
        variant(target=smoothed_over_other_classes), ["label_smoothing", "gradients_with_label_smoothing"]
    ),
    "smoothing only lowers the label": Mutant(
        variant(target=lambda labels, V, smoothing: (1 - smoothing) * jax.nn.one_hot(labels, V)),
        ["label_smoothing", "gradients_with_label_smoothing"],
    ),
    "smoothing is added to the label": Mutant(
        variant(target=lambda labels, V, smoothing: jax.nn.one_hot(labels, V) + smoothing / V),
        ["label_smoothing"],
    ),
    "smoothing is ignored": Mutant(
        variant(target=lambda labels, V, smoothing: target(labels, V, 0)), ["label_smoothing"]
    ),
    "padding is smoothed too": Mutant(
        unweighted_smoothing, ["label_smoothing", "gradients_with_label_smoothing"]
    ),
    "the sum has the wrong sign": Mutant(
        lambda *inputs: (-loss(*inputs)[0], loss(*inputs)[1]),
        ["never_negative", "definition"],
    ),
    "logarithms to base 2": Mutant(
        variant(log_softmax=lambda logits: log_softmax(logits) / jnp.log(2.0)),
        ["uniform_logits", "definition"],
    ),
    "a sigmoid per class": Mutant(
        variant(log_softmax=jax.nn.log_sigmoid), ["shift_invariance", "uniform_logits"]
    ),
    "a softmax of the softmax": Mutant(
        variant(log_softmax=lambda logits: log_softmax(jax.nn.softmax(logits))),
        ["definition", "large_logits"],
    ),
    "the softmax does not subtract the maximum": Mutant(
        variant(log_softmax=lambda logits: logits - jnp.log(jnp.exp(logits).sum(-1, keepdims=True))),
        ["large_logits"],
    ),
    "the logarithm of softmax + 1e-6": Mutant(
        variant(log_softmax=lambda logits: jnp.log(jax.nn.softmax(logits) + 1e-6)),
        ["large_logits", "gradients"],
    ),
    "log-probabilities in bfloat16": Mutant(
        variant(log_softmax=lambda logits: jax.lax.reduce_precision(log_softmax(logits), 8, 7)),
        ["computed_in_float32", "definition"],
    ),
    "the sum in bfloat16": Mutant(
        lambda logits, *rest: tuple(x.astype(logits.dtype) for x in loss(logits, *rest)),
        ["computed_in_float32"],
    ),
    "the backward pass ignores the weights": Mutant(
        unweighted_backward, ["gradients", "ignored_tokens_have_no_gradient"]
    ),
}
