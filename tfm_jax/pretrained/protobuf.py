"""Messages in the wire format of protocol buffers, field by field."""

import struct
from collections.abc import Iterator

__all__ = ["fields", "float_of"]


def fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The fields of a message in their order: (number, value).

    A varint is an int, anything else its bytes; a ValueError for what is cut short or no message.
    """
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        number, kind = key >> 3, key & 7
        if kind == 0:
            value, at = _varint(message, at)
            yield number, value
            continue
        size = {1: 8, 5: 4}.get(kind)
        if kind == 2:
            size, at = _varint(message, at)
        if size is None or at + size > len(message) or number == 0:
            raise ValueError("this is no whole message of protocol buffers")
        yield number, message[at : at + size]
        at += size


def float_of(value: int | bytes) -> float:
    """The number in a field of kind float."""
    if not isinstance(value, bytes) or len(value) != 4:
        raise ValueError("this is no message as it should be: a float has another kind")
    return struct.unpack("<f", value)[0]


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            break
        byte, at = message[at], at + 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("this is no whole message of protocol buffers")
