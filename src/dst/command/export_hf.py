"""`dst export --from-hf`: make a bundle of a language model that transformers has saved."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from dst.command.apart import check_apart
from dst.command.demo import held_out
from dst.command.errors import WrongUseError, needing
from dst.command.export import Order, told
from dst.command.output import Output, check_folder, foreign
from dst.command.rows import item_blocks
from dst.runtime import TextTokenizer

if TYPE_CHECKING:
    from dst.export.hf import LanguageStep

RANDOM_TOKENS = 4096
HELD_OUT = "modules of Python's standard library"


def export_hf(source: Path, t: str, order: Order, output: Output) -> int:
    """Load the model, export and prove it, and return the exit code.

    Args:
        source: The directory that ``save_pretrained`` has written.
        t: The allowed numbers of tokens per step, with commas.
        order: What else was asked for.
        output: Where to print.

    Raises:
        DstError: the model cannot become a bundle, or its certificates do not hold; nothing was
            written.
        WrongUseError: torch or transformers is missing, or an option does not fit.
    """
    check_folder("--out", order.out)
    reads = {"--from-hf": source, "--data": order.data, "--out": order.out}
    check_apart(output, reads)
    with needing("export --from-hf", "export,hf"):
        import transformers  # noqa: F401

        from dst.export import export_bundle
        from dst.export.hf import from_pretrained
    step = from_pretrained(source, t=_sizes(t))
    for note in step.notes:
        output.err.print(f"[dim]{foreign(source.name)}: {foreign(note)}[/]")
    data, about = _data(order.data, step)
    with output.progress("export", 1.0) as bar:
        manifest = export_bundle(
            step,
            order.out,
            name=order.name or order.out.name,
            data=data,
            about_data=about,
            description=order.description,
            license=order.license,
            certify_steps=order.certify_steps,
            overwrite=order.overwrite,
            progress=lambda what, share: bar.at(share, what=what),
        )
    return told(order.out, step, manifest, output)


def _sizes(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise WrongUseError(
            f"--t {text}: expected whole numbers with commas, such as 1,16"
        ) from None


def _data(path: str | None, step: "LanguageStep") -> tuple[npt.NDArray[np.generic], str]:
    """Read the tokens to prove the graphs on, and say what they are."""
    chunk = step.contract.chunk
    tokenizer = None if step.tokenizer is None else TextTokenizer.read(step.tokenizer)
    if path is not None:
        blocks = list(item_blocks(path, chunk, tokenizer=tokenizer))
        if not sum(len(block) for block in blocks):
            raise WrongUseError(f"--data {path}: is empty")
        return np.concatenate(blocks), Path(path).name
    if tokenizer is not None:
        ids = tokenizer.encode(held_out().decode())
        if len(ids):
            return ids, HELD_OUT
    vocabulary = step.contract.outputs[0].shape[-1]
    return (
        np.random.default_rng(0).integers(0, int(vocabulary), RANDOM_TOKENS),
        "random tokens: the directory has no tokenizer.json; --data FILE gives others",
    )
