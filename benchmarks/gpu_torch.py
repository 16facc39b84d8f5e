"""The models of ``benchmarks.gpu`` in torch, and their training steps: compiled, with torch's attention."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional

__all__ = ["Transformer", "attention", "generate", "training"]


class Attention(nn.Module):
    """Multi-head attention by ``scaled_dot_product_attention``, which has torch's flash attention."""

    def __init__(self, size: int, n_heads: int):
        super().__init__()
        self.n_heads = n_heads
        self.query, self.out = nn.Linear(size, size), nn.Linear(size, size)
        self.key_value = nn.Linear(size, 2 * size)

    def forward(self, x: Any, memory: Any, causal: bool) -> Any:
        def split(y: Any) -> Any:
            return y.unflatten(-1, (self.n_heads, -1)).transpose(1, 2)

        key, value = self.key_value(memory).chunk(2, dim=-1)
        q, k, v = split(self.query(x)), split(key), split(value)
        y = functional.scaled_dot_product_attention(q, k, v, is_causal=causal)
        return self.out(y.transpose(1, 2).flatten(-2))


class Layer(nn.Module):
    def __init__(self, size: int, n_heads: int, hidden: int, cross: bool, post_norm: bool):
        super().__init__()
        self.post_norm = post_norm
        self.attention = Attention(size, n_heads)
        self.cross = Attention(size, n_heads) if cross else None
        self.up, self.down = nn.Linear(size, hidden), nn.Linear(hidden, size)
        self.norms = nn.ModuleList(nn.LayerNorm(size) for _ in range(3 if cross else 2))

    def add(self, x: Any, number: int, function: Callable[[Any], Any]) -> Any:
        norm = self.norms[number]
        return norm(x + function(x)) if self.post_norm else x + function(norm(x))

    def forward(self, x: Any, memory: Any, causal: bool) -> Any:
        x = self.add(x, 0, lambda y: self.attention(y, y, causal))
        if (cross := self.cross) is not None:
            x = self.add(x, 1, lambda y: cross(y, memory, False))
        activation = functional.relu if self.post_norm else functional.gelu
        return self.add(x, -1 + len(self.norms), lambda y: self.down(activation(self.up(y))))


class Transformer(nn.Module):
    """A decoder of ``tokens``, or with ``source`` an encoder-decoder; the loss of the next tokens.

    Args:
      sizes: ``vocab_size, d_model, n_layers, n_heads, d_ff``, as in ``nn.Config``.
      length: the longest sequence.
      cross: whether there is an encoder.
      post_norm: ``norm(x + f(x))`` with ReLU; else ``x + f(norm(x))`` with GELU, and a last norm.
    """

    def __init__(self, sizes: dict[str, int], length: int, cross: bool, post_norm: bool):
        super().__init__()
        size, count = sizes["d_model"], sizes["n_layers"]
        options = (size, sizes["n_heads"], sizes["d_ff"])
        self.embedding = nn.Embedding(sizes["vocab_size"], size)
        self.positions = nn.Embedding(length, size)
        nn.init.normal_(self.embedding.weight, std=0.02)
        self.encoder = nn.ModuleList(Layer(*options, False, post_norm) for _ in range(count if cross else 0))
        self.decoder = nn.ModuleList(Layer(*options, cross, post_norm) for _ in range(count))
        self.norm = nn.Identity() if post_norm else nn.LayerNorm(size)

    def forward(self, batch: dict[str, Any]) -> Any:
        memory = None
        if "source" in batch:
            memory = self.embed(batch["source"])
            for layer in self.encoder:
                memory = layer(memory, memory, False)
        x = self.embed(batch["tokens"])
        for layer in self.decoder:
            x = layer(x, memory, True)
        logits = functional.linear(self.norm(x), self.embedding.weight)
        return functional.cross_entropy(logits.flatten(0, 1).float(), batch["labels"].flatten())

    def embed(self, tokens: Any) -> Any:
        return self.embedding(tokens) + self.positions.weight[: tokens.shape[1]]


def device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def training(model: Transformer, batch: dict[str, Any]) -> Callable[[int], float]:
    """``run(n)`` takes n training steps, bfloat16 with float32 weights; returns the last loss."""
    torch.set_float32_matmul_precision("high")
    model = model.to(device())
    placed = {name: torch.tensor(x, dtype=torch.long, device=device()) for name, x in batch.items()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=torch.cuda.is_available())
    compiled = torch.compile(model) if torch.cuda.is_available() else model

    def run(steps: int) -> float:
        loss = torch.tensor(0.0)
        for _ in range(steps):
            with torch.autocast(device(), dtype=torch.bfloat16):
                loss = compiled(placed)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        wait()
        return float(loss.detach())

    return run


def attention(shape: tuple[int, int, int, int], backend: str) -> Callable[[int], None]:
    """``run(n)``: n times causal attention, forward and backward, of bfloat16 [B, T, N, H] with one backend.

    Args:
      shape: B, T, N, H.
      backend: "flash", "cudnn", or "default" for torch's own choice.
    """
    from torch.nn.attention import SDPBackend, sdpa_kernel

    kernels = {
        "flash": [SDPBackend.FLASH_ATTENTION],
        "cudnn": [SDPBackend.CUDNN_ATTENTION],
        "default": [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH],
    }[backend]
    B, T, N, H = shape
    q, k, v = (
        torch.randn(B, N, T, H, device=device(), dtype=torch.bfloat16, requires_grad=True) for _ in range(3)
    )
    cotangent = torch.randn(B, N, T, H, device=device(), dtype=torch.bfloat16)

    def run(times: int) -> None:
        with sdpa_kernel(kernels):
            for _ in range(times):
                out = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
                torch.autograd.grad(out, (q, k, v), cotangent)
        wait()

    return run


def generate(sizes: dict[str, int], prompt: Any, new: int) -> Callable[[], None]:
    """``run()``: ``new`` tokens of a Llama with random bfloat16 weights, greedy, by transformers."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=sizes["vocab_size"],
        hidden_size=sizes["d_model"],
        intermediate_size=sizes["d_ff"],
        num_hidden_layers=sizes["n_layers"],
        num_attention_heads=sizes["n_heads"],
        num_key_value_heads=sizes["n_kv_heads"],
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        eos_token_id=None,
        bos_token_id=None,
        dtype=torch.bfloat16,
    )
    with torch.device(device()):
        model = LlamaForCausalLM(config).to(torch.bfloat16).eval()
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    ids = torch.tensor(prompt, dtype=torch.long, device=device())

    def run() -> None:
        with torch.inference_mode():
            out = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=new,
                min_new_tokens=new,
                do_sample=False,
            )
        wait()
        assert out.shape[1] == ids.shape[1] + new

    return run
