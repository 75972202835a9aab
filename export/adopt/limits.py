"""Say at once what no bundle can hold, and what to export instead, before anything is asked."""

import re
from collections.abc import Sequence

import numpy as np
import onnxruntime as ort

from dst.export.adopt.answers import Answers
from dst.export.adopt.chunk_input import CHUNK_NAMES
from dst.export.adopt.layout import is_batch, is_time
from dst.export.adopt.ports import Port, Ports, same_kind, state_pairs, words
from dst.export.errors import AdoptError
from dst.runtime.bundle.layout import Array

_TOKEN_DTYPES = ("int64", "int32", "uint8")
_LONG = 1021
"""A length that a window of fixed length would cut; what becomes longer even so grows."""
_FREE_SIZES = (3, 5, 7, 11, 13)
"""Sizes to try for free axes: all different, so that a sum of two is told from each of them."""


def check_growth(ports: Ports, answers: Answers, session: ort.InferenceSession) -> None:
    """Refuse a state that grows with each chunk, by the names of its axes or by a step on trial."""
    known = {answers.chunk, *answers.constants, *answers.stream_inputs, *answers.drop}
    before = {port.name: port for port in ports.inputs if port.name not in known}
    after = {port.name: port for port in ports.outputs if port.name not in known}
    pairs = state_pairs([*before.values()], [*after.values()], same_kind)
    pairs |= {i: o for i, o in answers.states.items() if i in before and o in after}
    called_chunk = {name for name in before if name.lower() in CHUNK_NAMES}
    left = before.keys() - pairs.keys() - ports.defaults.keys()
    if answers.chunk is None and not left and not called_chunk:
        return  # one of the pairs is the chunk, and may well become longer
    if answers.chunk is None:
        pairs = {i: o for i, o in pairs.items() if i not in called_chunk}
    couples = [(before[i], after[o]) for i, o in pairs.items() if same_kind(before[i], after[o])]
    told = {i.name: axis for i, o in couples if (axis := _grows_by_name(i, o)) is not None}
    if answers.chunk is not None or called_chunk:  # what no name pairs may grow all the same
        chunks = called_chunk | {answers.chunk}
        known_axes = {d for port in ports.inputs if port.name in chunks for d in port.dims if d}
        alone = [
            name
            for name in left - pairs.keys() - called_chunk
            if not _times(before[name]) and not known_axes & _parts(before[name])
        ]
        others = [port for name, port in after.items() if name not in pairs.values()]
        couples += [(before[i], o) for i in alone for o in others if same_kind(before[i], o)]
    if not told and any(not is_batch(i.dims[axis]) for i, _ in couples for axis in i.free):
        told = _grows_in_a_run(ports, couples, answers, session)
    if told:
        shown = [f"{before[name]} along axis {axis}" for name, axis in list(told.items())[:2]]
        more = f" and {len(told) - 2} more" if len(told) > 2 else ""
        if len(told) == 1:
            more = f" (if that is the chunk, say --chunk {next(iter(told))})"
        raise AdoptError(
            f"the state grows with each chunk: {', '.join(shown)}{more}. A bundle holds states of "
            "one fixed size. Export the model with a static cache instead: a window of fixed "
            "length that is shifted or written in turn (transformers: a static or sliding-window "
            "cache), or a recurrent state",
            code="state-grows",
        )


def check_streams(chunk: Port | None, time_name: int | str | None, able: Sequence[Port]) -> None:
    """Refuse a second input that takes new items in each step.

    ``time_name`` is what the file calls the chunk's time axis, and ``able`` are the inputs of which
    nothing is known yet.
    """
    shared = {time_name} if isinstance(time_name, str) else set()
    if chunk is not None:
        shared |= _times(chunk)
        second = next((port for port in able if _parts(port) & shared), None)
    else:
        timed = [port for port in able if _times(port)]
        pairs = [(p, q) for p in timed for q in timed if p != q and _times(p) & _times(q)]
        chunk, second = pairs[0] if pairs else (None, None)
        shared = _times(chunk) if chunk is not None else shared
    if chunk is None or second is None:
        return
    raise AdoptError(
        f"`{chunk.name}` and `{second.name}` both take new items in each step (axis "
        f"`{min(_parts(second) & shared)}`), and a step takes one chunk. Export it with one input "
        "that holds them side by side along the feature axis and is split inside; if one is the "
        f"same in each step, as a mask of ones is, say --chunk {chunk.name} --constant "
        f"{second.name}=FILE.npy, with one --t"
    )


def check_chunk(chunk: Port) -> None:
    """Refuse a chunk that is neither features nor token ids."""
    tokens = chunk.dtype in _TOKEN_DTYPES and len(chunk.dims) <= 2
    if not tokens and not chunk.dtype.startswith("float"):
        raise AdoptError(
            f"the chunk {chunk} holds whole numbers that are no token ids: those are "
            f"{', '.join(_TOKEN_DTYPES)} with no axes but batch and time. Features, as sound or "
            "pictures, are floats: export it with float32 and a Cast inside the graph"
        )


def _times(port: Port) -> set[str]:
    """The names of free axes that say that they are as long as there are new items."""
    return {part for part in _parts(port) if is_time(part) and "past" not in words(part)}


def _parts(port: Port) -> set[str]:
    """The names of free axes other than batch; of a sum such as `past + new` each."""
    names = [d for d in port.dims if isinstance(d, str) and not is_batch(d)]
    return {part.strip() for name in names for part in name.split("+")}


def _grows_by_name(before: Port, after: Port) -> int | None:
    """Find an axis `past` that becomes `past + new`, or 16 that becomes 17."""
    pairs = zip(before.dims, after.dims, strict=True)
    other = [(axis, old, new) for axis, (old, new) in enumerate(pairs) if old != new]
    for axis, old, new in other:
        if isinstance(old, str) and isinstance(new, str) and not is_batch(old):
            sum_of = {part.strip() for part in re.split(r"[+ ]+", new)}
            if old in sum_of or "past" in words(old):
                return axis
        if len(other) == 1 and isinstance(old, int) and isinstance(new, int) and new > old:
            return axis
    return None


def _grows_in_a_run(
    ports: Ports,
    couples: Sequence[tuple[Port, Port]],
    answers: Answers,
    session: ort.InferenceSession,
) -> dict[str, int]:
    """Step once with sizes of one's own; empty where the file does not run with them."""
    sizes: dict[str, int] = {}
    feed = {p.name: _tried(p, answers, sizes) for p in ports.inputs if p.name not in ports.defaults}
    names = [after.name for _, after in couples]
    try:
        found = session.run(names, feed)
    except Exception:  # it may well not run: then nothing is known
        return {}
    grown: dict[str, int] = {}
    for (before, _), value in zip(couples, found, strict=True):
        old = feed[before.name].shape if before.name in feed else value.shape
        other = [axis for axis, (o, n) in enumerate(zip(old, value.shape, strict=False)) if n != o]
        if len(old) == value.ndim and len(other) == 1 and value.shape[other[0]] > old[other[0]]:
            grown[before.name] = other[0]
    free = {before.name: before.free for before, _ in couples}
    open_ones = {name: axis for name, axis in grown.items() if axis in free[name]}
    for name, axis in open_ones.items():
        shape = [_LONG if i == axis else d for i, d in enumerate(feed[name].shape)]
        feed[name] = np.zeros(shape, feed[name].dtype)
    try:
        found = session.run(names, feed) if open_ones else []
    except Exception:
        return grown
    longer = {
        before.name
        for (before, _), value in zip(couples, found, strict=False)
        if before.name in open_ones
        and value.ndim == len(before.dims)
        and value.shape[open_ones[before.name]] > _LONG
    }
    return {n: axis for n, axis in grown.items() if n not in open_ones or n in longer}


def _tried(port: Port, answers: Answers, sizes: dict[str, int]) -> Array:
    """Make a value to try an input with: zeros, or ones for whole numbers, as a mask holds them."""
    if port.name in answers.constants:
        value = np.asarray(answers.constants[port.name]).astype(port.dtype)
        if value.ndim == len(port.dims):
            return value
    said = answers.shapes.get(port.name, port.dims)
    said = said if len(said) == len(port.dims) else port.dims
    shape = [
        1 if d == "B" or is_batch(d) or (d is None and not axis) else _size(d, sizes)
        for axis, d in enumerate(said)
    ]
    return np.zeros(shape, port.dtype) if port.dtype[0] == "f" else np.ones(shape, port.dtype)


def _size(dim: int | str | None, sizes: dict[str, int]) -> int:
    """Give each name a size of its own, and a sum of names the sum of theirs."""
    if isinstance(dim, int):
        return dim
    parts = [part.strip() for part in (dim or "?").split("+")]
    return sum(
        int(part)
        if part.isdigit()
        else sizes.setdefault(part, _FREE_SIZES[len(sizes) % len(_FREE_SIZES)])
        for part in parts
    )
