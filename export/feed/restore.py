"""Read the weights of the shipped feed model back from its bundle, to train it further."""

from pathlib import Path

import onnx
import torch
from onnx import numpy_helper
from torch import Tensor

from dst.export.errors import ExportError
from dst.export.feed.network import Feed
from dst.runtime.bundle.reader import open_bundle


def shipped_feed() -> Feed:
    """Return the shipped model of one column, uncalibrated.

    Raises:
        BundleNotFoundError: it is not shipped with this installation.
        ExportError: ``feed-weights``: its graph does not hold a weight under its name.
    """
    return restored(Feed(), "feed")


def restored(model: Feed, bundle: str | Path) -> Feed:
    """Give a model the weights of a float32 bundle of the same sizes, and return it.

    An export keeps every parameter under its own name, some of them transposed. The taps of the
    convolutions and the decays (``A_log``) are folded; they are found by the order of the layers.

    Raises:
        ExportError: ``feed-weights``: a weight is missing, or of another size.
    """
    root = open_bundle(bundle).root
    graph = onnx.load(root / "step.onnx").graph
    found = {i.name: torch.tensor(numpy_helper.to_array(i)) for i in graph.initializer}
    weights: dict[str, Tensor] = {}
    for name, own in model.state_dict().items():
        part = name.rpartition(".")[2]
        layer = int(name.split(".")[2]) if ".layers." in name else 0
        value = found.get(name)
        if part == "conv":
            taps = [t for n, t in found.items() if n.startswith("select") and t.numel() == len(own)]
            columns = taps[layer * own.shape[1] : (layer + 1) * own.shape[1]]
            value = torch.stack([tap.flatten() for tap in columns], 1) if columns else None
        elif part == "A_log":
            decays = [t for n, t in found.items() if n.startswith("neg") and t.shape == own.shape]
            value = (-decays[layer]).log() if layer < len(decays) else None
        if value is not None and value.shape != own.shape:
            value = value.T
        if value is None or value.shape != own.shape:
            raise ExportError(
                f"bundle {bundle}: step.onnx holds no `{name}` of {list(own.shape)}; expected a "
                "float32 bundle of a feed model of the same sizes",
                code="feed-weights",
            )
        weights[name] = value.contiguous()
    model.load_state_dict(weights)
    return model
