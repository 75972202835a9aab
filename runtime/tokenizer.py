"""Turn text into token ids and back: one id per byte, or by the tokenizer.json of a bundle."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from dst.runtime.bundle.validation import TOKENIZER_FILE
from dst.runtime.errors import StepError, shown

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from dst.runtime.bundle.reader import Bundle


def encode_bytes(text: str | bytes | bytearray | memoryview) -> npt.NDArray[np.uint8]:
    """Return the ids `[n]`, uint8, of a text (as UTF-8) or of bytes; the id is the byte.

    Raises:
        UnicodeEncodeError: a text with lone surrogates.

    Examples:
        >>> encode_bytes("é!")
        array([195, 169,  33], dtype=uint8)
    """
    if isinstance(text, memoryview):
        text = text.tobytes()  # its bytes in order, wherever they lie
    return np.frombuffer(text.encode() if isinstance(text, str) else text, np.uint8)


def decode_bytes(ids: Iterable[int]) -> bytes:
    """Return the bytes of token ids.

    Raises:
        ValueError: an id is not in 0 .. 255.

    Examples:
        >>> decode_bytes([195, 169]).decode()
        'é'
    """
    return bytes(ids)


class TextTokenizer:
    """The tokenizer of a bundle whose contract says `tokenizers`.

    ```python
    tokenizer = TextTokenizer.of(session.bundle)
    ids = tokenizer.encode("Once upon a time")
    decoder = tokenizer.decoder()
    for token in generate(stream, ids, 100):
        print(decoder.feed(token), end="", flush=True)
    print(decoder.end())
    ```
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    @staticmethod
    def of(bundle: Bundle) -> TextTokenizer:
        """Load the tokenizer of a bundle.

        Raises:
            StepError: the bundle has none, the package `tokenizers` is not installed, or it
                cannot read the file.
        """
        content = bundle.manifest.contract.chunk.content
        if getattr(content, "tokenizer", None) != "tokenizers":
            raise StepError(
                f"{bundle.label}: has no {TOKENIZER_FILE}; give token ids", code="no-tokenizer"
            )
        return _loaded(bundle.root / TOKENIZER_FILE, bundle.manifest.files[TOKENIZER_FILE].sha256)

    @staticmethod
    def read(file: bytes, label: str = TOKENIZER_FILE) -> TextTokenizer:
        """Read the bytes of a tokenizer.json; `label` is what a message calls it.

        Raises:
            StepError: the package `tokenizers` is not installed, or cannot read them.
        """
        try:
            from tokenizers import Tokenizer
        except ModuleNotFoundError:
            from dst.runtime.install import install_line

            raise StepError(
                f"{label}: is read by the package tokenizers, which is not installed: "
                f"{install_line('tokenizers')}, or give token ids",
                code="tokenizers-not-installed",
            ) from None
        try:
            return TextTokenizer(Tokenizer.from_str(file.decode()))
        except Exception as error:  # the library raises plain Exception
            raise StepError(
                f"{label}: the package tokenizers cannot read it: {shown(error)[:200]}",
                code="tokenizer-unreadable",
            ) from None

    @property
    def vocabulary(self) -> int:
        """One more than the largest id."""
        return 1 + max(self._tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)

    def encode(self, text: str) -> npt.NDArray[np.int64]:
        """Return the ids `[n]` of a text; no special token is added."""
        return np.array(self._tokenizer.encode(text, add_special_tokens=False).ids, np.int64)

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of ids; special tokens are left out."""
        return str(self._tokenizer.decode([int(i) for i in ids]))

    def decoder(self) -> TextDecoder:
        """Return a decoder for ids that come one after another."""
        return TextDecoder(self._tokenizer)


class TextDecoder:
    """Turns ids into text as they come; a character is given when all of its bytes are there."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        from tokenizers.decoders import DecodeStream

        self._tokenizer, self._stream = tokenizer, DecodeStream(skip_special_tokens=True)
        self._waiting: list[int] = []

    def feed(self, token: int) -> str:
        """Take one id and return the text that is complete now, often none."""
        text = self._stream.step(self._tokenizer, int(token))
        self._waiting.append(int(token))
        if text is None:
            return ""
        self._waiting.clear()
        return str(text)

    def end(self) -> str:
        """Return what is left: a replacement character where the last one was never completed."""
        left, self._waiting = self._waiting, []
        return str(self._tokenizer.decode(left)) if left else ""


@lru_cache(maxsize=4)
def _loaded(path: Path, sha256: str) -> TextTokenizer:
    """Read a tokenizer once; `sha256` tells another file at the same path."""
    return TextTokenizer.read(path.read_bytes(), f"{path.parent.name}/{TOKENIZER_FILE}")
