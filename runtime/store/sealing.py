"""Bind the bytes of a state to their place in a store, and encrypt them where there is a key.

Without a key a label proves that bytes and place belong together; with one, AES-GCM also hides
the bytes. FORMAT.md tells the layout.
"""

import hashlib
import os
from typing import TYPE_CHECKING

from dst.runtime.errors import StateCorruptError, StoreKeyError
from dst.runtime.install import install_line

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY_BYTES = 32
_NONCE_BYTES = 12
_LABEL_BYTES = 32
_HEAD_BYTES = 128  # holds the checksum of a saved state, which covers the rest


def seal(key: bytes | None, place: bytes, data: bytes) -> bytes:
    """Bind a saved state to its place, and encrypt it where there is a checked key."""
    if key is None:
        return _label(place, data) + data
    nonce = os.urandom(_NONCE_BYTES)
    return nonce + _cipher(key).encrypt(nonce, data, place)


def unseal(key: bytes | None, place: bytes, blob: bytes) -> bytes:
    """Undo `seal`.

    Raises:
        StateCorruptError: the bytes were altered, or were sealed for another place.
    """
    if key is not None:
        cipher = _cipher(key)
        from cryptography.exceptions import InvalidTag

        try:
            return cipher.decrypt(blob[:_NONCE_BYTES], blob[_NONCE_BYTES:], place)
        except (InvalidTag, ValueError):  # ValueError: too short to hold a nonce
            raise StateCorruptError("it was altered, or belongs to another record") from None
    label, data = blob[:_LABEL_BYTES], blob[_LABEL_BYTES:]
    if label != _label(place, data):
        raise StateCorruptError("it was altered, or belongs to another record")
    return data


def check_key(key: bytes) -> None:
    """Raise unless this is a key and there is a cipher for it.

    Raises:
        StoreKeyError: `key-length`: it is not 32 bytes.
        StoreKeyError: `encryption-not-installed`: the package `cryptography` is not installed.
    """
    if not isinstance(key, bytes) or len(key) != KEY_BYTES:
        came = f"{len(key)} bytes" if isinstance(key, bytes) else f"a {type(key).__name__}"
        raise StoreKeyError(
            f"the key is {came}, expected {KEY_BYTES} random bytes, "
            f"such as secrets.token_bytes({KEY_BYTES}); a password is no key",
            code="key-length",
        )
    _cipher(key)


def _label(place: bytes, data: bytes) -> bytes:
    return hashlib.sha256(place + data[:_HEAD_BYTES]).digest()


def _cipher(key: bytes) -> "AESGCM":
    try:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    except ImportError:
        raise StoreKeyError(
            f"a key needs the package cryptography: {install_line('encrypt')}",
            code="encryption-not-installed",
        ) from None
    return AESGCM(key)
