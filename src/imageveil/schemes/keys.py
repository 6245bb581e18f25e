"""Keys: 256 random bits from the operating system, and everything the schemes derive from them.

A key file stores the master key alone. Permutations, signs and tables come from it by HKDF (RFC 5869, SHA-256), which
makes an independent key for every purpose, and ChaCha20 (RFC 8439), which stretches that key to any length. Nothing
here depends on the state of another random generator, on the machine, its locale or the number of threads.
"""

import math
import secrets
from collections.abc import Sequence

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from numpy.typing import NDArray

KEY_BYTES = 32


def new_master_key() -> bytes:
    """Return 32 bytes from the operating system's randomness."""
    return secrets.token_bytes(KEY_BYTES)


def derive(master: bytes, purpose: str) -> bytes:
    """Return the 32-byte key for a purpose, by HKDF-SHA-256; keys of different purposes are independent."""
    info = f"imageveil/1/{purpose}".encode("utf-8", "surrogateescape")  # a file's name need not be UTF-8
    return HKDF(SHA256(), KEY_BYTES, salt=None, info=info).derive(master)


def key_stream(key: bytes, size: int) -> NDArray[np.uint8]:
    """Return `size` bytes of ChaCha20 key stream, uint8 (size,). A key serves one stream only, so the nonce is zero."""
    cipher = Cipher(algorithms.ChaCha20(key, bytes(16)), mode=None).encryptor()
    return np.frombuffer(cipher.update(bytes(size)), dtype=np.uint8)


def image_streams(master: bytes, purpose: str, ids: Sequence[str], size: int) -> NDArray[np.uint8]:
    """Return a key stream for every image identity, uint8 (len(ids), size)."""
    streams = np.empty((len(ids), size), dtype=np.uint8)
    for row, identity in zip(streams, ids, strict=True):
        row[:] = key_stream(derive(master, f"{purpose}/{identity}"), size)
    return streams


def signs(master: bytes, purpose: str, *shape: int) -> NDArray[np.bool_]:
    """Return fair and independent bits, bool of the given shape."""
    count = math.prod(shape)
    stream = key_stream(derive(master, purpose), -(-count // 8))
    return np.unpackbits(stream, count=count).astype(np.bool_).reshape(shape)


def choices(stream: NDArray[np.uint8], options: int) -> NDArray[np.uint8]:
    """Turn key stream into uniform choices among at most 256 options.

    Every four bytes are a binary fraction of [0, 1) that is scaled up; no option is more than `options` / 2^32 more
    likely than another.

    Args:
        stream: uint8 (..., 4 n).
        options: number of options.

    Returns:
        uint8 (..., n), values below `options`.
    """
    words = np.ascontiguousarray(stream).view("<u4").astype(np.uint64)
    chosen: NDArray[np.uint8] = ((words * np.uint64(options)) >> np.uint64(32)).astype(np.uint8)
    return chosen


def key_choices(master: bytes, purpose: str, count: int, options: int) -> NDArray[np.uint8]:
    """Return `count` uniform choices among `options`, uint8 (count,)."""
    return choices(key_stream(derive(master, purpose), 4 * count), options)


def permutations(master: bytes, purpose: str, count: int, size: int) -> NDArray[np.int64]:
    """Return independent uniform permutations, int64 (count, size).

    Each is the order that sorts `size` words of 64 bits. Only equal words could favour an order: with a probability
    below size^2 / 2^65.
    """
    words = key_stream(derive(master, purpose), 8 * count * size).view("<u8").reshape(count, size)
    return np.argsort(words, axis=1, kind="stable")


def permutation(master: bytes, purpose: str, size: int) -> NDArray[np.int64]:
    """Return one uniform permutation, int64 (size,)."""
    order: NDArray[np.int64] = permutations(master, purpose, 1, size)[0]
    return order


def normals(master: bytes, purpose: str, *shape: int) -> NDArray[np.float64]:
    """Return independent standard normal numbers of the given shape, by the method of Box and Muller."""
    count = math.prod(shape)
    words = key_stream(derive(master, purpose), 16 * count).view("<u8").reshape(2, count)
    radius, angle = (words >> np.uint64(11)).astype(np.float64) / 2.0**53
    values: NDArray[np.float64] = np.sqrt(-2 * np.log1p(-radius)) * np.cos(2 * np.pi * angle)
    return values.reshape(shape)


def log2_factorial(n: int) -> float:
    """log2(n!): the bits of a permutation of n places."""
    return math.lgamma(n + 1) / math.log(2)
