"""Faults are planted in quantized bundles; each is refused by its golden runs, on any CPU.

The honest bundles pass, on CPUs whose kernels sum in another order too: those were recorded on a
CPU with AVX512-VNNI, and are replayed here on whatever runs the tests.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import safetensors.numpy
from msgspec.structs import replace
from onnx import TensorProto, numpy_helper
from tests.quantize.conftest import NOMINAL, VOCABULARY
from tests.raising import refused

from dst.cli.app import call
from dst.quantize import Calibration, quantize_bundle
from dst.quantize.rounding import packed4
from dst.quantize.verify import rounded_by_rows
from dst.runtime import open_bundle, replay_golden, write_bundle
from dst.runtime.errors import BundleError
from dst.runtime.golden import cost_error, golden_costs

Array = npt.NDArray[np.generic]
SHIPPED = ("text-int8", "text-int4")
CALIBRATION = Calibration.of_items(np.random.default_rng(3).integers(0, VOCABULARY, 400), streams=2)
Fault = Callable[["Weights", str], None]


class Weights:
    """The quantized weights of a graph, by the names of their whole numbers."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.held: dict[str, onnx.TensorProto] = {t.name: t for t in model.graph.initializer}
        kinds = (".int8", ".int4", ".block8")
        read = {n.input[0] for n in model.graph.node if n.op_type == "DequantizeLinear"}
        self.names: list[str] = [
            name for name in self.held if name.endswith(kinds) and name in read
        ]

    def scale_of(self, name: str) -> str:
        stem: str = name.rpartition(".")[0]
        return next(s for s in (f"{stem}.scale", f"{stem}.block_scale") if s in self.held)

    def get(self, name: str) -> Array:
        array = numpy_helper.to_array(self.held[name])
        four_bits = self.held[name].data_type == TensorProto.INT4
        return array.astype(np.int8) if four_bits else array.copy()

    def put(self, name: str, array: Array) -> None:
        if self.held[name].data_type == TensorProto.INT4:
            self.held[name].raw_data = packed4(array.astype(np.int8))
        else:
            self.held[name].CopyFrom(numpy_helper.from_array(np.ascontiguousarray(array), name))

    def twin(self, name: str) -> str:
        """Another weight of the same shape."""
        dims = self.held[name].dims
        return next(n for n in self.names if n != name and self.held[n].dims == dims)


def scale_off_by_a_tenth(weights: Weights, name: str) -> None:
    scale = weights.scale_of(name)
    weights.put(scale, np.multiply(weights.get(scale), np.float32(1.1)))


def swapped_weights(weights: Weights, name: str) -> None:
    other = weights.twin(name)
    for one, two in ((name, other), (weights.scale_of(name), weights.scale_of(other))):
        kept = weights.get(one)
        weights.put(one, weights.get(two))
        weights.put(two, kept)


def halves_of_rows_swapped(weights: Weights, name: str) -> None:
    rows = weights.get(name)
    weights.put(name, np.roll(rows, len(rows) // 2, axis=0))


def last_block_dropped(weights: Weights, name: str) -> None:
    values = weights.get(name)
    values[-32:] = 0
    weights.put(name, values)


def zero_point_off_by_one(weights: Weights, name: str) -> None:
    """A kernel that takes a wrong zero point does so in every product."""
    for each in weights.names:
        low, high = (-8, 7) if weights.held[each].data_type == TensorProto.INT4 else (-128, 127)
        weights.put(
            each, np.clip(weights.get(each).astype(np.int64) + 1, low, high).astype(np.int8)
        )


FAULTS: list[Fault] = [
    scale_off_by_a_tenth,
    halves_of_rows_swapped,
    last_block_dropped,
    zero_point_off_by_one,
]


def planted(source: str | Path, path: Path, fault: Fault | None, at: float = 0.0) -> Path:
    """Copy the graph for any T, with a fault in the weight at that share of the way through it."""
    bundle = open_bundle(source)
    graph = next(g for g in bundle.manifest.graphs if g.file == "step.onnx")
    model = onnx.load(str(bundle.root / graph.file))
    weights = Weights(model)
    if fault is not None:
        fault(weights, weights.names[int(at * (len(weights.names) - 1))])
    contract = bundle.manifest.contract
    chunk = replace(contract.chunk, allowed_t=graph.allowed_t, tail="refuse")
    golden = tuple(run for run in bundle.manifest.golden if run.t in graph.allowed_t)
    manifest = replace(
        bundle.manifest,
        contract=replace(contract, chunk=chunk),
        graphs=(graph,),
        golden=golden,
        quality=None,
        files={},
    )
    files = {name: bundle.root / name for name in {run.file for run in golden}}
    write_bundle(path, manifest, {graph.file: model.SerializeToString(), **files})
    return path


def passes(path: Path) -> bool:
    return all(check.passed for check in replay_golden(open_bundle(path)))


@pytest.mark.parametrize("name", SHIPPED)
def test_the_shipped_bundles_pass(name: str) -> None:
    checks = replay_golden(open_bundle(name))
    assert {check.measure for check in checks} == {"cost"}
    assert all(check.passed for check in checks)
    assert all(check.tolerance < 1.5 for check in checks)


def by_rows(path: Path, target: Path) -> Path:
    """Copy a bundle as a kernel would run it that rounds activations by rows and not by blocks."""
    bundle = open_bundle(path)
    files: dict[str, bytes | Path] = {name: bundle.root / name for name in bundle.manifest.files}
    models = {
        g.file: onnx.load(bundle.root / g.file, load_external_data=False)
        for g in bundle.manifest.graphs
    }
    assert any([rounded_by_rows(model) for model in models.values()])
    files |= {file: model.SerializeToString() for file, model in models.items()}
    write_bundle(target, replace(bundle.manifest, files={}), files)
    return target


def test_a_kernel_that_rounds_activations_otherwise_passes(
    plain_bundle: Path, tmp_path: Path
) -> None:
    made = quantize_bundle(plain_bundle, tmp_path / "q", "int4-weights").bundle
    for number, path in enumerate((made.root, open_bundle("text-int4").root)):
        other = by_rows(path, tmp_path / str(number))
        assert passes(other)
        assert max(max(check.errors.values()) for check in replay_golden(open_bundle(other))) > 0


@pytest.mark.parametrize("at", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", SHIPPED)
def test_a_fault_in_the_shipped_model_is_refused(
    name: str, fault: Fault, at: float, tmp_path: Path
) -> None:
    assert not passes(planted(name, tmp_path / "bad", fault, at))


@pytest.mark.parametrize("name", SHIPPED)
def test_weights_of_two_layers_that_are_swapped_are_refused(name: str, tmp_path: Path) -> None:
    assert not passes(planted(name, tmp_path / "bad", swapped_weights, 0.5))
    assert passes(planted(name, tmp_path / "good", None))


def test_the_command_refuses_a_fault(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = planted("text-int4", tmp_path / "bad", scale_off_by_a_tenth)
    assert call(["verify", str(bad)]) == 1
    assert "FAILED" in capsys.readouterr().out
    assert call(["verify", str(planted("text-int4", tmp_path / "good", None))]) == 0


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("recipe", ["int8-rows", "int8-static", "int8-weights", "int4-weights"])
def test_a_fault_in_another_model_is_refused(
    recipe: str, fault: Fault, plain_bundle: Path, tmp_path: Path
) -> None:
    quantize_bundle(plain_bundle, tmp_path / "q", recipe, calibration=CALIBRATION)
    assert passes(planted(tmp_path / "q", tmp_path / "good", None))
    assert not passes(planted(tmp_path / "q", tmp_path / "bad", fault))


# The measure itself


def test_a_cost_is_the_distance_from_full_precision() -> None:
    recorded: dict[str, Array] = {
        "stream/x": np.ones(2),
        "t4/chunk": np.zeros(4),
        "t4/out/y": np.array([3.0, 4.0]),
        "t4/state/h": np.ones(4),
    }
    full = recorded | {"t4/out/y": np.array([0.0, 0.0])}
    costs = golden_costs(recorded, full, 4)
    assert {name: float(cost) for name, cost in costs.items()} == {
        "t4/cost/out/y": 5.0,
        "t4/cost/state/h": 2e-3,  # it costs nothing: a thousandth of its size
    }
    found = np.array([3.0, 5.0], np.float32)
    assert cost_error(found, recorded["t4/out/y"], 5.0) == pytest.approx(0.2)
    assert cost_error(np.array([np.nan, 4.0]), recorded["t4/out/y"], 5.0) == np.inf
    assert cost_error(found, recorded["t4/out/y"], 0.0) == np.inf
    assert cost_error(found, found, 0.0) == 0.0


@pytest.mark.parametrize(
    ("cost", "words"),
    [
        (None, "is missing"),
        (np.array([1.0]), r"has shape \[1\], expected shape \[\]"),
        (np.array(1.0, np.float32), "in float32, expected a finite float64"),
        (np.array(-1.0), "is -1.0"),
        (np.array(np.nan), "is nan"),
    ],
)
def test_a_run_names_all_its_costs_or_none(
    cost: Array | None, words: str, plain_bundle: Path, tmp_path: Path
) -> None:
    bundle = quantize_bundle(plain_bundle, tmp_path / "q", "int8-rows").bundle
    tensors = dict(bundle.tensors("golden.safetensors"))
    name = f"t{NOMINAL}/cost/state/h"
    del tensors[name]
    if cost is not None:
        tensors[name] = cost
    files: dict[str, bytes | Path] = {n: bundle.root / n for n in bundle.manifest.files}
    files["golden.safetensors"] = safetensors.numpy.save(tensors)
    write_bundle(tmp_path / "bad", bundle.manifest, files)
    with refused(BundleError, "golden-tensors", match=words):
        replay_golden(open_bundle(tmp_path / "bad"))
