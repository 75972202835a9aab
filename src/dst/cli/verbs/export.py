"""`dst export`: load a torch module or make a network of ours, export it, say what was found."""

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import numpy.typing as npt
import typer

from dst.cli.data import held_out_ids, read_all
from dst.cli.errors import CHECK_FAILED, WrongUseError, needing
from dst.cli.inputs.hf_model import hf_data, hf_step, is_network
from dst.cli.inputs.user_module import Spec, load_module, states_of
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
    option,
    sizes_of,
)
from dst.cli.output import Output, check_folder, foreign
from dst.cli.paths import check_paths
from dst.runtime.bundle.manifest import Contract, Manifest
from dst.words import counted, mib

if TYPE_CHECKING:
    from dst.export import Step
    from dst.export.infer.axes import Known
    from dst.export.model import Network

Array = npt.NDArray[np.generic]
Material = tuple["Step", Array | None, str | None]
"""What to export, items to prove it on (None for random ones), and what they are."""

EXAMPLE_T = 16
"""Items of the example chunk where nobody says how many."""
MAX_SEED = 2**64 - 1  # what torch takes
OF_MODULE = (
    "--chunk, --state, --weights, --args, --lookback, --lookahead, --non-causal, --tail and "
    "--vocabulary"
)
"""What describes a user's module."""
HELD_OUT = "modules of Python's standard library, not trained on"


def export(
    out: Out,
    model: Annotated[
        str | None, typer.Argument(metavar="[FILE.py:NAME]", help="A class, function or instance.")
    ] = None,
    chunk: Annotated[
        str | None, option("--chunk", "SHAPE", "Of an example: B,T,40 or 1,16:int64.")
    ] = None,
    state: Annotated[
        list[str] | None, option("--state", "SHAPE", "Of each state: 2,B,64; else zeros.")
    ] = None,
    t: Sizes = None,
    data: Annotated[
        str | None, option("--data", "FILE", "Real items to prove it on; else random.")
    ] = None,
    weights: Annotated[Path | None, option("--weights", "FILE.pt", "A state dict.")] = None,
    arguments: Annotated[str | None, option("--args", "JSON", "What to make NAME with.")] = None,
    lookback: Lookback = 0,
    lookahead: Lookahead = 0,
    non_causal: Annotated[
        bool, typer.Option("--non-causal", help="Later items may move earlier answers.")
    ] = False,
    tail: Tail = None,
    vocabulary: Vocabulary = None,
    tokenizer: Tokenizer = "none",
    from_hf: Annotated[
        Path | None, option("--from-hf", "DIR", "Instead: what save_pretrained wrote.")
    ] = None,
    size: Annotated[
        str | None, option("--size", "NAME", "Our network: tiny small base 130m.")
    ] = None,
    checkpoint: Annotated[
        Path | None, option("--checkpoint", "FILE", "Its trained weights, under 'model'.")
    ] = None,
    seed: Annotated[int, option("--seed", "N", "Of random weights; 0 by default.")] = 0,
    name: BundleName = None,
    description: Description = "",
    license: License = "",
    certify_steps: Annotated[
        int, option("--certify-steps", "N", "Steps per certificate; else 1000.", least=1)
    ] = 1000,
    bound: Annotated[
        float | None, option("--bound", "X", "Accept errors above 1e-5; recorded.")
    ] = None,
    overwrite: Overwrite = False,
    json: Json = None,
) -> Callable[[], int]:
    """Export a torch module to a bundle, and prove that it does what torch does.

    The module takes (chunk, state) and returns (outputs, state); the rest is found by running
    it. NAME is a class, a function or an instance. FILE.py is run: export only what you trust.
    Weights are only read. Nothing is written unless all certificates hold. Needs the extra
    export; --from-hf (mamba, rwkv, xlstm …, tokenizer.json) needs hf too. docs/export.md tells
    all.

        dst export my_model.py:Model --chunk B,T,40 --t 1,16 --data a.csv --out mine
        dst export torch.nn:LSTM --args "[40, 64]" --chunk T,B,40 --t 1,16 --out lstm
        dst export --from-hf my-mamba --t 1,16 --out mamba
        dst export --size tiny --seed 0 --out tiny
    """
    output = Output.to(json)
    if not 0 <= seed <= MAX_SEED:
        raise WrongUseError(f"--seed {seed}: expected a whole number from 0 to {MAX_SEED}")
    check_folder("--out", out)
    reads = {
        "--checkpoint": checkpoint,
        "--weights": weights,
        "--from-hf": from_hf,
        "--data": data,
        "--out": out,
    }
    check_paths(output, reads)
    if [model, from_hf, size].count(None) != 2:
        raise WrongUseError(
            "give one of these: your module as FILE.py:NAME, --from-hf DIR, or --size for a "
            "network of ours"
        )
    of_module = bool(chunk or state or weights or arguments or vocabulary or tail) or bool(
        lookback or lookahead or non_causal
    )
    with needing("export", "export"):
        from dst.export import export_bundle
        from dst.export.certify import BOUND
        from dst.export.infer.axes import Known

    def load() -> Material:
        if from_hf is not None and not is_network(from_hf):
            if of_module or checkpoint:
                raise WrongUseError(
                    f"--from-hf has its own weights, chunk and state; {OF_MODULE} go with "
                    "FILE.py:NAME, --checkpoint with --size"
                )
            language = hf_step(from_hf, sizes_of(t))
            return (language, *hf_data(data, language))
        if model is None:
            if t or of_module or (from_hf and checkpoint):
                what = "--size makes" if from_hf is None else f"{from_hf} holds"
                knows = "chunk" if from_hf is None else "weights, chunk"
                more = "" if from_hf is None else ", --checkpoint with --size"
                raise WrongUseError(
                    f"{what} a network of ours, which knows its {knows} and state; --t, "
                    f"{OF_MODULE} go with FILE.py:NAME{more}"
                )
            network = _network(from_hf, size, seed, checkpoint)
            return (network, *_data(data, network.contract))
        if checkpoint is not None:
            raise WrongUseError("--checkpoint goes with --size; give --weights FILE.pt")
        if chunk is None:
            raise WrongUseError(
                "--chunk is missing: the shape of an example, such as --chunk B,T,40"
            )
        spec, states = Spec.read("--chunk", chunk), tuple(state or ())
        axes = {letter: spec.shape.index(letter) for letter in ("B", "T") if letter in spec.shape}
        known = Known(
            t=sizes_of(t) or None,
            batch_axis=axes.get("B"),
            time_axis=axes.get("T"),
            lookback=lookback,
            lookahead=lookahead,
            causal=not non_causal,
            tail=tail,
            vocabulary=vocabulary,
            tokenizer=tokenizer,
        )
        step = _module(model, arguments, weights, seed, spec, states, known)
        return (step, *_data(data, step.contract))

    write = partial(
        export_bundle,
        path=out,
        name=name or out.name,
        description=description,
        license=license,
        certify_steps=certify_steps,
        bound=BOUND if bound is None else bound,
        overwrite=overwrite,
    )
    return lambda: _export(load, write, out, output)


def _export(
    load: Callable[[], Material], write: "partial[Manifest]", out: Path, output: Output
) -> int:
    """Load or build the module, export and prove it, and return the exit code.

    Raises:
        DstError: the export failed or its certificates do not hold; nothing was written.
        WrongUseError: an option does not fit.
    """
    from dst.export import CertificateError
    from dst.export.certify import BOUND

    step, data, about = load()
    notes: list[str] = []
    try:
        with output.progress("export", 1.0) as bar:
            manifest = write(
                step,
                data=data,
                about_data=about,
                progress=lambda what, share: bar.at(share, what=what),
                tell=notes.append,
            )
    except CertificateError as error:
        sys.stderr.write(f"dst: {error}\n")
        return CHECK_FAILED
    parameters = sum(p.numel() for p in step.parameters())
    size = sum(file.size for file in manifest.files.values())
    output.out.print(
        f"[green]✓[/] wrote [bold]{foreign(str(out))}[/]: {parameters:,} parameters, {mib(size)}"
    )
    for note in notes:
        output.out.print(f"  {foreign(note)}")
    for g in manifest.graphs:
        sizes, rows = ", ".join(map(str, g.allowed_t)), "any B" if not g.batch else "B = 1"
        output.out.print(f"  {g.file}: {g.lowering}, T = {sizes}, {rows}")
    for c in manifest.certificates:
        raised = " (raised)" if c.bound > BOUND and c.bound == write.keywords["bound"] else ""
        output.out.print(
            f"  [green]✓[/] {foreign(c.name)}  [dim]worst {c.worst:.1e} of {c.bound:.0e}{raised} "
            f"over {counted(c.steps, 'step')} of {c.items_per_step}[/]"
        )
    output.write_json(
        {
            "path": str(out),
            "name": manifest.name,
            "bundle_id": manifest.bundle_id,
            "model_id": manifest.model_id,
            "bytes": size,
            "parameters": parameters,
            "certificates": manifest.certificates,
            "notes": notes,
        }
    )
    return 0


def _module(
    model: str,
    arguments: str | None,
    weights: Path | None,
    seed: int,
    spec: Spec,
    states: tuple[str, ...],
    known: "Known",
) -> "Step":
    """Load the user's module and find its contract."""
    import torch

    from dst.export.infer.infer import infer

    state = states_of(states)
    torch.manual_seed(seed)
    module = load_module(model, arguments, weights)
    around = known.lookback + known.lookahead
    example = spec.tensor(around + (max(known.t) if known.t else EXAMPLE_T))
    return infer(module, example, state, known)


def _network(saved: Path | None, size: str | None, seed: int, checkpoint: Path | None) -> "Network":
    """Load the network that was saved in the form of transformers, or make one of that size.

    One that is made has random weights, or those of a checkpoint.
    """
    import torch

    from dst.export.model import Network, load_checkpoint, sized

    if saved is not None:
        return load_checkpoint(saved)
    try:
        config = sized(str(size))
    except ValueError as error:
        raise WrongUseError(f"--size: {error}") from None
    torch.manual_seed(seed)
    network = Network(config)
    if checkpoint is None:
        return network
    try:
        held = torch.load(checkpoint, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception:  # whatever its readers raise; torch's own advice is to run what it holds
        raise WrongUseError(
            f"{checkpoint}: is no checkpoint; expected what torch.save writes of a dict "
            "with the weights under 'model', and in it tensors and plain values alone"
        ) from None
    if not isinstance(held, dict) or not isinstance(held.get("model"), dict):
        raise WrongUseError(f"{checkpoint}: expected a dict with the weights under 'model'")
    try:
        network.load_state_dict(held["model"])
    except RuntimeError as error:
        what = " ".join(str(error).split())[:200]
        raise WrongUseError(f"{checkpoint}: does not fit --size {size}: {what}") from None
    return network


def _data(data: str | None, contract: Contract) -> tuple[Array | None, str | None]:
    """Read the items to prove the graphs on, and say what they are; None for random ones."""
    if data is not None:
        return read_all(data, contract.chunk), Path(data).name
    text = held_out_ids(contract.chunk)
    return text, None if text is None else HELD_OUT
