"""Hold what a caller says of an ONNX file, and write what is still to be asked as one message."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.generic]
Tail = Literal["exact", "pad", "refuse"]
Meaning = Literal["logits", "gaussian", "custom"]


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
    """One thing that the graph does not tell.

    Attributes:
        option: how it is answered, as an option of `dst adopt`.
        why: what is not known, and what may help to decide.
        guess: the answer that is most likely, to be added to the command as it is; the option up to
            the first wide gap where nothing is likelier.
        one_item: whether a chunk is one item by the guess, so that no tail need be known.
    """

    option: str
    why: str
    guess: str = ""
    one_item: bool = False


def spelled(where: str, questions: Sequence[Question], found: Sequence[str]) -> str:
    """Write all questions as one message, a line each, and below them what was found."""
    count = f"{len(questions)} questions are" if len(questions) > 1 else "one question is"
    lines = [f"{where}: {count} open; answer with"]
    for question in questions:
        lines += [f"  {question.option}", f"      {question.why}"]
    guesses = [question.guess or question.option.split("  ")[0] for question in questions]
    lines.append(f"for example, add: {' '.join(guesses)}")
    if found:
        lines.append(f"found so far: {'; '.join(found)}")
    return "\n".join(lines)
