"""What `dst show` says of a recipe's kernels is what the kernels of this CPU do."""

import platform
from pathlib import Path

import numpy as np
import pytest
from tests.quantize.conftest import NOMINAL, VOCABULARY
from tests.quantize.kernels import keeps_rows, kernels

from dst.cli.app import call
from dst.cli.verbs.show import EXACT_UP_TO, over_t
from dst.quantize import Calibration, quantize_bundle
from dst.quantize.recipe import BLOCKS

CALIBRATION = Calibration.of_items(np.random.default_rng(3).integers(0, VOCABULARY, 400), streams=2)


def test_int8_by_item_has_no_product_in_blocks(plain_bundle: Path, tmp_path: Path) -> None:
    """So that bit-equality is demanded of it on every CPU."""
    for recipe in ("int8-rows", "int8-static"):
        quantize_bundle(plain_bundle, tmp_path / recipe, recipe, calibration=CALIBRATION)
        assert not kernels(tmp_path / recipe, tmp_path)


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="tells of x86 kernels")
def test_the_kernels_of_this_cpu_keep_rows_as_one_of_the_kinds_that_are_told_of() -> None:
    found = {
        (bits, block): keeps_rows((bits, block, 96, VOCABULARY), (1, 2, NOMINAL))
        for bits in (4, 8)
        for block in BLOCKS
    }
    kinds = [
        {
            (bits, block): block <= EXACT_UP_TO[recipe, usual][kind]
            for bits, recipe, usual in ((4, "int4-weights", 32), (8, "int8-weights", 64))
            for block in BLOCKS
        }
        for kind in ("AVX512", "AVX2")
    ]
    assert kinds[0] != kinds[1]
    assert found in kinds


@pytest.mark.parametrize(
    ("recipe", "line"),
    [
        ("int8-rows", "products are the same bit for bit, on every CPU"),
        ("int8-rows, non-causal", "each T is another model: one scale spans the chunk"),
        (
            "int4-weights, gptq",
            "products are the same bit for bit with AVX512 kernels, "
            "the same but for last bits with AVX2",
        ),
        ("int4-mixed, block 16", "products are the same bit for bit with AVX512 and AVX2 kernels"),
        (
            "int4-weights, block 64",
            "products are the same but for last bits with AVX512 and AVX2",
        ),
        (
            "int4-rows, block 64",
            "products of chunks are the same bit for bit; T = 1 rounds otherwise",
        ),
        ("int8-weights", "products are the same bit for bit with AVX512 and AVX2 kernels"),
        ("fp16", "products are the same but for last bits"),
    ],
)
def test_a_recipe_says_what_another_cut_gives(recipe: str, line: str) -> None:
    assert over_t(recipe) == line


def test_show_tells_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["show", "text-int8"]) == 0
    assert over_t("int8-rows") in capsys.readouterr().out
    assert call(["show", "text"]) == 0
    assert "over T" not in capsys.readouterr().out
