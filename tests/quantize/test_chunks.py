"""Streams are cut in other ways; what stays equal bit for bit is held, and what does not.

Whether a product in blocks (`MatMulNBits`) answers a row the same alone and among others depends on
the kernel that ONNX Runtime takes on this CPU. So each such product of a bundle is tried by itself
first, with other numbers. Where all of them keep their rows, bit-equality over T is demanded of the
bundle. Where one does not, another cut may move the results by no more than the roundings of
activations can: the bundle's golden tolerance. The same holds where float32 itself does not give
the same bits at every T, as its operators sum in another order for single items.
"""

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import pytest
import torch
from tests.quantize.conftest import NOMINAL, optimized, outputs
from tests.quantize.kernels import keeps_rows, kernels
from tests.raising import refused

from dst.export import export_bundle
from dst.graphs.walk import opset_of
from dst.quantize import Calibration, Override, quantize_bundle, recipe_named
from dst.runtime import Session, open_bundle, write_bundle
from dst.runtime.bundle.manifest import Graph
from dst.runtime.errors import SessionError, StepError
from dst.runtime.execution.providers import Lowering
from dst.runtime.golden import cost_error, golden_costs

Array = npt.NDArray[np.generic]
ITEMS = np.random.default_rng(3).integers(0, 256, 400)
CALIBRATION = Calibration.of_items(ITEMS, streams=2)
STATIC = {1: "step_t1.onnx", NOMINAL: "step_t8.onnx"}

BY_ITEM = [
    ("int8-rows", None),
    ("int8-static", None),
    ("int8-weights", 16),
    ("int8-weights", 32),
    ("int8-weights", 64),
    ("int4-weights", 16),
    ("int4-weights", 32),
    ("int4-mixed", 32),
]
"""Recipes that round item by item, with block sizes."""


@pytest.fixture(scope="session")
def static_bundle(plain_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The plain model as a portable bundle: a graph for chunks and one for single steps."""
    bundle = open_bundle(plain_bundle)
    whole = bundle.manifest.graphs[0]
    graphs: tuple[Graph, ...] = tuple(
        msgspec.structs.replace(whole, file=file, lowering="portable", allowed_t=(t,), batch=(1,))
        for t, file in STATIC.items()
    )
    chunk = msgspec.structs.replace(bundle.manifest.contract.chunk, allowed_t=tuple(STATIC))
    contract = msgspec.structs.replace(bundle.manifest.contract, chunk=chunk)
    golden = bundle.manifest.golden[0].file
    path = tmp_path_factory.mktemp("static") / "static"
    manifest = msgspec.structs.replace(
        bundle.manifest, contract=contract, graphs=graphs, certificates=(), files={}
    )
    steps: dict[str, bytes | Path] = {file: plain_bundle / whole.file for file in STATIC.values()}
    write_bundle(path, manifest, {**steps, golden: plain_bundle / golden})
    return path


def same_for_every_t(
    bundle: Path,
    by_t: Mapping[int, dict[str, Array]],
    full: dict[str, Array],
    folder: Path,
    float_exact: bool = True,
) -> None:
    """Hold what other cuts give: the same bits if every kernel keeps its rows, else a bound."""
    exact = float_exact and all(
        keeps_rows(kernel, tuple(sorted(by_t))) for kernel in kernels(bundle, folder)
    )
    largest = by_t[max(by_t)]
    costs = golden_costs(named(largest), named(full), 1)
    allowed = max(graph.golden_tolerance for graph in open_bundle(bundle).manifest.graphs)
    # golden runs are short; without its attention a float32 model strays by 2e-4 over 1,024 items
    allowed = max(allowed, 5e-4)
    for found in by_t.values():
        if exact:
            assert all(np.array_equal(found[name], value) for name, value in largest.items())
            continue
        for name, value in largest.items():
            assert cost_error(found[name], value, float(costs[f"t1/cost/{name}"])) <= allowed


def named(found: Mapping[str, Array]) -> dict[str, Array]:
    return {f"t1/{name}": value for name, value in found.items()}


# Where each item is rounded by itself


@pytest.mark.parametrize(("recipe", "block"), BY_ITEM)
def test_rounding_by_item_is_the_same_for_every_t(
    recipe: str, block: int | None, plain_bundle: Path, tmp_path: Path
) -> None:
    quantize_bundle(
        plain_bundle, tmp_path / "q", recipe_named(recipe, block=block), calibration=CALIBRATION
    )
    session = Session.open(tmp_path / "q")
    assert session.contract.chunk.allowed_t == (1, 2, NOMINAL)
    by_t = {t: outputs(session, t, ITEMS) for t in (1, 2, NOMINAL)}
    assert set(by_t[1]) == {"logits", "h"}
    full = outputs(Session.open(plain_bundle), NOMINAL, ITEMS)
    same_for_every_t(tmp_path / "q", by_t, full, tmp_path)


@pytest.mark.parametrize(("recipe", "block"), BY_ITEM)
def test_static_graphs_hold_the_same_numbers_once_and_agree(
    recipe: str, block: int | None, static_bundle: Path, plain_bundle: Path, tmp_path: Path
) -> None:
    chosen = recipe_named(recipe, block=block)
    quantize_bundle(static_bundle, tmp_path / "q", chosen, calibration=CALIBRATION)
    quantize_bundle(plain_bundle, tmp_path / "plain", chosen, calibration=CALIBRATION)
    sizes = [(tmp_path / name / "weights.bin").stat().st_size for name in ("q", "plain")]
    assert sizes[0] == sizes[1]
    session = Session.open(tmp_path / "q")
    assert {session.graph_for(t).file for t in STATIC} == set(STATIC.values())
    by_t = {t: outputs(session, t, ITEMS) for t in STATIC}
    full = outputs(Session.open(plain_bundle), NOMINAL, ITEMS)
    same_for_every_t(tmp_path / "q", by_t, full, tmp_path)


@pytest.mark.parametrize(("recipe", "block"), BY_ITEM)
def test_a_later_item_moves_nothing_before_it(
    recipe: str, block: int | None, plain_bundle: Path, tmp_path: Path
) -> None:
    quantize_bundle(
        plain_bundle, tmp_path / "q", recipe_named(recipe, block=block), calibration=CALIBRATION
    )
    assert not later_moves_earlier(Session.open(tmp_path / "q"))


# Where a scale spans the chunk


def later_moves_earlier(session: Session) -> bool:
    """Whether the last item of a chunk changes the answers to those before it."""
    items = ITEMS[:NOMINAL].copy()
    before = outputs(session, NOMINAL, items)["logits"][0, :-1]
    moved = False
    for other in range(0, 256, 8):
        items[-1] = other
        moved |= not np.array_equal(outputs(session, NOMINAL, items)["logits"][0, :-1], before)
    return moved


@pytest.mark.parametrize("source", ["plain_bundle", "static_bundle"])
def test_a_scale_per_chunk_is_not_causal_and_is_labelled(
    source: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    bundle: Path = request.getfixturevalue(source)
    quantize_bundle(bundle, tmp_path / "q", "int8-dynamic")
    session = Session.open(tmp_path / "q")
    assert session.bundle.manifest.recipe == "int8-dynamic, non-causal"
    assert later_moves_earlier(session)
    whole, single = (outputs(session, t, ITEMS) for t in (NOMINAL, 1))
    for name in ("logits", "h"):  # why T has to be fixed
        assert not np.array_equal(whole[name], single[name])


def test_one_such_weight_is_enough(plain_bundle: Path, tmp_path: Path) -> None:
    one = [Override("w_out", "int8-dynamic")]
    quantize_bundle(plain_bundle, tmp_path / "q", "int8-rows", overrides=one)
    session = Session.open(tmp_path / "q")
    assert session.bundle.manifest.recipe == "int8-rows, non-causal"
    assert session.contract.chunk.allowed_t == (1, NOMINAL)
    assert later_moves_earlier(session)


def test_another_t_is_refused(plain_bundle: Path, tmp_path: Path) -> None:
    quantize_bundle(plain_bundle, tmp_path / "q", "int8-dynamic")
    contract = open_bundle(tmp_path / "q").manifest.contract
    assert contract.chunk.allowed_t == (1, NOMINAL)
    with refused(
        SessionError, "chunk-size", match=r"no graph runs T = 2 as asked; choose from \[1, 8\]"
    ):
        Session.open(tmp_path / "q", chunk_sizes=[2])
    stream = Session.open(tmp_path / "q").stream()
    before = {name: value.copy() for name, value in stream.state.items()}
    with refused(StepError, "chunk-shape", match=r"T = 2, this session runs T = \[1, 8\]"):
        stream.step(ITEMS[None, :2])
    assert all(np.array_equal(stream.state[name], value) for name, value in before.items())
    stream.step(ITEMS[None, :NOMINAL])


# The graph for single steps


def test_single_steps_get_a_graph_that_multiplies_the_same_numbers_by_block(
    plain_bundle: Path, static_bundle: Path, tmp_path: Path
) -> None:
    done = quantize_bundle(plain_bundle, tmp_path / "q", "int8-dynamic")
    graphs = {graph.file: graph for graph in done.bundle.manifest.graphs}
    assert {file: graph.allowed_t for file, graph in graphs.items()} == {
        "step.onnx": (NOMINAL,),
        "step_single.onnx": (1,),
    }
    assert (
        graphs["step_single.onnx"].multiply_adds["into"] * NOMINAL
        == (graphs["step.onnx"].multiply_adds["into"])
    )
    kinds = [node.op_type for node in optimized(tmp_path / "q" / "step_single.onnx", tmp_path)]
    assert (kinds.count("MatMulNBits"), "MatMul" in kinds) == (3, False)
    # a graph of single steps alone stays as portable as it was, and has no further numbers
    quantize_bundle(static_bundle, tmp_path / "static", "int8-dynamic")
    names = [graph.file for graph in open_bundle(tmp_path / "static").manifest.graphs]
    assert sorted(names) == sorted(STATIC.values())
    weights = [(tmp_path / name / "weights.bin").stat().st_size for name in ("q", "static")]
    scales = 4 * (64 + 64 + 256)
    assert weights[1] <= weights[0] <= weights[1] + scales + 3 * 64


def test_single_steps_are_closer_to_full_precision_than_chunks(
    plain_bundle: Path, tmp_path: Path
) -> None:
    quantize_bundle(plain_bundle, tmp_path / "q", "int8-dynamic")
    full, quantized = Session.open(plain_bundle), Session.open(tmp_path / "q")
    right = outputs(full, 1, ITEMS)["logits"]
    chunks, single = (
        float(np.linalg.norm(np.subtract(outputs(quantized, t, ITEMS)["logits"], right)))
        for t in (NOMINAL, 1)
    )
    assert 0 < single < chunks


def test_every_graph_of_a_fused_bundle_is_raised_for_it_and_no_other(tmp_path: Path) -> None:
    done = quantize_bundle("text", tmp_path / "q", "int8-dynamic")
    opsets = {
        graph.file: opset_of(onnx.load(str(tmp_path / "q" / graph.file), load_external_data=False))
        for graph in done.bundle.manifest.graphs
    }
    assert opsets == {
        "step.onnx": 23,
        "any_t1.onnx": 23,
        "step_t32.onnx": 18,
        "step_t1.onnx": 18,
    }


def test_chunks_read_four_bits_as_eight_and_single_steps_as_blocks(
    plain_bundle: Path, tmp_path: Path
) -> None:
    for recipe in ("int4-rows", "int4-weights"):
        quantize_bundle(plain_bundle, tmp_path / recipe, recipe)
    fast, plain = Session.open(tmp_path / "int4-rows"), Session.open(tmp_path / "int4-weights")
    sizes = {graph.file: graph.allowed_t for graph in fast.bundle.manifest.graphs}
    assert sizes == {"step.onnx": (2, NOMINAL), "step_single.onnx": (1,)}
    kinds = {
        file: [node.op_type for node in optimized(tmp_path / "int4-rows" / file, tmp_path)]
        for file in sizes
    }
    assert kinds["step.onnx"].count("MatMulIntegerToFloat") == 3
    assert kinds["step_single.onnx"].count("MatMulNBits") == 2  # the head reads the int8 table
    # single steps are those of int4-weights; chunks are all the same, and as close
    by_t = {t: outputs(fast, t, ITEMS) for t in (1, 2, NOMINAL)}
    same = outputs(plain, 1, ITEMS)
    assert np.array_equal(by_t[1]["h"], same["h"])
    assert all(np.array_equal(by_t[2][name], value) for name, value in by_t[NOMINAL].items())
    full = outputs(Session.open(plain_bundle), NOMINAL, ITEMS)
    error, usual = (apart(found, full) for found in (by_t[NOMINAL], same))
    assert 0 < error < 1.2 * usual
    # the file holds 4 bits, and one more scale per column
    held = [
        (tmp_path / name / "weights.bin").stat().st_size for name in ("int4-rows", "int4-weights")
    ]
    assert held[1] <= held[0] <= held[1] + 4 * (64 + 64 + 256) + 3 * 64


def test_what_opening_calculates_of_four_bits_is_small_and_near(
    plain_bundle: Path, tmp_path: Path
) -> None:
    quantize_bundle(plain_bundle, tmp_path / "q", "int4-rows")
    model = onnx.load(str(tmp_path / "q" / "step.onnx"))  # with its weights
    tensors = {t.name: t for t in model.graph.initializer}
    known, made = set(tensors), []
    for node in model.graph.node:
        if node.input and all(value in known for value in node.input):
            known.update(node.output)
            made.append(node)
    wanted = [node.output[0] for node in made if node.op_type == "QuantizeLinear"]
    names = [node.output[0] for node in made]
    outputs_of = [onnx.ValueInfoProto(name=name) for name in names]
    alone = onnx.helper.make_graph(made, "constants", [], outputs_of, list(tensors.values()))
    opsets = list(model.opset_import)
    data = onnx.helper.make_model(alone, opset_imports=opsets, ir_version=model.ir_version)
    session = ort.InferenceSession(data.SerializeToString(), providers=["CPUExecutionProvider"])
    found = dict(zip(names, session.run(names, {}), strict=True))
    values = sum(found[name].size for name in wanted)
    # what products read stands for float weights, which nobody calculates
    read = {node.input[1] for node in model.graph.node if node.op_type == "MatMul"}
    assert values == 2 * 64 * 64
    last = {n.output[0] for n in made if n.op_type == "DequantizeLinear" and n.output[0] in read}
    held = sum(found[name].nbytes for name in names if name not in last)
    assert held <= (2 + 2 + 1 + 0.5) * values + 256 * 64  # and the head's table, turned
    for name in wanted:
        stem = name.removesuffix(".columns")
        blocks, scale = tensors[f"{stem}.int4"], tensors[f"{stem}.block_scale"]
        exact = onnx.numpy_helper.to_array(blocks).astype(np.float32)
        exact *= np.repeat(onnx.numpy_helper.to_array(scale), 32, 0)[: len(exact)]
        exact /= onnx.numpy_helper.to_array(tensors[f"{stem}.column_scale"])
        assert np.abs(found[name] - exact).max() <= 0.55


@pytest.mark.parametrize("recipe", ["int8-dynamic", "int8-rows", "int4-rows"])
def test_the_last_answer_is_that_of_the_whole_chunk(recipe: str, tmp_path: Path) -> None:
    quantize_bundle("text", tmp_path / "q", recipe)
    asked = {g.file: g.answers for g in open_bundle(tmp_path / "q").manifest.graphs}
    assert asked["step.onnx"] == (None if recipe == "int8-dynamic" else "answers")
    session, items = Session.open(tmp_path / "q"), ITEMS[None, :32]
    whole, last = session.stream(), session.stream()
    expected = whole.step(items)["logits"][:, -1:]
    assert np.array_equal(last.step(items, last=True)["logits"], expected)
    assert all(np.array_equal(last.state[name], value) for name, value in whole.state.items())


def test_a_graph_for_one_stream_does_not_stand_for_one_for_any(
    plain_bundle: Path, tmp_path: Path
) -> None:
    """A graph for T = 1 and B = 1 is there; pools still need one for T = 1 and any B."""
    bundle = open_bundle(plain_bundle)
    (whole,) = bundle.manifest.graphs
    single = msgspec.structs.replace(whole, file="one.onnx", allowed_t=(1,), batch=(1,))
    files: dict[str, bytes | Path] = {f: plain_bundle / f for f in bundle.manifest.files}
    manifest = msgspec.structs.replace(bundle.manifest, graphs=(whole, single), files={})
    write_bundle(tmp_path / "two", manifest, {**files, "one.onnx": plain_bundle / whole.file})
    for recipe in ("int8-dynamic", "int4-rows"):
        made = quantize_bundle(tmp_path / "two", tmp_path / recipe, recipe).bundle
        able = {t for g in made.manifest.graphs if not g.batch for t in g.allowed_t}
        assert able == set(made.manifest.contract.chunk.allowed_t)


# The shipped model: all of it is exact but its window attention, which stays float32 and whose last
# bits depend on where in a chunk an item stands


@pytest.fixture(scope="module")
def unseeing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped model, fused, with what its window attention answers multiplied by zero."""
    text = open_bundle("text")
    whole = next(graph for graph in text.manifest.graphs if graph.lowering == "fused")
    model = onnx.load(str(text.root / whole.file), load_external_data=False)
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        nodes.append(node)
        if node.op_type == "Attention":
            answer = node.output[0]
            node.output[0] = f"{answer}.seen"
            nodes.append(onnx.helper.make_node("Mul", [f"{answer}.seen", "nothing"], [answer]))
    layers = sum(state.input.startswith("Kc.") for state in text.manifest.contract.state)
    assert len(nodes) - len(model.graph.node) == layers
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    nothing = onnx.numpy_helper.from_array(np.zeros((), np.float32), "nothing")
    model.graph.initializer.append(nothing)
    path = tmp_path_factory.mktemp("unseeing") / "text"
    manifest = msgspec.structs.replace(text.manifest, graphs=(whole,), certificates=(), files={})
    kept = ["weights.bin", *(golden.file for golden in manifest.golden)]
    step: dict[str, bytes | Path] = {whole.file: bytes(model.SerializeToString())}
    write_bundle(path, manifest, {**step, **{file: text.root / file for file in kept}})
    return path


@pytest.mark.parametrize(
    "recipe", [None, "int8-rows", "int8-static", "int8-weights", "int4-weights", "int4-mixed"]
)
def test_all_of_the_shipped_model_but_its_window_attention_is_the_same_for_every_t(
    recipe: str | None, unseeing: Path, tmp_path: Path
) -> None:
    items = heldout(1024)
    path = unseeing if recipe is None else tmp_path / "q"
    if recipe is not None:
        quantize_bundle(unseeing, path, recipe, calibration=Calibration.of_items(items, streams=2))
    contract = open_bundle(path).manifest.contract
    sizes = contract.chunk.allowed_t
    assert sizes == (1, 2, 4, 8, 16, 32, 64, 128, 256)
    by_t = {t: outputs(Session.open(path, chunk_sizes=[t]), t, items) for t in sizes}
    assert len(by_t[1]) == 1 + len(contract.state)  # the logits and each tensor of the state
    float_by_t = {t: outputs(Session.open(unseeing, chunk_sizes=[t]), t, items) for t in (1, 32)}
    float_exact = all(np.array_equal(float_by_t[1][k], v) for k, v in float_by_t[32].items())
    same_for_every_t(path, by_t, float_by_t[32], tmp_path, float_exact)


LOWERINGS: tuple[Lowering, ...] = ("fused", "portable")
Cut = dict[tuple[Lowering, int], dict[str, Array]]


def heldout(count: int) -> npt.NDArray[np.int64]:
    """The first bytes of the text that the shipped model has not been trained on."""
    text = files("dst").joinpath("heldout", "stdlib.txt").read_bytes()[:count]
    return np.frombuffer(text, np.uint8).astype(np.int64)


def cut(bundle: str | Path) -> Cut:
    """What a bundle makes of some text by each lowering, in single steps and in chunks."""
    items = heldout(512)
    return {
        (lowering, t): outputs(Session.open(bundle, lowering=lowering, chunk_sizes=[t]), t, items)
        for lowering in LOWERINGS
        for t in (1, 32)
    }


def apart(one: dict[str, Array], other: dict[str, Array]) -> float:
    """The largest distance of outputs and states, each over the size of the other's."""
    sizes = {name: max(float(np.linalg.norm(value)), 1e-30) for name, value in other.items()}
    return max(float(np.linalg.norm(np.subtract(one[k], v))) / sizes[k] for k, v in other.items())


@pytest.fixture(scope="module")
def full() -> Cut:
    return cut("text")


@pytest.mark.parametrize(
    ("recipe", "by_item"), [("int8-rows", True), ("int4-weights", True), ("int8-dynamic", False)]
)
def test_what_a_cut_moves_beside_what_rounding_costs(
    recipe: str, by_item: bool, full: Cut, tmp_path: Path
) -> None:
    """Last bits of float32 move some rounded values by a step; a scale per chunk moves all."""
    quantize_bundle("text", tmp_path / "q", recipe)
    quantized = cut(tmp_path / "q")
    for lowering in LOWERINGS:
        assert apart(full[lowering, 1], full[lowering, 32]) < 1e-5
        moved = apart(quantized[lowering, 1], quantized[lowering, 32])
        rounding = apart(quantized[lowering, 32], full[lowering, 32])
        assert (moved < 0.5 * rounding) is by_item


def test_pruned_rows_of_small_columns_do_not_overflow(tmp_path: Path) -> None:
    """A block of zeros has a scale that means nothing, and may be 60,000 times its column's."""

    class Pruned(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.up = torch.nn.Linear(4, 64, bias=False)
            self.down = torch.nn.Linear(64, 64, bias=False)
            with torch.no_grad():
                self.down.weight.mul_(1e-4)
                self.down.weight[:, :32] = 0

        def initial_state(self, batch: int) -> dict[str, torch.Tensor]:
            return {"s": torch.zeros(batch, 64)}

        def forward(
            self, x: torch.Tensor, state: dict[str, torch.Tensor]
        ) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
            total = state["s"][:, None] + torch.cumsum(self.up(x), 1) * 0.1
            return {"y": self.down(total * 1e4)}, {"s": total[:, -1]}

    module = Pruned().eval()
    export_bundle(module, tmp_path / "full", chunk=torch.randn(1, 8, 4), t=[1, 8], certify_steps=8)
    quantize_bundle(tmp_path / "full", tmp_path / "rows", "int4-rows")
    chunk = np.random.default_rng(0).normal(size=(1, 8, 4)).astype(np.float32)
    full, rows = (
        Session.open(tmp_path / name).stream().step(chunk)["y"] for name in ("full", "rows")
    )
    assert np.linalg.norm(np.subtract(rows, full)) < 0.1 * np.linalg.norm(full)
