"""A head that is tied to its embedding: one table on disk, and none made when the graph opens."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch

from dst.export import export_bundle
from dst.export.model import Config, Network, Tokens
from dst.quantize import quantize_bundle
from dst.runtime import Session

VOCABULARY, WIDTH = 1000, 64
TABLE_BYTES = 4 * VOCABULARY * WIDTH


@pytest.fixture(scope="module")
def tied_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    items = Tokens(VOCABULARY, tied=True)
    net = Network(Config(WIDTH, 1, 2, 16, 16, 2, 16, 16, 64, max_chunk=32, items=items)).eval()
    path = tmp_path_factory.mktemp("tied") / "tied"
    export_bundle(net, path, certify_steps=4)
    return path


def tables_of(path: Path) -> list[onnx.TensorProto]:
    """Return the initializers of a graph that have as many values as the table."""
    held = onnx.load(str(path), load_external_data=False).graph.initializer
    return [t for t in held if np.prod(t.dims) == VOCABULARY * WIDTH]


def place_of(tensor: onnx.TensorProto) -> str:
    """Return where in weights.bin a tensor begins."""
    return next((e.value for e in tensor.external_data if e.key == "offset"), "0")


def opened_tables(path: Path, to: Path) -> set[str]:
    """Return the names of the tables of a graph as ONNX Runtime has optimised it."""
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(to)
    options.log_severity_level = 4
    ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return {t.name for t in tables_of(to)}


@pytest.mark.parametrize("file", ["step.onnx", "any_t1.onnx"])
def test_opening_a_graph_makes_no_second_table(
    tied_bundle: Path, tmp_path: Path, file: str
) -> None:
    places = {t.name: place_of(t) for t in tables_of(tied_bundle / file)}
    assert len(places) == 2
    assert len(set(places.values())) == 1  # the same bytes of weights.bin
    assert opened_tables(tied_bundle / file, tmp_path / "opened.onnx") == places.keys()


def test_the_table_stands_once_on_disk(tied_bundle: Path) -> None:
    tensors = Network(Config(WIDTH, 1, 2, 16, 16, 2, 16, 16, 64, max_chunk=32)).state_dict()
    rest = sum(4 * t.numel() for n, t in tensors.items() if not n.startswith("head."))
    size = (tied_bundle / "weights.bin").stat().st_size
    assert TABLE_BYTES < size < TABLE_BYTES + rest + 4 * WIDTH * WIDTH + (1 << 16)


def test_the_last_item_is_answered_for_alone(tied_bundle: Path) -> None:
    stream, other = (Session.open(tied_bundle).stream() for _ in range(2))
    ids = np.random.default_rng(0).integers(0, VOCABULARY, (1, 8))
    every, last = stream.step(ids)["logits"], other.step(ids, last=True)["logits"]
    assert every.shape == (1, 8, VOCABULARY)
    assert np.abs(last.astype(np.float64) - every[:, -1:].astype(np.float64)).max() < 1e-5


@pytest.mark.parametrize("recipe", ["int8-rows", "int8-dynamic", "int4-weights"])
def test_a_quantized_head_reads_the_numbers_of_the_table(
    tied_bundle: Path, tmp_path: Path, recipe: str
) -> None:
    done = quantize_bundle(tied_bundle, tmp_path / "q", recipe)
    assert [r.tied for r in done.records if r.shape == (WIDTH, VOCABULARY)] == [True]
    for file in (tmp_path / "q").glob("*.onnx"):
        kinds = {(t.data_type, place_of(t)) for t in tables_of(file)}
        assert [kind for kind, _ in kinds] == [onnx.TensorProto.INT8], file
