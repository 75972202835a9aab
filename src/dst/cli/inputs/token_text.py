"""Read text as the token ids of a bundle's tokenizer, line by line.

Each line is encoded by itself, with its line end. So a stream of any length takes little memory,
and how the input comes in does not change the ids.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from dst.cli.errors import WrongUseError
from dst.cli.inputs.source import Source, Stop
from dst.runtime import Bundle, TextTokenizer
from dst.runtime.bundle.manifest import Tokens

LINE_BYTES = 1 << 20
"""A longer line is cut here, between two characters."""


def tokenizer_for(bundle: Bundle) -> TextTokenizer | None:
    """Load the tokenizer of a bundle; None where its contract names none.

    Raises:
        StepError: the package `tokenizers` is not installed, or cannot read the file.
    """
    content = bundle.manifest.contract.chunk.content
    named = isinstance(content, Tokens) and content.tokenizer == "tokenizers"
    return TextTokenizer.of(bundle) if named else None


def token_blocks(
    path: str, tokenizer: TextTokenizer, dtype: str, stop: Stop
) -> Iterator[npt.NDArray[np.generic]]:
    """Yield the ids `[n]` of the lines that each block of an input completes.

    Raises:
        OSError: the input cannot be read.
        WrongUseError: it is no UTF-8 text; the message says in which line.
    """
    left, number = b"", 1
    for block in Source.open(path).blocks(stop):
        if not block:
            yield np.zeros(0, dtype)
        left += block
        cut = left.rfind(b"\n") + 1
        if not cut and len(left) > LINE_BYTES:
            cut = _between_characters(left)
        whole, left = left[:cut], left[cut:]
        ids = _encoded(whole, tokenizer, path, number)
        number += whole.count(b"\n")
        if len(ids):  # none would mean a pause
            yield ids.astype(dtype)
    if left:
        yield _encoded(left, tokenizer, path, number).astype(dtype)


def _between_characters(text: bytes) -> int:
    place = LINE_BYTES
    while place > LINE_BYTES - 4 and text[place] & 0xC0 == 0x80:
        place -= 1
    return place


def _encoded(
    text: bytes, tokenizer: TextTokenizer, path: str, number: int
) -> npt.NDArray[np.int64]:
    ids = [np.zeros(0, np.int64)]
    *lines, last = text.split(b"\n")
    for place, line in enumerate([*(line + b"\n" for line in lines), last], number):
        try:
            ids.append(tokenizer.encode(line.decode()))
        except UnicodeDecodeError:
            raise WrongUseError(
                f"{path}: line {place} is no UTF-8 text, and this model reads text; ids go into a "
                ".npy file"
            ) from None
    return np.concatenate(ids)
