"""The table by which a model of sentencepiece makes letters alike, checked before anything follows it."""

import numpy as np

__all__ = ["check_charsmap"]

_HEAD, _BLOCK = 4, 256


def check_charsmap(charsmap: bytes) -> None:
    """Raises for a table that leads out of itself, which is found only when some text is read.

    In it stand the size of a trie in bytes, the trie, and the texts that replace what is found there. The
    trie is a double array: a unit leads to a node, from which each next byte leads to a unit of its block.

    Args:
      charsmap: the whole table.

    Raises:
      ValueError: for a trie that is cut short, leads out of its blocks, or names what is no text.
    """
    size = int.from_bytes(charsmap[:_HEAD], "little")
    if not 0 < size <= len(charsmap) - _HEAD or size % (4 * _BLOCK):
        raise ValueError(f"its charsmap of {len(charsmap)} bytes cannot hold a trie of {size}")
    trie = np.frombuffer(charsmap, "<u4", size // 4, _HEAD).astype(np.int64)
    texts = charsmap[_HEAD + size :]
    texts.decode()
    # Where a letter begins, and behind the last.
    begins = np.append(np.frombuffer(texts, np.uint8) & 0xC0 != 0x80, True)
    named = trie[_ends(trie)] & 0x7FFF_FFFF
    if not begins[np.minimum(named, len(begins) - 1)].all() or np.any(named >= len(begins)):
        raise ValueError("its charsmap names texts that it does not hold")


def _ends(trie: np.ndarray) -> np.ndarray:
    """The nodes at which something is found."""
    known, nodes, ends = np.zeros(len(trie), bool), _leads_to(np.zeros(1, np.int64), trie), []
    following = np.arange(1, _BLOCK)
    while len(nodes):
        known[nodes] = True
        at = nodes[:, None] ^ following
        at = at[trie[at] & 0x8000_00FF == following]
        found = _leads_to(at, trie)
        ends.append(found[trie[at] & 0x100 != 0])
        nodes = np.unique(found[~known[found]])
    return np.concatenate(ends)


def _leads_to(at: np.ndarray, trie: np.ndarray) -> np.ndarray:
    """The nodes to which the units at these places lead."""
    units = trie[at]
    nodes = at ^ (units >> 10 << ((units & 0x200) >> 6))
    if np.any(nodes >= len(trie)):
        raise ValueError("its charsmap leads out of itself")
    return nodes
