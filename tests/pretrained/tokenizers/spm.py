"""Writes SentencePiece models field by field, valid or not."""

import struct

PIECES = [
    ("<unk>", 0, 2),
    ("<s>", 0, 3),
    ("</s>", 0, 3),
    ("▁a", -1, 1),
    ("b", -2, 1),
    ("▁", -3, 1),
    ("a", -3, 1),
]
PIECES += [("▁ab", -1.5, 1), ("bb", -3, 1)]


def field(number, value):
    """A field in protobuf's wire format; a list of (number, value) is a message."""
    if isinstance(value, list):
        return field(number, message(value))
    if isinstance(value, bytes):
        return varint(number << 3 | 2) + varint(len(value)) + value
    if isinstance(value, float):
        return varint(number << 3 | 5) + struct.pack("<f", value)
    return varint(number << 3) + varint(value)


def message(pairs):
    return b"".join(field(*pair) for pair in pairs)


def varint(n):
    out = b""
    while n >= 0x80:
        out, n = out + bytes([n & 0x7F | 0x80]), n >> 7
    return out + bytes([n])


def tree(pieces=PIECES, kind=1, trainer=(), normalizer=()):
    """Fields of a model, for ``message``."""
    normalizer_spec = [(3, list(normalizer))] if normalizer else []
    return [
        *((1, [(1, piece.encode()), (2, float(score)), (3, k)]) for piece, score, k in pieces),
        (2, [(3, kind), *trainer]),
        *normalizer_spec,
    ]


def model(*args, **options):
    return message(tree(*args, **options))


def charsmap(replaced):
    """A charsmap with these replacements; each node of its trie has its own block."""
    nodes = {b"": 256}
    for key in replaced:
        for end in range(1, len(key.encode()) + 1):
            nodes.setdefault(key.encode()[:end], 256 * (len(nodes) + 1))
    trie, texts = [0] * (256 * (len(nodes) + 1)), b""
    trie[0] = nodes[b""] << 10
    for prefix, node in nodes.items():
        if prefix:
            at = nodes[prefix[:-1]] ^ prefix[-1]
            trie[at] |= prefix[-1] | (at ^ node) << 10
    for key, text in replaced.items():
        *path, last = key.encode()
        trie[nodes[bytes(path)] ^ last] |= 0x100
        trie[nodes[key.encode()]] = 1 << 31 | len(texts)
        texts += text.encode() + b"\0"
    return struct.pack(f"<I{len(trie)}I", 4 * len(trie), *trie) + texts
