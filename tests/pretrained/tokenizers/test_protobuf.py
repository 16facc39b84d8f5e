"""The wire format of protocol buffers."""

import pytest

from tests.pretrained.tokenizers.spm import field
from tfm_jax.pretrained.tokenizers.protobuf import fields

KINDS = {1: str, 2: float, 3: int, 4: bool, 5: bytes}
DOUBLE = b"\x11" + bytes(8)  # of field 2


def read(message):
    return list(fields(message, KINDS))


def test_the_fields_that_are_asked_for():
    whole = field(3, 300) + field(1, "é".encode()) + field(9, b"xyz") + field(2, 0.5) + field(3, 7)
    whole += field(4, 2) + field(5, b"") + field(8, 1) + field(7, 0.25) + b"\x31" + bytes(8)
    assert read(whole) == [(3, 300), (1, "é"), (2, 0.5), (3, 7), (4, True), (5, b"")]
    assert read(b"") == []


@pytest.mark.parametrize(
    ("message", "error"),
    [
        (field(1, 3), "field 1 has the wire type 0, wanted 2: str"),
        (field(1, 0.5), "field 1 has the wire type 5, wanted 2: str"),
        (field(2, b"1234"), "field 2 has the wire type 2, wanted 5: float"),
        (DOUBLE, "field 2 has the wire type 1, wanted 5: float"),
        (field(3, b"\1"), "field 3 has the wire type 2, wanted 0: int"),
        (field(4, 1.0), "field 4 has the wire type 5, wanted 0: bool"),
        (field(5, 1), "field 5 has the wire type 0, wanted 2: bytes"),
        (field(1, b"\xff"), "invalid start byte"),
        (field(0, 1), "it has a field 0"),
        (field(9, b"abc")[:-1], "no whole message"),
        (field(9, 300)[:-1], "no whole message"),
        (DOUBLE[:-1], "no whole message"),
        (b"\x1b", "no whole message"),  # a group
        (b"\xff" * 20, "no whole message"),
    ],
)
def test_what_is_no_message(message, error):
    with pytest.raises(ValueError, match=error):
        read(message)
