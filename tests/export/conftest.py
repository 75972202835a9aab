"""A tiny random network exported once for all tests of the exporter."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from dst.export import export_bundle
from dst.export.model import Network, sized

TEXT = Path(__file__).parents[2] / "src" / "dst" / "heldout" / "stdlib.txt"


@pytest.fixture(scope="session")
def text() -> npt.NDArray[np.int64]:
    """Real bytes as items, ``[n]``."""
    return np.frombuffer(TEXT.read_bytes(), np.uint8).astype(np.int64)


@pytest.fixture(scope="session")
def tiny_network() -> Network:
    torch.manual_seed(0)
    return Network(sized("tiny")).eval()


@pytest.fixture(scope="session")
def tiny_bundle(
    tiny_network: Network, text: npt.NDArray[np.int64], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The network's bundle, with certificates over 100 steps."""
    path = tmp_path_factory.mktemp("bundles") / "tiny"
    export_bundle(
        tiny_network, path, name="tiny", data=text, about_data="held-out text", certify_steps=100
    )
    return path
