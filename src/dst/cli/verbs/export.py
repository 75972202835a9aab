"""`dst export`: load a torch module or make a network of ours, export it, say what was found."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from dst.cli.errors import CHECK_FAILED, WrongUseError, needing
from dst.cli.inputs.rows import item_blocks
from dst.cli.output import Output, check_folder, foreign
from dst.cli.paths import check_apart
from dst.cli.verbs.adopt import sizes_of
from dst.cli.verbs.demo import held_out
from dst.runtime.bundle.manifest import Certificate, Contract, Tokens
from dst.words import counted, mib

if TYPE_CHECKING:
    from dst.export import Step
    from dst.export.model import Network

EXAMPLE_T = 16
"""Items of the example chunk where nobody says how many."""
OF_MODULE = (
    "--chunk, --state, --weights, --args, --lookback, --lookahead, --non-causal, --tail and "
    "--vocabulary"
)
"""What describes a user's module."""
HELD_OUT = "modules of Python's standard library, not trained on"


@dataclass(frozen=True, slots=True)
class Order:
    """What to export: see the options of `dst export`."""

    model: str | None
    chunk: str | None
    states: tuple[str, ...]
    t: str | None
    weights: Path | None
    arguments: str | None
    lookback: int
    lookahead: int
    causal: bool
    tail: Literal["exact", "pad", "refuse"] | None
    vocabulary: int | None
    tokenizer: Literal["bytes", "none"]
    size: str | None
    seed: int
    checkpoint: Path | None
    out: Path
    name: str | None
    description: str
    license: str
    data: str | None
    certify_steps: int
    bound: float | None
    overwrite: bool
    from_hf: Path | None = None

    @property
    def of_module(self) -> bool:
        """Whether something is given that describes a user's module."""
        asked = (self.chunk, self.states, self.weights, self.arguments, self.vocabulary, self.tail)
        return any(asked) or bool(self.lookback or self.lookahead) or not self.causal


class Exported(msgspec.Struct, frozen=True):
    """The bundle that was written; `notes` say what was found out about the module."""

    path: str
    name: str
    bundle_id: str
    model_id: str
    bytes: int
    parameters: int
    certificates: tuple[Certificate, ...]
    notes: tuple[str, ...]


def export(order: Order, output: Output) -> int:
    """Load or build the module, export and prove it, and return the exit code.

    Raises:
        DstError: the export failed or its certificates do not hold; nothing was written.
        WrongUseError: torch is missing, or an option does not fit.
    """
    check_folder("--out", order.out)
    reads = {
        "--checkpoint": order.checkpoint,
        "--weights": order.weights,
        "--from-hf": order.from_hf,
        "--data": order.data,
        "--out": order.out,
    }
    check_apart(output, reads)
    if [order.model, order.from_hf, order.size].count(None) != 2:
        raise WrongUseError(
            "give one of these: your module as FILE.py:NAME, --from-hf DIR, or --size for a "
            "network of ours"
        )
    with needing("export", "export"):
        from dst.export import CertificateError, export_bundle
        from dst.export.certify import BOUND
    step, data, about = _material(order)
    notes: list[str] = []
    try:
        with output.progress("export", 1.0) as bar:
            manifest = export_bundle(
                step,
                order.out,
                name=order.name or order.out.name,
                data=data,
                about_data=about,
                description=order.description,
                license=order.license,
                certify_steps=order.certify_steps,
                bound=BOUND if order.bound is None else order.bound,
                overwrite=order.overwrite,
                progress=lambda what, share: bar.at(share, what=what),
                tell=notes.append,
            )
    except CertificateError as error:
        sys.stderr.write(f"dst: {error}\n")
        return CHECK_FAILED
    result = Exported(
        path=str(order.out),
        name=manifest.name,
        bundle_id=manifest.bundle_id,
        model_id=manifest.model_id,
        bytes=sum(f.size for f in manifest.files.values()),
        parameters=sum(p.numel() for p in step.parameters()),
        certificates=manifest.certificates,
        notes=tuple(notes),
    )
    size = f"{result.parameters:,} parameters, {mib(result.bytes)}"
    output.out.print(f"[green]✓[/] wrote [bold]{foreign(str(order.out))}[/]: {size}")
    for note in notes:
        output.out.print(f"  {foreign(note)}")
    for g in manifest.graphs:
        sizes, rows = ", ".join(map(str, g.allowed_t)), "any B" if not g.batch else "B = 1"
        output.out.print(f"  {g.file}: {g.lowering}, T = {sizes}, {rows}")
    for c in manifest.certificates:
        output.out.print(
            f"  [green]✓[/] {foreign(c.name)}  [dim]worst {c.worst:.1e} of {c.bound:.0e}"
            f"{' (raised)' if BOUND < c.bound == order.bound else ''} over "
            f"{counted(c.steps, 'step')} of {c.items_per_step}[/]"
        )
    output.write_json(result)
    return 0


def _material(order: Order) -> tuple["Step", npt.NDArray[np.generic] | None, str | None]:
    """Return what to export, items to prove it on (None for random ones) and what they are."""
    if order.from_hf is not None:
        from dst.cli.inputs.hf_model import hf_data, hf_step, is_network

        if is_network(order.from_hf):
            network = _saved_network(order, order.from_hf)
            return (network, *_data(order, network.contract))
        language = hf_step(order, order.from_hf)
        return (language, *hf_data(order, language))
    step = _network(order) if order.model is None else _module(order)
    return (step, *_data(order, step.contract))


def _module(order: Order) -> "Step":
    """Load the user's module and find its contract."""
    import torch

    from dst.cli.inputs.user_module import Spec, load_module, states_of
    from dst.export.infer.contract import Known
    from dst.export.infer.infer import infer

    if order.checkpoint is not None:
        raise WrongUseError("--checkpoint goes with --size; give --weights FILE.pt")
    if order.chunk is None:
        raise WrongUseError("--chunk is missing: the shape of an example, such as --chunk B,T,40")
    sizes = sizes_of(order.t)
    spec = Spec.read("--chunk", order.chunk)
    state = states_of(order.states)
    torch.manual_seed(order.seed)
    assert order.model is not None
    module = load_module(order.model, order.arguments, order.weights)
    letters = {letter: spec.shape.index(letter) for letter in ("B", "T") if letter in spec.shape}
    around = order.lookback + order.lookahead
    example = spec.tensor(around + (max(sizes) if sizes else EXAMPLE_T))
    return infer(
        module,
        example,
        state,
        Known(
            t=sizes or None,
            batch_axis=letters.get("B"),
            time_axis=letters.get("T"),
            lookback=order.lookback,
            lookahead=order.lookahead,
            causal=order.causal,
            tail=order.tail,
            vocabulary=order.vocabulary,
            tokenizer=order.tokenizer,
        ),
    )


def _saved_network(order: Order, source: Path) -> "Network":
    """Load a network of ours from a directory in the form of transformers."""
    from dst.export.model import load_checkpoint

    if order.t or order.checkpoint or order.of_module:
        raise WrongUseError(
            f"{source} holds a network of ours, which knows its weights, chunk and state; --t, "
            f"{OF_MODULE} go with FILE.py:NAME, --checkpoint with --size"
        )
    return load_checkpoint(source)


def _network(order: Order) -> "Network":
    """Make the network of that size, with random weights or those of a checkpoint."""
    import torch

    from dst.export.model import Network, sized

    if order.t or order.of_module:
        raise WrongUseError(
            "--size makes a network of ours, which knows its chunk and state; --t, "
            f"{OF_MODULE} go with FILE.py:NAME"
        )
    try:
        config = sized(str(order.size))
    except ValueError as error:
        raise WrongUseError(f"--size: {error}") from None
    torch.manual_seed(order.seed)
    network = Network(config)
    if order.checkpoint is None:
        return network
    try:
        held = torch.load(order.checkpoint, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception:  # whatever its readers raise; torch's own advice is to run what it holds
        raise WrongUseError(
            f"{order.checkpoint}: is no checkpoint; expected what torch.save writes of a dict "
            "with the weights under 'model', and in it tensors and plain values alone"
        ) from None
    if not isinstance(held, dict) or not isinstance(held.get("model"), dict):
        raise WrongUseError(f"{order.checkpoint}: expected a dict with the weights under 'model'")
    try:
        network.load_state_dict(held["model"])
    except RuntimeError as error:
        what = " ".join(str(error).split())[:200]
        raise WrongUseError(
            f"{order.checkpoint}: does not fit --size {order.size}: {what}"
        ) from None
    return network


def _data(order: Order, contract: Contract) -> tuple[npt.NDArray[np.generic] | None, str | None]:
    """Read the items to prove the graphs on, and say what they are; None for random ones."""
    content = contract.chunk.content
    if order.data is not None:
        blocks = list(item_blocks(order.data, contract.chunk))
        if not sum(len(block) for block in blocks):
            raise WrongUseError(f"--data {order.data}: is empty")
        return np.concatenate(blocks), Path(order.data).name
    if not (isinstance(content, Tokens) and content.tokenizer == "bytes"):
        return None, None
    return np.frombuffer(held_out(), np.uint8).astype(contract.chunk.dtype), HELD_OUT
