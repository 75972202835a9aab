"""Hold what a caller says of an ONNX file, check it, and write what is still to be asked."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeVar

import numpy as np

from dst.export.adopt.ports import Port, Ports, agree
from dst.export.errors import AdoptError
from dst.runtime.bundle.layout import Array, sized
from dst.runtime.bundle.manifest import Shape, Tail

Meaning = Literal["logits", "gaussian", "custom"]
Found = TypeVar("Found")

MOST_LOOKBACK = 1 << 16


@dataclass(frozen=True, slots=True)
class Answers:
    """What the graph alone does not tell; what is left out is inferred, or asked for.

    Attributes:
        chunk: the input that takes the chunk.
        states: state input -> the output that gives its next value.
        init: state input -> what it starts from: one number, or a tensor in the file's shape with
            B = 1. A state without one starts from the default the file gives it, else from zeros.
        constants: further input -> its value in every step.
        stream_inputs: further input -> an example of its value for one stream, in the file's shape
            with B = 1, or None to try it with random numbers. It is given when a stream starts,
            and saved with its state.
        shapes: input or output -> its axes in the file's order: `B`, `T` or a size.
        drop: outputs that are no part of the contract.
        t: the chunk sizes to run, in items; the largest is the nominal one.
        lookback: items before the chunk that the graph wants in front of it.
        lookahead: items behind the chunk that the graph wants as well.
        lookback_fill: what stands there before the first item of a stream.
        tail: what happens to items that fill no chunk.
        pad_value: what is put behind them where the tail is `pad`.
        vocabulary: how many token ids there are, for a chunk of integers.
        tokenizer: `bytes` where a token id is a byte.
        sample_rate_hz: items per second.
        meanings: output -> what it says of the item that follows.
    """

    chunk: str | None = None
    states: Mapping[str, str] = field(default_factory=dict)
    init: Mapping[str, Array] = field(default_factory=dict)
    constants: Mapping[str, Array] = field(default_factory=dict)
    stream_inputs: Mapping[str, Array | None] = field(default_factory=dict)
    shapes: Mapping[str, tuple[int | str, ...]] = field(default_factory=dict)
    drop: Sequence[str] = ()
    t: Sequence[int] = ()
    lookback: int = 0
    lookahead: int = 0
    lookback_fill: float = 0.0
    tail: Tail | None = None
    pad_value: float = 0.0
    vocabulary: int | None = None
    tokenizer: Literal["bytes", "none"] = "none"
    sample_rate_hz: float | None = None
    meanings: Mapping[str, Meaning] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Question:
    """One thing that the graph does not tell: the option that answers it, and what is not known.

    The ``guess`` is likeliest, and is to be added to the command; without one it is the option up
    to a wide gap. By it a chunk may be ``one_item``, so that no tail need be known.
    """

    option: str
    why: str
    guess: str = ""
    one_item: bool = False


def known(found: Found | Question, questions: list[Question]) -> Found | None:
    """Put a question to the others; None in its place."""
    if isinstance(found, Question):
        questions.append(found)
        return None
    return found


def spelled(questions: Sequence[Question], found: Sequence[str]) -> str:
    """Write all questions as one message, a line each, and below them what was found."""
    count = f"{len(questions)} questions are" if len(questions) > 1 else "one question is"
    lines = [f"{count} open; answer with"]
    for question in questions:
        lines += [f"  {question.option}", f"      {question.why}"]
    guesses = [question.guess or question.option.split("  ")[0] for question in questions]
    lines.append(f"for example, add: {' '.join(guesses)}")
    if found:
        lines.append(f"found so far: {'; '.join(found)}")
    return "\n".join(lines)


def check_names(ports: Ports, answers: Answers) -> None:
    """Every name in an answer must be one of the graph's, or AdoptError is raised."""
    inputs, outputs = ([p.name for p in side] for side in (ports.inputs, ports.outputs))
    for option, names, known, kind in (
        ("--chunk", [answers.chunk] if answers.chunk is not None else [], inputs, "input"),
        ("--state", answers.states, inputs, "input"),
        ("--state", answers.states.values(), [*outputs, *ports.dropped], "output"),
        ("--init", answers.init, inputs, "input"),
        ("--constant", answers.constants, inputs, "input"),
        ("--stream-input", answers.stream_inputs, inputs, "input"),
        ("--shape", answers.shapes, [*inputs, *outputs], "input or output"),
        ("--drop", answers.drop, [*outputs, *ports.dropped], "output"),
        ("--meaning", answers.meanings, outputs, "output"),
    ):
        for name in names:
            if name not in known:
                raise AdoptError(
                    f"{option} names `{name}`, which is no {kind}; there are "
                    + ", ".join(f"`{n}`" for n in known)
                )
    given_as = [answers.chunk, *answers.states, *answers.constants, *answers.stream_inputs]
    twice = [name for name in given_as if name is not None and given_as.count(name) > 1]
    if twice:
        raise AdoptError(f"`{twice[0]}` is one of chunk, state, constant and stream input, not two")


def check_numbers(answers: Answers) -> None:
    """Counts must be whole numbers within bounds and the others finite, or AdoptError is raised."""
    vocabulary = [] if answers.vocabulary is None else [answers.vocabulary]
    for option, counts, least, most in (
        ("--t", answers.t, 1, math.inf),
        ("--lookback", [answers.lookback], 0, MOST_LOOKBACK),
        ("--lookahead", [answers.lookahead], 0, MOST_LOOKBACK),
        ("--vocabulary", vocabulary, 1, math.inf),
    ):
        for count in counts:
            if not isinstance(count, int | np.integer) or count < least:
                raise AdoptError(f"{option} {count}: expected a whole number of {least} or more")
            if count > most:
                raise AdoptError(f"{option} {count}: expected at most {most:,} items")
    for option, fill in (("--lookback-fill", answers.lookback_fill), ("--pad", answers.pad_value)):
        if not math.isfinite(fill):
            raise AdoptError(f"{option} {fill}: expected a finite number")
    rate = answers.sample_rate_hz
    if rate is not None and not 0 < rate < math.inf:
        raise AdoptError(f"--sample-rate {rate}: expected a number above 0")


def check_use(chunk: Port | None, pairs: dict[str, str], answers: Answers) -> None:
    """Raise AdoptError for an answer that answers nothing, which is a mistake.

    Logits foretell token ids, and the outputs `mean` and `log_std` together features.
    """
    next_states = {*pairs.values()}
    for name in answers.shapes:
        if name in answers.constants:
            raise AdoptError(f"--shape {name}: a constant's value tells its shape")
        if name in next_states:
            raise AdoptError(f"--shape {name}: give the shape of the state's input instead")
    features = chunk is not None and chunk.dtype.startswith("float")
    heads = {name for name, meaning in answers.meanings.items() if meaning == "gaussian"}
    for name, meaning in answers.meanings.items():
        why = ""
        if name in next_states:
            raise AdoptError(f"--meaning {name}: a state's output goes to no reader")
        if meaning == "logits" and features:
            why = f"logits foretell token ids, the chunk {chunk} holds features"
        elif meaning == "gaussian" and chunk is not None and not features:
            why = f"a gaussian foretells features, the chunk {chunk} holds ids"
        elif meaning == "gaussian" and heads != {"mean", "log_std"}:
            why = "a gaussian is two outputs, `mean` and `log_std`; give both that meaning"
        if why:
            raise AdoptError(f"--meaning {name}={meaning}: {why}")
    if features and (answers.vocabulary is not None or answers.tokenizer == "bytes"):
        raise AdoptError(f"the chunk {chunk} holds features, which have no vocabulary")
    if answers.pad_value and answers.tail != "pad":
        raise AdoptError(f"--pad {answers.pad_value:g} needs --tail pad")
    if answers.lookback_fill and not answers.lookback:
        raise AdoptError(f"--lookback-fill {answers.lookback_fill:g} needs --lookback")


def checked_data(data: Array, dtype: str) -> Array:
    """Bring the first items to the chunk's dtype."""
    with np.errstate(over="ignore", invalid="ignore"):  # what does not fit is told by its place
        cast = data.astype(dtype)
    for held, what in (
        (data, "a NaN or an infinity"),
        (cast, f"a number that is too large for {dtype}"),
    ):
        bad = ~np.isfinite(held.reshape(len(held), -1).astype(np.float64)).all(axis=1)
        if bad.any():
            raise AdoptError(f"--data: item {int(np.argmax(bad)) + 1} holds {what}")
    return cast


def value_of(option: str, port: Port, shape: Shape, value: Array) -> Array:
    """Bring a value for one stream to the dtype of its port: one number, or a tensor with B = 1."""
    value, one = np.asarray(value), sized(shape, 1)
    if value.shape not in ((), one):
        raise AdoptError(
            f"{option} {port.name}: has shape {list(value.shape)}, expected one number or "
            f"{list(one)}"
        )
    return _held(f"{option} {port.name}", value, port.dtype)


def stream_shape(port: Port, shape: Shape) -> Shape:
    """Check the shape that the caller gave an input fixed per stream: sizes and at most one `B`."""
    if not agree(port.dims, shape) or "T" in shape or shape.count("B") > 1:
        raise AdoptError(
            f"--shape {port.name}: {','.join(map(str, shape))} does not fit {port}: "
            "expected its sizes in order, and at most one B; what is fixed per stream has no T"
        )
    return shape


def stream_value(port: Port, shape: Shape, value: Array | None) -> Array:
    """Bring an example of an input fixed per stream to its dtype; random numbers without one."""
    one = sized(shape, 1)
    if value is not None:
        return np.array(np.broadcast_to(value_of("--stream-input", port, shape, value), one))
    random = np.random.default_rng(1)
    drawn = random.normal(size=one) if port.dtype[0] == "f" else random.integers(0, 2, one)
    return np.asarray(drawn, port.dtype)


def constant_of(port: Port, value: Array) -> Array:
    """Bring a constant to the graph's dtype and shape; one number fills any shape that is known."""
    value = np.asarray(value)
    fills = not value.ndim and not (port.free and len(port.dims) > 1)
    if not fills and not agree(port.dims, value.shape):
        raise AdoptError(
            f"--constant {port.name}: has shape {list(value.shape)}, the input is {port}"
        )
    held = _held(f"--constant {port.name}", value, port.dtype)
    return np.full([d if isinstance(d, int) else 1 for d in port.dims], held) if fills else held


def _held(option: str, given: Array, dtype: str) -> Array:
    """Cast what was given, which must be finite, and be there still in the dtype that holds it."""
    if not np.isfinite(given.astype(np.float64)).all():
        raise AdoptError(f"{option}: holds a NaN or an infinity")
    with np.errstate(over="ignore", invalid="ignore"):
        held = given.astype(dtype)
    same = held.dtype.kind == "f" or bool((held == given).all())
    if not same or not np.isfinite(held.astype(np.float64)).all():
        raise AdoptError(f"{option}: {held.dtype} cannot hold {given}")
    return held
