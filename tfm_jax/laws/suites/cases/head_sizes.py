"""``HeadSizes``: cases of attention for functions of fixed or equal numbers of heads."""

import dataclasses
import math
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from tfm_jax.laws.subject import Function, Subject

if TYPE_CHECKING:
    from tfm_jax.laws.suites.cases.attention import AttentionCase

__all__ = ["KV_HEADS", "HeadSizes", "SizedSubject"]

KV_HEADS = ("any", "equal")
SMALLEST_HEAD_DIM = 4  # the laws read the weights of up to 4 keys from an output of H elements

CaseT = TypeVar("CaseT", bound="AttentionCase")


@dataclasses.dataclass(frozen=True)
class HeadSizes:
    """The sizes N, K and H that a function supports.

    Args:
      kv_heads: "any" number K that divides N, or "equal": K = N in every case.
      heads: N; None for several.
      head_dim: H, at least 4; None for several.

    Raises:
      ValueError: for another value.
    """

    kv_heads: str = "any"
    heads: int | None = None
    head_dim: int | None = None

    def __post_init__(self) -> None:
        if self.kv_heads not in KV_HEADS:
            raise ValueError(f"laws: got kv_heads={self.kv_heads!r}; wanted one of {', '.join(KV_HEADS)}.")
        if self.heads is not None and self.heads < 1:
            raise ValueError(f"laws: got heads={self.heads}; wanted at least 1.")
        if self.head_dim is not None and self.head_dim < SMALLEST_HEAD_DIM:
            raise ValueError(f"laws: got head_dim={self.head_dim}; wanted at least {SMALLEST_HEAD_DIM}.")

    def resize(self, case: CaseT) -> CaseT | None:
        """The case with q, k and v of these sizes; None if it has more keys than an output shows weights."""
        if self == HeadSizes():
            return case
        (B, T, N, H), (S, K) = case.q.shape, case.k.shape[1:3]
        N, H = self.heads or N, self.head_dim or H
        if S > H:
            return None
        K = N if self.kv_heads == "equal" else math.gcd(N, K)
        rng = np.random.default_rng(case.seed)
        q, k, v = (
            rng.standard_normal(shape).round(1).astype(np.float32)
            for shape in ((B, T, N, H), (B, S, K, H), (B, S, K, H))
        )
        return dataclasses.replace(case, q=q, k=k, v=v)


class SizedSubject(Subject):
    """A subject of attention: its cases have sizes that the function supports.

    Args:
      function: the function under test.
      kv_heads, heads, head_dim: as for `HeadSizes`.
    """

    def __init__(
        self,
        function: Function,
        *,
        kv_heads: str = "any",
        heads: int | None = None,
        head_dim: int | None = None,
    ):
        super().__init__(function)
        self.sizes = HeadSizes(kv_heads, heads, head_dim)

    def adapt(self, case: CaseT) -> CaseT | None:
        """The case with these sizes."""
        return self.sizes.resize(case)

    def applies(self, law: str) -> bool:
        """Whether the law fits the sizes: K = N has no groups of heads, a fixed N no calls with one head."""
        if law == "grouped_query_heads":
            return self.sizes.kv_heads != "equal"
        return law != "heads_are_independent" or self.sizes.heads in (None, 1)
