"""Small bundles go in, each recipe is tried on them; what must not change is held exactly."""

from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import onnx
import pytest
from tests.quantize.conftest import (
    NOMINAL,
    optimized,
    outputs,
    text_contract,
    text_step,
    written,
)
from tests.raising import refused

from dst.quantize import (
    RECIPES,
    Calibration,
    NothingQuantizedError,
    Override,
    QuantizeError,
    override_named,
    quantize_bundle,
    recipe_named,
)
from dst.runtime import Session, Stream, open_bundle, replay_golden, write_bundle
from dst.runtime.errors import BundleExistsError, StateMismatchError

Array = npt.NDArray[np.generic]
ITEMS = np.random.default_rng(3).integers(0, 256, 400)
CALIBRATION = Calibration.of_items(ITEMS, streams=2)
EIGHT = dict.fromkeys(("int8-dynamic", "int8-rows", "int8-static", "int8-weights"), 0.05)
BUDGET = {
    **EIGHT,
    **dict.fromkeys(("int4-weights", "int4-rows", "int4-mixed"), 0.25),
    "fp16": 0.002,
}
"""Error over size, as lengths of vectors. Rounding normal values costs 0.01 at 8 bits and 0.09 in
blocks at 4, and an output has been through three products."""


def made(source: Path, path: Path, recipe: str) -> Path:
    quantize_bundle(source, path, recipe, calibration=CALIBRATION, overwrite=True)
    return path


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_keeps_the_model_and_its_budget(
    recipe: str, text_bundle: Path, tmp_path: Path
) -> None:
    before = open_bundle(text_bundle).manifest
    done = quantize_bundle(text_bundle, tmp_path / "q", recipe, calibration=CALIBRATION)
    after = open_bundle(tmp_path / "q").manifest
    assert after == done.bundle.manifest
    assert (after.model_id, after.state_hash) == (before.model_id, before.state_hash)
    assert after.precision == RECIPES[recipe].precision
    assert (after.recipe or "").split(",")[0] == recipe
    assert after.weights_bytes < 0.6 * before.weights_bytes
    assert after.certificates == ()
    assert after.graphs[0].multiply_adds["into"] == before.graphs[0].multiply_adds["into"]
    checks = replay_golden(open_bundle(tmp_path / "q"))
    assert {check.t for check in checks} == {1, NOMINAL}
    assert all(check.passed for check in checks)
    full, quantized = (
        outputs(Session.open(p), NOMINAL, ITEMS) for p in (text_bundle, tmp_path / "q")
    )
    right = np.asarray(full["logits"], np.float64)
    off = np.linalg.norm(np.asarray(quantized["logits"], np.float64) - right) / np.linalg.norm(
        right
    )
    assert 0 < off < BUDGET[recipe]


@pytest.mark.parametrize("recipe", RECIPES)
def test_decay_stays_float32_and_the_record_says_so(
    recipe: str, text_bundle: Path, tmp_path: Path
) -> None:
    done = quantize_bundle(text_bundle, tmp_path / "q", recipe, calibration=CALIBRATION)
    found = {record.weight: record for record in done.records}
    assert {name: record.role for name, record in found.items()} == {
        "table": "embedding",
        "w_in": "recurrent",
        "w_gate": "gate",
        "w_out": "product",
        "head": "product",
    }
    assert found["w_gate"].form == "float32"
    assert "float32" in found["w_gate"].reason
    assert all(r.form != "float32" and not r.reason for n, r in found.items() if n != "w_gate")
    assert found["head"].tied
    assert found["w_in"].form == RECIPES[recipe].recurrent
    assert found["w_out"].form == RECIPES[recipe].products
    tensors = {t.name: t for t in onnx.load(str(tmp_path / "q" / "step.onnx")).graph.initializer}
    assert tensors["w_gate"].data_type == onnx.TensorProto.FLOAT


@pytest.mark.parametrize("source", ["text_bundle", "turned_bundle"])
def test_a_tied_head_costs_no_bytes(
    source: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    bundle: Path = request.getfixturevalue(source)
    quantize_bundle(bundle, tmp_path / "q", "int8-rows")
    table, products = 256 * 64, 2 * 64 * 64
    gate, scales = 4 * 64 * 64, 4 * 256 + 2 * 4 * 64
    size = (tmp_path / "q" / "weights.bin").stat().st_size
    assert table + products + gate <= size <= table + products + gate + scales + 256


def test_two_ways_to_tie_a_head_are_one_model(
    text_bundle: Path, turned_bundle: Path, tmp_path: Path
) -> None:
    one = made(text_bundle, tmp_path / "one", "int8-rows")
    two = made(turned_bundle, tmp_path / "two", "int8-rows")
    found = [outputs(Session.open(path), NOMINAL, ITEMS) for path in (one, two)]
    assert all(np.array_equal(found[1][name], value) for name, value in found[0].items())


FUSED = {
    "int8-dynamic": {"DynamicQuantizeMatMul": 3},
    "int8-rows": {"MatMulIntegerToFloat": 3},
    "int8-static": {"MatMulIntegerToFloat": 2, "QLinearMatMul": 1},  # one feeds another
    "int8-weights": {"MatMulNBits": 3},
    "int4-weights": {"MatMulNBits": 3},
    "int4-rows": {"MatMulIntegerToFloat": 3},
    "int4-mixed": {"MatMulNBits": 3},
}


@pytest.mark.parametrize("recipe", FUSED)
def test_onnxruntime_runs_every_product_in_an_integer_kernel(
    recipe: str, plain_bundle: Path, tmp_path: Path
) -> None:
    made(plain_bundle, tmp_path / "q", recipe)
    nodes = optimized(tmp_path / "q" / "step.onnx", tmp_path)
    found = [node.op_type for node in nodes]
    assert {op: found.count(op) for op in FUSED[recipe]} == FUSED[recipe]
    assert "MatMul" not in found
    for node in nodes:
        if node.op_type == "MatMulNBits":
            assert {a.name: a.i for a in node.attribute}["accuracy_level"] == 4


@pytest.mark.parametrize("recipe", ["int8-weights", "int4-weights"])
@pytest.mark.parametrize(
    "limit", [("Relu",), ("Clip", "low", "high"), ("Clip", "low"), ("Clip", "", "high")]
)
def test_a_product_before_a_limit_is_run_in_an_integer_kernel_too(
    limit: tuple[str, ...], recipe: str, tmp_path: Path
) -> None:
    step = text_step(gated=False, limit=limit)
    source = written(tmp_path / "source", step, text_contract(), ITEMS[: 2 * NOMINAL])
    made(source, tmp_path / "q", recipe)
    found = [n.op_type for n in optimized(tmp_path / "q" / "step.onnx", tmp_path)]
    assert (found.count("MatMulNBits"), "MatMul" in found) == (3, False)
    only = [Override("*", "float32"), Override("w_out", RECIPES[recipe].products)]
    quantize_bundle(source, tmp_path / "q", recipe, overrides=only, overwrite=True)
    right, limited = (
        outputs(Session.open(path), NOMINAL, ITEMS)["logits"] for path in (source, tmp_path / "q")
    )
    off = float(np.linalg.norm(np.subtract(limited, right)) / np.linalg.norm(right))
    assert 0 < off < BUDGET[recipe]


# Saved states


def test_a_saved_state_moves_to_another_precision(text_bundle: Path, tmp_path: Path) -> None:
    full = Session.open(text_bundle)
    quantized = Session.open(made(text_bundle, tmp_path / "q", "int4-weights"))
    stream = full.stream()
    stream.advance(ITEMS[:20])
    stream.save(tmp_path / "state")
    with refused(StateMismatchError, "other-precision"):
        Stream.load(quantized, tmp_path / "state")
    later = Stream.load(quantized, tmp_path / "state", allow_precision=True)
    assert all(np.array_equal(later.state[k], v) for k, v in stream.state.items())
    later.advance(ITEMS[20:40])


# Overrides


def test_overrides_keep_and_change_single_weights(text_bundle: Path, tmp_path: Path) -> None:
    overrides = [Override("w_*", "int8-rows"), Override("out", "float32")]  # the last one counts
    done = quantize_bundle(text_bundle, tmp_path / "q", "int4-weights", overrides=overrides)
    found = {record.weight: record for record in done.records}
    assert (found["w_in"].form, found["w_out"].form) == ("int8-rows", "float32")
    assert found["w_out"].reason == "kept by an override"
    assert (found["w_gate"].form, found["w_gate"].forced) == ("int8-rows", True)
    assert not found["w_in"].forced


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (Override("nothing*", "float32"), "names no weight and no node; weights: head, table"),
        (Override("table", "int4-block"), "table, which cannot be int4-block"),
    ],
)
def test_an_override_that_fits_nothing_is_refused(
    override: Override, message: str, text_bundle: Path, tmp_path: Path
) -> None:
    with refused(QuantizeError, "override", match=message):
        quantize_bundle(text_bundle, tmp_path / "q", "int8-rows", overrides=[override])
    assert list(tmp_path.iterdir()) == []


# What cannot be quantized


KEPT = [Override("*", "float32")]


@pytest.mark.parametrize("recipe", ["int8-dynamic", "int8-rows", "int4-weights", "fp16"])
def test_where_nothing_is_quantized_nothing_is_written(
    recipe: str, sensor_bundle: Path, tmp_path: Path
) -> None:
    with pytest.raises(NothingQuantizedError, match="kept by an override") as caught:
        quantize_bundle(sensor_bundle, tmp_path / "q", recipe, overrides=KEPT)
    assert {record.node for record in caught.value.records} == {"gru", "conv"}
    assert all(record.reason for record in caught.value.records)
    assert list(tmp_path.iterdir()) == []


def test_a_convolution_has_no_form_of_products(sensor_bundle: Path, tmp_path: Path) -> None:
    with refused(QuantizeError, "override", match="of a convolution, which cannot be int8-rows"):
        quantize_bundle(
            sensor_bundle, tmp_path / "q", "int8-rows", overrides=[Override("conv", "int8-rows")]
        )


# Wrong use, and interruption


def test_a_quantized_bundle_is_not_quantized_again(text_bundle: Path, tmp_path: Path) -> None:
    made(text_bundle, tmp_path / "q", "int8-rows")
    with pytest.raises(QuantizeError, match="is quantized already, by the recipe int8-rows"):
        quantize_bundle(tmp_path / "q", tmp_path / "again", "int4-weights")


def test_what_is_made_of_an_upgraded_bundle_was_not_upgraded(
    text_bundle: Path, tmp_path: Path
) -> None:
    bundle = open_bundle(text_bundle)
    files: dict[str, bytes | Path] = {f: text_bundle / f for f in bundle.manifest.files}
    upgraded = msgspec.structs.replace(bundle.manifest, upgraded_from="a" * 64, files={})
    write_bundle(tmp_path / "upgraded", upgraded, files)
    done = quantize_bundle(tmp_path / "upgraded", tmp_path / "q", "int8-rows")
    assert open_bundle(tmp_path / "upgraded").manifest.upgraded_from is not None
    assert done.bundle.manifest.upgraded_from is None  # it is another bundle


def test_wrong_recipes_are_refused() -> None:
    with refused(QuantizeError, "recipe", match="there are int8-dynamic"):
        recipe_named("int3")
    with refused(QuantizeError, "recipe", match="block is 48"):
        recipe_named("int4-weights", block=48)
    with refused(QuantizeError, "recipe", match="holds nothing in blocks"):
        recipe_named("int8-rows", block=64)
    with refused(QuantizeError, "recipe", match="no method 'best'"):
        recipe_named("int4-weights", method="best")
    with refused(QuantizeError, "recipe", match="weight_bits is 6"):
        recipe_named("int8-rows", weight_bits=6)
    with refused(QuantizeError, "override", match="no form 'int2'"):
        override_named("w_*", "int2")


@pytest.mark.parametrize(("recipe", "method"), [("int8-static", None), ("int4-weights", "gptq")])
def test_calibration_is_asked_for(
    recipe: str, method: str | None, text_bundle: Path, tmp_path: Path
) -> None:
    with refused(QuantizeError, "calibration", match="needs to see real items"):
        quantize_bundle(text_bundle, tmp_path / "q", recipe_named(recipe, method=method))
    with refused(QuantizeError, "calibration", match="filled no chunk"):
        quantize_bundle(
            text_bundle,
            tmp_path / "q",
            recipe_named(recipe, method=method),
            calibration=Calibration([[ITEMS[: NOMINAL - 1]]]),
        )


@pytest.mark.parametrize("stage", ["reading", "quantizing step.onnx", "recording golden vectors"])
def test_an_interruption_leaves_nothing(stage: str, text_bundle: Path, tmp_path: Path) -> None:
    seen: list[str] = []

    def stop(what: str, share: float) -> None:
        assert 0 <= share <= 1
        seen.append(what)
        if what == stage:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        quantize_bundle(text_bundle, tmp_path / "q", "int8-rows", progress=stop)
    assert seen[-1] == stage
    assert list(tmp_path.iterdir()) == []


def test_an_existing_bundle_is_not_overwritten(text_bundle: Path, tmp_path: Path) -> None:
    made(text_bundle, tmp_path / "q", "int8-rows")
    with pytest.raises(BundleExistsError):
        quantize_bundle(text_bundle, tmp_path / "q", "int4-weights")


@pytest.mark.parametrize("recipe", ["int8-static", "int4-mixed"])
def test_equal_input_gives_equal_bytes(recipe: str, text_bundle: Path, tmp_path: Path) -> None:
    one, two = (made(text_bundle, tmp_path / name, recipe) for name in ("one", "two"))
    assert open_bundle(one).manifest == open_bundle(two).manifest
