"""Laws of a session: what is asked for runs or is refused; the graph must be the contract's."""

import mmap
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import onnx
import onnxruntime as ort
import pytest
import safetensors.numpy
from onnx import TensorProto, helper
from tests.raising import refused
from tests.runtime.conftest import text_files, text_manifest, text_model
from tests.steps import graph_of

from dst.runtime import (
    Session,
    open_bundle,
    predict,
    relative_error,
    replay_golden,
    rss_bytes,
    write_bundle,
)
from dst.runtime.bundle.manifest import Manifest
from dst.runtime.errors import BundleError, ProviderError, SessionError
from dst.runtime.execution.buffers import Device, Layout, StateBuffers

Parts = tuple[Manifest, dict[str, bytes | Path]]
replace = msgspec.structs.replace


def test_the_best_graph_runs_each_t(shelf: Path) -> None:
    session = Session.open(shelf / "text")
    assert [session.graph_for(t).file for t in session.chunk_sizes] == ["step.onnx"] * 3
    portable = Session.open(shelf / "text", lowering="portable")
    assert portable.chunk_sizes == (1,)
    assert portable.graph_for(1).file == "step_t1.onnx"
    assert Session.open(shelf / "text", chunk_sizes=[4]).chunk_sizes == (4,)


def test_the_lowerings_agree(shelf: Path) -> None:
    fused = Session.open(shelf / "text").stream()
    portable = Session.open(shelf / "text", lowering="portable").stream()
    for token in b"any text":
        first, second = (
            s.step(np.array([[token]]))["logits"].astype(np.float64) for s in (fused, portable)
        )
        np.testing.assert_allclose(first, second, atol=1e-5)
    assert fused.state["n"] == portable.state["n"] == 8


def test_a_graph_made_for_one_t_runs_where_that_t_runs_alone(tmp_path: Path) -> None:
    manifest, files = text_manifest(), text_files()
    single = graph_of((1,), file="single.onnx", lowering="fused")
    manifest = replace(manifest, graphs=(*manifest.graphs, single))
    write_bundle(tmp_path / "b", manifest, files | {"single.onnx": text_model(1)})
    assert Session.open(tmp_path / "b", chunk_sizes=[1]).graph_for(1).file == "single.onnx"
    both = Session.open(tmp_path / "b")  # one graph, so that the weights are held once
    assert {both.graph_for(t).file for t in both.chunk_sizes} == {"step.onnx"}
    # where no graph runs all of them, each T has the graph that runs the fewest
    fewer = tuple(
        replace(g, allowed_t=(4, 8)) if g.file == "step.onnx" else g for g in manifest.graphs
    )
    write_bundle(
        tmp_path / "c", replace(manifest, graphs=fewer), files | {"single.onnx": text_model(1)}
    )
    split = Session.open(tmp_path / "c")
    assert [split.graph_for(t).file for t in (1, 4, 8)] == ["single.onnx", "step.onnx", "step.onnx"]


def test_what_cannot_run_is_refused(shelf: Path) -> None:
    text = shelf / "text"
    with refused(SessionError, "chunk-size", match=r"no graph runs T = 5.*\[1, 4, 8\]"):
        Session.open(text, chunk_sizes=[5])
    with refused(SessionError, "chunk-size", match="empty"):
        Session.open(text, chunk_sizes=[])
    with refused(SessionError, "chunk-size", match=r"T = 8.*\[1\]"):
        Session.open(text, lowering="portable", chunk_sizes=[8])
    with pytest.raises(SessionError, match="has no 'other' graph; it has fused, portable"):
        Session.open(text, lowering="other")
    with pytest.raises(SessionError, match="threads is 0"):
        Session.open(text, threads=0)
    with pytest.raises(SessionError, match="threads is 1025; expected 1 to 1024"):
        Session.open(text, threads=1025)  # would open no graph yet
    with pytest.raises(ProviderError, match="'npu' is unknown"):
        Session.open(text, provider="npu")  # type: ignore[arg-type]


@pytest.mark.skipif(
    "CUDAExecutionProvider" in ort.get_available_providers(), reason="CUDA is installed here"
)
def test_a_provider_that_is_not_installed_is_refused(shelf: Path) -> None:
    with pytest.raises(ProviderError, match="'cuda' needs CUDAExecutionProvider"):
        Session.open(shelf / "text", provider="cuda")


def test_a_provider_that_does_not_take_the_graph_is_refused(
    shelf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ort.InferenceSession, "get_providers", lambda self: ["OtherProvider"])
    with pytest.raises(ProviderError, match="onnxruntime gave OtherProvider"):
        Session.open(shelf / "pad").runner_for(8)


def test_an_old_onnxruntime_is_refused(text_parts: Parts, tmp_path: Path) -> None:
    manifest, files = text_parts
    fused, portable = manifest.graphs
    newer = replace(manifest, graphs=(replace(fused, min_ort="99.1"), portable))
    write_bundle(tmp_path / "a", newer, files)
    assert Session.open(tmp_path / "a").chunk_sizes == (1,)
    with refused(SessionError, "onnxruntime-too-old", match=r"needs onnxruntime 99\.1"):
        Session.open(tmp_path / "a", lowering="fused")
    with refused(SessionError, "onnxruntime-too-old", match=r"needs onnxruntime 99\.1"):
        replay_golden(open_bundle(tmp_path / "a"))
    assert {c.graph for c in replay_golden(open_bundle(tmp_path / "a"), lowering="portable")} == {
        "step_t1.onnx"
    }


def edited(data: bytes | Path, change: Callable[[onnx.GraphProto], None]) -> bytes:
    assert isinstance(data, bytes)
    model = onnx.load_from_string(data)
    change(model.graph)
    return bytes(model.SerializeToString())


def _half_state(graph: onnx.GraphProto) -> None:
    graph.input[1].CopyFrom(helper.make_tensor_value_info("h", TensorProto.FLOAT16, ["B", 8]))
    graph.node.insert(0, helper.make_node("Cast", ["h"], ["h_wide"], to=TensorProto.FLOAT))
    for node in graph.node:
        if node.op_type == "Scan":
            node.input[0] = "h_wide"


def _wide_counter(graph: onnx.GraphProto) -> None:
    graph.input[2].CopyFrom(helper.make_tensor_value_info("n", TensorProto.INT64, ["B", 1]))


def _fixed_t(graph: onnx.GraphProto) -> None:
    graph.input[0].CopyFrom(helper.make_tensor_value_info("ids", TensorProto.INT64, ["B", 8]))


def _renamed(graph: onnx.GraphProto) -> None:
    graph.input[2].name = "count"
    for node in graph.node:
        if node.op_type == "Add":
            node.input[0] = "count"


def _more(graph: onnx.GraphProto) -> None:
    graph.output.append(helper.make_tensor_value_info("x", TensorProto.FLOAT, None))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_half_state, r"state `h` is float16 \[\?, 8\], manifest says float32"),
        (_wide_counter, r"state `n` is int64 \[\?, 1\], manifest says \['B'\]"),
        (_fixed_t, r"chunk is int64 \[\?, 8\], manifest says \['B', 'T'\]"),
        (_renamed, "has no input 'n'"),
        (_more, "has an output 'x', which the manifest does not name"),
    ],
)
def test_a_graph_that_is_not_the_contracts(
    text_parts: Parts, tmp_path: Path, change: Callable[[onnx.GraphProto], None], words: str
) -> None:
    manifest, files = text_parts
    files["step.onnx"] = edited(files["step.onnx"], change)
    write_bundle(tmp_path / "demo", manifest, files)
    session = Session.open(tmp_path / "demo")
    with refused(SessionError, "graph", match=rf"^bundle demo/: step\.onnx: .*{words}"):
        session.stream().advance(b"12345678")


def test_a_graph_that_is_no_graph(text_parts: Parts, tmp_path: Path) -> None:
    manifest, files = text_parts
    write_bundle(tmp_path / "demo", manifest, {**files, "step.onnx": b"not onnx"})
    with refused(
        SessionError, "graph", match=r"^bundle demo/: step\.onnx cannot be loaded"
    ) as caught:
        Session.open(tmp_path / "demo").runner_for(8)
    assert "\n" not in str(caught.value)


def test_a_graph_may_not_read_outside_the_bundle(text_parts: Parts, tmp_path: Path) -> None:
    manifest, files = text_parts

    def outside(graph: onnx.GraphProto) -> None:
        table = next(t for t in graph.initializer if t.name == "table")
        (tmp_path / "secret.bin").write_bytes(table.raw_data)
        table.ClearField("raw_data")
        table.data_location = TensorProto.EXTERNAL
        for key, text in (("location", "../secret.bin"), ("offset", "0"), ("length", "8192")):
            entry = table.external_data.add()
            entry.key, entry.value = key, text

    files["step.onnx"] = edited(files["step.onnx"], outside)
    write_bundle(tmp_path / "demo", manifest, files)
    with refused(SessionError, "graph", match="cannot be loaded"):
        Session.open(tmp_path / "demo").runner_for(8)


def test_golden_runs_prove_every_graph(shelf: Path) -> None:
    checks = replay_golden(open_bundle(shelf / "text"))
    assert [(c.graph, c.t) for c in checks] == [
        ("step.onnx", 1),
        ("step.onnx", 4),
        ("step.onnx", 8),
        ("step_t1.onnx", 1),
    ]
    assert all(c.passed and set(c.errors) == {"logits", "h", "n"} for c in checks)


def test_one_golden_run_proves_graphs_of_other_sizes_too(text_parts: Parts, tmp_path: Path) -> None:
    manifest, files = text_parts
    only = tuple(golden for golden in manifest.golden if golden.t == 8)
    write_bundle(tmp_path / "b", replace(manifest, golden=only), files)
    checks = replay_golden(open_bundle(tmp_path / "b"))
    assert [(c.graph, c.t, c.steps) for c in checks] == [
        ("step.onnx", 8, only[0].steps),
        ("step_t1.onnx", 1, 8 * only[0].steps),
    ]
    assert all(c.passed for c in checks)


def test_golden_runs_notice_another_model(text_parts: Parts, tmp_path: Path) -> None:
    manifest, files = text_parts

    def nudge(graph: onnx.GraphProto) -> None:
        leak = next(t for t in graph.initializer if t.name == "leak")
        leak.raw_data = np.array([0.90002], np.float32).tobytes()

    files["step.onnx"] = edited(files["step.onnx"], nudge)
    write_bundle(tmp_path / "b", manifest, files)
    passed = {(c.graph, c.t): c.passed for c in replay_golden(open_bundle(tmp_path / "b"))}
    assert passed == {
        ("step.onnx", 1): False,
        ("step.onnx", 4): False,
        ("step.onnx", 8): False,
        ("step_t1.onnx", 1): True,
    }


def test_golden_files_must_keep_their_layout(text_parts: Parts, tmp_path: Path) -> None:
    manifest, files = text_parts
    data = files["golden.safetensors"]
    assert isinstance(data, bytes)
    tensors = safetensors.numpy.load(data)
    short = {name: t for name, t in tensors.items() if name != "t4/state/h"}
    cut = {**tensors, "t8/chunk": tensors["t8/chunk"][:2]}
    for i, (broken, words) in enumerate(((short, "'t4/state/h' is missing"), (cut, "'t8/chunk'"))):
        golden = {"golden.safetensors": safetensors.numpy.save(broken)}
        write_bundle(tmp_path / str(i), manifest, {**files, **golden})
        with refused(BundleError, "golden-tensors", match=words):
            replay_golden(open_bundle(tmp_path / str(i)))
    write_bundle(tmp_path / "none", replace(manifest, golden=()), files)
    with refused(BundleError, "golden-tensors", match=r"no golden run fits a T of step\.onnx"):
        replay_golden(open_bundle(tmp_path / "none"))


def test_memory_is_the_sum_of_what_is_held(shelf: Path) -> None:
    manifest = open_bundle(shelf / "text").manifest
    memory = predict(manifest, graphs=2, streams=3, chunk_sizes=[1, 8])
    assert memory.weights_bytes == 2 * manifest.weights_bytes
    assert memory.state_bytes == 3 * 2 * (64 + 64)  # 8 floats and a counter, each padded to 64
    assert memory.scratch_bytes == 3 * 9 * (8 + 256 * 4)  # an id and 256 logits per item


def test_rss_sees_what_this_process_holds() -> None:
    before = rss_bytes()
    with mmap.mmap(-1, 64 << 20) as held:  # the allocator might have it already
        for page in range(0, len(held), mmap.PAGESIZE):
            held[page] = 1
        assert 60 << 20 < rss_bytes() - before < 80 << 20


def test_the_block_is_aligned_and_its_tensors_are_views(shelf: Path) -> None:
    contract = open_bundle(shelf / "text").manifest.contract
    layout = Layout.of(contract, batch=3)
    block = layout.block()
    assert block.ctypes.data % 64 == 0
    for place, view in zip(layout.places, layout.views(block).values(), strict=True):
        assert view.ctypes.data % 64 == 0
        assert view.ctypes.data == block.ctypes.data + place.start
        assert view.shape[0] == 3


def test_buffers_on_host_and_device_hold_the_same(shelf: Path) -> None:
    layout = Layout.of(open_bundle(shelf / "sensor").manifest.contract)
    random = layout.block()
    for view in layout.views(random).values():
        view[...] = np.random.default_rng(0).normal(size=view.shape)
    here, there = layout.blocks(2)
    for buffers in (StateBuffers(layout, here), StateBuffers(layout, there, Device("cpu"))):
        buffers.write(random)
        back = layout.block()
        buffers.read(back)
        assert back.tobytes() == random.tobytes()
        assert buffers.values["c"].numpy().tobytes() == layout.views(random)["c"].tobytes()
        assert buffers.finite()
        for bad in (np.nan, np.inf, -np.inf):
            broken = random.copy()
            layout.views(broken)["c"][0, 1] = bad
            buffers.write(broken)
            assert not buffers.finite()


def test_a_stream_on_device_buffers_is_the_same_stream(
    shelf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host, device = Session.open(shelf / "text"), Session.open(shelf / "text")
    monkeypatch.setattr(
        device, "state_buffers", lambda b: StateBuffers(device.layout, b, Device("cpu"))
    )
    first, second = host.stream(), device.stream()
    for stream in (first, second):
        stream.advance(b"some bytes that fill chunks")
        stream.flush()
    fork = second.fork()
    one, other = (s.advance(b"and some more")["logits"] for s in (first, fork))
    assert one.tobytes() == other.tobytes()
    assert first.state["h"].tobytes() == fork.state["h"].tobytes()


def test_the_runtime_loads_neither_torch_nor_onnx() -> None:
    script = (
        "import sys, dst.runtime\n"
        "heavy = {'torch', 'onnx', 'transformers', 'optimum', 'dst.export', 'dst.quantize'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
    )
    assert ran.stdout.strip() == "[]"


def test_without_prepacking_the_weights_stay_where_they_are(shelf: Path) -> None:
    """The same answers, up to the order of sums."""
    packed, mapped = (Session.open(shelf / "text", prepack=prepack) for prepack in (True, False))
    options = mapped.runner_for(1).get_session_options()
    assert options.get_session_config_entry("session.disable_prepacking") == "1"
    found, expected = (
        session.stream().advance(bytes(range(64)))["logits"] for session in (mapped, packed)
    )
    assert relative_error(found, expected) <= 1e-5
