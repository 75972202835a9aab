"""What was measured: ratios to llama.cpp, shares of what the machine can do, a table, a picture.

Shape letter: `T` items per chunk.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import msgspec


class Limits(msgspec.Struct, frozen=True):
    """What `peak.c` measured with some threads.

    Attributes:
        threads: how many.
        read_gb_s: by the size of the block in MiB, rising.
        float32_gflop_s: products and sums.
        int8_gop_s: the same, with int32 sums; 0 where it is not known.
    """

    threads: int
    read_gb_s: dict[str, float]
    float32_gflop_s: float
    int8_gop_s: float

    def read_bytes_s(self, size: int) -> float:
        """The rate at which a block of so many bytes is read again and again."""
        rates = self.read_gb_s.values()
        fitting = (rate for mib, rate in self.read_gb_s.items() if int(mib) * 2**20 >= size)
        return 1e9 * next(fitting, [*rates][-1])

    def products_s(self, precision: str) -> float:
        """The rate of products and sums of this precision."""
        return 1e9 * (self.float32_gflop_s if precision in FULL else self.int8_gop_s)


FULL = ("f32", "float32")
"""What float32 is called."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One contestant at one size, T and number of threads.

    Attributes:
        size: of the models.
        t: T.
        threads: of each contestant.
        label: who and how, for a reader.
        engine: one of `PEERS`.
        precision: of the weights.
        way: how the step is taken.
        facts: such as the file of the graph that the session chose.
        logits: for which items of a chunk they are computed.
        parameters: all of the model's.
        parameters_read: those that a step multiplies with.
        weights_bytes: of those.
        multiply_adds: with weights, in one step.
        times_ms: on the wall, per step, one list per turn.
        thread_ms: of the thread, where the engine runs in a process of ours on one thread.
        median_ms: of all times.
        minimum_ms: of all times.
        thread_median_ms: of all times of the thread, which a busy machine disturbs less.
        ratio_of_medians: speed over llama.cpp's quickest cell: its median over this one's.
        ratio_of_minima: the same of minima.
        share_of_read: bytes of weights per second of the median, over what `peak.c` read at most.
        share_of_products: products with weights per second, over what `peak.c` did at most.
    """

    size: str
    t: int
    threads: int
    label: str
    engine: str
    precision: str
    way: str
    facts: Mapping[str, str]
    logits: str
    parameters: int
    parameters_read: int
    weights_bytes: int
    multiply_adds: int
    times_ms: list[list[float]]
    thread_ms: list[list[float]] | None
    median_ms: float
    minimum_ms: float
    thread_median_ms: float | None
    ratio_of_medians: float | None = None
    ratio_of_minima: float | None = None
    share_of_read: float | None = None
    share_of_products: float | None = None


def compared(cells: Sequence[Cell], limits: Mapping[int, Limits]) -> list[Cell]:
    """Add the ratios to llama.cpp and the shares of the machine's limits, best cells first.

    Args:
        cells: of any sizes, T and threads; each is compared with those of its own.
        limits: by number of threads.
    """
    found = []
    for _, group in grouped(cells):
        rivals = [cell for cell in group if cell.engine == "llama"]
        median = min((cell.median_ms for cell in rivals), default=None)
        minimum = min((cell.minimum_ms for cell in rivals), default=None)
        for cell in sorted(group, key=lambda c: c.median_ms):
            limit, seconds = limits.get(cell.threads), cell.median_ms / 1e3
            products = limit.products_s(cell.precision) if limit else 0
            found.append(
                replace(
                    cell,
                    ratio_of_medians=None if median is None else median / cell.median_ms,
                    ratio_of_minima=None if minimum is None else minimum / cell.minimum_ms,
                    share_of_read=cell.weights_bytes
                    / seconds
                    / limit.read_bytes_s(cell.weights_bytes)
                    if limit
                    else None,
                    share_of_products=2 * cell.multiply_adds / seconds / products
                    if products
                    else None,
                )
            )
    return found


def grouped(cells: Sequence[Cell]) -> Iterator[tuple[tuple[str, int, int], list[Cell]]]:
    """Group cells by size, threads and T, in the order in which these first come."""
    order: dict[tuple[str, int, int], list[Cell]] = {}
    for cell in cells:
        order.setdefault((cell.size, cell.threads, cell.t), []).append(cell)
    return iter(order.items())


def table(cells: Sequence[Cell]) -> str:
    """Write compared cells for a reader."""
    lines = []
    for (size, threads, t), group in grouped(cells):
        lines += [
            "",
            f"{size}, T = {t}, {threads} thread{'s' if threads > 1 else ''}; milliseconds, speed "
            "over llama.cpp's quickest cell, shares of what the machine can do",
            f"{'':40s} {'median':>9s} {'least':>9s} {'thread':>9s} {'items/s':>9s} "
            f"{'medians':>8s} {'minima':>7s} {'reading':>8s} {'products':>8s}",
        ]
        for cell in group:
            own = cell.thread_median_ms
            thread = "        –" if own is None else f"{own:9.3f}"
            numbers = (cell.ratio_of_medians, cell.ratio_of_minima)
            ratios = " ".join("      –" if n is None else f"{n:7.2f}" for n in numbers)
            parts = (cell.share_of_read, cell.share_of_products)
            shares = " ".join("       –" if n is None else f"{n:8.0%}" for n in parts)
            lines.append(
                f"{cell.label:40s} {cell.median_ms:9.3f} {cell.minimum_ms:9.3f} {thread} "
                f"{1e3 * t / cell.median_ms:9.0f}  {ratios} {shares}"
            )
    return "\n".join(lines)
