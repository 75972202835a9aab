"""Lay out the outputs of steps as rows: one per item, or one per chunk.

Shape letters: `n` items, `k` chunks, `T` items per chunk.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dst.cli.errors import WrongUseError
from dst.cli.options import names_of
from dst.runtime.bundle.layout import fixed
from dst.runtime.bundle.manifest import Contract, Output

Array = npt.NDArray[np.generic]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Answers:
    """What a model answered for a run of items."""

    first: int  # the number of the first item, counted from 1 at the start of the stream
    count: int  # how many items, n
    items: dict[str, Array]  # output name -> `[n, ...]`, outputs that have a row per item
    chunks: dict[str, Array]  # output name -> `[k, ...]`, outputs that have a row per chunk
    ends: tuple[int, ...]  # the number of the last item of each chunk, `[k]`

    def parts(
        self, outputs: Sequence[Output]
    ) -> Iterator[tuple[str, Sequence[int], list[Output], list[Array]]]:
        """Yield the outputs that have a row per item, then those per chunk, where there are any.

        With them come the numbers of the rows (items, or the last items of chunks) and the rows.
        """
        numbers = range(self.first, self.first + self.count)
        kinds = ("item", numbers, self.items), ("chunk", self.ends, self.chunks)
        for per, ends, rows in kinds:
            chosen = [o for o in outputs if o.per == per]
            if chosen:
                yield per, ends, chosen, [rows[o.name] for o in chosen]


def flat(rows: Array) -> Array:
    """View rows `[n, ...]` as `[n, C]`, in C order; n may be 0."""
    return rows.reshape(len(rows), int(np.prod(rows.shape[1:], dtype=np.int64)))


def choose_outputs(contract: Contract, names: Sequence[str]) -> tuple[Output, ...]:
    """Return the outputs of these names, in this order; all of them where none is given."""
    known = {output.name: output for output in contract.outputs}
    for name in names:
        if name not in known:
            raise WrongUseError(
                f"--output {name}: this model has no such output; it has {', '.join(known)}"
            )
    return tuple(known[name] for name in dict.fromkeys(names)) or contract.outputs


@dataclass(frozen=True, slots=True)
class Classes:
    """Names for the last axis of an output."""

    output: str  # the output's name
    names: tuple[str, ...]  # a name for each value of a row
    logits: bool  # whether values are logits by the contract, and not perhaps probabilities

    def top(self, rows: Array) -> tuple[list[str], Floats]:
        """Return the likeliest class of each row `[n, C]`, and its probability.

        Logits become probabilities by softmax. Where the contract does not call the output logits,
        a row without a negative number that adds up to 1 holds probabilities already.

        Examples:
            >>> names, shares = Classes("y", ("cat", "dog"), False).top(np.array([[0.25, 0.75]]))
            >>> (names, shares.tolist())
            (['dog'], [0.75])
        """
        values = rows.astype(np.float64).reshape(-1, len(self.names))
        best = values.argmax(axis=1)
        powers = np.exp(values - values.max(axis=1, keepdims=True))
        shares = powers / powers.sum(axis=1, keepdims=True)
        if not self.logits:
            ready = (values >= 0).all(axis=1) & (np.abs(values.sum(axis=1) - 1) < 1e-3)
            shares = np.where(ready[:, None], values, shares)
        return [self.names[i] for i in best.tolist()], shares[np.arange(len(best)), best]


def class_names(text: str) -> tuple[str, ...]:
    """Read names with commas between them, or a file with one per line."""
    path = Path(text)
    if "," in text or not text:
        return names_of("--classes", text.split(","))
    if not path.is_file():
        raise WrongUseError(
            f"--classes {text}: there is no such file; give a file with a name per line, or names "
            "with commas between them, as in cat,dog"
        )
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise WrongUseError(f"--classes {text}: is not UTF-8 text") from None
    return names_of(f"--classes {text}", lines)


def classes_of(names: Sequence[str], outputs: Sequence[Output]) -> Classes:
    """Find the output that these classes name the values of."""
    fitting = [o for o in outputs if fixed(o.shape) == (len(names),)]
    logits = [o for o in fitting if o.meaning == "logits"]
    fitting = logits or fitting
    if len(names) < 2 or not fitting:
        sizes = ", ".join(f"`{o.name}` {list(fixed(o.shape))}" for o in outputs)
        raise WrongUseError(
            f"--classes: {len(names)} names, and no output has a row of so many values; the "
            f"outputs are {sizes}"
        )
    if len(fitting) > 1:
        raise WrongUseError(
            f"--classes: {', '.join(f'`{o.name}`' for o in fitting)} have {len(names)} values "
            "each; choose one with --output"
        )
    return Classes(fitting[0].name, tuple(names), fitting[0].meaning == "logits")


def columns_of(output: Output, classes: Classes | None) -> list[str]:
    """Name the values of a row: `y`, `y.0`, `y.1` … in C order, or `y.CLASS`."""
    shape = fixed(output.shape)
    if classes is not None and classes.output == output.name:
        return [f"{output.name}.{name}" for name in classes.names]
    return [".".join([output.name, *map(str, place)]) for place in np.ndindex(*shape)]
