"""What `pack_bundle` writes does what the bundle does; Triton's part is in test_pack_triton."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from msgspec.structs import replace
from onnxruntime.tools.reduced_build_config_parser import parse_config
from tests.raising import refused

from dst.export.errors import ExportError
from dst.export.pack import TARGETS, Target, pack_bundle
from dst.export.pack.pack import PLACES
from dst.export.pack.pages import LEAST_OF_THE_RUNTIME, onnxruntimes
from dst.export.pack.reduced import CONFIG, static_graphs
from dst.export.pack.usability import UNKNOWN_SHAPE, usability
from dst.runtime import BundleError, Session, open_bundle, write_bundle
from dst.runtime.bundle.layout import sized
from dst.runtime.bundle.reader import shipped
from dst.runtime.errors import BundleExistsError, SessionError

SUITE = Path(__file__).resolve().parents[1] / "conformance/bundles"
DEVICES: tuple[Target, ...] = ("android", "ios", "desktop")
STATIC = {name for name, root in shipped().items() if static_graphs(open_bundle(root).manifest)}


def files_in(folder: Path) -> dict[str, bytes]:
    return {
        file.relative_to(folder).as_posix(): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file()
    }


def operators_in(config: Path) -> set[str]:
    """Read the list of operators as ONNX Runtime's build script does."""
    required, types = parse_config(str(config), enable_type_reduction=True)
    assert types is not None
    return {
        f"{domain}:{name}"
        for domain, versions in required.items()
        for names in versions.values()
        for name in names
    }


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", sorted(shipped()))
def test_every_shipped_bundle_is_packed_for_every_target(
    name: str, target: Target, tmp_path: Path
) -> None:
    packed = pack_bundle(name, target, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    held = files_in(tmp_path / "out")
    told = json.loads(held.pop("pack.json"))
    page = held.pop("README.md").decode()
    assert {file: len(data) for file, data in held.items()} == packed.sizes == told["sizes"]
    assert all(f"| `{file}` | {size:,} |" in page for file, size in packed.sizes.items())
    assert [f for f, data in held.items() if os.fsencode(tmp_path) in data] == []
    source = open_bundle(name)
    if target != "triton":
        copied = open_bundle(tmp_path / "out" / PLACES[target])
        assert copied.manifest == source.manifest
    graphs = {graph.file for graph in static_graphs(source.manifest)}
    phone = target in ("android", "ios")
    assert ("no portable graph" in page) == (phone and not graphs)
    assert {p.graph for p in packed.providers} == (graphs if phone else set())
    assert (target in DEVICES) == bool(packed.checks)
    if target in DEVICES:
        check_reduced(tmp_path / "out" / "reduced", name)
    assert packed.passed


def check_reduced(folder: Path, name: str) -> None:
    """Check the graphs of `.ort` with nothing of ours, then as a bundle."""
    made, source = open_bundle(folder / "bundle"), open_bundle(name)
    assert (made.manifest.model_id, made.manifest.state_hash) == (
        source.manifest.model_id,
        source.manifest.state_hash,
    )
    (golden,) = (g for g in made.manifest.golden if g.t == made.manifest.contract.chunk.nominal_t)
    tensors: dict[str, Any] = made.tensors(golden.file)
    contract = made.manifest.contract
    for graph in made.manifest.graphs:
        assert (folder / "bundle" / graph.file).suffix == ".ort"
        if golden.t not in graph.allowed_t:
            continue
        session = ort.InferenceSession(folder / "bundle" / graph.file)
        feeds = {contract.chunk.input: tensors[f"t{golden.t}/chunk"][0]}
        feeds |= {
            state.input: np.zeros(sized(state.shape, 0), state.dtype) for state in contract.state
        }
        if graph.answers is not None:
            feeds[graph.answers] = np.arange(golden.t)
        names = [output.name for output in contract.outputs]
        for output, value in zip(names, session.run(names, feeds), strict=True):
            right = tensors[f"t{golden.t}/out/{output}"][0]
            cost = tensors.get(f"t{golden.t}/cost/out/{output}")
            off = np.linalg.norm(value - right)
            assert off <= graph.golden_tolerance * (np.linalg.norm(right) if cost is None else cost)
    listed = operators_in(folder / CONFIG)
    domains = {domain for graph in made.manifest.graphs for domain in graph.domains}
    assert domains == {operator.split(":")[0] for operator in listed}


@pytest.mark.parametrize("name", ["text-int8", "feed"])
def test_a_state_goes_on_between_the_bundle_and_its_reduced_form(name: str, tmp_path: Path) -> None:
    pack_bundle(name, "desktop", tmp_path / "out")
    full, small = Session.open(name), Session.open(tmp_path / "out/reduced/bundle")
    tensors: dict[str, Any] = full.bundle.tensors("golden.safetensors")
    t = full.bundle.manifest.contract.chunk.nominal_t
    first, second = tensors[f"t{t}/chunk"][:2]
    here = full.stream()
    here.step(first)
    there = small.stream(here.saved())
    back = full.stream(there.saved())
    assert back.saved().to_bytes() == here.saved().to_bytes()
    for output, value in there.step(second).items():
        right = tensors[f"t{t}/out/{output}"][1]
        cost = tensors.get(f"t{t}/cost/out/{output}", np.linalg.norm(right))
        tolerance = full.bundle.manifest.graphs[0].golden_tolerance
        assert np.linalg.norm(value - right) <= tolerance * cost


@pytest.mark.parametrize("name", ["given", "tokens", "lookback", "level", "half"])
def test_the_reduced_form_of_other_contracts_answers_as_the_bundle(
    name: str, tmp_path: Path
) -> None:
    packed = pack_bundle(SUITE / name, "desktop", tmp_path / "out")
    assert any("no golden run" in note for note in packed.notes)
    items = np.random.default_rng(0).integers(0, 4, (24, 4))
    answers: list[dict[str, Any]] = []
    for root in (SUITE / name, tmp_path / "out/reduced/bundle"):
        session = Session.open(root)
        contract = session.bundle.manifest.contract
        given = {g.input: np.ones(sized(g.shape, 0), g.dtype) for g in contract.stream_inputs}
        width = contract.chunk.shape[1 if contract.chunk.time_axis == 2 else -1]
        read = items[:, 0] if width == "T" else items[:, : int(width)]
        stream = session.stream(inputs=given or None)
        found = stream.advance(np.ascontiguousarray(read.astype(contract.chunk.dtype)))
        answers.append({**found})
    for output, right in answers[0].items():
        tolerance = max(g.golden_tolerance for g in open_bundle(SUITE / name).manifest.graphs)
        np.testing.assert_allclose(answers[1][output], right, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", sorted(STATIC))
def test_the_report_counts_every_node_once(name: str) -> None:
    bundle = open_bundle(name)
    for graph in static_graphs(bundle.manifest):
        found = usability(bundle.root / graph.file)
        assert [use.provider for use in found] == [
            "NNAPI",
            "Core ML NeuralNetwork",
            "Core ML MLProgram",
            "XNNPACK",
        ]
        assert len({use.nodes for use in found}) == 1
        for use in found:
            assert use.taken + sum(use.left.values()) == use.nodes
            assert use.left.keys() == use.reasons.keys()
            names = [node for group in use.partitions for node in group]
            assert len(names) == len(set(names)) == use.taken
            # of graphs with fixed shapes it says so of inputs that are left out alone
            unknown = {name for name, why in use.reasons.items() if why == UNKNOWN_SHAPE}
            assert unknown <= {"ai.onnx:Clip"}
            assert (use.verdict is None) == (use.provider == "XNNPACK")


def test_a_graph_without_fixed_shapes_is_told_to_have_none() -> None:
    found = usability(open_bundle("feed").root / "step.onnx")
    assert all(UNKNOWN_SHAPE in use.reasons.values() for use in found if use.provider != "XNNPACK")
    assert all(use.verdict != "yes" for use in found)


def test_a_graph_that_strays_is_told_and_packed_all_the_same(tmp_path: Path) -> None:
    source = open_bundle("feed-int8")
    files: dict[str, bytes | Path] = {n: source.root / n for n in source.manifest.files}
    strict = [replace(graph, golden_tolerance=0.0) for graph in source.manifest.graphs]
    write_bundle(tmp_path / "strict", replace(source.manifest, graphs=tuple(strict)), files)
    packed = pack_bundle(tmp_path / "strict", "desktop", tmp_path / "out")
    assert not packed.passed
    assert json.loads((tmp_path / "out/pack.json").read_bytes())["passed"] is False


def test_nothing_is_written_where_it_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    with refused(BundleExistsError, "bundle-exists"):
        pack_bundle("feed", "web", tmp_path / "there")
    with refused(BundleError, "bundle-unwritable"):
        pack_bundle("feed", "web", tmp_path / "missing" / "out")
    with refused(ExportError, "pack-target", match="expected one of android, ios"):
        pack_bundle("feed", "watch", tmp_path / "out")  # type: ignore[arg-type]
    broken = shutil.copytree(open_bundle("feed").root, tmp_path / "broken")
    (broken / "step.onnx").write_bytes(b"")
    with refused(BundleError, "file-size"):
        pack_bundle(broken, "web", tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"there", "broken"}


def test_the_page_says_which_onnxruntime_runs_the_bundle() -> None:
    root = Path(__file__).resolve().parents[2]
    asked = re.search(r"kOrtApi = (\d+)", (root / "runtime/native/src/execution/ort.h").read_text())
    assert asked
    assert f"1.{asked[1]}" == LEAST_OF_THE_RUNTIME
    text, feed = open_bundle("text").manifest, open_bundle("feed").manifest
    assert onnxruntimes("desktop", feed) == "1.31 or newer"
    assert onnxruntimes("desktop", text) == "1.31 or newer (1.17 runs a part of the graphs)"
    assert onnxruntimes("web", text) == "1.31 or newer (1.14 runs a part of the graphs)"
    old = tuple(g for g in text.graphs if g.min_ort == "1.14")
    assert onnxruntimes("ios", replace(text, graphs=old)) == "1.17 or newer"


def test_a_failure_in_the_middle_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*arguments: object) -> Sequence[object]:
        raise SessionError("no", code="graph")

    monkeypatch.setattr("dst.export.pack.pack.write_reduced", fails)
    with refused(SessionError, "graph"):
        pack_bundle("feed", "desktop", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(
    "ONNXRUNTIME_ROOT" not in os.environ or shutil.which("cmake") is None,
    reason="needs what docs/native.md names, and ONNXRUNTIME_ROOT",
)
@pytest.mark.parametrize("name", ["feed", "text-int4"])
def test_the_program_for_a_desktop_builds_and_opens_both_forms(name: str, tmp_path: Path) -> None:
    pack_bundle(name, "desktop", tmp_path / "out")
    checkout = Path(__file__).resolve().parents[2]
    words = [f"-DDST_EDGE={checkout}", f"-DONNXRUNTIME_ROOT={os.environ['ONNXRUNTIME_ROOT']}"]
    for command in (
        ["cmake", "-S", str(tmp_path / "out"), "-B", str(tmp_path / "build"), *words],
        ["cmake", "--build", str(tmp_path / "build")],
    ):
        subprocess.run(command, check=True, capture_output=True)
    for place in ([], [tmp_path / "out/reduced/bundle"]):
        done = subprocess.run(
            [tmp_path / "build/app", *place], check=True, capture_output=True, text=True
        )
        assert re.fullmatch(r"\w+ is ready\n", done.stdout)


def test_a_graph_that_cannot_be_converted_is_an_error_of_ours(tmp_path: Path) -> None:
    source = open_bundle(SUITE / "level")
    files = {"step.onnx": (source.root / "step.onnx").read_bytes()[:-40]}
    write_bundle(tmp_path / "cut", source.manifest, files)
    with refused(SessionError, "graph", match="cannot convert its graphs"):
        pack_bundle(tmp_path / "cut", "desktop", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["cut"]
