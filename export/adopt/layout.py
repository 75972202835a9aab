"""Write the shape of an input or output in the contract's letters, or ask for what is not told."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from dst.export.adopt.answers import Question
from dst.export.adopt.ports import Port, agree, words
from dst.runtime.bundle.manifest import Shape

_BATCH = frozenset(["batch", "batchsize", "nbatch", "bsz"])
_TIME = {"t", "l", "time", "seq", "sequence", "length", "len", "samples", "frames", "steps"}
_TIME |= {"timesteps", "tokens", "chunk"}


@dataclass(frozen=True, slots=True)
class Placed:
    """An input or output as in the file, and its shape in the contract, with `B`, and `T` for time.

    The axes in ``added`` are those of the shape that the file does not have; their length is 1.
    """

    port: Port
    shape: Shape
    added: tuple[int, ...]

    @property
    def batch_axis(self) -> int:
        """Where `B` stands."""
        return self.shape.index("B")

    @property
    def time_axis(self) -> int | None:
        """Where `T` stands, None for a shape without time."""
        return self.shape.index("T") if "T" in self.shape else None

    @property
    def free_time(self) -> bool:
        """Whether the file has the axis `T`, and leaves its length open."""
        return "T" in self.own_shape and self.own_shape.index("T") in self.port.free

    def name_of(self, letter: str) -> str | None:
        """What the file calls the axis `B` or `T`; None where it has none, or no name for it."""
        if letter not in self.own_shape:
            return None
        name = self.port.dims[self.own_shape.index(letter)]
        return name if isinstance(name, str) else None

    @property
    def own_shape(self) -> Shape:
        """The shape in the file."""
        return tuple(d for axis, d in enumerate(self.shape) if axis not in self.added)

    def __str__(self) -> str:
        return f"`{self.port.name}` [{', '.join(map(str, self.own_shape))}]"


def is_batch(dim: int | str | None) -> bool:
    """Say whether the name of a free axis says batch."""
    short = ("b", "n", "bs")
    return isinstance(dim, str) and (dim.lower() in short or not _BATCH.isdisjoint(words(dim)))


def is_time(dim: int | str | None) -> bool:
    """Say whether the name of a free axis says time."""
    return isinstance(dim, str) and not is_batch(dim) and bool(_TIME.intersection(words(dim)))


def given(port: Port, shape: Shape, *, timed: bool = False, state: bool = False) -> Placed:
    """Take the shape that the caller gave, with `B`, `T` and sizes; without a T it is of one item.

    Where ``timed``, a T is added if there is none; a ``state`` must have none.

    Raises:
        ValueError: the shape does not fit the file.
    """
    why = None
    if len(shape) != len(port.dims):
        why = f"it has {len(port.dims)} axes"
    elif any(isinstance(d, str) and (d not in ("B", "T") or shape.count(d) > 1) for d in shape):
        why = "an axis is a size, or B or T, each once"
    elif state and "T" in shape:
        why = "a state has no T"
    elif not agree(port.dims, shape):
        why = "its sizes are others"
    elif "B" in shape and not _may_be_one(port.dims[shape.index("B")]):
        why = f"its batch axis is {port.dims[shape.index('B')]}, and one stream has 1"
    if why is not None:
        raise ValueError(f"{','.join(map(str, shape))} does not fit {port}: {why}")
    return _placed(port, shape, timed)


def place_chunk(
    port: Port,
    batch_names: frozenset[str] = frozenset(),
    length: int | None = None,
    batchless: bool = False,
) -> Placed | Question:
    """Tell batch, time and features of the chunk apart by names and free axes.

    States call their batch by one of ``batch_names``; where ``batchless``, none has an axis that
    could be one, and the chunk has none either. ``length`` is that of the time axis, if it is
    known.
    """
    dims = port.dims
    named_batch = [i for i, d in enumerate(dims) if is_batch(d)]
    shared = [i for i, d in enumerate(dims) if d in batch_names]
    if named_batch and shared and named_batch[0] not in shared:
        return _which_axes(port, named_batch[0], length)
    batch = next(iter(named_batch or shared), None)
    others = [i for i in port.free if not is_time(dims[i])]
    if batch is None and len(others) == 1 and len(port.free) == 2:
        batch = others[0]  # one free axis says time, so the other does not
    likely = len(dims) > 1 and not is_time(dims[0]) and _may_be_one(dims[0])
    if batch is None and likely and not (batchless and dims[0] != 1):
        batch = 0
    if batch is None and len(dims) > 2:
        batch = next((i for i, d in enumerate(dims) if d == 1 and i), None)
    rest = [i for i in range(len(dims)) if i != batch]
    named = [i for i in rest if is_time(dims[i])]
    free = [i for i in rest if i in port.free]
    as_long = [i for i in rest if dims[i] == length]
    time = next((only[0] for only in (named, rest, free, as_long) if len(only) == 1), None)
    if time is None or any(i != time for i in free):
        return _which_axes(port, batch, length)
    return _placed(port, _lettered(dims, {batch: "B", time: "T"}), False)


def _which_axes(port: Port, batch: int | None, length: int | None) -> Question:
    """Ask for the axes of a chunk, and propose the likeliest answer."""
    dims = port.dims
    rest = [i for i in range(len(dims)) if i != batch]
    likely = [
        *(i for i in rest if is_time(dims[i]) or dims[i] == length),
        *(i for i in rest if i in port.free),
        *(i for i in rest if dims[i] == 1),
        *rest,
    ]
    letters = {batch: "B", likely[0]: "T"} if likely else {batch: "B"}
    shape = ",".join(letters.get(i) or str(d or "SIZE") for i, d in enumerate(dims))
    return Question(
        f"--shape {port.name}={shape}   or in another order: B, T and sizes, in the file's order",
        f"the chunk is {port}: which axis is B, which T (left out where a chunk is one item "
        "without a time axis), and how long are the others?",
        one_item=bool(likely) and dims[likely[0]] == 1,
    )


def place_state(before: Port, after: Port, batch_name: str | None) -> Placed | Question:
    """Tell the batch axis of a state; a size that the input leaves open may stand in the output.

    An output's size counts for little where names tell the batch: exporters leave the size they
    traced with. ``batch_name`` is the chunk's name for its batch axis, if it has one.
    """
    open_axes = before.free
    by_name = [
        i
        for names in (before.dims, after.dims)
        for i in open_axes
        if is_batch(names[i]) or (names[i] is not None and names[i] == batch_name)
    ]
    dims = tuple(
        a if not isinstance(b, int) and isinstance(a, int) and i not in by_name[:1] else b
        for i, (b, a) in enumerate(zip(before.dims, after.dims, strict=True))
    )
    free = [i for i, d in enumerate(dims) if not isinstance(d, int)]
    ones = [i for i, d in enumerate(dims) if d == 1]
    batch = next(iter((*by_name[:1], *free, *ones)), None)
    why = f"the state is {before}: which axis is B, and how long are the others?"
    shape = _lettered(dims, {batch: "B"})
    return _sizes_open(before, dims, batch, why) or _placed(before, shape, False)


def place_stream_input(
    port: Port, batch_name: str | None, example: tuple[int, ...] | None
) -> Shape | Question:
    """Tell the shape of an input that is given once per stream: sizes, and `B` or none.

    ``batch_name`` is the chunk's name for its batch axis, if it has one, and ``example`` the shape
    of a value that the caller gave, with B = 1.
    """
    dims = port.dims
    by_name = [i for i, d in enumerate(dims) if is_batch(d) or (d is not None and d == batch_name)]
    if example is not None and len(example) == len(dims):
        dims = tuple(
            d if isinstance(d, int) or i in by_name else e
            for i, (d, e) in enumerate(zip(dims, example, strict=True))
        )
    free = [i for i, d in enumerate(dims) if not isinstance(d, int)]
    ones = [i for i, d in enumerate(dims) if d == 1]
    batch = next(iter((*by_name, *free, *ones)), None)
    why = (
        f"the input fixed per stream is {port}: how long are its axes besides B? An example, "
        f"--stream-input {port.name}=FILE.npy, tells it too"
    )
    return _sizes_open(port, dims, batch, why) or _lettered(dims, {batch: "B"})


def _sizes_open(
    port: Port, dims: tuple[int | str | None, ...], batch: int | None, why: str
) -> Question | None:
    """Ask for the sizes of a port, where another axis than the batch has none."""
    if all(isinstance(d, int) or i == batch for i, d in enumerate(dims)):
        return None
    axes = ",".join("B" if i == batch else str(d or "SIZE") for i, d in enumerate(dims))
    return Question(f"--shape {port.name}={axes}   with a number for each name but B", why)


def as_run(port: Port, shapes: Iterable[tuple[int, ...]]) -> Port:
    """Drop what a file says of an output's axes, as traced, where runs have shown otherwise."""
    found = [*shapes]
    rank = len(found[0])
    if len(port.dims) != rank:
        return replace(port, dims=(None,) * rank)
    dims = tuple(
        None if isinstance(d, int) and any(shape[i] != d for shape in found) else d
        for i, d in enumerate(port.dims)
    )
    return replace(port, dims=dims)


def place_output(
    port: Port, chunk: Placed, found: Mapping[int, tuple[int, ...]], named_t: str | None
) -> Placed | Question:
    """Tell batch and time of an output by its names, and by its shapes in runs with B = 1.

    ``found`` holds the shape at each T, and ``named_t`` the file's name for the chunk's time axis,
    where that is T items long.
    """
    shapes = list(found.values())
    axes = range(len(shapes[0]))
    at = chunk.own_shape.index("T") if "T" in chunk.own_shape else None
    as_long = [i for i in axes if all(shape[i] == t for t, shape in found.items())]
    if set(found) == {1}:  # an axis of 1 says nothing by its length, but may by its place
        as_long = [i for i in as_long if i == at and len(axes) == len(chunk.own_shape)]
    times = [] if at is None else [i for i in as_long if not is_batch(port.dims[i])]
    by_name = [i for i in times if named_t is not None and port.dims[i] == named_t]
    ways = (by_name, times, [i for i in times if i == at])
    time = next((only[0] for only in ways if len(only) == 1), None)
    moving = any(i != time and len({shape[i] for shape in shapes}) > 1 for i in axes)
    if (times and time is None) or moving:
        return Question(
            f"--shape {port.name}=B,T,F   in the file's order, or --t with one size",
            f"the output is {port} and had shape "
            + ", ".join(f"{list(shape)} at T = {t}" for t, shape in found.items())
            + ": which axis is T?",
        )
    ones = [i for i in axes if i != time and shapes[0][i] == 1]
    batch = next((i for i in ones if is_batch(port.dims[i])), ones[0] if ones else None)
    return _placed(port, _lettered(shapes[0], {batch: "B", time: "T"}), at is None)


def _may_be_one(dim: int | str | None) -> bool:
    return dim == 1 or not isinstance(dim, int)


def _lettered(dims: tuple[int | str | None, ...], letters: dict[int | None, str]) -> Shape:
    """Put letters at their axes; all other axes have a size."""
    return tuple(letters.get(i, d) or 0 for i, d in enumerate(dims))


def _placed(port: Port, shape: Shape, timed: bool) -> Placed:
    """Add the axes that the contract needs and the file does not have."""
    added: list[int] = []
    if "B" not in shape:
        shape, added = ("B", *shape), [0]
    if timed and "T" not in shape:
        at = shape.index("B") + 1
        shape, added = (*shape[:at], "T", *shape[at:]), [*added, at]
    return Placed(port, shape, tuple(added))
