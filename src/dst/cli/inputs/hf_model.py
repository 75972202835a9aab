"""`dst export --from-hf`: load a model that transformers has saved, and read text for it."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from dst.cli.data import held_out, read_all
from dst.cli.errors import needing
from dst.runtime import TextTokenizer

if TYPE_CHECKING:
    from dst.export.hf import LanguageStep

Array = npt.NDArray[np.generic]

HELD_OUT = "modules of Python's standard library"
T = (1, 16)
"""Tokens per step where nobody says how many."""


def is_network(source: Path) -> bool:
    """Whether a directory says that it holds a network of ours, in the form of transformers."""
    try:
        held = json.loads((source / "config.json").read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(held, dict) and held.get("model_type") == "dst"


def hf_step(source: Path, sizes: tuple[int, ...]) -> "LanguageStep":
    """Load the model, to run these T; none for the usual ones.

    Raises:
        ExportError: `hugging-face`: the directory holds no model that can become a bundle.
        WrongUseError: transformers is missing.
    """
    with needing("export --from-hf", "export,hf"):
        import transformers  # noqa: F401

        from dst.export.hf import from_pretrained
    return from_pretrained(source, t=sizes or T)


def hf_data(data: str | None, step: "LanguageStep") -> tuple[Array | None, str | None]:
    """Read the tokens to prove the graphs on, and say what they are; None for random ones."""
    tokenizer = None if step.tokenizer is None else TextTokenizer.read(step.tokenizer)
    if data is not None:
        return read_all(data, step.contract.chunk, tokenizer), Path(data).name
    ids = np.zeros(0, np.int64) if tokenizer is None else tokenizer.encode(held_out().decode())
    return (ids, HELD_OUT) if len(ids) else (None, None)
