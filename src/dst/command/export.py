"""`dst export`: a named size and perhaps a checkpoint go in, a proved bundle comes out."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import numpy.typing as npt

from dst.command.apart import check_apart
from dst.command.demo import held_out
from dst.command.errors import WrongUseError, needing
from dst.command.output import Output, check_folder, foreign
from dst.command.rows import item_blocks
from dst.runtime.manifest import Certificate, Contract, Manifest, Tokens
from dst.words import counted

if TYPE_CHECKING:
    from torch import nn

    from dst.export.model import Network

HELD_OUT = "modules of Python's standard library, not trained on"


@dataclass(frozen=True, slots=True)
class Order:
    """What to export: see the options of `dst export`."""

    size: str
    seed: int
    checkpoint: Path | None
    out: Path
    name: str | None
    description: str
    license: str
    data: str | None
    certify_steps: int
    overwrite: bool


class Exported(msgspec.Struct, frozen=True):
    """The bundle that was written."""

    path: str
    name: str
    bundle_id: str
    model_id: str
    bytes: int
    parameters: int
    certificates: tuple[Certificate, ...]


def export(order: Order, output: Output) -> int:
    """Build the network, export and prove it, and return the exit code.

    Raises:
        DstError: the export failed or its certificates do not hold; nothing was written.
        WrongUseError: torch is missing, or an option does not fit.
    """
    check_folder("--out", order.out)
    reads = {"--checkpoint": order.checkpoint, "--data": order.data, "--out": order.out}
    check_apart(output, reads)
    with needing("export", "export"):
        from dst.export import export_bundle
    network = _network(order)
    data, about = _data(order, network.contract)
    with output.progress("export", 1.0) as bar:
        manifest = export_bundle(
            network,
            order.out,
            name=order.name or order.out.name,
            data=data,
            about_data=about,
            description=order.description,
            license=order.license,
            certify_steps=order.certify_steps,
            overwrite=order.overwrite,
            progress=lambda what, share: bar.at(share, what=what),
        )
    return told(order.out, network, manifest, output)


def told(out: Path, module: "nn.Module", manifest: Manifest, output: Output) -> int:
    """Say what was written, and return the exit code."""
    result = Exported(
        path=str(out),
        name=manifest.name,
        bundle_id=manifest.bundle_id,
        model_id=manifest.model_id,
        bytes=sum(f.size for f in manifest.files.values()),
        parameters=sum(p.numel() for p in module.parameters()),
        certificates=manifest.certificates,
    )
    size = f"{result.parameters / 1e6:.2f}M parameters, {result.bytes / 2**20:.1f} MiB"
    output.out.print(f"[green]✓[/] wrote [bold]{foreign(str(out))}[/]: {size}")
    for c in manifest.certificates:
        output.out.print(
            f"  [green]✓[/] {foreign(c.name)}  [dim]worst {c.worst:.1e} of {c.bound:.0e} over "
            f"{counted(c.steps, 'step')} of {c.items_per_step}[/]"
        )
    output.write_json(result)
    return 0


def _network(order: Order) -> "Network":
    """Make the network of that size, with random weights or those of a checkpoint."""
    import torch

    from dst.export.model import Network, sized

    try:
        config = sized(order.size)
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


def _data(order: Order, contract: Contract) -> tuple[npt.NDArray[np.generic], str]:
    """Read the items to prove the graphs on, and say what they are."""
    content = contract.chunk.content
    if order.data is not None:
        blocks = list(item_blocks(order.data, contract.chunk))
        if not sum(len(block) for block in blocks):
            raise WrongUseError(f"--data {order.data}: is empty")
        return np.concatenate(blocks), Path(order.data).name
    if not (isinstance(content, Tokens) and content.tokenizer == "bytes"):
        raise WrongUseError("--data FILE is needed: only models of bytes have items of their own")
    return np.frombuffer(held_out(), np.uint8).astype(contract.chunk.dtype), HELD_OUT
