"""Items to measure quality on: a bundle and perhaps a file in, items and what they are out."""

from pathlib import Path, PurePath

import numpy as np
import numpy.typing as npt

import dst
from dst.cli.errors import WrongUseError
from dst.cli.inputs.rows import item_blocks
from dst.cli.inputs.token_text import tokenizer_for
from dst.evaluate.inputs import feed_of
from dst.runtime import Bundle
from dst.runtime.bundle.manifest import Tokens

Array = npt.NDArray[np.generic]


def items_of(bundle: Bundle, data: str | None) -> tuple[Array, str]:
    """Read all data; or held-out text for bytes, or what the bundle itself brings.

    Args:
        bundle: the model that will read them.
        data: a file of any kind `dst run` reads, `-` for standard input, or None.

    Returns:
        Items `[n, ...]`, at least 2, and what they are, for the reader.

    Raises:
        OSError: the data cannot be read.
        WrongUseError: it holds too little, or no items of this model.
    """
    chunk = bundle.manifest.contract.chunk
    if data is not None:
        blocks = list(item_blocks(data, chunk, tokenizer=tokenizer_for(bundle)))
        read = np.concatenate(blocks) if blocks else None
        if read is None or len(read) < 2:
            raise WrongUseError(f"{data}: expected at least 2 items to read")
        return read, PurePath(data).name if data != "-" else "standard input"
    content = chunk.content
    if isinstance(content, Tokens) and content.tokenizer == "bytes":
        text = (Path(dst.__file__).parent / "heldout" / "stdlib.txt").read_bytes()
        return np.frombuffer(text, np.uint8).astype(chunk.dtype), "held-out Python source"
    feed = feed_of(bundle)
    return feed.items, feed.what
