"""A graph's ports and the caller's answers in, a draft of the contract out; or all open questions.

What a graph tells by itself: which outputs are the next values of which inputs (by name), which
input is the chunk (the one that is left), batch and time axes (by name, and by what is free),
initial values (a default that the file gives a state), the number of tokens (the table that they
index). What it does not tell is asked for, all of it in one message.

Shape letters: `B` batch, `T` items per chunk, `L` lookback.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx

from dst.export.adopt.answer_checks import (
    check_names,
    check_numbers,
    check_use,
    constant_of,
    start_of,
)
from dst.export.adopt.answers import Answers, Question, spelled
from dst.export.adopt.layout import Placed, given, place_chunk, place_state
from dst.export.adopt.pairs import may_carry, state_pairs
from dst.export.adopt.ports import Port, Ports
from dst.export.errors import AdoptError, OpenQuestionsError

Array = npt.NDArray[np.generic]


@dataclass(frozen=True, slots=True)
class DraftState:
    """One state tensor: the input, the output and what it starts from, None for zeros."""

    before: Placed
    after: Port
    start: Array | None


@dataclass(frozen=True, slots=True)
class Draft:
    """A contract but for its outputs, whose shapes only a run tells.

    Attributes:
        chunk: the chunk's input.
        states: in the order of the graph's inputs.
        constants: further input -> its value.
        outputs: the outputs that are no state.
        sizes: the T to run, rising.
        vocabulary: the number of tokens, None for features.
        named_t: the file's name for the chunk's time axis, where that is T items long.
        kept: inputs that have a value in the file and keep it.
    """

    chunk: Placed
    states: tuple[DraftState, ...]
    constants: dict[str, Array]
    outputs: tuple[Port, ...]
    sizes: tuple[int, ...]
    vocabulary: int | None
    named_t: str | None
    kept: tuple[str, ...]


def draft(where: str, model: onnx.ModelProto, ports: Ports, answers: Answers) -> Draft:
    """Put together what the graph tells and what the caller said.

    Raises:
        OpenQuestionsError: something is not known; the message lists each question.
        AdoptError: an answer does not fit the graph.
    """
    check_names(where, ports, answers)
    check_numbers(where, answers)
    dropped = set(answers.drop)
    outputs = [port for port in ports.outputs if port.name not in dropped]
    pairs = _pairs(where, ports, outputs, answers)
    after = {port.name: port for port in outputs}
    rest = [port for port in ports.inputs if port.name not in (*pairs, *answers.constants)]
    open_inputs = [port for port in rest if port.name not in ports.defaults]
    free_outputs = [port for port in outputs if port.name not in pairs.values()]
    chunk = _chunk(rest, open_inputs, free_outputs, answers)
    others = [port for port in open_inputs if port != chunk]
    if not pairs and not any(may_carry(i, o) for i in others for o in free_outputs):
        raise AdoptError(
            f"{where}: no output could be the next value of an input besides the chunk, so there "
            "is no state to carry; there are "
            + ", ".join(str(port) for port in (*ports.inputs, *outputs))
        )
    check_use(where, chunk, pairs, answers)
    questions: list[Question] = []
    if chunk is None:
        questions.append(_which_chunk(ports.inputs, open_inputs))
        others = [port for port in open_inputs if not port.dims]
    questions += [_what_is(port, free_outputs) for port in others]
    placed = _place(where, chunk, answers, questions) if chunk is not None else None
    states = [
        _state(where, port, after[pairs[port.name]], placed, ports, answers, questions)
        for port in ports.inputs
        if port.name in pairs
    ]
    sizes = _sizes(where, placed, answers, questions)
    vocabulary = _vocabulary(model, chunk, answers, questions)
    if questions or placed is None:
        raise OpenQuestionsError(
            spelled(where, questions, _found(placed, pairs, free_outputs, answers))
        )
    time = placed.port.dims[placed.own_shape.index("T")] if "T" in placed.own_shape else None
    return Draft(
        chunk=placed,
        states=tuple(state for state in states if state is not None),
        constants={
            port.name: constant_of(where, port, answers.constants[port.name])
            for port in ports.inputs
            if port.name in answers.constants
        },
        outputs=tuple(free_outputs),
        sizes=sizes,
        vocabulary=vocabulary,
        named_t=time if isinstance(time, str) and not answers.lookback else None,
        kept=tuple(port.name for port in rest if port.name != placed.port.name),
    )


def _pairs(where: str, ports: Ports, outputs: list[Port], answers: Answers) -> dict[str, str]:
    """The pairs the caller named, then those that the other names tell."""
    taken = {answers.chunk, *answers.constants, *answers.states}
    kept = {port.name: port for port in outputs}
    before = {port.name: port for port in ports.inputs}
    for name, output in answers.states.items():
        if output not in kept:
            raise AdoptError(
                f"{where}: --drop {output} and --state {name}={output} exclude each other"
            )
        if not may_carry(before[name], kept[output]):
            raise AdoptError(
                f"{where}: --state {name}={output}: {before[name]} cannot become {kept[output]}; "
                "a state keeps its dtype and shape"
            )
    named = state_pairs(
        [
            port
            for port in ports.inputs
            if port.name not in taken and (len(port.free) < 2 or port.name in answers.shapes)
        ],
        [
            port
            for port in outputs
            if port.name not in (*answers.states.values(), *answers.meanings)
        ],
    )
    pairs = {**answers.states, **named}
    for name in answers.init:
        if name not in pairs:
            raise AdoptError(
                f"{where}: --init {name}: `{name}` is no state; say --state {name}=OUTPUT too"
            )
    return pairs


def _chunk(
    rest: list[Port], open_inputs: list[Port], outputs: list[Port], answers: Answers
) -> Port | None:
    """The input the caller named; or the only one left, or with two free axes, or without match."""
    if answers.chunk is not None:
        return next(port for port in rest if port.name == answers.chunk)
    able = [port for port in open_inputs if port.dims]
    for fitting in (
        able,
        [port for port in able if len(port.free) > 1],
        [port for port in able if not any(may_carry(port, o) for o in outputs)],
    ):
        if len(fitting) == 1:
            return fitting[0]
    return None


def _which_chunk(inputs: tuple[Port, ...], able: list[Port]) -> Question:
    listed = ", ".join(str(port) for port in able if port.dims)
    if listed:
        why = f"which input takes the chunk: {listed}? Each other one is a --state or a --constant"
    else:
        listed = ", ".join(str(port) for port in inputs)
        why = f"every input looks like a state or a constant; which one takes the chunk: {listed}?"
    return Question("--chunk NAME", why)


def _what_is(port: Port, outputs: list[Port]) -> Question:
    fitting = [o.name for o in outputs if may_carry(port, o)]
    state = f"; or --state {port.name}=OUTPUT   ({', '.join(fitting)})" if fitting else ""
    return Question(
        f"--constant {port.name}=VALUE{state}",
        f"the input {port} is neither chunk nor a state that a name tells",
    )


def _place(where: str, port: Port, answers: Answers, questions: list[Question]) -> Placed | None:
    if port.name in answers.shapes:
        return shaped(where, port, answers, timed=True)
    placed = place_chunk(port)
    if isinstance(placed, Question):
        questions.append(placed)
        return None
    return placed


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


def _state(
    where: str,
    before: Port,
    after: Port,
    chunk: Placed | None,
    ports: Ports,
    answers: Answers,
    questions: list[Question],
) -> DraftState | None:
    placed = (
        shaped(where, before, answers, state=True)
        if before.name in answers.shapes
        else place_state(before, after, _batch_name(chunk))
    )
    if isinstance(placed, Question):
        questions.append(placed)
        return None
    start = answers.init.get(before.name, ports.defaults.get(before.name))
    return DraftState(placed, after, None if start is None else start_of(where, placed, start))


def _batch_name(chunk: Placed | None) -> str | None:
    """What the file calls the batch axis of the chunk."""
    if chunk is None or "B" not in chunk.own_shape:
        return None
    name = chunk.port.dims[chunk.own_shape.index("B")]
    return name if isinstance(name, str) else None


def _sizes(
    where: str, chunk: Placed | None, answers: Answers, questions: list[Question]
) -> tuple[int, ...]:
    """The T to run, from the file where its time axis is fixed."""
    sizes = tuple(sorted(set(answers.t)))
    if chunk is None:
        if answers.tail is None and 1 not in sizes:
            questions.append(_tail("unless a chunk is one item"))
        return sizes
    name, dims = chunk.port.name, chunk.port.dims
    fixed = dims[chunk.own_shape.index("T")] if "T" in chunk.own_shape else 1 + answers.lookback
    if isinstance(fixed, int):
        t = fixed - answers.lookback
        if t < 1 or ("T" not in chunk.own_shape and answers.lookback):
            raise AdoptError(
                f"{where}: --lookback {answers.lookback}: the chunk {chunk.port} leaves no room "
                "for an item besides"
            )
        if sizes not in ((), (t,)):
            raise AdoptError(
                f"{where}: --t {','.join(map(str, sizes))}: the chunk {chunk.port} with lookback "
                f"{answers.lookback} runs T = {t} only"
            )
        sizes = (t,)
    elif not sizes:
        questions.append(
            Question(
                "--t N   or --t 1,N",
                f"the time axis of `{name}` is free: how many items is a chunk? With 1 among the "
                "sizes every item is answered, whatever the length of the input",
            )
        )
    if answers.tail is None and 1 not in sizes:
        questions.append(_tail(f"a chunk is {sizes[-1]} items" if sizes else "unless --t holds 1"))
    if answers.tail == "exact" and sizes and 1 not in sizes:
        raise AdoptError(f"{where}: --tail exact needs 1 among the sizes of --t")
    return sizes


def _tail(when: str) -> Question:
    return Question(
        "--tail pad   or --tail refuse",
        f"{when}: are items that fill no chunk at the end padded (with --pad 0), or refused?",
    )


def _vocabulary(
    model: onnx.ModelProto, chunk: Port | None, answers: Answers, questions: list[Question]
) -> int | None:
    """The number of tokens: as given, or the length of the table that the chunk indexes."""
    if chunk is None or chunk.dtype in ("float16", "float32", "float64"):
        return None
    if answers.vocabulary is not None or answers.tokenizer == "bytes":
        return answers.vocabulary or 256
    tables = {tensor.name: tensor.dims for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Gather" and node.input[1] == chunk.name and node.input[0] in tables:
            axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
            return int(tables[node.input[0]][axis])
    questions.append(
        Question(
            "--vocabulary N",
            f"the chunk {chunk} holds token ids: how many are there? (--tokenizer bytes: 256)",
        )
    )
    return None


def _found(
    chunk: Placed | None, pairs: dict[str, str], outputs: list[Port], answers: Answers
) -> list[str]:
    found = [] if chunk is None else [f"chunk {chunk}"]
    found += [f"state {before}={after}" for before, after in pairs.items()]
    found += [f"constant {name}" for name in answers.constants]
    return found + [f"output {port.name}" for port in outputs]
