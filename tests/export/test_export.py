"""Laws of the exporter: what is written runs like torch and holds no trace of where."""

from __future__ import annotations

import getpass
import random
import shutil
import sysconfig
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch
from msgspec.structs import replace as replace_struct
from tests.raising import refused
from tests.steps import chunk_of, contract_of, output_of, state_of
from torch import Tensor, nn

from dst.export import CertificateError, ExportError, Step, StepFaultError
from dst.export.export import export_bundle, model_id
from dst.export.model import Gaussian, Network, Quantiles, sized
from dst.runtime import Session, Stream, open_bundle, replay_golden
from dst.runtime.bundle.manifest import Features, Normalisation, Stored, Zeros
from dst.runtime.errors import BundleError, BundleExistsError
from dst.runtime.golden import relative_error

Items = npt.NDArray[np.int64]


def test_every_graph_replays_the_golden_vectors(tiny_bundle: Path) -> None:
    checks = replay_golden(open_bundle(tiny_bundle))
    graphs = {"step.onnx", "any_t1.onnx", "step_t32.onnx", "step_t1.onnx"}
    assert {c.graph for c in checks} == graphs
    assert all(c.passed for c in checks)


def test_certificates_cover_every_pair_of_forms(tiny_bundle: Path) -> None:
    certificates = open_bundle(tiny_bundle).manifest.certificates
    assert [c.name for c in certificates] == [
        "torch-whole-vs-chunked",
        "torch-vs-fused",
        "fused-vs-single-t1",
        "fused-vs-portable-t32",
        "fused-vs-portable-t1",
    ]
    for certificate in certificates:
        assert certificate.passed
        assert 0.0 < certificate.worst <= 1e-5
        assert certificate.decile_ratio <= 2.0
        assert "logits" in certificate.curve.tensors
        assert "S.0" in certificate.curve.tensors
    assert certificates[1].steps == 100


@pytest.mark.parametrize("t", [32, 1])
def test_portable_graphs_hold_plain_operators_and_static_shapes(tiny_bundle: Path, t: int) -> None:
    model = onnx.load(tiny_bundle / f"step_t{t}.onnx", load_external_data=False)
    assert {n.domain for n in model.graph.node} == {""}
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 18)]
    operators = [n.op_type for n in model.graph.node]
    assert operators.count("Gather") == 1  # the embedding
    assert not {"CumSum", "Trilu", "Where", "Greater", "Neg", "Scan", "Loop"} & set(operators)
    for value in (*model.graph.input, *model.graph.output):
        assert all(d.HasField("dim_value") for d in value.type.tensor_type.shape.dim), value.name


@pytest.mark.parametrize(("file", "convolutions"), [("step.onnx", 0), ("any_t1.onnx", 2)])
def test_the_fused_graphs_use_the_fused_operators(
    tiny_bundle: Path, file: str, convolutions: int
) -> None:
    model = onnx.load(tiny_bundle / file, load_external_data=False)
    kinds = Counter(node.op_type for node in model.graph.node)
    assert kinds["LinearAttention"] == kinds["Attention"] == 2  # one per layer
    assert kinds["RotaryEmbedding"] == 4
    assert kinds["CausalConvWithState"] == convolutions
    assert kinds["Softmax"] == 0


def test_the_chunk_graph_answers_for_the_items_it_is_asked_for(
    tiny_network: Network, tiny_bundle: Path
) -> None:
    graphs = {graph.file: graph.answers for graph in open_bundle(tiny_bundle).manifest.graphs}
    assert graphs == {
        "step.onnx": "answers", "any_t1.onnx": None, "step_t32.onnx": None, "step_t1.onnx": None
    }  # fmt: skip
    items = np.arange(48) * 5 % 256
    stream = Session.open(tiny_bundle).stream()
    (last,) = stream.advance(items[:32], last=True)["logits"][0]
    with torch.no_grad():
        outputs, _ = tiny_network(torch.from_numpy(items[None, :32]), tiny_network.initial_state(1))
    assert relative_error(last, outputs["logits"][0, -1].numpy()) < 1e-5


def test_weights_are_stored_once(tiny_network: Network, tiny_bundle: Path) -> None:
    weights = sum(p.numel() * 4 for p in tiny_network.parameters())
    assert (tiny_bundle / "weights.bin").stat().st_size < 1.25 * weights


def test_the_model_id_follows_the_weights_alone(tiny_network: Network, tiny_bundle: Path) -> None:
    assert open_bundle(tiny_bundle).manifest.model_id == model_id(tiny_network, b"")
    torch.manual_seed(1)
    assert model_id(Network(sized("tiny")), b"") != model_id(tiny_network, b"")
    assert model_id(nn.Identity(), b"a") != model_id(nn.Identity(), b"b")


def test_no_file_of_a_bundle_tells_where_it_was_made(tiny_bundle: Path) -> None:
    secrets = [
        str(tiny_bundle.parent),
        sysconfig.get_paths()["purelib"],
        "site-packages",
        ".py",
        "pkg.torch",
        'File "',
    ]
    if len(getpass.getuser()) > 4:
        secrets.append(getpass.getuser())
    for file in tiny_bundle.iterdir():
        data = file.read_bytes()
        for secret in secrets:
            assert secret.encode() not in data, (file.name, secret)


def test_any_flipped_bit_of_any_file_is_refused(tiny_bundle: Path, tmp_path: Path) -> None:
    source = random.Random(0)
    copy = shutil.copytree(tiny_bundle, tmp_path / "copy")
    for file in sorted(copy.iterdir()):
        original = file.read_bytes()
        places = {0, len(original) - 1} | {source.randrange(len(original)) for _ in range(40)}
        for place in places:
            altered = bytearray(original)
            altered[place] ^= 1 << source.randrange(8)
            file.write_bytes(altered)
            with pytest.raises(BundleError):
                open_bundle(copy)
        file.write_bytes(original)
    open_bundle(copy)


def test_unlisted_files_and_links_are_refused(tiny_bundle: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(tiny_bundle, tmp_path / "copy")
    (copy / "notes.txt").write_text("hello")
    with pytest.raises(BundleError, match=r"notes\.txt"):
        open_bundle(copy)
    (copy / "notes.txt").unlink()
    weights = copy / "weights.bin"
    weights.rename(tmp_path / "weights.bin")
    weights.symlink_to(tmp_path / "weights.bin")
    with pytest.raises(BundleError, match=r"weights\.bin"):
        open_bundle(copy)


@pytest.mark.parametrize("chunk_sizes", [[1], [16], [64], [32, 8, 1]])
def test_the_runtime_agrees_with_torch_on_any_grid(
    tiny_network: Network, tiny_bundle: Path, text: Items, chunk_sizes: list[int]
) -> None:
    items = text[:640]
    with torch.no_grad():
        outputs, state = tiny_network(torch.from_numpy(items)[None], tiny_network.initial_state(1))
    stream = Session.open(tiny_bundle, chunk_sizes=chunk_sizes).stream()
    found = [
        stream.step(items[None, i : i + chunk_sizes[0]])["logits"]
        for i in range(0, len(items), chunk_sizes[0])
    ]
    assert relative_error(np.concatenate(found, 1), outputs["logits"].numpy()) <= 1e-5
    peak = {name: float(t.abs().max()) for name, t in state.items()}
    for name, tensor in stream.state.items():
        assert np.abs(tensor - state[name].numpy()).max() <= 1e-5 * peak[name], name


def test_outputs_are_equal_bit_for_bit_however_the_input_is_split(
    tiny_bundle: Path, text: Items
) -> None:
    session = Session.open(tiny_bundle)
    whole = session.stream().advance(text[:1024])["logits"]
    source = random.Random(1)
    stream, parts, at = session.stream(), [], 0
    while at < 1024:
        size = source.randrange(1, 90)
        parts.append(stream.advance(text[at : min(at + size, 1024)])["logits"])
        at += size
    assert np.array_equal(np.concatenate(parts, 1), whole)


def test_a_saved_stream_goes_on_bit_for_bit(tiny_bundle: Path, text: Items, tmp_path: Path) -> None:
    session = Session.open(tiny_bundle)
    whole = session.stream().advance(text[:640])["logits"]
    stream = session.stream()
    stream.advance(text[:333])
    stream.save(tmp_path / "state")
    later = Stream.load(Session.open(tiny_bundle), tmp_path / "state")
    rest = later.advance(text[333:640])["logits"]
    assert np.array_equal(rest, whole[:, 320:])


@pytest.mark.parametrize("items", [Gaussian(("x", "y"), 100.0), Quantiles(("x",))])
def test_feature_networks_export_too(items: Gaussian | Quantiles, tmp_path: Path) -> None:
    torch.manual_seed(0)
    data = np.cumsum(np.random.default_rng(0).normal(size=(4000, len(items.features))), 0)
    data = np.sin(data).astype(np.float32)
    export_bundle(
        Network(sized("tiny", items)),
        tmp_path / "bundle",
        name="signal",
        data=data,
        about_data="a bounded random walk",
        certify_steps=40,
        portable_t=(32,),
    )
    bundle = open_bundle(tmp_path / "bundle")
    assert all(c.passed for c in replay_golden(bundle))
    outputs = Session.open(tmp_path / "bundle").stream().advance(data[:64])
    assert all(value.shape[:2] == (1, 64) for value in outputs.values())


def test_a_learned_start_travels_with_the_bundle(text: Items, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = Network(replace(sized("tiny"), learned_start=True))
    with torch.no_grad():
        net.start.normal_()  # type: ignore[union-attr]
    export_bundle(net, tmp_path / "bundle", name="x", data=text, certify_steps=20, portable_t=(32,))
    stream = Session.open(tmp_path / "bundle").stream()
    assert np.array_equal(stream.state["S.1"], net.initial_state(1)["S.1"].detach().numpy())


class Leaky(Step):
    """The smallest step with a learned initial state: a running average per feature."""

    def __init__(self, rate: float = 0.1) -> None:
        super().__init__()
        self.rate = nn.Parameter(torch.tensor(rate))
        self.start = nn.Parameter(torch.tensor([1.0, -1.0]))
        content = Features(names=("a", "b"), sample_rate_hz=None, normalisation=None)
        mean = state_of("mean", ("B", 2), output="next.mean", init=Stored(tensor="mean"))
        self.contract = contract_of(
            chunk_of(content, (1, 4), 2, name="chunk"), [output_of("last", ("B", 2))], [mean]
        )

    def initial_state(self, batch: int) -> dict[str, Tensor]:
        return {"mean": self.start.detach().expand(batch, 2).contiguous()}

    def forward(
        self, chunk: Tensor, state: dict[str, Tensor]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        mean = state["mean"] + self.rate * (chunk.mean(1) - state["mean"])
        return {"last": mean * 1.0}, {"mean": mean}


def noise(items: int = 400) -> npt.NDArray[np.float32]:
    return np.random.default_rng(0).normal(size=(items, 2)).astype(np.float32)


def export_leaky(step: Step, path: Path, steps: int = 50) -> None:
    export_bundle(step, path, name="leaky", data=noise(), certify_steps=steps)


def test_a_step_whose_torch_code_depends_on_the_cut_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StepFaultError, match="`next state mean` differs") as caught:
        export_leaky(Leaky(), tmp_path / "bundle")
    assert caught.value.code == "cut-matters"
    assert list(tmp_path.iterdir()) == []


class Running(Leaky):
    """The same, one item at a time in closed form, so that the cut does not matter."""

    def forward(
        self, chunk: Tensor, state: dict[str, Tensor]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        t = chunk.shape[1]
        powers = (1.0 - self.rate) ** torch.arange(t, -1, -1, dtype=chunk.dtype)
        mean = powers[0] * state["mean"] + self.rate * (chunk * powers[1:, None]).sum(1)
        return {"last": mean * 1.0}, {"mean": mean}


def test_any_torch_module_that_signs_the_contract_exports(tmp_path: Path) -> None:
    export_leaky(Running(), tmp_path / "bundle")
    stream = Session.open(tmp_path / "bundle").stream()
    assert np.array_equal(stream.state["mean"], [[1.0, -1.0]])
    data = noise()
    expected = np.array([1.0, -1.0])
    for item in data[:100].astype(np.float64):
        expected = 0.9 * expected + 0.1 * item
    found = stream.advance(data[:100])["last"][-1, 0]
    assert np.allclose(found, expected, atol=1e-5)


class Drifting(Running):
    """Its fused form forgets a little faster: an export that must not pass."""

    def fused(self) -> Step:
        return Running(0.1001)


def test_a_state_that_passes_through_unchanged_is_kept(tmp_path: Path) -> None:
    class Still(Running):
        def __init__(self) -> None:
            super().__init__()
            still = state_of("still", ("B", 2), init=Stored(tensor="still"))
            self.contract = replace_struct(self.contract, state=(*self.contract.state, still))

        def initial_state(self, batch: int) -> dict[str, Tensor]:
            state = super().initial_state(batch)
            return {**state, "still": 2 * state["mean"]}

        def forward(
            self, chunk: Tensor, state: dict[str, Tensor]
        ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
            outputs, after = super().forward(chunk, state)
            return {"last": outputs["last"] + state["still"]}, {**after, "still": state["still"]}

    export_leaky(Still(), tmp_path / "bundle")
    stream = Session.open(tmp_path / "bundle").stream()
    stream.advance(noise())
    assert np.array_equal(stream.state["still"], [[2.0, -2.0]])
    assert not np.array_equal(stream.state["mean"], [[1.0, -1.0]])


def test_a_lowering_that_differs_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(CertificateError, match="torch-vs-fused"):
        export_leaky(Drifting(), tmp_path / "bundle")
    assert list(tmp_path.iterdir()) == []


class Between(Running):
    """An item less the one before it, plus the mean so far: lookback and normalisation."""

    def __init__(self) -> None:
        super().__init__()
        chunk = replace_struct(
            self.contract.chunk,
            lookback=1,
            lookback_fill=5.0,
            content=Features(
                names=("a", "b"),
                sample_rate_hz=None,
                normalisation=Normalisation(mean=(1.0, -2.0), std=(2.0, 0.5)),
            ),
        )
        output = replace_struct(self.contract.outputs[0], shape=("B", "T", 2))
        self.contract = replace_struct(self.contract, chunk=chunk, outputs=(output,))

    def forward(
        self, chunk: Tensor, state: dict[str, Tensor]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        items, mean, means = chunk[:, 1:], state["mean"], []
        for item in items.unbind(1):
            mean = mean + self.rate * (item - mean)
            means.append(mean)
        return {"last": items - chunk[:, :-1] + torch.stack(means, 1)}, {"mean": mean}


def test_lookback_and_normalisation_reach_torch_as_they_reach_the_graph(tmp_path: Path) -> None:
    data = noise()
    export_bundle(Between(), tmp_path / "bundle", name="x", data=data, certify_steps=40)
    assert all(c.passed for c in replay_golden(open_bundle(tmp_path / "bundle")))
    found = Session.open(tmp_path / "bundle").stream().advance(data[:40])["last"][0]
    before = np.concatenate([[[5.0, 5.0]], data[:39]])
    mean, means = np.array([1.0, -1.0]), []
    for item in (data[:40].astype(np.float64) - [1.0, -2.0]) / [2.0, 0.5]:
        mean = mean + 0.1 * (item - mean)
        means.append(mean)
    assert np.allclose(found, (data[:40] - before) / [2.0, 0.5] + means, atol=1e-5)


class Elsewhere(Running):
    """It signs that it starts from zeros and starts from ones."""

    def __init__(self) -> None:
        super().__init__()
        state = replace_struct(self.contract.state[0], init=Zeros())
        self.contract = replace_struct(self.contract, state=(state,))


class Unsigned(Running):
    """Its state has another shape than it signed."""

    def initial_state(self, batch: int) -> dict[str, Tensor]:
        return {"mean": torch.zeros(batch, 3)}


class Counting(Running):
    """Python in the step that no graph can hold."""

    def forward(
        self, chunk: Tensor, state: dict[str, Tensor]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        if float(chunk.sum()) > 0:
            return super().forward(chunk, state)
        return super().forward(-chunk, state)


def test_broken_steps_are_refused_by_name(tmp_path: Path) -> None:
    with refused(ExportError, "step-contract", match=r"initial state `mean` is float32 \[1, 3\]"):
        export_leaky(Unsigned(), tmp_path / "bundle")
    with refused(ExportError, "step-contract", match="the contract says 0 everywhere"):
        export_leaky(Elsewhere(), tmp_path / "bundle")
    with pytest.raises(StepFaultError, match=r"test_export\.py:\d+: `if float") as caught:
        export_leaky(Counting(), tmp_path / "bundle")
    assert caught.value.code == "data-dependent"
    with pytest.raises(ExportError, match="data is empty"):
        export_bundle(Running(), tmp_path / "bundle", name="x", data=noise(0))
    with pytest.raises(ExportError, match=r"portable T = 3 is not in the contract's \[1, 4\]"):
        export_bundle(Running(), tmp_path / "bundle", name="x", data=noise(), portable_t=(3,))
    assert list(tmp_path.iterdir()) == []


def test_an_existing_bundle_is_not_overwritten_unasked(tiny_bundle: Path) -> None:
    before = (tiny_bundle / "manifest.json").read_bytes()
    with pytest.raises(BundleExistsError, match="exists"):
        export_leaky(Running(), tiny_bundle)
    assert (tiny_bundle / "manifest.json").read_bytes() == before
