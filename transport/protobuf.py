"""Protocol Buffers read and written by hand: varints, numbers and bytes behind their field's number.

For the few messages of libp2p that this project speaks: Google's library costs more memory than all of them are worth.

What a malicious peer may send: any bytes. What it achieves: `read_fields` says None. Whoever calls it has bounded the
bytes before, and says how many fields they may hold. Unknown fields are read and skipped, as the format wants it; the
groups of old are not read.
"""

from typing import Final

FIELDS_MAX: Final = 2048
_VARINT_BYTES_MAX: Final = 10

Field = tuple[int, int | bytes]  # its number and what it holds


def varint(value: int) -> bytes:
    """An unsigned number, seven bits to a byte, the lowest first."""
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def read_varint(data: bytes, at: int) -> tuple[int, int] | None:
    """The number at `at` and where it ends; None if there is none of 64 bits."""
    value = 0
    for place in range(_VARINT_BYTES_MAX):
        if at + place >= len(data):
            return None
        byte = data[at + place]
        value |= (byte & 0x7F) << (7 * place)
        if byte < 0x80:
            return (value, at + place + 1) if value < 2**64 else None
    return None


def number_field(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value)


def bytes_field(field: int, value: bytes) -> bytes:
    return varint(field << 3 | 2) + varint(len(value)) + value


def read_fields(data: bytes, fields_max: int = FIELDS_MAX) -> list[Field] | None:
    """The fields in their order; None if this is no Protocol Buffer or has more fields than allowed."""
    fields: list[Field] = []
    at = 0
    while at < len(data):
        head = read_varint(data, at)
        if head is None or head[0] >> 3 == 0 or len(fields) >= fields_max:
            return None
        kind, at = head[0] & 7, head[1]
        if kind == 0:
            number = read_varint(data, at)
            if number is None:
                return None
            value, at = number
            fields.append((head[0] >> 3, value))
            continue
        size = {1: (8, at), 5: (4, at), 2: read_varint(data, at)}.get(kind)
        if size is None or size[1] + size[0] > len(data):
            return None
        start, at = size[1], size[1] + size[0]
        fields.append((head[0] >> 3, data[start:at]))
    return fields
