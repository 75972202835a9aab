"""Load a DST network from a directory that a thin model class of transformers has saved.

transformers itself is not needed: config.json holds the fields of ``Config`` beside ``"model_type":
"dst"``, and the weights are safetensors under the names of ``Network.state_dict()``.
"""

import json
from pathlib import Path

import msgspec
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from dst.export.errors import ExportError
from dst.export.model.config import Config, Gaussian, Quantiles, Tokens
from dst.export.model.network import Network

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"


def load_checkpoint(path: str | Path) -> Network:
    """Load a network with its weights.

    Args:
        path: A directory with ``config.json`` and ``model.safetensors``, or the weights in parts
            with their index. The field ``items`` of the config is an object: with ``levels`` it is
            read as ``Quantiles``, with ``features`` as ``Gaussian``, else as ``Tokens``. Where the
            names of the weights all begin with that of one attribute (``network.``), it is left
            out.

    Returns:
        The network, in evaluation mode, its weights in float32.

    Raises:
        ExportError: `hugging-face`: a file is missing or broken, or the weights do not fit the
            config.
    """
    root = Path(path)
    network = _network(root / "config.json")
    weights = _weights(root)
    expected = network.state_dict()
    if not weights.keys() & expected.keys():
        weights = {name.partition(".")[2]: tensor for name, tensor in weights.items()}
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        what = " ".join(str(error).split())[:200]
        raise ExportError(
            f"{root}: the weights do not fit config.json: {what}", code="hf-no-weights"
        ) from None
    return network.float().eval()


def _network(file: Path) -> Network:
    try:
        held = json.loads(file.read_bytes())
        if not isinstance(held, dict) or held.get("model_type") != "dst":
            raise ExportError(f'{file}: expected "model_type": "dst"', code="hf-no-config")
        items = held.get("items") or {}
        kind = Quantiles if "levels" in items else Gaussian if "features" in items else Tokens
        fields = {name: held[name] for name in Config.__dataclass_fields__ if name in held}
        return Network(Config(**fields | {"items": msgspec.convert(items, kind)}))
    except (ValueError, TypeError, RuntimeError, OSError) as error:
        raise ExportError(
            f"{file}: expected the fields of Config beside model_type; came: {error}",
            code="hf-no-config",
        ) from None


def _weights(root: Path) -> dict[str, Tensor]:
    files = [root / WEIGHTS]
    try:
        if not files[0].is_file() and (root / INDEX).is_file():
            parts = json.loads((root / INDEX).read_bytes())["weight_map"].values()
            files = [root / str(name) for name in sorted(set(parts))]
        return {name: t.to(torch.float32) for file in files for name, t in load_file(file).items()}
    except FileNotFoundError as error:
        raise ExportError(
            f"{root}: has no weights; expected {WEIGHTS}, or its parts and {INDEX}: {error}",
            code="hf-no-weights",
        ) from None
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ExportError(
            f"{root}: the weights cannot be read: {error}", code="hf-no-weights"
        ) from None
