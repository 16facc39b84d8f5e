"""Tiny random models of transformers, and comparisons of ours with them."""

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

B, T, S = 3, 16, 7  # T is the length of the shortest position table
LENGTHS = np.array([16, 1, 6])  # of padded sequences
TOLERANCE = 1e-5
SINUSOIDAL = ("marian", "pegasus")
"""Model types with a table of positions that is no parameter."""


class Pair(NamedTuple):
    """A model of transformers, and ours, loaded from its directory."""

    reference: Any
    model: nn.Pure
    params: dict
    config: pretrained.CheckpointConfig
    directory: Path


def numpy(tensor):
    return tensor.detach().numpy()


def random(case: Case, *, std=0.3, seed=0):
    """A random model; no norm's scale is 1 and no bias is 0."""
    torch.manual_seed(seed)
    torch.set_num_threads(1)  # at these sizes more threads are slower
    config = getattr(transformers, case.config)(attn_implementation="eager", **case.fields)
    reference = getattr(transformers, case.model)(config).eval()
    fixed = ("embed_positions",) if config.model_type in SINUSOIDAL else ()
    for name, tensor in [*reference.named_parameters(), *reference.named_buffers()]:
        if any(part in name for part in fixed) or not tensor.is_floating_point() or "inv_freq" in name:
            continue
        norm_scale = tensor.ndim == 1 and name.endswith("weight")
        torch.nn.init.normal_(tensor, 1.0 if norm_scale else 0.0, 0.2 if tensor.ndim == 1 else std)
        unread = {"roberta": 1, "bart": 2, "mbart": 2, "opt": 2}.get(config.model_type, 0)
        if "position" in name:
            torch.nn.init.zeros_(tensor[:unread])  # rows that no position reads
    return reference


def pair(directory, reference) -> Pair:
    reference.save_pretrained(directory)
    model, params, config, tokenizer = pretrained.load(directory)
    assert tokenizer is None
    return Pair(reference, model, params, config, directory)


def tokens_of(vocab_size, *shape, seed=1):
    return np.random.default_rng(seed).integers(3, vocab_size, shape)


def valid_positions(length, *, left=False):
    valid = np.arange(length) < np.minimum(LENGTHS, length)[:, None]
    return np.fliplr(valid).copy() if left else valid


def close(got, wanted, valid, explain=lambda: ""):
    """Raises where the two differ by more than ``TOLERANCE`` at a valid position."""
    got, wanted = np.asarray(got), numpy(wanted)
    assert got.shape == wanted.shape and got.dtype == np.float32
    worst = np.abs(np.where(valid[..., None], got - wanted, 0.0)).max()
    assert np.ptp(wanted) > 0.1, "the logits are constant"
    assert worst <= TOLERANCE, f"they differ by {worst}\n{explain()}"


def check_logits(found: Pair):
    """Compares the logits (or the vectors of a body) of a padded batch."""
    wanted, got, valid, stacks = run(found)
    explain = functools.partial(layer_by_layer, found, stacks)
    close(got, wanted[0], np.ones(B, bool) if got.ndim == 2 else valid, explain)  # or one vector per sequence


class Stack(NamedTuple):
    """A stack of layers.

    Args:
      name: for messages.
      depth: the field of the config with the number of layers.
      run: maps a config and the model's parameters to the output vectors [B, T, D] of the stack.
      reference: the vectors of transformers, before the first layer and after each.
      valid: the compared positions.
      path: of the stack's parameters.
      ends_normed: whether the last of ``reference`` follows the final norm.
    """

    name: str
    depth: str
    run: Any
    reference: Any
    valid: np.ndarray
    path: tuple[str, ...]
    ends_normed: bool = True


def run(found: Pair):
    """The output of transformers, ours, the valid positions, and the stacks."""
    if found.config.settings.get("is_encoder_decoder"):
        return run_encoder_decoder(found)
    if found.config.model.patches is not None:
        return run_images(found)
    if found.config.architecture.endswith(("ForCausalLM", "LMHeadModel")):
        return run_decoder(found)
    return run_encoder(found)


def run_encoder(found: Pair):
    """Runs an encoder on a padded batch with all token types."""
    vocab_size, types = found.config.model.vocab_size, found.config.model.token_types
    tokens, valid = tokens_of(vocab_size, B, T), valid_positions(T)
    tokens = np.where(valid, tokens, 1)
    mask, classifies = masks.padding(jnp.asarray(valid)), "Classification" in found.config.architecture
    options, ours = {"attention_mask": torch.tensor(valid, dtype=torch.long)}, {}
    if types:
        kinds = np.random.default_rng(3).integers(0, types, (B, T))
        options["token_type_ids"], ours["token_types"] = torch.tensor(kinds), jnp.asarray(kinds, jnp.int32)
    wanted = found.reference(torch.tensor(tokens), output_hidden_states=True, **options)
    attended = jnp.asarray(valid) if classifies else mask
    got = jax.jit(found.model.apply)(found.params, tokens, attended, **ours)
    check_pooled(found, wanted, tokens, mask, **ours)
    return wanted, got, valid, [encoder_of(found, wanted, valid, tokens, mask, **ours)]


def run_images(found: Pair):
    """Runs an image encoder; channels are last in ours, first in transformers."""
    patches = found.config.model.patches
    shape = (B, patches.height, patches.width, patches.channels)
    images = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    wanted = found.reference(torch.tensor(images.transpose(0, 3, 1, 2)), output_hidden_states=True)
    got = jax.jit(found.model.apply)(found.params, images)
    check_pooled(found, wanted, images)
    everywhere = np.ones(wanted.hidden_states[0].shape[:2], bool)
    stack = encoder_of(found, wanted, everywhere, images)
    return wanted, got, everywhere, [stack._replace(ends_normed=False)]


def check_pooled(found: Pair, wanted, *inputs, **options):
    """Compares the pooler's vectors, where there is a pooler."""
    if "pooler_output" in wanted:
        pooled = found.model.bind(found.params).pooled(*inputs, **options)
        close(pooled, wanted.pooler_output, np.ones(B, bool))


def encoder_of(found: Pair, wanted, valid, *inputs, **options) -> Stack:
    """The stack of an encoder, with or without a head."""
    alone = "stack" in found.params

    def body(params):
        return params if alone else params["encoder"]

    def ours(config, params):
        return nn.functionalize(nn.Encoder, dataclasses.replace(config, pooler=None)).apply(
            {name: part for name, part in body(params).items() if name != "pooler"}, *inputs, **options
        )

    path = ("stack",) if alone else ("encoder", "stack")
    return Stack("encoder", "n_layers", ours, wanted.hidden_states, valid, path)


def run_encoder_decoder(found: Pair):
    """Runs an encoder-decoder with padded sources and full targets."""
    vocab_size = found.config.model.vocab_size
    source, valid = tokens_of(vocab_size, B, S), valid_positions(S)
    target, everywhere = tokens_of(vocab_size, B, T, seed=2), np.ones((B, T), bool)
    wanted = found.reference(
        torch.tensor(source),
        attention_mask=torch.tensor(valid, dtype=torch.long),
        decoder_input_ids=torch.tensor(target),
        output_hidden_states=True,
    )
    mask = masks.padding(jnp.asarray(valid))
    got = jax.jit(found.model.apply)(found.params, source, target, source_mask=mask)

    def model(config):
        return nn.functionalize(nn.EncoderDecoder, config)

    def encode(config, params):
        return model(config).bind(params).encode(source, source_mask=mask)

    memory = jnp.asarray(numpy(wanted.encoder_last_hidden_state))

    def decode(config, params):
        return model(config).bind(params).hidden(target, memory, memory_mask=mask)

    stacks = [
        Stack("encoder", "n_layers", encode, wanted.encoder_hidden_states, valid, ("encoder",)),
        Stack("decoder", "n_decoder_layers", decode, wanted.decoder_hidden_states, everywhere, ("decoder",)),
    ]
    return wanted, got, everywhere, stacks


def run_decoder(found: Pair):
    """Runs a decoder on a left-padded batch; positions start at the first token of each sequence."""
    vocab_size = found.config.model.vocab_size
    tokens, valid = tokens_of(vocab_size, B, T), valid_positions(T, left=True)
    positions = np.maximum(np.cumsum(valid, 1) - 1, 0)
    options = {
        "attention_mask": torch.tensor(valid, dtype=torch.long),
        "position_ids": torch.tensor(positions),
        "output_hidden_states": True,
    }
    wanted = found.reference(torch.tensor(tokens), **options)
    mask = masks.padding(jnp.asarray(valid))
    positions = jnp.asarray(positions, jnp.int32)
    got = jax.jit(found.model.apply)(found.params, tokens, mask, positions=positions)

    def ours(config, params):
        return nn.functionalize(nn.Decoder, config).bind(params).hidden(tokens, mask, positions=positions)

    return wanted, got, valid, [Stack("decoder", "n_layers", ours, wanted.hidden_states, valid, ("stack",))]


def check_padding(found: Pair, valid_of, *, attended=False):
    """Compares the logits of a batch with padding anywhere, without explicit positions."""
    settings, architecture = found.config.settings, found.config.architecture
    encoder_decoder = settings.get("is_encoder_decoder")
    n = S + T // 2
    valid, everywhere = valid_of(n), np.ones((B, n), bool)
    pad = settings.get("pad_token_id") or 0
    tokens = np.where(valid, tokens_of(found.config.model.vocab_size, B, n), pad)
    attend = everywhere if attended else valid
    options = {"attention_mask": torch.tensor(attend, dtype=torch.long)}
    if encoder_decoder:
        target = tokens_of(found.config.model.vocab_size, B, S, seed=2)
        wanted = found.reference(torch.tensor(tokens), decoder_input_ids=torch.tensor(target), **options)
        mask = masks.padding(jnp.asarray(attend))
        got, attend = found.model.apply(found.params, tokens, target, source_mask=mask), np.ones((B, S), bool)
    else:
        wanted = found.reference(torch.tensor(tokens), **options)
        mask = jnp.asarray(attend) if "Classification" in architecture else masks.padding(jnp.asarray(attend))
        got = found.model.apply(found.params, tokens, mask)
    # Classifiers read the first token; where it is padding the output is undefined.
    close(got, wanted[0], valid[:, 0] if got.ndim == 2 else attend)


def layer_by_layer(found: Pair, stacks) -> str:
    """The largest difference after each layer, for the message of a failed test."""
    return "\n".join(
        f"  after layer {n} of the {stack.name}: {worst}"
        for stack in stacks
        for n, worst in enumerate(differences(found, stack), start=1)
    )


def differences(found: Pair, stack: Stack):
    """The largest difference after each layer."""
    model, last = found.config.model, len(stack.reference) - 1
    depths = {"n_layers": model.n_layers, "n_decoder_layers": model.n_decoder_layers or model.n_layers}
    for n in range(1, last + 1):
        is_complete = n == last and stack.ends_normed
        final_norm = model.final_norm and is_complete
        config = dataclasses.replace(model, **(depths | {stack.depth: n}), final_norm=final_norm)
        params = found.params if is_complete else cut(found.params, stack.path, n)
        got = np.asarray(stack.run(config, params))
        yield np.abs(np.where(stack.valid[..., None], got - numpy(stack.reference[n]), 0.0)).max()


def cut(params, path, n: int, at=()):
    """Parameters with the first n layers of the stack at a path, and without final norms."""
    if not isinstance(params, dict):
        return params
    kept = {name: part for name, part in params.items() if name != "norm" or "layers" not in params}
    found = {name: cut(part, path, n, (*at, name)) for name, part in kept.items()}
    return found | {"layers": jax.tree.map(lambda x: x[:n], params["layers"])} if at == path else found


def check_round_trip(found: Pair, directory):
    """Saves ours, loads it in transformers, and compares all tensors.

    Once with the settings that were loaded, and once with those of ``nn.Config`` alone.
    """
    bare = dataclasses.replace(found.config, settings=needed(found.config.settings))
    for name, config in (("as read", found.config), ("bare", bare)):
        pretrained.save(directory / name, found.params, config)
        again, report = reloaded(found, directory / name, output_loading_info=True)
        assert not any(report.values()), report
        got, wanted = again.state_dict(), found.reference.state_dict()
        assert got.keys() == wanted.keys()
        for key in wanted:
            np.testing.assert_array_equal(numpy(got[key]), numpy(wanted[key]), err_msg=key)
        _, params, config, _ = pretrained.load(directory / name)
        assert config.model == found.config.model
        jax.tree.map(np.testing.assert_array_equal, params, found.params)
    ours, reference = (x.config.to_dict() for x in (reloaded(found, directory / "as read"), found.reference))
    assert ours == {**reference, "_name_or_path": ours["_name_or_path"]}


def needed(settings):
    """The settings that do not describe the parameters."""
    kept = ("pad_token_id", "eos_token_id", "bos_token_id", "decoder_start_token_id", "id2label")
    # No parameter of these depends on it.
    kept += ("max_position_embeddings",) * (settings["model_type"] in SINUSOIDAL)
    return {name: settings[name] for name in kept if name in settings}


def reloaded(found: Pair, directory, **options):
    return type(found.reference).from_pretrained(directory, attn_implementation="eager", **options)


def check_generation(found: Pair, *, max_length=6):
    """Compares greedy decoding and beam search."""
    settings = found.config.settings
    end, pad = settings["eos_token_id"], settings.get("pad_token_id")
    pad = end if pad is None else pad
    is_encoder_decoder = found.model.bind(found.params).is_encoder_decoder()
    tokens = tokens_of(found.config.model.vocab_size, B, S, seed=2)
    valid = valid_positions(S, left=not is_encoder_decoder)
    tokens = np.where(valid, tokens, pad)
    mask = masks.padding(jnp.asarray(valid)) if is_encoder_decoder else jnp.asarray(valid)
    start = found.reference.generation_config.decoder_start_token_id
    mask = {("source_mask" if is_encoder_decoder else "valid"): mask}
    config = generate.GenerationConfig(
        tuple(end) if isinstance(end, list) else (end,),
        pad_id=pad,
        start_id=1 if start is None else start,
        max_length=max_length,
    )
    arguments = found.model, found.params, jnp.asarray(tokens)
    greedy = generate.greedy(*arguments, config, **mask).tokens
    three = config.updated(beams=3, length_penalty=lambda n: n.astype(jnp.float32))
    beams = generate.beam_search(*arguments, three, **mask).tokens[:, 0]
    for got, more in ((greedy, {}), (beams, {"num_beams": 3, "early_stopping": "never"})):
        wanted = found.reference.generate(
            torch.tensor(tokens),
            attention_mask=torch.tensor(valid, dtype=torch.long),
            max_new_tokens=max_length,
            do_sample=False,
            eos_token_id=end,
            pad_token_id=pad,
            **more,
        )[:, 1 if is_encoder_decoder else S :].numpy()
        wanted = np.pad(wanted, ((0, 0), (0, max_length - wanted.shape[1])), constant_values=pad)
        # Where the pad token is 0, transformers pads finished beams with EOS.
        ended = np.cumsum(wanted == end, 1) - (wanted == end)
        wanted = np.where(ended > 0, pad, wanted)
        np.testing.assert_array_equal(got, wanted)
        assert len(np.unique(wanted)) > 3
