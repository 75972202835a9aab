"""A program that runs one stream loads what that takes, and every public name is there."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import dst.runtime

NOT_NEEDED = {
    "sqlite3",
    "subprocess",
    "secrets",
    "importlib.metadata",
    "numpy.ma",
    "numpy.random",
    "dst.runtime.pool",
    "dst.runtime.store",
    "dst.runtime.health",
    "dst.runtime.generation",
    "dst.runtime.bundle.writer",
}
STEP = """
import numpy as np
from dst.runtime import Session
stream = Session.open("text").stream()
stream.step(np.zeros((1, 32), stream.engine.contract.chunk.dtype))
stream.advance(b"some bytes")
"""


def loaded_by(code: str) -> set[str]:
    """Return the modules that a fresh interpreter has after some code."""
    out = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys\nprint(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    return set(out.stdout.split())


def test_the_first_output_loads_nothing_that_it_does_not_need() -> None:
    alone = loaded_by("import onnxruntime")
    loaded = loaded_by(STEP)
    assert "dst.runtime.stream" in loaded
    assert loaded & NOT_NEEDED - alone == set()


def test_the_package_alone_loads_no_library() -> None:
    assert loaded_by("import dst.runtime") & {"numpy", "onnxruntime", "msgspec"} == set()


def test_the_table_of_names_says_what_type_checkers_read() -> None:
    tree = ast.parse(Path(dst.runtime.__file__).read_text("utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    read = {alias.name: node.module for node in imports for alias in node.names}
    assert read.keys() == set(dst.runtime.__all__)
    for name, module in read.items():
        assert getattr(dst.runtime, name) is getattr(importlib.import_module(str(module)), name)


def test_no_module_hides_a_name() -> None:
    folder = Path(dst.runtime.__file__).parent
    modules = {path.stem for path in folder.iterdir() if not path.name.startswith("_")}
    assert "session" in modules
    assert modules & set(dst.runtime.__all__) == set()


def test_an_unknown_name_is_refused_and_the_known_are_listed() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Sesion'"):
        getattr(dst.runtime, "Sesion")  # noqa: B009 - a type checker would refuse it
    assert set(dst.runtime.__all__) <= set(dir(dst.runtime))
