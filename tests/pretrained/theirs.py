"""Tiny models of transformers with random weights, and how ours are compared with them."""

import dataclasses
import functools
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.pretrained.cases import Case
from tfm_jax import generate, nn, pretrained
from tfm_jax.ops import masks

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

B, T, S = 3, 16, 7  # T is all that the shortest of learned positions reach
LENGTHS = np.array([16, 1, 6])  # of the rows, where they are padded
TOLERANCE = 1e-5


class Pair(NamedTuple):
    """Their model and ours, loaded from the directory that theirs was saved to."""

    theirs: Any
    model: nn.Pure
    params: dict
    config: pretrained.CheckpointConfig
    directory: Path


def numpy(tensor):
    return tensor.detach().numpy()


def random(case: Case, *, std=0.3, seed=0):
    """A model of which no norm's scale is 1 and no bias 0."""
    torch.manual_seed(seed)
    torch.set_num_threads(1)  # at these sizes more of them only wait for each other
    config = getattr(transformers, case.config)(attn_implementation="eager", **case.fields)
    theirs = getattr(transformers, case.model)(config).eval()
    fixed = ("embed_positions",) if config.model_type == "marian" else ()
    for name, tensor in [*theirs.named_parameters(), *theirs.named_buffers()]:
        if any(part in name for part in fixed) or not tensor.is_floating_point() or "inv_freq" in name:
            continue
        norm_scale = tensor.ndim == 1 and name.endswith("weight")
        torch.nn.init.normal_(tensor, 1.0 if norm_scale else 0.0, 0.2 if tensor.ndim == 1 else std)
        unread = {"roberta": 1, "bart": 2, "mbart": 2, "opt": 2}.get(config.model_type, 0)
        if "position" in name:
            torch.nn.init.zeros_(tensor[:unread])  # which nobody reads, and we do not keep
    return theirs


def pair(directory, theirs) -> Pair:
    theirs.save_pretrained(directory)
    model, params, config, tokenizer = pretrained.load(directory)
    assert tokenizer is None
    return Pair(theirs, model, params, config, directory)


def tokens_of(vocab_size, *shape, seed=1):
    return np.random.default_rng(seed).integers(3, vocab_size, shape)


def valid_rows(length, *, left=False):
    valid = np.arange(length) < np.minimum(LENGTHS, length)[:, None]
    return np.fliplr(valid).copy() if left else valid


def close(got, wanted, valid, explain=lambda: ""):
    """Raises unless the two differ by no more than ``TOLERANCE`` where rows are no padding."""
    got, wanted = np.asarray(got), numpy(wanted)
    assert got.shape == wanted.shape and got.dtype == np.float32
    worst = np.abs(np.where(valid[..., None], got - wanted, 0.0)).max()
    assert np.ptp(wanted) > 0.1, "logits that are all alike prove nothing"
    assert worst <= TOLERANCE, f"they differ by {worst}\n{explain()}"


def check_logits(found: Pair):
    """The logits (or the vectors, of a body) of a padded batch."""
    wanted, got, valid, stacks = run(found)
    explain = functools.partial(layer_by_layer, found, stacks)
    close(got, wanted[0], np.ones(B, bool) if got.ndim == 2 else valid, explain)  # or one row a sequence


class Stack(NamedTuple):
    """One of a model's stacks of layers.

    Args:
      name: of it, for messages.
      depth: the field of the config that says how many layers it has.
      run: gives the vectors [B, T, D] that it ends with, of a config and the whole model's parameters.
      theirs: their vectors, before the first layer and after each.
      valid: where they are compared.
      path: of its parameters.
      ends_normed: whether their last vectors are those behind the norm that ends the stack, if any.
    """

    name: str
    depth: str
    run: Any
    theirs: Any
    valid: np.ndarray
    path: tuple[str, ...]
    ends_normed: bool = True


def run(found: Pair):
    """What theirs gives, our logits or vectors, where they count, and what is in between."""
    if found.config.settings.get("is_encoder_decoder"):
        return run_encoder_decoder(found)
    if found.config.model.patches is not None:
        return run_images(found)
    if found.config.architecture.endswith(("ForCausalLM", "LMHeadModel")):
        return run_decoder(found)
    return run_encoder(found)


def run_encoder(found: Pair):
    """A padded batch, of tokens of every type that there is."""
    vocab_size, types = found.config.model.vocab_size, found.config.model.token_types
    tokens, valid = tokens_of(vocab_size, B, T), valid_rows(T)
    tokens = np.where(valid, tokens, 1)
    mask, classifies = masks.padding(jnp.asarray(valid)), "Classification" in found.config.architecture
    options, ours = {"attention_mask": torch.tensor(valid, dtype=torch.long)}, {}
    if types:
        kinds = np.random.default_rng(3).integers(0, types, (B, T))
        options["token_type_ids"], ours["token_types"] = torch.tensor(kinds), jnp.asarray(kinds, jnp.int32)
    wanted = found.theirs(torch.tensor(tokens), output_hidden_states=True, **options)
    given = jnp.asarray(valid) if classifies else mask
    got = jax.jit(found.model.apply)(found.params, tokens, given, **ours)
    check_pooled(found, wanted, tokens, mask, **ours)
    return wanted, got, valid, [encoder_of(found, wanted, valid, tokens, mask, **ours)]


def run_images(found: Pair):
    """Images; the channels stand last in ours, and first in theirs."""
    patches = found.config.model.patches
    shape = (B, patches.height, patches.width, patches.channels)
    images = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    wanted = found.theirs(torch.tensor(images.transpose(0, 3, 1, 2)), output_hidden_states=True)
    got = jax.jit(found.model.apply)(found.params, images)
    check_pooled(found, wanted, images)
    everywhere = np.ones(wanted.hidden_states[0].shape[:2], bool)
    stack = encoder_of(found, wanted, everywhere, images)
    return wanted, got, everywhere, [stack._replace(ends_normed=False)]


def check_pooled(found: Pair, wanted, *given, **options):
    """The pooler's vectors, of a body that has one."""
    if "pooler_output" in wanted:
        pooled = found.model.apply(found.params, *given, **options, method="pooled")
        close(pooled, wanted.pooler_output, np.ones(B, bool))


def encoder_of(found: Pair, wanted, valid, *given, **options) -> Stack:
    """The stack of an encoder, alone or below a head."""
    alone = "stack" in found.params
    body = lambda params: params if alone else params["encoder"]
    ours = lambda config, params: nn.functionalize(
        nn.Encoder, dataclasses.replace(config, pooler=None)
    ).apply({name: part for name, part in body(params).items() if name != "pooler"}, *given, **options)
    path = ("stack",) if alone else ("encoder", "stack")
    return Stack("encoder", "n_layers", ours, wanted.hidden_states, valid, path)


def run_encoder_decoder(found: Pair):
    """A padded source, and targets that are whole."""
    vocab_size = found.config.model.vocab_size
    source, valid = tokens_of(vocab_size, B, S), valid_rows(S)
    target, everywhere = tokens_of(vocab_size, B, T, seed=2), np.ones((B, T), bool)
    wanted = found.theirs(
        torch.tensor(source),
        attention_mask=torch.tensor(valid, dtype=torch.long),
        decoder_input_ids=torch.tensor(target),
        output_hidden_states=True,
    )
    mask = masks.padding(jnp.asarray(valid))
    got = jax.jit(found.model.apply)(found.params, source, target, source_mask=mask)
    model = lambda config: nn.functionalize(nn.EncoderDecoder, config)
    encode = lambda config, params: model(config).apply(params, source, source_mask=mask, method="encode")
    memory = jnp.asarray(numpy(wanted.encoder_last_hidden_state))
    decode = lambda config, params: model(config).apply(
        params, target, memory, memory_mask=mask, method="hidden"
    )
    stacks = [
        Stack("encoder", "n_layers", encode, wanted.encoder_hidden_states, valid, ("encoder",)),
        Stack("decoder", "n_decoder_layers", decode, wanted.decoder_hidden_states, everywhere, ("decoder",)),
    ]
    return wanted, got, everywhere, stacks


def run_decoder(found: Pair):
    """A padded batch, with positions that count from each row's first token."""
    vocab_size = found.config.model.vocab_size
    tokens, valid = tokens_of(vocab_size, B, T), valid_rows(T, left=True)
    positions = np.maximum(np.cumsum(valid, 1) - 1, 0)
    options = {
        "attention_mask": torch.tensor(valid, dtype=torch.long),
        "position_ids": torch.tensor(positions),
        "output_hidden_states": True,
    }
    wanted = found.theirs(torch.tensor(tokens), **options)
    given, places = masks.padding(jnp.asarray(valid)), jnp.asarray(positions, jnp.int32)
    got = jax.jit(found.model.apply)(found.params, tokens, given, positions=places)
    ours = lambda config, params: nn.functionalize(nn.Decoder, config).apply(
        params, tokens, given, positions=places, method="hidden"
    )
    return wanted, got, valid, [Stack("decoder", "n_layers", ours, wanted.hidden_states, valid, ("stack",))]


def check_padding(found: Pair, valid_of, *, attended=False):
    """The logits of a batch padded anywhere, where neither side is passed positions."""
    settings, architecture = found.config.settings, found.config.architecture
    encoder_decoder = settings.get("is_encoder_decoder")
    n = S + T // 2
    valid, everywhere = valid_of(n), np.ones((B, n), bool)
    pad = settings.get("pad_token_id") or 0
    tokens = np.where(valid, tokens_of(found.config.model.vocab_size, B, n), pad)
    attend = everywhere if attended else valid
    theirs = {"attention_mask": torch.tensor(attend, dtype=torch.long)}
    if encoder_decoder:
        target = tokens_of(found.config.model.vocab_size, B, S, seed=2)
        wanted = found.theirs(torch.tensor(tokens), decoder_input_ids=torch.tensor(target), **theirs)
        mask = masks.padding(jnp.asarray(attend))
        got, attend = found.model.apply(found.params, tokens, target, source_mask=mask), np.ones((B, S), bool)
    else:
        wanted = found.theirs(torch.tensor(tokens), **theirs)
        given = (
            jnp.asarray(attend) if "Classification" in architecture else masks.padding(jnp.asarray(attend))
        )
        got = found.model.apply(found.params, tokens, given)
    # The classes of a sequence whose first token, which they are read from, is padding mean nothing.
    close(got, wanted[0], valid[:, 0] if got.ndim == 2 else attend)


def layer_by_layer(found: Pair, stacks) -> str:
    """How far the vectors after each layer are apart, for the message of a test that fails."""
    return "\n".join(
        f"  after layer {n} of the {stack.name}: {worst}"
        for stack in stacks
        for n, worst in enumerate(differences(found, stack), start=1)
    )


def differences(found: Pair, stack: Stack):
    """The largest after each layer."""
    model, last = found.config.model, len(stack.theirs) - 1
    depths = {"n_layers": model.n_layers, "n_decoder_layers": model.n_decoder_layers or model.n_layers}
    for n in range(1, last + 1):
        whole = n == last and stack.ends_normed
        final_norm = model.final_norm and whole
        config = dataclasses.replace(model, **(depths | {stack.depth: n}), final_norm=final_norm)
        params = found.params if whole else cut(found.params, stack.path, n)
        got = np.asarray(stack.run(config, params))
        yield np.abs(np.where(stack.valid[..., None], got - numpy(stack.theirs[n]), 0.0)).max()


def cut(params, path, n: int, at=()):
    """Parameters of which the stack at a path has its first n layers, and no stack a norm behind them."""
    if not isinstance(params, dict):
        return params
    kept = {name: part for name, part in params.items() if name != "norm" or "layers" not in params}
    found = {name: cut(part, path, n, (*at, name)) for name, part in kept.items()}
    return found | {"layers": jax.tree.map(lambda x: x[:n], params["layers"])} if at == path else found


def check_round_trip(found: Pair, directory):
    """Saved by us, transformers has the same tensors, and none that it misses.

    Once with the settings that were read, and once with those that our config alone gives.
    """
    bare = dataclasses.replace(found.config, settings=needed(found.config.settings))
    for name, config in (("as read", found.config), ("bare", bare)):
        pretrained.save(directory / name, found.params, config)
        again, report = reloaded(found, directory / name, output_loading_info=True)
        assert not any(report.values()), report
        got, wanted = again.state_dict(), found.theirs.state_dict()
        assert got.keys() == wanted.keys()
        for key in wanted:
            np.testing.assert_array_equal(numpy(got[key]), numpy(wanted[key]), err_msg=key)
        _, params, config, _ = pretrained.load(directory / name)
        assert config.model == found.config.model
        jax.tree.map(np.testing.assert_array_equal, params, found.params)
    ours, theirs = (x.config.to_dict() for x in (reloaded(found, directory / "as read"), found.theirs))
    assert ours == {**theirs, "_name_or_path": ours["_name_or_path"]}


def needed(settings):
    """What the settings say of other things than the model's numbers."""
    kept = ("pad_token_id", "eos_token_id", "bos_token_id", "decoder_start_token_id", "id2label")
    # Which Marian's numbers do not depend on.
    kept += ("max_position_embeddings",) * (settings["model_type"] == "marian")
    return {name: settings[name] for name in kept if name in settings}


def reloaded(found: Pair, directory, **options):
    return type(found.theirs).from_pretrained(directory, attn_implementation="eager", **options)


def check_generation(found: Pair, *, max_length=6):
    """Greedy decoding and beams give the same tokens."""
    settings = found.config.settings
    end, pad = settings["eos_token_id"], settings.get("pad_token_id")
    pad = end if pad is None else pad
    is_encoder_decoder = found.model.apply(found.params, method="is_encoder_decoder")
    tokens = tokens_of(found.config.model.vocab_size, B, S, seed=2)
    valid = valid_rows(S, left=not is_encoder_decoder)
    tokens = np.where(valid, tokens, pad)
    mask = masks.padding(jnp.asarray(valid)) if is_encoder_decoder else jnp.asarray(valid)
    start = found.theirs.generation_config.decoder_start_token_id
    options = {
        ("source_mask" if is_encoder_decoder else "valid"): mask,
        "max_length": max_length,
        "eos_id": end,
        "pad_id": pad,
        "bos_id": 1 if start is None else start,
    }
    greedy = generate.greedy(found.model, found.params, jnp.asarray(tokens), **options).tokens
    beams = generate.beam_search(
        found.model,
        found.params,
        jnp.asarray(tokens),
        beams=3,
        length_penalty=lambda n: n.astype(jnp.float32),
        **options,
    ).tokens[:, 0]
    for got, more in ((greedy, {}), (beams, {"num_beams": 3, "early_stopping": "never"})):
        wanted = found.theirs.generate(
            torch.tensor(tokens),
            attention_mask=torch.tensor(valid, dtype=torch.long),
            max_new_tokens=max_length,
            do_sample=False,
            eos_token_id=end,
            pad_token_id=pad,
            **more,
        )[:, 1 if is_encoder_decoder else S :].numpy()
        wanted = np.pad(wanted, ((0, 0), (0, max_length - wanted.shape[1])), constant_values=pad)
        # Theirs fills beams behind their end with the end token where the padding is token 0.
        ended = np.cumsum(wanted == end, 1) - (wanted == end)
        wanted = np.where(ended > 0, pad, wanted)
        np.testing.assert_array_equal(got, wanted)
        assert len(np.unique(wanted)) > 3
