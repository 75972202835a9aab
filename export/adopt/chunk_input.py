"""Find the input that takes the chunk and tell its axes, or ask for them.

Shape letters: `B` batch, `T` items per chunk.
"""

from __future__ import annotations

from collections.abc import Mapping

from dst.export.adopt.answers import Answers, Question
from dst.export.adopt.layout import Placed, given, is_batch, place_chunk
from dst.export.adopt.pairs import may_carry
from dst.export.adopt.ports import Port, Ports
from dst.export.errors import AdoptError
from dst.runtime.manifest import Shape

_CHUNK_NAMES = frozenset(
    [
        *("x", "input", "inputs", "chunk", "audio", "signal", "wav", "waveform", "speech", "pcm"),
        *("feats", "features", "mel", "frames", "mix", "noisy", "obs", "observation"),
        *("tokens", "ids", "input_ids", "data"),
    ]
)
"""What the chunk's input is often called, where another input could be it as well."""


def chunk_input(
    rest: list[Port], open_inputs: list[Port], outputs: list[Port], answers: Answers
) -> Port | None:
    """The input the caller named, or the only one that is left, looks so, or fits no output."""
    if answers.chunk is not None:
        return next(port for port in rest if port.name == answers.chunk)
    able = [port for port in open_inputs if port.dims]
    for fitting in (
        able,
        [port for port in able if port.name.lower() in _CHUNK_NAMES],
        [port for port in able if len(port.free) > 1],
        [port for port in able if not any(may_carry(port, o) for o in outputs)],
    ):
        if len(fitting) == 1:
            return fitting[0]
    return None


def which_chunk(inputs: tuple[Port, ...], able: list[Port]) -> Question:
    """Ask which of the inputs that are left takes the chunk."""
    listed = ", ".join(str(port) for port in able if port.dims)
    if listed:
        why = (
            f"which input takes the chunk: {listed}? Each other one is a --state, a --constant or "
            "a --stream-input"
        )
    else:
        listed = ", ".join(str(port) for port in inputs)
        why = f"every input looks like a state or a constant; which one takes the chunk: {listed}?"
    return Question("--chunk NAME", why)


def what_is(port: Port, outputs: list[Port]) -> Question:
    """Ask what an input is that is left."""
    fitting = [o.name for o in outputs if may_carry(port, o)]
    state = f"; or --state {port.name}=OUTPUT   ({', '.join(fitting)})" if fitting else ""
    if not port.dims:
        return Question(
            f"--constant {port.name}=VALUE{state}",
            f"the input {port} is neither chunk nor a state that a name tells",
        )
    return Question(
        f"--constant {port.name}=VALUE   or --stream-input {port.name}{state}",
        f"the input {port} is neither chunk nor a state that a name tells: is it the same for "
        "ever (--constant), or given once when a stream starts, as a speaker's vector "
        "(--stream-input)? New items in each step come in the chunk alone",
        guess=f"--stream-input {port.name}",
    )


def batch_names(ports: Ports, pairs: Mapping[str, str]) -> frozenset[str]:
    """What states call an axis that is free: a state has no time, so that is the batch."""
    found: set[str] = set()
    for port in ports.inputs:
        names = [port.dims[axis] for axis in port.free]
        if port.name in pairs and len(names) == 1 and isinstance(names[0], str):
            found.add(names[0])
    return frozenset(found)


def place(
    where: str,
    port: Port,
    names: frozenset[str],
    answers: Answers,
    questions: list[Question],
) -> Placed | None:
    """Place the axes of the chunk, or add a question.

    Args:
        where: the file, for messages.
        port: the chunk's input.
        names: what states call the batch.
        answers: what the caller said.
        questions: where what is not known is added.

    Raises:
        AdoptError: the shape that the caller gave does not fit the file.
    """
    if port.name in answers.shapes:
        return shaped(where, port, answers, timed=True)
    around = answers.lookback + answers.lookahead
    length = answers.t[0] + around if len(answers.t) == 1 else None
    numbers = [(axis, d) for axis, d in enumerate(port.dims) if isinstance(d, int) and d > 1]
    if not around and len(numbers) == 1 and len(port.dims) < 3:
        axis, count = numbers[0]
        other = port.dims[1 - axis] if len(port.dims) == 2 else None
        if len(port.dims) == 1 or other == 1 or other in names or is_batch(other):
            single: Shape = tuple(count if i == axis else "B" for i in range(len(port.dims)))
            if answers.t == (1,):
                return given(port, single, timed=True)
            if not answers.t:
                questions.append(_items_or_features(port, single, axis, count))
                return None
    placed = place_chunk(port, names, length)
    if isinstance(placed, Question):
        questions.append(placed)
        return None
    return placed


def _items_or_features(port: Port, single: Shape, axis: int, count: int) -> Question:
    items = tuple("T" if i == axis else d for i, d in enumerate(single))
    one, many = (",".join(map(str, shape)) for shape in (single, items))
    return Question(
        f"--shape {port.name}={one}   or --shape {port.name}={many} with --tail pad or refuse",
        f"the chunk is {port}: is it one item of {count} features, or {count} items of one number?",
    )


def shaped(
    where: str, port: Port, answers: Answers, *, timed: bool = False, state: bool = False
) -> Placed:
    """Take the shape that the caller gave a port.

    Raises:
        AdoptError: it does not fit the file.
    """
    try:
        return given(port, answers.shapes[port.name], timed=timed, state=state)
    except ValueError as error:
        raise AdoptError(f"{where}: --shape {port.name}: {error}") from None
