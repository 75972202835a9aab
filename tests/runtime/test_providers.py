"""Laws of providers: what is asked for runs or is refused, and the report tells what ran where.

The plain wheel of ONNX Runtime has one provider besides the CPU's, Azure's, that takes no node of
an ordinary graph and says nothing: asking for it is a silent fallback such as strict is to refuse.
"""

from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import pytest

from dst.evaluate.providers import time_golden
from dst.runtime import Session, open_bundle, replay_golden, write_bundle
from dst.runtime.bundle.manifest import Graph, Manifest
from dst.runtime.errors import ProviderError, SessionError
from dst.runtime.execution.buffers import Arena, Block, DeviceArena
from dst.runtime.execution.device import DeviceBridge, HostBridge, capture_options, uncaptured
from dst.runtime.execution.engine import Engine
from dst.runtime.execution.placement import GraphLoad, Share, load_of
from dst.runtime.execution.providers import PLACES, Place, Provider
from dst.runtime.golden import golden_chunks

Parts = tuple[Manifest, dict[str, bytes | Path]]
replace = msgspec.structs.replace

COSTS = {"Gather_0": 0, "Scan_1": 0, "MatMul_2": 8 * 8 * 256, "Shape_3": 0, "Add_4": 0}
EVENT = "this onnxruntime cannot fall back silently: it has no provider that takes nothing"
azure = pytest.mark.skipif(
    "AzureExecutionProvider" not in ort.get_available_providers(), reason=EVENT
)


def named(data: bytes | Path) -> bytes:
    """The model with a name for every node of its outer graph."""
    model = onnx.load_from_string(data if isinstance(data, bytes) else data.read_bytes())
    for number, node in enumerate(model.graph.node):
        node.name = f"{node.op_type}_{number}"
    return bytes(model.SerializeToString())


@pytest.fixture
def costed(text_parts: Parts, tmp_path: Path) -> Path:
    """The text bundle with node names and a table of multiply-adds, MatMul_2 alone at work."""
    manifest, files = text_parts
    fused, portable = manifest.graphs
    graphs = (
        replace(fused, multiply_adds=COSTS),
        replace(portable, multiply_adds={**COSTS, "MatMul_2": 8 * 256}),
    )
    files |= {name: named(files[name]) for name in ("step.onnx", "step_t1.onnx")}
    write_bundle(tmp_path / "costed", replace(manifest, graphs=graphs), files)
    return tmp_path / "costed"


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> Provider:
    """A provider that is installed and takes no node."""
    place = Place("AzureExecutionProvider", "cpu", False, "nothing")
    monkeypatch.setitem(PLACES, "openvino", place)
    return "openvino"


def absent() -> list[Provider]:
    available = ort.get_available_providers()
    return [name for name, place in PLACES.items() if place.execution not in available]


@pytest.mark.parametrize("provider", absent())
def test_an_absent_provider_is_refused_with_what_there_is_and_what_to_do(
    shelf: Path, provider: Provider
) -> None:
    with pytest.raises(ProviderError) as caught:
        Session.open(shelf / "text", provider=provider)
    said = str(caught.value)
    place = PLACES[provider]
    available = ort.get_available_providers()
    for word in (place.execution, ort.__version__, *available, place.package, "'cpu'"):
        assert word in said


def test_the_report_tells_where_every_node_runs(costed: Path) -> None:
    report = Session.open(costed).report()
    assert (report.provider, report.strict) == ("cpu", True)
    (load,) = report.graphs
    assert (load.graph, load.lowering, load.asked) == ("step.onnx", "fused", "cpu")
    assert load.recorded
    (share,) = load.shares
    # the body of the Scan adds three nodes that nobody named
    assert share == Share("cpu", len(COSTS) + 3, 3, COSTS["MatMul_2"])
    assert load.multiply_adds == COSTS["MatMul_2"]
    assert (load.unknown_multiply_adds, load.part, load.fell_back) == (0, 1.0, None)


@azure
def test_strict_refuses_a_provider_that_leaves_the_work_to_the_cpu(
    costed: Path, silent: Provider
) -> None:
    session = Session.open(costed, provider=silent)
    with pytest.raises(ProviderError, match=r"took only 0\.0% of the multiply-adds: cpu 16,384"):
        session.stream().advance(b"abcdefgh")
    with pytest.raises(ProviderError, match=r"step_t1\.onnx.*strict=False"):
        session.report()


@azure
def test_without_strict_it_runs_and_the_report_says_so(costed: Path, silent: Provider) -> None:
    session = Session.open(costed, provider=silent, lowering="fused", strict=False)
    (load,) = session.report().graphs
    assert [s.provider for s in load.shares] == ["cpu"]
    assert (load.part, load.shares[0].multiply_adds) == (0.0, COSTS["MatMul_2"])
    assert "'openvino' took only 0.0%" in str(load.fell_back)
    found = session.stream().advance(b"abcdefgh")["logits"]
    expected = Session.open(costed).stream().advance(b"abcdefgh")["logits"]
    assert np.array_equal(found, expected)


@azure
def test_without_costs_strict_counts_nodes(shelf: Path, silent: Provider) -> None:
    with pytest.raises(ProviderError, match=r"took only 0\.0% of the nodes: cpu \d"):
        Session.open(shelf / "sensor", provider=silent).report()


@azure
def test_strict_refuses_what_nobody_can_tell(
    costed: Path, silent: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(ort.InferenceSession.__base__, "get_provider_graph_assignment_info")
    (load,) = Session.open(costed).report().graphs
    assert (load.recorded, load.shares, load.part) == (False, (), 0.0)
    assert load.unknown_multiply_adds == COSTS["MatMul_2"]
    with pytest.raises(ProviderError, match="does not tell which nodes 'openvino' took"):
        Session.open(costed, provider=silent).report()


def test_fused_graphs_are_for_providers_with_their_kernels(
    text_parts: Parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest, files = text_parts
    fused, portable = manifest.graphs
    contrib = replace(
        fused, domains=("ai.onnx", "com.microsoft"), opsets={"ai.onnx": 18, "com.microsoft": 1}
    )
    write_bundle(tmp_path / "both", replace(manifest, graphs=(contrib, portable)), files)
    alone = replace(
        manifest, graphs=(contrib,), golden=tuple(g for g in manifest.golden if g.t == 8)
    )
    write_bundle(tmp_path / "alone", alone, {k: v for k, v in files.items() if k != "step_t1.onnx"})
    assert Session.open(tmp_path / "both").graph_for(1).lowering == "fused"
    plain = Place("CPUExecutionProvider", "cpu", False, "onnxruntime")
    monkeypatch.setitem(PLACES, "coreml", plain)
    assert Session.open(tmp_path / "both", provider="coreml").chunk_sizes == (1,)
    taken = {c.graph for c in replay_golden(open_bundle(tmp_path / "both"), "coreml")}
    assert taken == {"step_t1.onnx"}
    wished = Session.open(tmp_path / "both", provider="coreml", lowering="fused")
    assert wished.graph_for(8).lowering == "fused"
    with pytest.raises(SessionError, match="has only fused graphs"):
        Session.open(tmp_path / "alone", provider="coreml")


def test_options_are_passed_on_and_checked(shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[object] = []
    real = ort.InferenceSession

    def spy(
        path: str, options: ort.SessionOptions, providers: list[object], enable_fallback: int
    ) -> object:
        seen.extend(providers)
        assert not enable_fallback
        return real(path, options, providers=["CPUExecutionProvider"])

    monkeypatch.setattr(ort, "InferenceSession", spy)
    Session.open(shelf / "pad", provider_options={"device_id": "0", "a": "b"}).report()
    assert seen == [("CPUExecutionProvider", {"device_id": "0", "a": "b"})]
    with pytest.raises(SessionError, match="'a' is 1; ONNX Runtime wants text, such as '1'"):
        Session.open(shelf / "pad", provider_options={"a": 1})  # type: ignore[dict-item]
    with pytest.raises(SessionError, match="'device_id' is 'one'"):
        Session.open(shelf / "pad", provider_options={"device_id": "one"})


def test_openvino_is_told_its_threads_and_its_precision(
    shelf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PLACES, "openvino", PLACES["cpu"])
    session = Session.open(shelf / "pad", provider="openvino", threads=3)
    assert session.provider_options == {
        "num_of_threads": "3",
        "device_type": "CPU",
        "precision": "FP32",
    }
    given = {"device_type": "GPU", "num_of_threads": "1"}
    session = Session.open(shelf / "pad", provider="openvino", provider_options=given)
    assert session.provider_options == given


def opened(model: onnx.ModelProto) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    options.log_severity_level = 4
    return ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def entry(costs: dict[str, int]) -> Graph:
    return Graph(
        file="a.onnx",
        lowering="portable",
        allowed_t=(1,),
        batch=(),
        opsets={"ai.onnx": 18},
        domains=("ai.onnx",),
        min_ort="1.17",
        golden_tolerance=0.0,
        multiply_adds=costs,
    )


def test_a_node_fused_under_its_own_name_is_known_and_a_folded_one_unknown() -> None:
    """MatMul + Add becomes `first/MatMulAddFusion`; a product of constants is folded away."""
    weight = onnx.numpy_helper.from_array(np.ones((4, 4), np.float32), "w")
    bias = onnx.numpy_helper.from_array(np.ones((4,), np.float32), "b")
    node = onnx.helper.make_node
    graph = onnx.helper.make_graph(
        [
            node("MatMul", ["x", "w"], ["p"], name="first"),
            node("Add", ["p", "b"], ["q"], name="bias"),
            node("MatMul", ["w", "w"], ["k"], name="folded"),
            node("Sub", ["k", "q"], ["y"], name="last"),
        ],
        "g",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [4, 4])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)],
        [weight, bias],
    )
    session = opened(
        onnx.helper.make_model(
            graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9
        )
    )
    load = load_of(session, entry({"first": 64, "bias": 0, "folded": 64, "last": 0}), "cpu")
    assert load.shares == (Share("cpu", 2, 0, 64),)
    assert (load.unknown_multiply_adds, load.multiply_adds) == (64, 128)
    assert load.part == 0.5


def loaded(cpu: int, there: int, unknown: int = 0) -> GraphLoad:
    shares = (Share("openvino", 5, 0, there), Share("cpu", 2, 0, cpu))
    return GraphLoad("a.onnx", "portable", "openvino", True, shares, unknown)


def test_strict_lets_a_hundredth_run_elsewhere() -> None:
    assert loaded(cpu=10, there=990).fell_back is None
    assert "98.9% of the multiply-adds: openvino 989, cpu 11" in str(loaded(11, 989).fell_back)
    assert "openvino 980, cpu 0, unknown 20" in str(loaded(0, 980, unknown=20).fell_back)


def test_a_cost_is_a_whole_number_of_a_named_node(text_parts: Parts, tmp_path: Path) -> None:
    manifest, files = text_parts
    for wrong in ({"a": -1}, {"": 1}, {"a" * 501: 1}):
        graphs = tuple(replace(g, multiply_adds=wrong) for g in manifest.graphs)
        with pytest.raises(Exception, match="multiply_adds") as caught:
            write_bundle(tmp_path / "wrong", replace(manifest, graphs=graphs), files)
        assert getattr(caught.value, "code", "") != "contract"
        assert not (tmp_path / "wrong").exists()


# --- devices: the same code paths, with the host's memory in the place of a device's


def test_a_device_sees_a_chunk_when_it_is_pushed_and_gives_outputs_when_pulled() -> None:
    chunk, output = np.zeros((1, 4), np.int64), np.zeros((1, 4), np.float32)
    bridge = DeviceBridge(chunk, {"y": output}, "cpu", 0)
    assert bridge.copies
    address = bridge.feed.data_ptr()
    chunk[:] = 7
    assert bridge.feed.numpy().max() == 0
    bridge.push()
    assert bridge.feed.numpy().min() == 7
    bridge.outputs["y"].update_inplace(np.full((1, 4), 3, np.float32))
    assert output.max() == 0
    bridge.pull()
    assert output.min() == 3
    assert bridge.feed.data_ptr() == address  # a captured graph replays addresses


def test_the_host_copies_nothing() -> None:
    chunk, output = np.zeros((1, 4), np.int64), np.zeros((1, 4), np.float32)
    bridge = HostBridge(chunk, {"y": output})
    assert not bridge.copies
    assert bridge.feed.data_ptr() == chunk.ctypes.data
    assert bridge.outputs["y"].data_ptr() == output.ctypes.data


@pytest.mark.parametrize("name", ["text", "sensor"])
def test_a_stream_in_a_devices_memory_is_the_same_stream(
    shelf: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def arena(self: Engine, block: Block) -> Arena:
        return DeviceArena(self.layout, block, "cpu")

    items: npt.NDArray[np.generic] = np.arange(40)
    if name == "sensor":
        items = np.random.default_rng(0).normal(size=(40, 2)).astype(np.float32)
    session = Session.open(shelf / name, check_state_every=2)
    here = session.stream()
    expected = [here.advance(part) for part in np.array_split(items, 3)]
    monkeypatch.setattr(Engine, "arena", arena)
    made: list[DeviceBridge] = []

    def bridge(
        self: Engine, chunk: npt.NDArray[np.generic], outputs: dict[str, npt.NDArray[np.generic]]
    ) -> DeviceBridge:
        made.append(DeviceBridge(chunk, outputs, "cpu", 0))
        return made[-1]

    monkeypatch.setattr(Engine, "bridge", bridge)
    there = Session.open(shelf / name, check_state_every=2).stream()
    found = [there.advance(part) for part in np.array_split(items, 3)]
    for left, right in zip(found, expected, strict=True):
        assert all(np.array_equal(left[key], right[key]) for key in right)
    assert all(np.array_equal(there.state[key], value) for key, value in here.state.items())
    assert made  # the plans crossed it


def test_every_binding_is_captured_under_its_own_number() -> None:
    assert capture_options({}) is None
    assert capture_options({"enable_cuda_graph": "0"}) is None
    made = [capture_options({"enable_cuda_graph": "1"}) for _ in range(3)]
    numbers = [int(o.get_run_config_entry("gpu_graph_id")) for o in made if o is not None]
    assert len(set(numbers)) == 3
    assert min(numbers) > 0  # 0 is ONNX Runtime's own, -1 is none
    options = ort.RunOptions()
    uncaptured(options)
    assert options.get_run_config_entry("gpu_graph_id") == "-1"


# --- timing


def test_timing_steps_every_golden_chunk_in_every_round(shelf: Path) -> None:
    bundle = open_bundle(shelf / "text")
    told: list[float] = []
    found = time_golden(bundle, "cpu", lowering="fused", rounds=2, progress=told.append)
    runs = {golden.t: golden.steps for golden in bundle.manifest.golden}
    assert {f.t: f.steps for f in found} == {t: 2 * steps for t, steps in runs.items()}
    assert all(min(f.seconds, f.cpu_seconds, f.ratio) > 0 for f in found)
    assert all(0 <= share < 1 for share in told)


def test_golden_chunks_are_those_of_the_file(shelf: Path) -> None:
    session = Session.open(shelf / "text")
    found = dict(golden_chunks(session, session.graph_for(8)))
    held = session.bundle.tensors("golden.safetensors")
    for t in (1, 4, 8):
        assert np.array_equal(np.stack(found[t]), held[f"t{t}/chunk"])
