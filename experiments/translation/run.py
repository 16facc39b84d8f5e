"""Trains a translation model and tests it once, on unseen pairs."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from experiments import command_line
from experiments.init_from import start_run
from experiments.inputs import hash_texts
from experiments.runner import Run, make_tokenizer, require_packages
from experiments.translation.config import Config
from experiments.translation.corpus import Pairs, languages, load_pairs, make_shapes
from experiments.translation.decode import (
    TextMetrics,
    Translate,
    draw_attention,
    exact_match,
    make_translate,
    text_metrics,
)
from tfm_jax import data, nn, ops, runs, train
from tfm_jax.data.splitting import describe_splits, text_digest
from tfm_jax.ops import masks
from tfm_jax.train.metrics import add
from tfm_jax.train.plan.flops import step_flops
from tfm_jax.types import Array, Key, Params, SumWeight, TranslationBatch

__all__ = ["main", "make_loss", "run_experiment"]

NAME = "translation"


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the experiment with these arguments, or those of the process."""
    command_line.run(run_experiment, Config, argv, name=NAME)


def run_experiment(config: Config) -> None:
    """Loads the data, trains and tests; writes everything into the run's directory."""
    run, initial_params = start_run(config, NAME, (nn.EncoderDecoder,))
    config = run.config
    with run.setup():  # an error ends the process and leaves no run
        task = _prepare(run)
        loss_fn = make_loss(task.model, config.label_smoothing)
        optimizer, schedule = config.train.optimizer.build(config.model.d_model, config.train.steps)
        step = run.compile_step(loss_fn, optimizer)
        state = run.init_state(task.model.init, optimizer, initial_params)
    sources, references = (side[: config.data.decoded] for side in task.pairs["validation"])

    def decode(params: Params) -> dict[str, float]:
        if not sources:  # data.decoded is 0
            return {}
        return {"validation/exact_match": exact_match(task.translate(params, sources), references)}

    batches = iter(task.batches["train"])
    evaluate = run.compile_evaluation(loss_fn, task.batches["validation"], metrics=decode)

    def flops(batch: Mapping[str, Array]) -> float:
        lengths = {"length": batch["target"].shape[1], "source_length": batch["source"].shape[1]}
        return step_flops(task.model, examples=config.train.batch_size, **lengths)

    use, model = runs.Task(task="translation", max_length=config.data.max_length), task.model.config
    with run.session(state, batches, task.digests, task=use, model=model) as (state, options):
        result = train.fit(
            step, state, batches, evaluate=evaluate, learning_rate=schedule, unit="tokens",
            flops_per_step=flops, **options,
        )  # fmt: skip
    params = run.end_training(result)
    if config.average > 1:
        params = run.average_params(config.average)
    run.finish(run.on_main(lambda params: _test(task, params, run.path), params))


def make_loss(
    model: nn.Pure[nn.EncoderDecoder], label_smoothing: float
) -> train.LossFn[TranslationBatch[Array]]:
    """Makes the loss of a batch of pairs: cross-entropy of each next target token.

    Args:
      model: the encoder-decoder.
      label_smoothing: in training (with a key).

    Returns:
      ``loss_fn(params, batch, key)``, with the model's auxiliary losses: metrics of their own, and with a key
      a part of the loss. Without a key with the metric "accuracy" of next tokens.
    """

    def loss_fn(
        params: Params, batch: TranslationBatch[Array], key: Key | None
    ) -> tuple[SumWeight, dict[str, SumWeight]]:
        if key is None:
            return evaluate(params, batch)
        # The logits of a whole batch are never built, and the keys are those of model.apply.
        encode_key, decode_key = jax.random.split(key)
        mask, translator = masks.padding(batch["valid"]), model.bind(params)
        memory, encoder = translator.encode(
            batch["source"], source_mask=mask, key=encode_key, return_auxiliary=True
        )
        hidden, decoder = translator.hidden(
            batch["target"], memory, memory_mask=mask, key=decode_key, return_auxiliary=True
        )
        loss = translator.cross_entropy(
            hidden, batch["labels"], weights=batch["weights"], label_smoothing=label_smoothing
        )
        auxiliary = add(encoder.get("auxiliary", {}), decoder.get("auxiliary", {}))
        return train.add_auxiliary(loss, auxiliary), auxiliary

    def evaluate(params: Params, batch: TranslationBatch[Array]) -> tuple[SumWeight, dict[str, SumWeight]]:
        labels, weights, mask = batch["labels"], batch["weights"], masks.padding(batch["valid"])
        logits, extras = model.apply(
            params, batch["source"], batch["target"], source_mask=mask, return_auxiliary=True
        )
        correct = weights * (jnp.argmax(logits, axis=-1) == labels).astype(jnp.float32)
        loss = ops.cross_entropy(logits, labels, weights=weights)
        return loss, {"accuracy": (correct.sum(), weights.sum()), **extras["auxiliary"]}

    return loss_fn


@dataclasses.dataclass(frozen=True)
class _Task:
    """The data and the model: all that training does not change."""

    pairs: dict[str, Pairs]
    tokenizer: data.Tokenizer
    model: nn.Pure[nn.EncoderDecoder]
    batches: dict[str, data.Loader[TranslationBatch[np.ndarray]]]
    translate: Translate
    metrics: TextMetrics | None
    digests: dict[str, str]


def _prepare(run: Run[Config]) -> _Task:
    require_packages("matplotlib")
    config = run.config
    is_text = config.data.source != "dates"
    metrics = text_metrics(languages(config.data)[1]) if is_text else None
    pairs = load_pairs(config.data)
    hashes = {name: hash_texts(sources) for name, (sources, _) in pairs.items()}
    files = [name for name in ("validation", "test") if getattr(config.data, name)]
    if (rows := run.inputs.regroup(hashes, files)) is not None:
        sides = {
            name: [[pairs[s][side][i] for s, i in part] for side in (0, 1)] for name, part in rows.items()
        }
        pairs = {name: (sources, targets) for name, (sources, targets) in sides.items()}
    texts, settings = (text for side in pairs["train"] for text in side), config.data
    tokenizer = make_tokenizer(run.path, settings.tokenizer, lambda: list(texts), settings.vocab_size)
    vocab_size = config.model.vocab_size or tokenizer.vocab_size
    examples = {
        name: data.translation_examples(
            *pairs[name], tokenizer, max_length=config.data.max_length, vocab_size=vocab_size
        )
        for name in ("train", "validation")
    }
    parts = run.parallel.batch_parts * config.train.accumulate
    shapes, sizes = make_shapes(
        examples, config.data, config.train.batch_size, parts, sides=run.parallel.mesh.shape["sequence"]
    )
    seeds, share = {"train": config.train.seed, "validation": None}, run.share
    loaders = {
        name: data.Loader(part, data.BucketBatchSampler(part.lengths, shapes, sizes, seeds[name]), **share)
        for name, part in examples.items()
    }
    model = nn.functionalize(nn.EncoderDecoder, dataclasses.replace(config.model, vocab_size=vocab_size))
    run.shard(model.axes())
    run.check_inputs(model, *((side,) for side in shapes[-1]))  # the longest pair
    translate = make_translate(model, tokenizer, shapes, sizes, config.search)
    _describe(pairs, tokenizer, shapes, sizes, run.inputs.is_known(hash_texts(pairs["test"][0])))
    digests = {name: text_digest(*sides) for name, sides in pairs.items()}
    return _Task(pairs, tokenizer, model, loaders, translate, metrics, digests)


def _describe(
    pairs: Mapping[str, Pairs],
    tokenizer: data.Tokenizer,
    shapes: Sequence[tuple[int, int]],
    sizes: Sequence[int],
    known: np.ndarray,
) -> None:
    """Prints the sizes; ``known`` are the test pairs whose source the run's start was trained on."""
    counts = describe_splits({name: len(sources) for name, (sources, _) in pairs.items()})
    seen = set(zip(*pairs["train"], strict=True))
    repeated = sum((a, b) in seen or old for a, b, old in zip(*pairs["test"], known.tolist(), strict=True))
    print(f"{NAME}: pairs: {counts}; {repeated:,} of the test pairs are training pairs too")
    batches = ", ".join(f"{n} x {s}+{t}" for n, (s, t) in zip(sizes, shapes, strict=True))
    print(f"{NAME}: {tokenizer.vocab_size:,} tokens in the vocabulary; batches of {batches}", flush=True)


def _test(task: _Task, params: Params, path: Path) -> dict[str, float | str]:
    """Translates the test pairs, prints some of them and draws the attention of one; returns the results."""
    sources, references = task.pairs["test"]
    translations = task.translate(params, sources)
    drawn = _choose_to_draw(sources)
    wrong = [i for i, text in enumerate(translations) if text != references[i]]
    for i in dict.fromkeys([drawn, *range(4), *wrong[:3]]):
        if i < len(translations):
            print(
                f"\n  source     {sources[i]}\n  reference  {references[i]}\n  ours       {translations[i]}"
            )
    note = draw_attention(
        task.model, params, task.tokenizer, sources[drawn], translations[drawn], path / "attention.png"
    )
    print(f"\ncross-attention of the first translation: {path / 'attention.png'}")
    print(f"{note or ''}\n")
    results: dict[str, float | str] = {
        "test_pairs": len(translations),
        "exact_match": exact_match(translations, references),
    }
    return results | (task.metrics(translations, references) if task.metrics is not None else {})


def _choose_to_draw(sources: Sequence[str]) -> int:
    """The index of a Chinese date with its weekday, or else of a text of about 40 characters."""
    return min(
        range(min(len(sources), 500)),
        key=lambda i: ("星期" not in sources[i], abs(len(sources[i]) - 40)),
    )
