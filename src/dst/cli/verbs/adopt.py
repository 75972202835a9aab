"""`dst adopt`: wrap a stateful ONNX file and what was said of it into a bundle."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt
import safetensors.numpy

from dst.cli.errors import CHECK_FAILED, WRONG_USE, WrongUseError, needing
from dst.cli.output import Output, check_folder, foreign
from dst.cli.paths import check_apart
from dst.runtime.bundle.manifest import Constant, Contract, Fill, State, Zeros
from dst.runtime.bundle.manifest import Output as Answer
from dst.words import mib

if TYPE_CHECKING:
    from dst.export import Answers

Array = npt.NDArray[np.generic]
Meaning = Literal["logits", "gaussian", "custom"]
Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Order:
    """What to adopt, and what was said of it: see the options of `dst adopt`."""

    model: Path
    out: Path
    chunk: str | None
    states: Sequence[str]
    inits: Sequence[str]
    constants: Sequence[str]
    stream_inputs: Sequence[str]
    shapes: Sequence[str]
    drop: Sequence[str]
    t: str | None
    lookback: int
    lookahead: int
    lookback_fill: float
    tail: Literal["exact", "pad", "refuse"] | None
    pad: float
    vocabulary: int | None
    tokenizer: Literal["bytes", "none"]
    meanings: Sequence[str]
    sample_rate_hz: float | None
    data: Path | None
    model_of: str | None
    within: float | None
    name: str | None
    description: str
    license: str
    overwrite: bool


class Remark(msgspec.Struct, frozen=True):
    """One thing that running the file has shown; not fine where it deserves a second look."""

    text: str
    fine: bool


class AdoptedFile(msgspec.Struct, frozen=True):
    """The bundle that was written; `worst` is its error against the file, 0 for bit for bit."""

    path: str
    name: str
    bundle_id: str
    model_id: str
    bytes: int
    worst: float
    findings: tuple[Remark, ...]
    contract: Contract


def adopt(order: Order, output: Output) -> int:
    """Wrap the file into a bundle, and return the exit code: 1 where it is no such step.

    Raises:
        DstError: the file cannot be adopted as asked; nothing was written.
        WrongUseError: onnx is missing, or an option cannot be read.
    """
    check_folder("--out", order.out)
    check_apart(output, {"FILE": order.model, "--data": order.data, "--out": order.out})
    with needing("adopt", "onnx"):
        from dst.export import AdoptCheckError, OpenQuestionsError, adopt_bundle
    answers = _answers(order)
    data = None if order.data is None else _file("--data", order.data, "")
    try:
        with output.progress(f"adopt {order.model.name}", 1.0) as bar:
            adopted = adopt_bundle(
                order.model,
                order.out,
                answers,
                name=order.name or order.out.name,
                data=data,
                description=order.description,
                license=order.license,
                overwrite=order.overwrite,
                model_of=order.model_of,
                within=order.within,
                progress=lambda what, share: bar.at(share, what=what),
            )
    except OpenQuestionsError as error:
        sys.stderr.write(f"dst: {error}\n")  # lines of its own: each names an option
        return WRONG_USE
    except AdoptCheckError as error:
        sys.stderr.write(f"dst: {error}\n")
        return CHECK_FAILED
    manifest = adopted.manifest
    result = AdoptedFile(
        path=str(order.out),
        name=manifest.name,
        bundle_id=manifest.bundle_id,
        model_id=manifest.model_id,
        bytes=sum(f.size for f in manifest.files.values()),
        worst=adopted.worst,
        findings=tuple(Remark(f.text, f.fine) for f in adopted.findings),
        contract=manifest.contract,
    )
    _show(result, output)
    output.write_json(result)
    return 0


def _answers(order: Order) -> "Answers":
    from dst.export import Answers

    return Answers(
        chunk=order.chunk,
        states=_named("--state", order.states, lambda name, text: text),
        init=_named("--init", order.inits, lambda name, text: _value("--init", name, text)),
        constants=_named(
            "--constant", order.constants, lambda name, text: _value("--constant", name, text)
        ),
        stream_inputs=_stream_inputs(order.stream_inputs),
        shapes=_named("--shape", order.shapes, _shape),
        drop=order.drop,
        t=sizes_of(order.t),
        lookback=order.lookback,
        lookahead=order.lookahead,
        lookback_fill=order.lookback_fill,
        tail=order.tail,
        pad_value=order.pad,
        vocabulary=order.vocabulary,
        tokenizer=order.tokenizer,
        sample_rate_hz=order.sample_rate_hz,
        meanings=_named("--meaning", order.meanings, _meaning),
    )


def _named(
    option: str, given: Sequence[str], read: Callable[[str, str], Value]
) -> dict[str, Value]:
    """Read `NAME=TEXT` options, each name once."""
    found: dict[str, Value] = {}
    for text in given:
        name, equals, rest = text.partition("=")
        if not name or not equals:
            raise WrongUseError(f"{option} {text}: expected a name, `=` and what it is")
        if name in found:
            raise WrongUseError(f"{option} {text}: `{name}` was given before")
        found[name] = read(name, rest)
    return found


def _stream_inputs(given: Sequence[str]) -> dict[str, Array | None]:
    """Read `NAME` or `NAME=EXAMPLE` options, each name once."""
    bare = [text for text in given if "=" not in text]
    found: dict[str, Array | None] = dict(
        _named(
            "--stream-input",
            [text for text in given if "=" in text],
            lambda name, text: _value("--stream-input", name, text),
        )
    )
    for name in bare:
        if not name or name in found:
            raise WrongUseError(f"--stream-input {name}: expected a name, each once")
        found[name] = None
    return found


def _value(option: str, name: str, text: str) -> Array:
    """Read numbers with commas, or a tensor file; one number gives an array without axes."""
    if text.endswith((".npy", ".safetensors")):
        return _file(f"{option} {name}", Path(text), name)
    truths = {"true": 1, "false": 0}
    try:
        values = [truths[p] if p in truths else _number(p) for p in text.lower().split(",")]
    except ValueError:
        raise WrongUseError(
            f"{option} {name}={text}: expected a number, numbers with commas, or the name of a "
            ".npy or .safetensors file"
        ) from None
    found = np.asarray(values if len(values) > 1 else values[0])
    if found.dtype == object:
        raise WrongUseError(f"{option} {name}={text}: holds a number that no tensor can hold")
    return found


def _number(text: str) -> int | float:
    try:
        return int(text)
    except ValueError:
        return float(text)


def _file(option: str, path: Path, name: str) -> Array:
    """Read an array from a .npy file, or the tensor `name` from a .safetensors file."""
    try:
        if path.suffix == ".npy":
            value: Array = np.load(path, allow_pickle=False)
        else:
            value = safetensors.numpy.load(path.read_bytes())[name]
    except KeyError:
        raise WrongUseError(f"{option}: {path} has no tensor `{name}`") from None
    except (ValueError, EOFError, safetensors.SafetensorError) as error:
        raise WrongUseError(f"{option}: {path} is no file of numbers: {error}") from None
    if value.dtype.kind not in "fiub":
        raise WrongUseError(f"{option}: {path} holds {value.dtype}, expected numbers")
    return value


def _shape(name: str, text: str) -> tuple[int | str, ...]:
    """Read `B,T,80`; nothing at all is the shape of a single number."""
    try:
        parts = [part.strip() for part in text.split(",")] if text else []
        return tuple(part.upper() if part.upper() in ("B", "T") else int(part) for part in parts)
    except ValueError:
        raise WrongUseError(
            f"--shape {name}={text}: expected B, T and sizes with commas, for example B,T,80"
        ) from None


def sizes_of(text: str | None) -> tuple[int, ...]:
    """Read `1,16`.

    Raises:
        WrongUseError: it holds anything but sizes.
    """
    try:
        sizes = tuple(int(part) for part in text.split(",")) if text is not None else ()
    except ValueError:
        sizes = (0,)
    if any(t < 1 for t in sizes):
        raise WrongUseError(f"--t {text}: expected sizes of 1 or more with commas, as in 1,16")
    return sizes


def _meaning(name: str, text: str) -> Meaning:
    found: dict[str, Meaning] = {"logits": "logits", "gaussian": "gaussian", "custom": "custom"}
    if text not in found:
        raise WrongUseError(f"--meaning {name}={text}: expected logits, gaussian or custom")
    return found[text]


def _show(result: AdoptedFile, output: Output) -> None:
    out, contract = output.out, result.contract
    out.print(f"[green]✓[/] wrote [bold]{foreign(result.path)}[/]: {mib(result.bytes)}")
    chunk = contract.chunk
    lines = [
        f"chunk     `{chunk.input}` {chunk.dtype} {_axes(chunk.shape)}, T = "
        f"{', '.join(map(str, chunk.allowed_t))}, tail {chunk.tail}"
        + (f", lookback {chunk.lookback}" if chunk.lookback else "")
        + (f", look-ahead {chunk.lookahead}" if chunk.lookahead else "")
        + ("" if chunk.causal else ", non-causal")
    ]
    lines += [f"constant  {_constant(constant)}" for constant in contract.constants]
    lines += [
        f"stream    `{given.input}` {given.dtype} {_axes(given.shape)}, given once per stream"
        for given in contract.stream_inputs
    ]
    lines += [f"state     {_state(state)}" for state in contract.state]
    lines += [f"output    {_answer(answer)}" for answer in contract.outputs]
    for line in lines:
        out.print(f"  {foreign(line)}")
    for finding in result.findings:
        mark = "[green]✓[/]" if finding.fine else "[yellow]![/]"
        out.print(f"  {mark} {foreign(finding.text)}")
    told = "bit for bit" if result.worst == 0 else f"to {result.worst:.0e} of its rms"
    out.print(f"  [green]✓[/] the bundle does what the file does, {told}")


def _axes(shape: Sequence[int | str]) -> str:
    return f"[{', '.join(map(str, shape))}]"


def _constant(constant: Constant) -> str:
    shown = ", ".join(map(str, constant.values[:8])) + (", …" if len(constant.values) > 8 else "")
    return f"`{constant.input}` = {shown}"


def _state(state: State) -> str:
    if isinstance(state.init, Zeros):
        start = "zeros"
    else:
        start = f"{state.init.value:g}" if isinstance(state.init, Fill) else "a stored tensor"
    return (
        f"`{state.input}` -> `{state.output}` {state.dtype} {_axes(state.shape)}, starts at "
        f"{start}, {state.role}"
    )


def _answer(answer: Answer) -> str:
    return f"`{answer.name}` {answer.dtype} {_axes(answer.shape)}, one per {answer.per}"
