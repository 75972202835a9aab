"""Find the input that takes the chunk, its axes and sizes, the tail rule and the vocabulary.

What the graph does not tell is asked for.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import onnx
from onnx import numpy_helper

from dst.export.adopt.answers import Answers, Question
from dst.export.adopt.layout import Placed, given, is_batch, is_time, place_chunk
from dst.export.adopt.ports import Port, may_carry, words
from dst.export.errors import AdoptError
from dst.graphs.walk import attribute
from dst.runtime.bundle.manifest import Shape

MOST_NAMED = 4
"""As many outputs are listed that an input could become."""
CHUNK_NAMES = frozenset(
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
        [port for port in able if port.name.lower() in CHUNK_NAMES],
        [port for port in able if len(port.free) > 1],
        [port for port in able if not any(may_carry(port, o) for o in outputs)],
    ):
        if len(fitting) == 1:
            return fitting[0]
    return None


def which_chunk(inputs: Sequence[Port], able: Sequence[Port]) -> Question:
    """Ask which of the inputs that are left takes the chunk; the first of them is likeliest."""
    listed, likely = ", ".join(map(str, able or inputs)), (able or inputs)[0].name
    why = f"every input looks like a state or a constant; which one takes the chunk: {listed}?"
    if able:
        why = (
            f"which input takes the chunk: {listed}? Each other one is a --state, a --constant or "
            f"a --stream-input; what is asked below holds for `{likely}`"
        )
    return Question("--chunk NAME", why, guess=f"--chunk {likely}")


def what_are(ports: Sequence[Port], outputs: Sequence[Port]) -> list[Question]:
    """Ask what each input is that is left, and propose an output for those that fit one."""
    questions: list[Question] = []
    taken: set[str] = set()
    for port in ports:
        able = [output for output in outputs if may_carry(port, output)]
        shared = {o.name: len({*words(port.name)} & {*words(o.name)}) for o in able}
        able.sort(key=lambda output: (port.dims == output.dims, shared[output.name]), reverse=True)
        fitting = [output.name for output in able]
        likely = next((name for name in fitting if name not in taken), None)
        option, guess = f"--constant {port.name}=VALUE", ""
        if port.dims:
            option += f"   or --stream-input {port.name}"
            guess = f"--stream-input {port.name}"
        if fitting:
            more = ", …" if len(fitting) > MOST_NAMED else ""
            option += f"; or --state {port.name}=OUTPUT   ({', '.join(fitting[:MOST_NAMED])}{more})"
        if likely is not None:
            taken.add(likely)
            guess = f"--state {port.name}={likely}"
        why = f"the input {port} is neither chunk nor a state that a name tells"
        if port.dims and not any("for ever" in question.why for question in questions):
            why += (
                ": is it the same for ever (--constant), given once when a stream starts, as a "
                "speaker's vector (--stream-input), or the state before a step whose next value "
                "an output gives? New items in each step come in the chunk alone"
            )
        questions.append(Question(option, why, guess))
    return questions


def _with_width(model: onnx.ModelProto, port: Port) -> Port:
    """Give the last axis of a chunk its size, where it is free and the weights behind it tell.

    That is so for a recurrence and a product of matrices, which take features on the last axis.
    """
    if len(port.dims) < 2 or isinstance(port.dims[-1], int) or is_time(port.dims[-1]):
        return port
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    ranks = {port.name: len(port.dims)}  # of the values that hold the chunk, features last
    for node in model.graph.node:
        rank = ranks.get(node.input[0]) if node.input else None
        if rank is None:
            continue
        weight = weights.get(node.input[1]) if len(node.input) > 1 else None
        if node.op_type in ("Identity", "Cast"):
            ranks[node.output[0]] = rank
        elif node.op_type == "Unsqueeze" and weight is not None:
            axes = numpy_helper.to_array(weight)
            if ((axes >= 0) & (axes < rank + len(axes) - 1)).all():
                ranks[node.output[0]] = rank + len(axes)
        elif weight is not None and node.op_type in ("LSTM", "GRU", "RNN", "MatMul"):
            width = weight.dims[0 if node.op_type == "MatMul" else 2]
            return replace(port, dims=(*port.dims[:-1], width))
    return port


def _batch_names(
    ports: Sequence[Port], outputs: Sequence[Port], pairs: Mapping[str, str]
) -> frozenset[str]:
    """What states call an axis that is free: a state has no time, so that is the batch.

    An input counts as a state where a name tells, or where an output could be its next value.
    """
    found: set[str] = set()
    for port in ports:
        if port.name in pairs or any(may_carry(port, output) for output in outputs):
            names = [port.dims[axis] for axis in port.free]
            if len(names) == 1 and isinstance(names[0], str):
                found.add(names[0])
    return frozenset(found)


def place(
    model: onnx.ModelProto,
    port: Port,
    ports: Sequence[Port],
    outputs: Sequence[Port],
    pairs: Mapping[str, str],
    answers: Answers,
) -> Placed | Question:
    """Place the axes of the chunk, or ask for them; ``ports`` are the other inputs."""
    if port.name in answers.shapes:
        return shaped(port, answers, timed=True)
    port = _with_width(model, port)
    names = _batch_names(ports, outputs, pairs)
    states = [p for p in ports if p.dims and any(may_carry(p, output) for output in outputs)]
    batchless = bool(states) and not any(p.free or 1 in p.dims for p in states)
    around = answers.lookback + answers.lookahead
    if not around and (row := _row_of_numbers(port)) is not None:
        return _place_row(port, row, names, batchless, answers)
    length = answers.t[0] + around if len(answers.t) == 1 else None
    return place_chunk(port, names, length, batchless)


def _row_of_numbers(port: Port) -> int | None:
    """The one fixed axis of a chunk with at most one other: does it count items or features?"""
    numbers = [axis for axis, d in enumerate(port.dims) if isinstance(d, int) and d > 1]
    if len(numbers) != 1 or len(port.dims) > 2:
        return None
    return None if any(is_time(d) for d in port.dims) else numbers[0]


def _place_row(
    port: Port, axis: int, names: frozenset[str], batchless: bool, answers: Answers
) -> Placed | Question:
    """Tell a row of numbers: one item of so many features, so many items, or one of many items."""
    count = port.dims[axis]
    other = port.dims[1 - axis] if len(port.dims) == 2 else 1
    may_be_time = not isinstance(other, int) and not is_batch(other) and other not in names

    def spelled(row: int | str, rest: str) -> Shape:
        return tuple(row if i == axis else rest for i in range(len(port.dims)))

    number = int(count or 0)
    one, many, items = spelled(number, "B"), spelled("T", "B"), spelled(number, "T")
    if answers.t:
        shape = many  # its length is then told from T
        if answers.t != (count,) and may_be_time and (batchless or answers.t != (1,)):
            shape = items
        elif answers.t == (1,):
            shape = one
        return given(port, shape, timed=True)
    shapes = [items, one, many] if may_be_time and batchless else [one, many]
    shapes += [items] if may_be_time and not batchless else []
    told = [",".join(map(str, shape)) for shape in shapes]
    return Question(
        "   or ".join(f"--shape {port.name}={shape}" for shape in told),
        f"the chunk is {port}: is it one item of {count} features ({','.join(map(str, one))}), "
        f"or {count} items of one number ({','.join(map(str, many))}, with --tail pad or refuse)?",
        guess=f"--shape {port.name}={told[0]}",
        one_item=shapes[0] == one,
    )


def shaped(port: Port, answers: Answers, *, timed: bool = False, state: bool = False) -> Placed:
    """Take the shape that the caller gave a port, or raise AdoptError where it does not fit."""
    try:
        return given(port, answers.shapes[port.name], timed=timed, state=state)
    except ValueError as error:
        raise AdoptError(f"--shape {port.name}: {error}") from None


def sizes_of(chunk: Placed | None, answers: Answers, questions: list[Question]) -> tuple[int, ...]:
    """The T to run, from the file where its time axis is fixed."""
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
            raise AdoptError(f"{said}: the chunk {chunk.port} leaves no room for an item besides")
        if sizes not in ((), (t,)):
            beside = f" with lookback {answers.lookback}" if answers.lookback else ""
            beside += f" with look-ahead {answers.lookahead}" if answers.lookahead else ""
            raise AdoptError(
                f"--t {','.join(map(str, sizes))}: the chunk {chunk.port}{beside} runs T = {t} only"
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
        raise AdoptError("--tail exact needs 1 among the sizes of --t")
    if answers.tail == "exact" and answers.lookahead:
        raise AdoptError(
            f"--tail exact with --lookahead {answers.lookahead}: the last items of a "
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
