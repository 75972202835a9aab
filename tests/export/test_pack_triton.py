"""A model repository does what the bundle does, as Triton's sequence batcher drives it."""

import re
from collections.abc import Iterator
from importlib.metadata import distribution
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import pytest
import torch

from dst.export import export_bundle
from dst.export.pack import pack_bundle
from dst.export.pack.triton import MAX_BATCH
from dst.runtime import Session, open_bundle
from dst.runtime.bundle.layout import laid_out, sized
from dst.runtime.bundle.reader import shipped

SUITE = Path(__file__).resolve().parents[1] / "conformance/bundles"
TYPES = {"FP16": "float16", "FP32": "float32", "FP64": "float64", "UINT8": "uint8", "BOOL": "bool"}
TYPES |= {"INT8": "int8", "INT32": "int32", "INT64": "int64"}
Array = npt.NDArray[Any]
Config = dict[str, list[Any]]


def parsed(text: str) -> Config:
    """Read the form of a configuration that is written here: one field or one brace a line."""
    top: Config = {}
    stack = [top]
    for line in text.splitlines():
        word = line.strip()
        if word.startswith("#"):
            continue
        if word == "}":
            stack.pop()
        elif word.endswith("{"):
            inner: Config = {}
            stack[-1].setdefault(word.removesuffix(" {"), []).append(inner)
            stack.append(inner)
        else:
            name, _, value = word.partition(" ")
            stack[-1].setdefault(name.removesuffix(":"), []).append(value)
    assert stack == [top]
    return top


def plain(value: str) -> str:
    return re.sub(r"\\(\d{3})", lambda m: chr(int(m[1], 8)), value.strip('"'))


class Sequences:
    """One sequence of a model, driven as Triton's implicit state says."""

    def __init__(self, folder: Path) -> None:
        self.config = parsed((folder / "config.pbtxt").read_text("utf-8"))
        self.batched = int(self.config["max_batch_size"][0]) > 0
        onnx.checker.check_model(folder / "1/model.onnx")
        self.session = ort.InferenceSession(folder / "1/model.onnx")
        self.held = {name: value for name, value in self._starts(folder)}
        self.next = {
            plain(state["output_name"][0]): plain(state["input_name"][0])
            for state in self.config["sequence_batching"][0].get("state", [])
        }

    def _starts(self, folder: Path) -> Iterator[tuple[str, Array]]:
        for state in self.config["sequence_batching"][0].get("state", []):
            (start,) = state["initial_state"]
            assert (start["data_type"], start["dims"]) == (state["data_type"], state["dims"])
            dtype, shape = self.described(state)
            if "zero_data" in start:
                value = np.zeros(shape, dtype)
            else:
                file = folder / "initial_state" / start["data_file"][0].strip('"')
                value = np.frombuffer(file.read_bytes(), dtype).reshape(shape)
            yield plain(state["input_name"][0]), value

    def described(self, tensor: Config) -> tuple[str, tuple[int, ...]]:
        """Return the dtype and the shape of a tensor, with the batch that Triton puts in front."""
        dims = tuple(map(int, tensor["dims"][0].strip("[] ").split(",")))
        return TYPES[tensor["data_type"][0].removeprefix("TYPE_")], (
            (1,) if self.batched else ()
        ) + dims

    def request(self, inputs: dict[str, Array]) -> dict[str, Array]:
        """Answer one request; the state goes on."""
        told = {plain(t["name"][0]): self.described(t) for t in self.config["input"]}
        assert inputs.keys() == told.keys()
        for name, (dtype, shape) in told.items():
            assert inputs[name].dtype == dtype
            assert all(s in (-1, n) for s, n in zip(shape, inputs[name].shape, strict=True)), name
        graph = {value.name for value in self.session.get_inputs()}
        assert graph == {*inputs, *self.held}
        names = [plain(t["name"][0]) for t in self.config["output"]]
        values = self.session.run([*names, *self.next], {**inputs, **self.held})
        found = dict(zip([*names, *self.next], values, strict=True))
        self.held = {self.next[name]: found.pop(name) for name in self.next}
        for tensor in self.config["output"]:
            dtype, shape = self.described(tensor)
            value = found[plain(tensor["name"][0])]
            assert value.dtype == dtype
            assert all(s in (-1, n) for s, n in zip(shape, value.shape, strict=True))
        return found


@pytest.mark.parametrize("name", sorted(shipped()))
def test_a_sequence_reproduces_the_golden_run(name: str, tmp_path: Path) -> None:
    packed = pack_bundle(name, "triton", tmp_path / "out")
    bundle = open_bundle(name)
    tensors: dict[str, Any] = bundle.tensors("golden.safetensors")
    t = bundle.manifest.contract.chunk.nominal_t
    lowerings = {graph.lowering for graph in bundle.manifest.graphs}
    assert {model.graph.lowering for model in packed.models} == lowerings
    for model in packed.models:
        assert model.batch == (MAX_BATCH if model.graph.lowering == "fused" else 0)
        sequence = Sequences(tmp_path / "out/models" / model.name)
        for step, chunk in enumerate(tensors[f"t{t}/chunk"]):
            found = sequence.request({bundle.manifest.contract.chunk.input: chunk})
            for output, value in found.items():
                right = tensors[f"t{t}/out/{output}"]
                cost = tensors.get(f"t{t}/cost/out/{output}", np.linalg.norm(right))
                off = np.linalg.norm(value - right[step])
                assert off <= model.graph.golden_tolerance * cost
        for state, value in sequence.held.items():
            right = tensors[f"t{t}/state/{state}"]
            cost = tensors.get(f"t{t}/cost/state/{state}", np.linalg.norm(right))
            assert np.linalg.norm(value - right) <= model.graph.golden_tolerance * cost


@pytest.mark.parametrize("name", ["given", "tokens", "level", "lookahead", "half", "refuse"])
def test_a_sequence_of_another_contract_answers_as_a_stream(name: str, tmp_path: Path) -> None:
    """Constants, inputs of a stream, stored and filled states, a window, float16."""
    (model,) = pack_bundle(SUITE / name, "triton", tmp_path / "out").models
    sequence = Sequences(tmp_path / "out/models" / model.name)
    session = Session.open(SUITE / name)
    contract = session.bundle.manifest.contract
    chunk, t = contract.chunk, contract.chunk.nominal_t
    random = np.random.default_rng(3)
    given = {
        g.input: random.integers(0, 2, sized(g.shape, 0)).astype(g.dtype)
        for g in contract.stream_inputs
    }
    axes = [a for a in chunk.shape if isinstance(a, int)]
    items = random.integers(0, 4, (3 * t + chunk.lookahead, *axes)).astype(chunk.dtype)
    right: dict[str, Any] = dict(session.stream(inputs=given or None).advance(items))
    content = chunk.content
    normalisation = getattr(content, "normalisation", None)
    fill = np.full((chunk.lookback, *axes), chunk.lookback_fill or 0, chunk.dtype)
    read = np.concatenate([fill, items])
    if normalisation is not None:
        parts = (normalisation.mean, normalisation.std)
        mean, std = (np.asarray(part, np.float32).reshape(axes) for part in parts)
        read = ((read - mean) / std).astype(chunk.dtype)
    answers: dict[str, list[Array]] = {}
    for at in range(0, 3 * t, t):
        piece = laid_out(chunk, read[at : at + chunk.lookback + t + chunk.lookahead])
        request = {chunk.input: piece, **given}
        if sequence.batched:  # the batch is always in front
            stands = {chunk.input: chunk.batch_axis}
            stands |= {g.input: g.shape.index("B") for g in contract.stream_inputs}
            request = {name: np.moveaxis(value, stands[name], 0) for name, value in request.items()}
        for answered, value in sequence.request(request).items():
            at_ours = next(o.shape.index("B") for o in contract.outputs if o.name == answered)
            as_ours = np.moveaxis(value, 0, at_ours) if sequence.batched else value
            answers.setdefault(answered, []).append(as_ours)
    page = (tmp_path / "out/README.md").read_text("utf-8")
    assert ("items before each chunk" in page) == bool(chunk.lookback or chunk.lookahead)
    assert ("(x - mean) / std" in page) == (normalisation is not None)
    for output in contract.outputs:
        joined = answers[output.name]
        axis = output.time_axis
        whole = np.stack(joined) if axis is None else np.concatenate(joined, axis)
        tolerance = model.graph.golden_tolerance
        np.testing.assert_allclose(whole, right[output.name], rtol=tolerance, atol=tolerance)


def test_sequences_are_joined_wherever_the_batch_stands(tmp_path: Path) -> None:
    torch.manual_seed(0)
    out = tmp_path / "gru"
    gru = torch.nn.GRU(3, 4, num_layers=2)  # neither its items nor its state have the batch first
    export_bundle(gru, out, chunk=torch.randn(4, 1, 3), t=(1, 4), batch_axis=1, certify_steps=8)
    session = Session.open(out)
    contract = session.bundle.manifest.contract
    assert [contract.chunk.batch_axis, contract.state[0].batch_axis] == [1, 1]
    model = next(m for m in pack_bundle(out, "triton", tmp_path / "out").models if m.batch)
    assert model.batch == MAX_BATCH
    sequence = Sequences(tmp_path / "out/models" / model.name)
    three = ort.InferenceSession(tmp_path / "out/models" / model.name / "1/model.onnx")
    stream = session.stream()
    random = np.random.default_rng(0)
    for _ in range(3):
        items = random.standard_normal((4, 3)).astype(np.float32)
        before = {name: value.repeat(3, 0) for name, value in sequence.held.items()}
        (answer,) = sequence.request({contract.chunk.input: items[None]}).values()
        right: Any = stream.step(items[:, None])[contract.outputs[0].name]
        np.testing.assert_allclose(answer[0], right[:, 0], atol=1e-6)
        together = three.run(None, {contract.chunk.input: items[None].repeat(3, 0), **before})
        np.testing.assert_allclose(together[0], answer.repeat(3, 0), atol=1e-6)
    (held,) = sequence.held.values()
    kept: Any = stream.state[contract.state[0].input]
    np.testing.assert_allclose(held[0], kept[:, 0], atol=1e-6)


@pytest.mark.triton
@pytest.mark.parametrize(
    "source",
    [*sorted(shipped()), *(str(SUITE / n) for n in ("given", "tokens", "level"))],
    ids=lambda source: Path(source).name,
)
def test_the_configuration_keeps_the_published_schema(source: str, tmp_path: Path) -> None:
    from google.protobuf import text_format
    from google.protobuf.json_format import MessageToDict

    # the package itself would load grpc, which only a client needs
    file = distribution("tritonclient").locate_file("tritonclient/grpc/model_config_pb2.py")
    spec = spec_from_file_location("model_config_pb2", str(file))
    assert spec is not None
    assert spec.loader is not None
    schema = module_from_spec(spec)
    spec.loader.exec_module(schema)
    for model in pack_bundle(source, "triton", tmp_path / "out").models:
        text = (tmp_path / "out/models" / model.name / "config.pbtxt").read_text("utf-8")
        config = text_format.Parse(text, schema.ModelConfig())
        assert config.name == model.name
        assert config.max_batch_size == model.batch
        told = MessageToDict(config)
        contract = open_bundle(source).manifest.contract
        states = told.get("sequenceBatching", {}).get("state", [])
        assert [(s["inputName"], s["outputName"]) for s in states] == [
            (s.input, s.output) for s in contract.state
        ]
        assert all(len(s["initialState"]) == 1 for s in states)
        assert [i["name"] for i in told["input"]] == [
            contract.chunk.input,
            *(g.input for g in contract.stream_inputs),
        ]
        assert [o["name"] for o in told["output"]] == [o.name for o in contract.outputs]
        with pytest.raises(text_format.ParseError):
            text_format.Parse(text.replace("data_type", "type"), schema.ModelConfig())
