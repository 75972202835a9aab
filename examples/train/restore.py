"""Read the weights of a network back from its bundle, to train it further.

An export keeps every parameter of `Network` under its own name, some of them transposed; the taps
of the convolutions and the decays (`A_log`) are found by the order of the layers.
"""

from pathlib import Path

import onnx
import torch
from onnx import numpy_helper
from torch import Tensor

from dst.export.model import Network
from dst.runtime import open_bundle


def restore(network: Network, bundle: str | Path) -> None:
    """Give a network the weights of a float32 bundle of the same sizes.

    Raises:
        SystemExit: a weight is missing, or of another size.
    """
    root = open_bundle(bundle).root
    graph = onnx.load(root / "step.onnx").graph
    found = {i.name: torch.tensor(numpy_helper.to_array(i)) for i in graph.initializer}
    taps = [name for name in found if name.startswith("select_")]
    decays = [name for name in found if name == "neg" or name.startswith("neg_")]
    weights: dict[str, Tensor] = {}
    for name, own in network.state_dict().items():
        part = name.rpartition(".")[2]
        layer = int(name.split(".")[1]) if name.startswith("layers.") else 0
        if part == "conv":
            count = own.shape[1]
            columns = [found[tap].flatten() for tap in taps[layer * count : (layer + 1) * count]]
            value = torch.stack(columns, 1) if len(columns) == count else None
        elif part == "A_log":
            value = (-found[decays[layer]]).log() if layer < len(decays) else None
        else:
            value = found.get(name)
        if value is not None and value.shape != own.shape:
            value = value.T
        if value is None or value.shape != own.shape:
            raise SystemExit(f"restore: {bundle} has no `{name}` of {list(own.shape)}")
        weights[name] = value.contiguous()
    network.load_state_dict(weights)
