"""The byte tokenizer: text or bytes in, one id per byte out, and back."""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt


def encode_bytes(text: str | bytes | bytearray | memoryview) -> npt.NDArray[np.uint8]:
    """Return the ids `[n]`, uint8, of a text (as UTF-8) or of bytes; the id is the byte.

    Raises:
        UnicodeEncodeError: a text with lone surrogates.
    """
    if isinstance(text, memoryview):
        text = text.tobytes()  # its bytes in order, wherever they lie
    return np.frombuffer(text.encode() if isinstance(text, str) else text, np.uint8)


def decode_bytes(ids: Iterable[int]) -> bytes:
    """Return the bytes of token ids.

    Raises:
        ValueError: an id is not in 0 .. 255.
    """
    return bytes(ids)
