"""`dst export --from-hf`: load a model that transformers has saved, and read text for it."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from dst.cli.errors import WrongUseError, needing
from dst.cli.inputs.rows import item_blocks
from dst.cli.verbs.adopt import sizes_of
from dst.cli.verbs.demo import held_out
from dst.runtime import TextTokenizer

if TYPE_CHECKING:
    from dst.cli.verbs.export import Order
    from dst.export.hf import LanguageStep

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


def hf_step(order: "Order", source: Path) -> "LanguageStep":
    """Load the model.

    Raises:
        ExportError: `hugging-face`: the directory holds no model that can become a bundle.
        WrongUseError: transformers is missing, or an option does not go with it.
    """
    if order.of_module or order.checkpoint:
        from dst.cli.verbs.export import OF_MODULE

        raise WrongUseError(
            f"--from-hf has its own weights, chunk and state; {OF_MODULE} go with FILE.py:NAME, "
            "--checkpoint with --size"
        )
    with needing("export --from-hf", "export,hf"):
        import transformers  # noqa: F401

        from dst.export.hf import from_pretrained
    return from_pretrained(source, t=sizes_of(order.t) or T)


def hf_data(
    order: "Order", step: "LanguageStep"
) -> tuple[npt.NDArray[np.generic] | None, str | None]:
    """Read the tokens to prove the graphs on, and say what they are; None for random ones."""
    tokenizer = None if step.tokenizer is None else TextTokenizer.read(step.tokenizer)
    if order.data is not None:
        blocks = list(item_blocks(order.data, step.contract.chunk, tokenizer=tokenizer))
        if not sum(len(block) for block in blocks):
            raise WrongUseError(f"--data {order.data}: is empty")
        return np.concatenate(blocks), Path(order.data).name
    ids = np.zeros(0, np.int64) if tokenizer is None else tokenizer.encode(held_out().decode())
    return (ids, HELD_OUT) if len(ids) else (None, None)
