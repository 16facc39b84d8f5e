"""Check of SentencePiece's normalization table, ``precompiled_charsmap``, before ``tokenizers`` uses it."""

import numpy as np

__all__ = ["check_charsmap"]

_HEADER, _BLOCK = 4, 256  # bytes of the size field; units per block of the trie


def check_charsmap(charsmap: bytes) -> None:
    """Checks that every lookup stays inside the table; ``tokenizers`` would panic at some text otherwise.

    The table is the size of a trie in bytes, the trie, and the replacement texts. The trie is a double array
    of 32-bit units: a unit leads to a node, and each next byte leads from the node to a unit of its block.

    Args:
      charsmap: the table.

    Raises:
      ValueError: a truncated trie, one that leads outside its blocks, or references to no replacement text.
    """
    size = int.from_bytes(charsmap[:_HEADER], "little")
    if not 0 < size <= len(charsmap) - _HEADER or size % (4 * _BLOCK):
        raise ValueError(f"a charsmap of {len(charsmap)} bytes, which cannot hold a trie of {size}")
    trie = np.frombuffer(charsmap, "<u4", size // 4, _HEADER).astype(np.int64)
    texts = charsmap[_HEADER + size :]
    texts.decode()
    # Whether a character starts at each offset; one more for the offset after the last.
    starts = np.append(np.frombuffer(texts, np.uint8) & 0xC0 != 0x80, True)
    offsets = trie[_value_nodes(trie)] & 0x7FFF_FFFF
    if not starts[np.minimum(offsets, len(starts) - 1)].all() or np.any(offsets >= len(starts)):
        raise ValueError("a charsmap that references texts outside itself")


def _value_nodes(trie: np.ndarray) -> np.ndarray:
    """Nodes that hold the offset of a replacement text, found breadth first."""
    visited, nodes, values = np.zeros(len(trie), bool), _child_nodes(np.zeros(1, np.int64), trie), []
    labels = np.arange(1, _BLOCK)
    while len(nodes):
        visited[nodes] = True
        units = nodes[:, None] ^ labels
        units = units[trie[units] & 0x8000_00FF == labels]
        children = _child_nodes(units, trie)
        values.append(children[trie[units] & 0x100 != 0])
        nodes = np.unique(children[~visited[children]])
    return np.concatenate(values)


def _child_nodes(indices: np.ndarray, trie: np.ndarray) -> np.ndarray:
    """Nodes to which the units at these indices lead."""
    units = trie[indices]
    nodes = indices ^ (units >> 10 << ((units & 0x200) >> 6))
    if np.any(nodes >= len(trie)):
        raise ValueError("a charsmap whose trie leads outside itself")
    return nodes
