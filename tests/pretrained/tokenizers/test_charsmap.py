"""Check of charsmaps: ``tokenizers`` panics where one leads outside itself."""

import struct

import pytest
from tokenizers import normalizers

from tests.pretrained.tokenizers.spm import charsmap
from tfm_jax.pretrained.tokenizers.charsmap import check_charsmap

VALID = charsmap({"Ａ": "a", "ﬁ": "fi", "é": "e", "x": ""})
HEADER, UNITS = 4, struct.unpack_from("<I", VALID)[0] // 4


def with_unit(i, value):
    return VALID[: HEADER + 4 * i] + struct.pack("<I", value) + VALID[HEADER + 4 * i + 4 :]


def unit(i):
    return struct.unpack_from("<I", VALID, HEADER + 4 * i)[0]


LEAF = next(i for i in range(UNITS) if unit(i) >> 31)
STEP = next(i for i in range(256, 512) if unit(i))


def test_valid():
    assert normalizers.Precompiled(VALID).normalize_str("Ａxﬁlé") == "afile"
    check_charsmap(VALID)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "cannot hold a trie of 0"),
        (VALID[:3], "cannot hold a trie"),
        (VALID[: HEADER + 4 * UNITS - 1], "cannot hold a trie"),
        (struct.pack("<I", 4 * UNITS - 4) + VALID[HEADER:], "cannot hold a trie"),
        (VALID + b"\xff", "invalid start byte"),
        (with_unit(0, UNITS << 10), "leads outside itself"),
        (with_unit(0, 0xFFFF_FFFF), "leads outside itself"),
        (with_unit(STEP, unit(STEP) | UNITS << 10), "leads outside itself"),
        (with_unit(STEP, unit(STEP) | 1 << 9 | 1 << 30), "leads outside itself"),
        (with_unit(LEAF, 1 << 31 | len(VALID)), "references texts outside itself"),
        (VALID[:-3], "references texts outside itself"),
        (
            with_unit(LEAF, 1 << 31 | len(VALID) - HEADER - 4 * UNITS + 1) + "é".encode(),
            "references texts outside",
        ),
    ],
)
def test_invalid(data, message):
    with pytest.raises(ValueError, match=message):
        check_charsmap(data)


def test_a_cyclic_trie_terminates():
    # The first step leads back to its start.
    check_charsmap(with_unit(STEP, unit(STEP) & 0xFF | (STEP ^ 256) << 10))
