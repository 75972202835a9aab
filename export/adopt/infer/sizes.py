"""Find the chunk sizes, the tail rule and the vocabulary, or ask for them.

Shape letters: `T` items per chunk.
"""

from __future__ import annotations

import onnx

from dst.export.adopt.infer.answers import Answers, Question
from dst.export.adopt.infer.layout import Placed
from dst.export.adopt.infer.ports import Port
from dst.export.errors import AdoptError
from dst.graphs.walk import attribute


def sizes_of(
    where: str, chunk: Placed | None, answers: Answers, questions: list[Question]
) -> tuple[int, ...]:
    """The T to run, from the file where its time axis is fixed.

    Raises:
        AdoptError: the caller's T, lookback, look-ahead or tail do not fit the file.
    """
    sizes = tuple(sorted(set(answers.t)))
    around = answers.lookback + answers.lookahead
    if chunk is None:
        one = any(question.one_item for question in questions)
        if answers.tail is None and not one and (1 not in sizes or answers.lookahead):
            questions.append(_tail("unless a chunk is one item"))
        return sizes
    name, dims = chunk.port.name, chunk.port.dims
    fixed = dims[chunk.own_shape.index("T")] if "T" in chunk.own_shape else 1 + around
    if isinstance(fixed, int):
        t = fixed - around
        if t < 1 or ("T" not in chunk.own_shape and around):
            said = f"--lookback {answers.lookback}"
            said += f" --lookahead {answers.lookahead}" if answers.lookahead else ""
            raise AdoptError(
                f"{where}: {said}: the chunk {chunk.port} leaves no room for an item besides"
            )
        if sizes not in ((), (t,)):
            beside = f" with lookback {answers.lookback}" if answers.lookback else ""
            beside += f" with look-ahead {answers.lookahead}" if answers.lookahead else ""
            raise AdoptError(
                f"{where}: --t {','.join(map(str, sizes))}: the chunk {chunk.port}{beside} runs "
                f"T = {t} only"
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
    if answers.tail is None and (1 not in sizes or answers.lookahead):
        when = f"a chunk is {sizes[-1]} items" if sizes else "unless --t holds 1"
        if answers.lookahead:
            when = f"the last items of a stream lack the {answers.lookahead} behind them"
        questions.append(_tail(when))
    if answers.tail == "exact" and sizes and 1 not in sizes:
        raise AdoptError(f"{where}: --tail exact needs 1 among the sizes of --t")
    if answers.tail == "exact" and answers.lookahead:
        raise AdoptError(
            f"{where}: --tail exact with --lookahead {answers.lookahead}: the last items of a "
            "stream have no items behind them; say --tail pad or --tail refuse"
        )
    return sizes


def _tail(when: str) -> Question:
    return Question(
        "--tail pad   or --tail refuse",
        f"{when}: are items that fill no chunk at the end padded (with --pad 0), or refused?",
    )


def vocabulary_of(
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
            return int(tables[node.input[0]][attribute(node, "axis", 0)])
    questions.append(
        Question(
            "--vocabulary N",
            f"the chunk {chunk} holds token ids: how many are there? (--tokenizer bytes: 256)",
        )
    )
    return None
