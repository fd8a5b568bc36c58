"""Ways in which a file can be damaged."""

from __future__ import annotations


def flip(content: bytes) -> bytes:
    """One digit in the middle (of a binary file: one byte) is another one."""
    middle = len(content) // 2
    place = next((i for i in range(middle, len(content)) if content[i : i + 1].isdigit()), middle)
    return content[:place] + (b"1" if content[place : place + 1] != b"1" else b"2") + content[place + 1 :]


DAMAGES = {
    "flipped": flip,
    "truncated": lambda content: content[: len(content) * 2 // 3],
    "empty": lambda content: b"",
    "other bytes": lambda content: bytes(range(256)) * 4,
}
