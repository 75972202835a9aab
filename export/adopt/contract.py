"""Draft a contract from a graph's ports and the caller's answers, or list all open questions.

What a graph tells by itself: which outputs are the next values of which inputs (by name), which
input is the chunk (the one that is left), batch and time axes (by name, and by what is free),
initial values (a default that the file gives a state), the number of tokens (the table that they
index). What it does not tell is asked for, all of it in one message.

Shape letters: `B` batch, `T` items per chunk, `L` lookback.
"""

from dataclasses import dataclass

import numpy as np
import onnx

from dst.export.adopt.answers import (
    Answers,
    Question,
    check_use,
    constant_of,
    known,
    spelled,
    stream_shape,
    stream_value,
    value_of,
)
from dst.export.adopt.chunk_input import (
    CHUNK_NAMES,
    chunk_input,
    place,
    shaped,
    sizes_of,
    vocabulary_of,
    what_are,
    which_chunk,
)
from dst.export.adopt.layout import Placed, place_state, place_stream_input
from dst.export.adopt.limits import check_chunk, check_streams
from dst.export.adopt.ports import Port, Ports, may_carry, same_kind, state_pairs
from dst.export.errors import AdoptError, OpenQuestionsError
from dst.runtime.bundle.layout import Array
from dst.runtime.bundle.manifest import Shape


@dataclass(frozen=True, slots=True)
class DraftState:
    """One state tensor: the input, the output and what it starts from, None for zeros."""

    before: Placed
    after: Port
    start: Array | None


@dataclass(frozen=True, slots=True)
class DraftStreamInput:
    """One input that is given once per stream: its shape with `B` or none, and an example."""

    port: Port
    shape: Shape
    example: Array


@dataclass(frozen=True, slots=True)
class Draft:
    """A contract but for its outputs, whose shapes only a run tells.

    Attributes:
        states: in the order of the graph's inputs.
        constants: further input -> its value; ``constant_ports`` are the inputs that they go to.
        lookback, lookahead: items before and behind the chunk that the graph wants.
        outputs: the outputs that are no state.
        sizes: the T to run, rising.
        vocabulary: the number of tokens, None for features.
        named_t: the file's name for the chunk's time axis, where that is T items long.
        kept: inputs that have a value in the file and keep it.
    """

    chunk: Placed
    states: tuple[DraftState, ...]
    constants: dict[str, Array]
    constant_ports: tuple[Port, ...]
    stream_inputs: tuple[DraftStreamInput, ...]
    lookback: int
    lookahead: int
    outputs: tuple[Port, ...]
    sizes: tuple[int, ...]
    vocabulary: int | None
    named_t: str | None
    kept: tuple[str, ...]


def draft(model: onnx.ModelProto, ports: Ports, answers: Answers) -> Draft:
    """Put together what the graph tells and what the caller said.

    Raises:
        OpenQuestionsError: something is not known; the message lists each question.
        AdoptError: an answer does not fit the graph.
    """
    outputs = [*ports.outputs]
    pairs = _pairs(ports, outputs, answers)
    after = {port.name: port for port in outputs}
    said = (*pairs, *answers.constants, *answers.stream_inputs)
    rest = [port for port in ports.inputs if port.name not in said]
    open_inputs = [port for port in rest if port.name not in ports.defaults]
    free_outputs = [port for port in outputs if port.name not in pairs.values()]
    chunk = chunk_input(rest, open_inputs, free_outputs, answers)
    others = [port for port in open_inputs if port != chunk]
    check_streams(chunk, None, others)
    _check_some_state(ports, pairs, others, free_outputs)
    check_use(chunk, pairs, answers)
    questions: list[Question] = []
    if chunk is None:
        able = [port for port in open_inputs if port.dims]
        questions.append(which_chunk(ports.inputs, able))
        likely = able[0] if able else None
        others = [port for port in open_inputs if port != likely]
    else:
        check_chunk(chunk)
        likely = chunk
    placed = None
    if likely is not None:
        kept = [port for port in ports.inputs if port.name != likely.name]
        placed = known(place(model, likely, kept, outputs, pairs, answers), questions)
    if chunk is not None:
        check_streams(chunk, placed.name_of("T") if placed else None, others)
    questions += what_are(others, free_outputs)
    states = [
        _state(port, after[pairs[port.name]], placed, ports, answers, questions)
        for port in ports.inputs
        if port.name in pairs
    ]
    stream_inputs = [
        _stream_input(port, placed, answers, questions)
        for port in ports.inputs
        if port.name in answers.stream_inputs
    ]
    sizes = sizes_of(placed, answers, questions)
    vocabulary = vocabulary_of(model, likely, answers, questions)
    if questions or placed is None:
        found = _found(placed if chunk is not None else None, pairs, free_outputs, answers)
        raise OpenQuestionsError(spelled(questions, found))
    constant_ports = tuple(p for p in ports.inputs if p.name in answers.constants)
    return Draft(
        chunk=placed,
        states=tuple(filter(None, states)),
        constants={p.name: constant_of(p, answers.constants[p.name]) for p in constant_ports},
        constant_ports=constant_ports,
        stream_inputs=tuple(filter(None, stream_inputs)),
        lookback=answers.lookback,
        lookahead=answers.lookahead,
        outputs=tuple(free_outputs),
        sizes=sizes,
        vocabulary=vocabulary,
        named_t=None if answers.lookback or answers.lookahead else placed.name_of("T"),
        kept=tuple(port.name for port in rest if port.name != placed.port.name),
    )


def _check_some_state(
    ports: Ports, pairs: dict[str, str], others: list[Port], free_outputs: list[Port]
) -> None:
    """A step carries a state and answers something."""
    listed = ", ".join(str(port) for port in (*ports.inputs, *ports.outputs))
    if not pairs and not any(may_carry(i, o) for i in others for o in free_outputs):
        raise AdoptError(
            "no output could be the next value of an input besides the chunk, so there "
            f"is no state to carry; there are {listed}. Export the step with each state tensor as "
            "an input and its next value as an output; a model that keeps nothing needs no bundle"
        )
    if not free_outputs:
        raise AdoptError(
            "no output is left besides the state, and a step must answer something; "
            f"there are {listed}. Export it with its answer as an output too, which may be an "
            "Identity of the state"
        )


def _pairs(ports: Ports, outputs: list[Port], answers: Answers) -> dict[str, str]:
    """The pairs the caller named, then those that the other names tell."""
    taken = {answers.chunk, *answers.constants, *answers.stream_inputs, *answers.states}
    kept = {port.name: port for port in outputs}
    before = {port.name: port for port in ports.inputs}
    for name, output in answers.states.items():
        if output not in kept:
            raise AdoptError(f"--drop {output} and --state {name}={output} exclude each other")
        if not same_kind(before[name], kept[output]):  # a stated size may be stale: a run tells
            raise AdoptError(
                f"--state {name}={output}: {before[name]} cannot become {kept[output]}; "
                "a state keeps its dtype and shape"
            )
    inputs = [
        port
        for port in ports.inputs
        if port.name not in taken
        and port.name.lower() not in CHUNK_NAMES
        and (len(port.free) < 2 or port.name in answers.shapes)
    ]
    used = (*answers.states.values(), *answers.meanings)
    free = [port for port in outputs if port.name not in used]
    pairs = {**answers.states, **state_pairs(inputs, free)}
    for name in answers.init:
        if name not in pairs:
            raise AdoptError(f"--init {name}: `{name}` is no state; say --state {name}=OUTPUT too")
    return pairs


def _state(
    before: Port,
    after: Port,
    chunk: Placed | None,
    ports: Ports,
    answers: Answers,
    questions: list[Question],
) -> DraftState | None:
    if before.name in answers.shapes:
        placed: Placed | None = shaped(before, answers, state=True)
    else:
        batch = chunk.name_of("B") if chunk else None
        placed = known(place_state(before, after, batch), questions)
    if placed is None:
        return None
    start = answers.init.get(before.name, ports.defaults.get(before.name))
    start = None if start is None else value_of("--init", before, placed.own_shape, start)
    return DraftState(placed, after, start)


def _stream_input(
    port: Port, chunk: Placed | None, answers: Answers, questions: list[Question]
) -> DraftStreamInput | None:
    example = answers.stream_inputs[port.name]
    value = None if example is None else np.asarray(example)
    if port.name in answers.shapes:
        shape: Shape | None = stream_shape(port, answers.shapes[port.name])
    else:
        given = None if value is None else value.shape
        batch = chunk.name_of("B") if chunk else None
        shape = known(place_stream_input(port, batch, given), questions)
    return (
        None if shape is None else DraftStreamInput(port, shape, stream_value(port, shape, value))
    )


def _found(
    chunk: Placed | None, pairs: dict[str, str], outputs: list[Port], answers: Answers
) -> list[str]:
    found = [] if chunk is None else [f"chunk {chunk}"]
    found += [f"state {before}={after}" for before, after in pairs.items()]
    found += [f"constant {name}" for name in answers.constants]
    found += [f"fixed per stream {name}" for name in answers.stream_inputs]
    return found + [f"output {port.name}" for port in outputs]
