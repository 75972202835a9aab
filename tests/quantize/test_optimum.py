"""Recipes and bundles go in; what optimum makes of them equals what this package makes of them."""

import socket
from collections import Counter
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper
from onnxruntime.quantization import QuantFormat
from optimum.onnxruntime import ORTQuantizer
from optimum.onnxruntime.configuration import (
    AutoQuantizationConfig,
    ORTConfig,
    QuantizationConfig,
)
from tests.raising import refused
from transformers import PretrainedConfig

from dst.quantize import (
    RECIPES,
    Calibration,
    Override,
    QuantizeError,
    Recipe,
    WeightRecord,
    quantize_bundle,
    recipe_named,
)
from dst.quantize.optimum import ORT_CONFIG, OptimumBackend, from_optimum, to_optimum
from dst.runtime import Session, open_bundle, replay_golden
from dst.runtime.errors import BundleError
from dst.runtime.execution.providers import Lowering

Array = npt.NDArray[np.generic]
NOMINAL = 8
TOKENS = np.random.default_rng(3).integers(0, 256, 160)
HEAD = Override("head", "float32")
FEATURES = np.random.default_rng(4).normal(size=(160, 64)).astype(np.float32)
OPERATORS = ["MatMul", "Gather"]
MAPPED = [
    replace(recipe_named(name, weight_bits=bits), embedding=embedding)
    for name in ("int8-dynamic", "int8-static")
    for bits in (7, 8)
    for embedding in ("int8", "float32")
]


# Recipes and configurations


@pytest.mark.parametrize("recipe", MAPPED, ids=lambda recipe: recipe.label)
def test_a_recipe_comes_back_from_optimum(recipe: Recipe, tmp_path: Path) -> None:
    config = to_optimum(recipe)
    assert from_optimum(config) == recipe
    ORTConfig(quantization=config).save_pretrained(tmp_path)  # and from a file
    assert from_optimum(ORTConfig.from_pretrained(tmp_path).quantization) == recipe


@pytest.mark.parametrize("static", [False, True])
def test_the_configurations_for_machines_are_recipes(static: bool) -> None:
    name = "int8-static" if static else "int8-dynamic"
    auto = AutoQuantizationConfig
    for made, bits in (
        (auto.avx512_vnni(static, operators_to_quantize=OPERATORS), 8),
        (auto.arm64(static, operators_to_quantize=OPERATORS), 8),
        (auto.ppc64le(static, operators_to_quantize=OPERATORS), 8),
        (auto.avx512(static, reduce_range=True, operators_to_quantize=OPERATORS), 7),
    ):
        recipe = recipe_named(name, weight_bits=bits)
        assert to_optimum(recipe) == made
        assert from_optimum(made) == recipe


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ("int8-rows", "no int8-rows: it has no scale per item; its nearest is int8-dynamic"),
        ("int8-weights", "no int8-block: it has no scales by block; its nearest is int8-dynamic"),
        ("int4-weights", "no int4-block: it has no 4 bits"),
        ("int4-mixed", "no int4-block: it has no 4 bits"),
        ("fp16", "no float16: half precision is no quantization to it"),
    ],
)
def test_a_recipe_without_a_counterpart_is_refused(
    recipe: str, message: str, text_bundle: Path, tmp_path: Path
) -> None:
    with refused(QuantizeError, "no-counterpart", match=message):
        to_optimum(RECIPES[recipe])
    with refused(QuantizeError, "no-counterpart", match=message):
        quantize_bundle(text_bundle, tmp_path / "q", recipe, backend=OptimumBackend())
    assert list(tmp_path.iterdir()) == []


def test_a_recipe_of_two_forms_is_refused() -> None:
    dynamic = RECIPES["int8-dynamic"]
    with refused(QuantizeError, "no-counterpart", match="int8-static where they feed the state"):
        to_optimum(replace(dynamic, recurrent="int8-static"))
    with refused(QuantizeError, "no-counterpart", match="products are float32"):
        to_optimum(replace(dynamic, products="float32", recurrent="float32"))
    with refused(QuantizeError, "no-counterpart", match="the embedding is float16"):
        to_optimum(replace(dynamic, embedding="float16"))


RIGHT = to_optimum(RECIPES["int8-dynamic"])
RIGHT_STATIC = to_optimum(RECIPES["int8-static"])


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (AutoQuantizationConfig.avx512_vnni(False), "holds Attention, Conv, EmbedLayerNorm"),
        (
            AutoQuantizationConfig.arm64(True),
            "holds .*Conv.* which recipes hold in forms of their own",
        ),
        (replace(RIGHT, operators_to_quantize=["Gather"]), "every recipe quantizes products"),
        (AutoQuantizationConfig.avx2(False, operators_to_quantize=OPERATORS), "reduce_range=True"),
        (replace(RIGHT, weights_symmetric=False), "weights have no zero point"),
        (replace(RIGHT, per_channel=False), "per_channel is False, recipes have True"),
        (
            AutoQuantizationConfig.tensorrt(operators_to_quantize=OPERATORS),
            "activations_dtype is QInt8, recipes have QUInt8",
        ),
        (replace(RIGHT, activations_symmetric=True), "activations_symmetric is True"),
        (replace(RIGHT_STATIC, format=QuantFormat.QOperator), "written as QDQ pairs"),
        (replace(RIGHT_STATIC, qdq_add_pair_to_weight=True), "weights are held in int8"),
        (replace(RIGHT_STATIC, qdq_dedicated_pair=True), "pairs once"),
        (
            replace(RIGHT_STATIC, qdq_op_type_per_channel_support_to_axis={"MatMul": 0}),
            "columns have scales",
        ),
        (replace(RIGHT, nodes_to_exclude=["MatMul_7"]), "name nodes by overrides"),
        (replace(RIGHT, nodes_to_quantize=["MatMul_7"]), "name nodes by overrides"),
    ],
)
def test_a_configuration_that_is_no_recipe_is_refused(
    config: QuantizationConfig, message: str
) -> None:
    with refused(QuantizeError, "no-counterpart", match=message):
        from_optimum(config)


# Both ways to the same numbers


def run(path: Path, t: int, items: Array, lowering: Lowering | None = None) -> list[bytes]:
    """Step over items with the state carried: every output and the last state, as bytes."""
    stream = Session.open(path, chunk_sizes=[t], lowering=lowering, verify="size").stream()
    outputs = [stream.step(items[None, i : i + t]) for i in range(0, len(items) - t + 1, t)]
    return [v.tobytes() for step in (*outputs, stream.state) for _, v in sorted(step.items())]


def both(
    source: str | Path, folder: Path, recipe: Recipe, calibration: Calibration
) -> tuple[Path, Path, tuple[WeightRecord, ...]]:
    """Quantize a bundle by this package and by optimum; what became of each weight is the same."""
    ours, theirs = (
        quantize_bundle(source, folder / name, recipe, calibration=calibration, backend=backend)
        for name, backend in (("ours", None), ("theirs", OptimumBackend()))
    )
    assert ours.records == theirs.records
    return folder / "ours", folder / "theirs", theirs.records


def weights(path: Path) -> dict[str, set[tuple[tuple[int, ...], bytes]]]:
    """Dtype -> shape and values of every matrix of a bundle's graphs; a tied head is its table."""
    found: dict[str, set[tuple[tuple[int, ...], bytes]]] = {}
    for graph in open_bundle(path).manifest.graphs:
        for tensor in onnx.load(str(path / graph.file)).graph.initializer:
            array = numpy_helper.to_array(tensor)
            if array.ndim == 2:
                found.setdefault(str(array.dtype), set()).add((array.shape, array.tobytes()))
    return found


@pytest.mark.parametrize("recipe", MAPPED, ids=lambda recipe: recipe.label)
@pytest.mark.parametrize("source", ["text_bundle", "turned_bundle", "gemm_bundle"])
def test_outputs_and_states_are_equal_bit_for_bit(
    source: str, recipe: Recipe, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    bundle: Path = request.getfixturevalue(source)
    items = FEATURES if source == "gemm_bundle" else TOKENS
    calibration = Calibration.of_items(items, streams=2)
    ours, theirs, records = both(bundle, tmp_path, recipe, calibration)
    for t in (1, NOMINAL):
        assert run(theirs, t, items) == run(ours, t, items)
    assert run(theirs, NOMINAL, items) != run(bundle, NOMINAL, items)
    assert weights(theirs) == weights(ours)
    assert any(r.form == "float32" for r in records)
    before, after = open_bundle(ours).manifest, open_bundle(theirs).manifest
    assert (after.model_id, after.state_hash) == (before.model_id, before.state_hash)
    assert (after.recipe, after.contract) == (before.recipe, before.contract)
    assert all(check.passed for check in replay_golden(open_bundle(theirs)))


def test_only_the_scales_of_columns_of_zeros_differ(gemm_bundle: Path, tmp_path: Path) -> None:
    recipe = RECIPES["int8-dynamic"]
    ours, theirs, _ = both(gemm_bundle, tmp_path, recipe, Calibration([]))
    found = [
        {
            t.name: numpy_helper.to_array(t)
            for t in onnx.load(str(p / "step.onnx")).graph.initializer
        }
        for p in (ours, theirs)
    ]
    scales = found[0]["w2_scale.scale"], found[1]["optimum.w2_scale.weight_scale"]
    (different,) = np.nonzero(scales[0] != scales[1])
    assert different.tolist() == [5]
    assert not found[0]["w2_scale.int8"][:, 5].any()


def test_it_is_what_optimum_makes_of_the_whole_graph(plain_bundle: Path, tmp_path: Path) -> None:
    """Shown the products alone, optimum does what it does of itself where it does no harm."""
    recipe = replace(RECIPES["int8-dynamic"], embedding="float32")
    quantize_bundle(plain_bundle, tmp_path / "q", recipe, backend=OptimumBackend())
    config = ORTConfig.from_pretrained(tmp_path / "q").quantization
    ORTQuantizer(plain_bundle / "step.onnx", config=PretrainedConfig()).quantize(
        config, save_dir=tmp_path / "plain", file_suffix=""
    )
    plain = ort.InferenceSession(str(tmp_path / "plain" / "step.onnx"))
    state, expected = np.zeros((1, 64), np.float32), []
    for start in range(0, len(TOKENS), NOMINAL):
        ids = TOKENS[None, start : start + NOMINAL]
        logits, state = plain.run(["logits", "h_next"], {"ids": ids, "h": state})
        expected.append(logits.tobytes())
    assert run(tmp_path / "q", NOMINAL, TOKENS) == [*expected, state.tobytes()]


TEXT = np.frombuffer(files("dst").joinpath("heldout", "stdlib.txt").read_bytes()[:2048], np.uint8)


@pytest.mark.parametrize("recipe", ["int8-dynamic", "int8-static"])
def test_the_shipped_model_is_equal_in_every_graph(recipe: str, tmp_path: Path) -> None:
    items = TEXT.astype(np.int64)
    calibration = Calibration([[items[:1024]], [items[1024:]]], sampled=(1, 10))
    ours, theirs, records = both("text", tmp_path, RECIPES[recipe], calibration)
    left = Counter(r.role for r in records if r.form == "float32")
    assert left == {"gate": 2, "operator": 2}  # those of the graph for single steps
    lowerings: tuple[Lowering, ...] = ("fused", "portable")
    for lowering in lowerings:
        for t, steps in ((32, 24), (1, 48)):
            some = items[: t * steps]
            assert run(theirs, t, some, lowering) == run(ours, t, some, lowering)
    before, after = (open_bundle(p).manifest.weights_bytes for p in (ours, theirs))
    assert before < after < 1.001 * before  # a tied head is stored once; zero points are new


# The bundle


def test_the_bundle_keeps_the_configuration(text_bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "q"
    recipe = recipe_named("int8-dynamic", weight_bits=8)
    quantize_bundle(text_bundle, out, recipe, backend=OptimumBackend())
    assert ORT_CONFIG in open_bundle(out).manifest.files
    assert from_optimum(ORTConfig.from_pretrained(out).quantization) == recipe
    costs = [open_bundle(p).manifest.graphs[0].multiply_adds for p in (text_bundle, out)]
    assert costs[1]["into"] == costs[0]["into"] > 0  # products keep their names
    (out / ORT_CONFIG).write_bytes((out / ORT_CONFIG).read_bytes().replace(b"true", b"True", 1))
    with refused(BundleError, "file-hash", match=ORT_CONFIG):
        open_bundle(out)


def test_equal_input_gives_equal_bytes(text_bundle: Path, tmp_path: Path) -> None:
    one, two = (
        quantize_bundle(text_bundle, tmp_path / n, "int8-dynamic", backend=OptimumBackend())
        for n in ("one", "two")
    )
    assert one.bundle.manifest == two.bundle.manifest


def test_what_optimum_does_not_write_is_written_by_this_package(
    sensor_bundle: Path, tmp_path: Path
) -> None:
    """A GRU and a convolution, and no product."""
    quantize_bundle(sensor_bundle, tmp_path / "a", "int8-dynamic", backend=OptimumBackend())
    quantize_bundle(sensor_bundle, tmp_path / "b", "int8-dynamic")
    one, two = (open_bundle(tmp_path / name).manifest for name in ("a", "b"))
    assert one == two


def test_weights_can_be_kept_and_no_other_form_chosen(text_bundle: Path, tmp_path: Path) -> None:
    done = quantize_bundle(
        text_bundle,
        tmp_path / "kept",
        "int8-dynamic",
        overrides=[Override("w_out", "float32")],
        backend=OptimumBackend(),
    )
    forms = {r.weight: r.form for r in done.records}
    assert (forms["w_in"], forms["w_out"]) == ("int8-dynamic", "float32")
    with refused(
        QuantizeError, "no-counterpart", match="w_out is to be int8-rows; with optimum every"
    ):
        quantize_bundle(
            text_bundle,
            tmp_path / "q",
            "int8-dynamic",
            overrides=[Override("w_out", "int8-rows")],
            backend=OptimumBackend(),
        )
    assert not (tmp_path / "q").exists()


def test_a_backend_brings_nothing_along_from_the_bundle_before(
    text_bundle: Path, tmp_path: Path
) -> None:
    backend = OptimumBackend()
    held = []
    for name, overrides in (("all", ()), ("table", (Override("w_*", "float32"), HEAD))):
        done = quantize_bundle(
            text_bundle, tmp_path / name, "int8-dynamic", overrides=overrides, backend=backend
        )
        held.append(ORT_CONFIG in done.bundle.manifest.files)
    assert held == [True, False]


def test_static_asks_for_calibration(text_bundle: Path, tmp_path: Path) -> None:
    with refused(QuantizeError, "calibration", match="needs to see real items"):
        quantize_bundle(text_bundle, tmp_path / "q", "int8-static", backend=OptimumBackend())


def test_nothing_is_sent_anywhere(
    text_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []

    def refuse(*where: object) -> None:
        asked.append(where)
        raise OSError("no network here")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    with pytest.raises(OSError, match="no network here"):
        socket.create_connection(("localhost", 9))
    asked.clear()
    quantize_bundle(text_bundle, tmp_path / "q", "int8-dynamic", backend=OptimumBackend())
    assert asked == []
