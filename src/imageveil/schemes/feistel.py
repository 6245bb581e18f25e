"""Format-preserving encryption of short numbers by a Feistel network, as the scheme `block-ffx` uses it.

This is the construction that the published code of AprilPyone and Kiya (arXiv 2010.00801) takes from FFX "method 2":
ten rounds, each adding digits of an HMAC-SHA1 of one half to the other half, digit by digit.
"""

import hashlib
import hmac
import struct
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

ROUNDS = 10


def encrypt_number(key: bytes, number: int, *, radix: int, length: int) -> int:
    """Encrypt a number of `length` digits to another number of `length` digits.

    Args:
        key: key of the HMAC.
        number: from 0 to radix^length - 1.
        radix: base of the digits.
        length: number of digits, at least 2 and few enough that one SHA-1 gives the digits of half a number.
    """
    digits = [number // radix**place % radix for place in reversed(range(length))]
    left, right = digits[: length // 2], digits[length // 2 :]
    for round_number in range(ROUNDS):
        added = _round_digits(key, round_number, right, radix)
        mixed = [(digit + next(added)) % radix for digit in left]
        left, right = right, mixed
    value = 0
    for digit in left + right:
        value = value * radix + digit
    return value


def _round_digits(key: bytes, round_number: int, half: list[int], radix: int) -> Iterator[int]:
    """Yield the digits of a round: those of the HMAC of round number, half and block number zero, lowest first."""
    message = struct.pack(f"<{len(half) + 2}I", round_number, *half, 0)
    value = int.from_bytes(hmac.new(key, message, hashlib.sha1).digest(), "big")
    while True:
        value, digit = divmod(value, radix)
        yield digit


def byte_permutation(key: bytes) -> NDArray[np.uint8]:
    """The keyed permutation of 0..255: a number of two digits in base 16. Returns uint8 (256,)."""
    return np.array([encrypt_number(key, value, radix=16, length=2) for value in range(256)], dtype=np.uint8)


def published_table(password: bytes) -> NDArray[np.int64]:
    """The published table: bytes as three decimal digits, so that entries go up to 999. Returns int64 (256,)."""
    return np.array([encrypt_number(password, value, radix=10, length=3) for value in range(256)])
