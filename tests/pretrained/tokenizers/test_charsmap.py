"""The table that makes letters alike: the library that follows it panics where it leads nowhere."""

import struct

import pytest
from tokenizers import normalizers

from tests.pretrained.tokenizers.spm import charsmap
from tfm_jax.pretrained.tokenizers.charsmap import check_charsmap

GOOD = charsmap({"Ａ": "a", "ﬁ": "fi", "é": "e", "x": ""})
HEAD, UNITS = 4, struct.unpack_from("<I", GOOD)[0] // 4


def with_unit(i, value):
    return GOOD[: HEAD + 4 * i] + struct.pack("<I", value) + GOOD[HEAD + 4 * i + 4 :]


def unit(i):
    return struct.unpack_from("<I", GOOD, HEAD + 4 * i)[0]


LEAF = next(i for i in range(UNITS) if unit(i) >> 31)
STEP = next(i for i in range(256, 512) if unit(i))


def test_a_good_one():
    assert normalizers.Precompiled(GOOD).normalize_str("Ａxﬁlé") == "afile"
    check_charsmap(GOOD)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "cannot hold a trie of 0"),
        (GOOD[:3], "cannot hold a trie"),
        (GOOD[: HEAD + 4 * UNITS - 1], "cannot hold a trie"),
        (struct.pack("<I", 4 * UNITS - 4) + GOOD[HEAD:], "cannot hold a trie"),
        (GOOD + b"\xff", "invalid start byte"),
        (with_unit(0, UNITS << 10), "leads out of itself"),
        (with_unit(0, 0xFFFF_FFFF), "leads out of itself"),
        (with_unit(STEP, unit(STEP) | UNITS << 10), "leads out of itself"),
        (with_unit(STEP, unit(STEP) | 1 << 9 | 1 << 30), "leads out of itself"),
        (with_unit(LEAF, 1 << 31 | len(GOOD)), "names texts that it does not hold"),
        (GOOD[:-3], "names texts that it does not hold"),
        (with_unit(LEAF, 1 << 31 | len(GOOD) - HEAD - 4 * UNITS + 1) + "é".encode(), "names texts that"),
    ],
)
def test_what_would_lead_nowhere(data, message):
    with pytest.raises(ValueError, match=message):
        check_charsmap(data)


def test_a_trie_with_a_circle_ends():
    # The first step leads back to where it began.
    check_charsmap(with_unit(STEP, unit(STEP) & 0xFF | (STEP ^ 256) << 10))
