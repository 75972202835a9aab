"""`dst adopt`: wrap a stateful ONNX file into a bundle, with what its options say of it."""

import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from dst.cli.errors import CHECK_FAILED, WRONG_USE, WrongUseError, needing
from dst.cli.options import (
    BundleName,
    Description,
    Json,
    License,
    Lookahead,
    Lookback,
    Out,
    Overwrite,
    Sizes,
    Tail,
    Tokenizer,
    Vocabulary,
    argument,
    option,
    sizes_of,
)
from dst.cli.output import Output, check_folder, check_paths, foreign

if TYPE_CHECKING:
    from dst.export import Adopted
    from dst.runtime.bundle.manifest import Chunk, State, StreamInput
    from dst.runtime.bundle.manifest import Output as Answer

Meaning = Literal["logits", "gaussian", "custom"]


def adopt(
    model: Annotated[Path, argument("MODEL.onnx", "A stateful ONNX file.")],
    out: Out,
    chunk: Annotated[
        str | None, option("--chunk", "NAME", "The input that takes the chunk.")
    ] = None,
    state: Annotated[
        list[str] | None, option("--state", "IN=OUT", "A state's input, and its output.")
    ] = None,
    init: Annotated[
        list[str] | None, option("--init", "IN=VALUE", "A state's start: a number or file.")
    ] = None,
    constant: Annotated[
        list[str] | None, option("--constant", "NAME=VALUE", "Never changes: 16000, 1,2 or a file.")
    ] = None,
    stream_input: Annotated[
        list[str] | None,
        option("--stream-input", "NAME[=VALUE]", "Given once, at a stream's start."),
    ] = None,
    shape: Annotated[
        list[str] | None, option("--shape", "NAME=B,T,80", "Its axes, in the file's order.")
    ] = None,
    drop: Annotated[list[str] | None, option("--drop", "NAME", "Leave this output out.")] = None,
    t: Sizes = None,
    lookback: Lookback = 0,
    lookahead: Lookahead = 0,
    lookback_fill: Annotated[
        float, option("--lookback-fill", "X", "What stands there at first; else 0.")
    ] = 0.0,
    tail: Tail = None,
    pad: Annotated[float, option("--pad", "X", "What --tail pad fills in; else 0.")] = 0.0,
    vocabulary: Vocabulary = None,
    tokenizer: Tokenizer = "none",
    meaning: Annotated[
        list[str] | None, option("--meaning", "OUT=WHAT", "logits, gaussian: of the next item.")
    ] = None,
    sample_rate: Annotated[float | None, option("--sample-rate", "HZ", "Items per second.")] = None,
    data: Annotated[
        Path | None, option("--data", "FILE.npy", "Items to try it on; else noise.")
    ] = None,
    model_of: Annotated[
        str | None, option("--model-of", "BUNDLE", "Keep its id, if the same model.")
    ] = None,
    within: Annotated[
        float | None, option("--within", "X", "With it, int8: error allowed: 0.1.")
    ] = None,
    name: BundleName = None,
    description: Description = "",
    license: License = "",
    overwrite: Overwrite = False,
    json: Json = None,
) -> int:
    """Wrap an existing stateful ONNX file into a bundle, without torch.

    What the graph does not tell is asked in one message, with the options that answer; they
    also set a wrong guess right. The file is run before anything is written. Exit code 1: a
    check failed; 2: a question is open. Lines with ! deserve a second look. Needs the extra
    onnx. docs/adopt.md tells all.

        dst adopt gru.onnx --out gru --t 1,16
        dst adopt vad.onnx --out vad --constant sr=16000 --t 512 --tail pad
        dst adopt lstm.onnx --out lstm --state h0=h1 --init c0=start.npy --t 1,32
    """
    output = Output.to(json)
    check_folder("--out", out)
    check_paths(output, {"FILE": model, "--data": data, "--out": out})
    with needing("adopt", "onnx"):
        from dst.cli.inputs.named import array_file, examples, named, value
        from dst.cli.inputs.named import shape as shape_of
        from dst.export import AdoptCheckError, Answers, OpenQuestionsError, adopt_bundle
    answers = Answers(
        chunk=chunk,
        states=named("--state", state, lambda name, text: text),
        init=named("--init", init, partial(value, "--init")),
        constants=named("--constant", constant, partial(value, "--constant")),
        stream_inputs=examples(stream_input),
        shapes=named("--shape", shape, shape_of),
        drop=drop or [],
        t=sizes_of(t),
        lookback=lookback,
        lookahead=lookahead,
        lookback_fill=lookback_fill,
        tail=tail,
        pad_value=pad,
        vocabulary=vocabulary,
        tokenizer=tokenizer,
        sample_rate_hz=sample_rate,
        meanings=named("--meaning", meaning, _meaning),
    )
    items = None if data is None else array_file("--data", data, "")
    try:
        with output.progress(f"adopt {model.name}", 1.0) as bar:
            adopted = adopt_bundle(
                model,
                out,
                answers,
                name=name or out.name,
                data=items,
                description=description,
                license=license,
                overwrite=overwrite,
                model_of=model_of,
                within=within,
                progress=bar.share,
            )
    except (OpenQuestionsError, AdoptCheckError) as error:
        sys.stderr.write(f"dst: {error}\n")  # open questions have lines: each names an option
        return WRONG_USE if isinstance(error, OpenQuestionsError) else CHECK_FAILED
    manifest = adopted.manifest
    made = output.wrote(out, manifest)
    _show(adopted, output)
    output.write_json(
        {
            **made,
            "worst": adopted.worst,
            "findings": adopted.findings,
            "contract": manifest.contract,
        }
    )
    return 0


def _meaning(name: str, text: str) -> Meaning:
    found: dict[str, Meaning] = {"logits": "logits", "gaussian": "gaussian", "custom": "custom"}
    if text not in found:
        raise WrongUseError(f"--meaning {name}={text}: expected logits, gaussian or custom")
    return found[text]


def _show(adopted: "Adopted", output: Output) -> None:
    """Print the contract of the new bundle, and what running the file has shown."""
    from dst.cli.verbs.show import starts_as

    out, contract = output.out, adopted.manifest.contract
    chunk = contract.chunk

    def tell(what: str, name: str, it: "Chunk | StreamInput | State | Answer", more: str) -> None:
        axes = ", ".join(map(str, it.shape))
        out.print(f"  {foreign(f'{what:9} {name} {it.dtype} [{axes}], {more}')}")

    more = f", lookback {chunk.lookback}" if chunk.lookback else ""
    more += f", look-ahead {chunk.lookahead}" if chunk.lookahead else ""
    more += "" if chunk.causal else ", non-causal"
    sizes = ", ".join(map(str, chunk.allowed_t))
    tell("chunk", f"`{chunk.input}`", chunk, f"T = {sizes}, tail {chunk.tail}{more}")
    for constant in contract.constants:
        values = ", ".join(map(str, constant.values[:8]))
        more = ", …" if len(constant.values) > 8 else ""
        out.print(f"  {foreign(f'constant  `{constant.input}` = {values}{more}')}")
    for given in contract.stream_inputs:
        tell("stream", f"`{given.input}`", given, "given once per stream")
    for state in contract.state:
        start = f"starts at {starts_as(state.init)}, {state.role}"
        tell("state", f"`{state.input}` -> `{state.output}`", state, start)
    for answer in contract.outputs:
        tell("output", f"`{answer.name}`", answer, f"one per {answer.per}")
    for finding in adopted.findings:
        mark = "[green]✓[/]" if finding.fine else "[yellow]![/]"
        out.print(f"  {mark} {foreign(finding.text)}")
    told = "bit for bit" if adopted.worst == 0 else f"to {adopted.worst:.0e} of its rms"
    out.print(f"  [green]✓[/] the bundle does what the file does, {told}")
