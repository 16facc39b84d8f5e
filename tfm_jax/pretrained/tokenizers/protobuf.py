"""Messages in the wire format of protocol buffers, field by field."""

import struct
from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["fields"]

# How a value of a kind is written: its wire type.
_WIRES = {int: 0, bool: 0, bytes: 2, str: 2, float: 5}
_SIZES = {1: 8, 5: 4}


def fields(message: bytes, kinds: Mapping[int, type]) -> Iterator[tuple[int, Any]]:
    """The fields of a message that are asked for, in their order.

    Args:
      message: of which all is read, what is asked for and what is not.
      kinds: of the fields by their numbers: int, bool, float (of 32 bits), str, or bytes, as which a message
        stands in another.

    Yields:
      (number, value).

    Raises:
      ValueError: for what is cut short or no message, a field of another kind, and a str that is not UTF-8.
    """
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        number, wire = key >> 3, key & 7
        value, at = _value(message, at, wire)
        if number == 0:
            raise ValueError("this is no message of protocol buffers: it has a field 0")
        if number in kinds:
            yield number, _as(kinds[number], number, wire, value)


def _value(message: bytes, at: int, wire: int) -> tuple[int | bytes, int]:
    if wire == 0:
        return _varint(message, at)
    size = _SIZES.get(wire)
    if wire == 2:
        size, at = _varint(message, at)
    if size is None or at + size > len(message):
        raise ValueError("this is no whole message of protocol buffers")
    return message[at : at + size], at + size


def _as(kind: type, number: int, wire: int, value: Any) -> Any:
    if wire != _WIRES[kind]:
        raise ValueError(f"field {number} has the wire type {wire}, wanted {_WIRES[kind]}: {kind.__name__}")
    if kind is float:
        return struct.unpack("<f", value)[0]
    return value.decode() if kind is str else kind(value)


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
