"""The runtime in TypeScript: the shared suite, its package, and states to and from Python.

Needs node with npm, and for some tests Chromium: `CHROMIUM` names it, /usr/bin/chromium by default.
"""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from dst.runtime import Saved, Session, Stream, relative_error
from dst.runtime.bundle.manifest import Tokens

pytestmark = pytest.mark.js

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "runtime/js"
SHIPPED = ROOT / "src/dst/shipped"
CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
NPM_INSTALL = ("npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", "--no-package-lock")
FIRST, SECOND = 1000, 400
RUNTIMES = ["python", "node", "chromium"]

Array = npt.NDArray[np.generic]
Outputs = dict[str, Array]


def run(*command: str, cwd: Path = PACKAGE) -> str:
    """Run a program, and return what it prints."""
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def chromium() -> None:
    if shutil.which(CHROMIUM) is None:
        pytest.skip(f"{CHROMIUM} is not here")


@pytest.fixture(scope="module", autouse=True)
def built() -> None:
    """The package and its tests, compiled in their folder."""
    for needed in ("node", "npm"):
        if shutil.which(needed) is None:
            pytest.skip(f"{needed} is not here")
    if not (PACKAGE / "node_modules/onnxruntime-node").is_dir():
        run(*NPM_INSTALL)
    run("node_modules/.bin/tsc", "-p", "tsconfig.json")


def test_the_sources_are_formatted_and_linted() -> None:
    run("node_modules/.bin/biome", "check", ".")


def test_node_passes_the_suite() -> None:
    printed = run("node", "build/tests/node.js")
    passed = re.search(r": (\d+) of (\d+) passed$", printed.strip())
    assert passed, printed
    assert passed[1] == passed[2]


def test_calls_and_stores() -> None:
    run("node", "--test", "build/tests/calls.test.js")


def test_chromium_passes_the_suite() -> None:
    """All but the three files that memory does not have: a link, a folder and a pipe."""
    chromium()
    printed = run("node", "build/tests/browser.js")
    assert re.search(r": (\d+) of \1 passed, 3 left out", printed), printed


@pytest.mark.parametrize("name", ["text", "text-int8", "text-int4", "log", "log-int8", "feed"])
def test_shipped_models_compute_in_chromium_what_they_should(name: str) -> None:
    chromium()
    checks = json.loads(run("node", "build/tests/golden.js", "wasm", str(SHIPPED / name)))
    graphs = {g.file for g in Session.open(name).bundle.manifest.graphs}
    assert {check["graph"] for check in checks if check["passed"]} == graphs


def test_webgpu_runs_a_whole_graph() -> None:
    """Strictly: no node falls back to the CPU. In software here, hence one graph only."""
    chromium()
    only = json.dumps({"graph": "step_t32.onnx"})
    (check,) = json.loads(
        run("node", "build/tests/golden.js", "webgpu", str(SHIPPED / "text"), only)
    )
    assert check["passed"]


def test_the_runner_notices_a_wrong_expectation(tmp_path: Path) -> None:
    """One bit of one expected output is turned, in a copy of all that the runner reads."""
    for folder in ("tests/conformance", "runtime/js/build"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    (tmp_path / "runtime/js/package.json").write_text('{"type": "module"}')
    (tmp_path / "runtime/js/node_modules").symlink_to(PACKAGE / "node_modules")
    file = tmp_path / "tests/conformance/scripts/steps.safetensors"
    data = bytearray(file.read_bytes())
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    begin, _ = header["level/02/outputs/head/y"]["data_offsets"]
    data[8 + int.from_bytes(data[:8], "little") + begin] ^= 1
    file.write_bytes(data)
    command = ["node", "build/tests/node.js"]
    done = subprocess.run(command, cwd=tmp_path / "runtime/js", capture_output=True, text=True)
    assert done.returncode == 1
    assert "FAILED steps/level: call 2 (advance)" in done.stdout


def test_the_package_installs_and_runs_its_example(tmp_path: Path) -> None:
    """In an empty project, from what `npm pack` makes; the state it saves is loaded by Python."""
    run("npm", "pack", "--pack-destination", str(tmp_path))
    (packed,) = tmp_path.glob("*.tgz")
    project = tmp_path / "project"
    project.mkdir()
    (project / "package.json").write_text('{"type": "module"}')
    version = json.loads((PACKAGE / "package.json").read_text())["devDependencies"]
    run(*NPM_INSTALL, str(packed), f"onnxruntime-node@{version['onnxruntime-node']}", cwd=project)
    example = re.search(r"```js\n(.*?)```", (PACKAGE / "README.md").read_text(), re.DOTALL)
    assert example
    (project / "first.js").write_text(example[1])
    shutil.copytree(SHIPPED / "log", project / "log")
    printed = run("node", "first.js", cwd=project)
    bits = re.search(r"bits per byte: ([\d.]+) at first, ([\d.]+) later", printed)
    assert bits, printed
    assert float(bits[2]) < float(bits[1])
    stream = Stream.load(Session.open("log"), project / "web.state")
    assert f"goes on at byte {stream.items_consumed}, {stream.pending} bytes wait" in printed
    assert stream.items_consumed > 3000


def test_texts_have_the_ids_that_python_gives_them(tmp_path: Path) -> None:
    """A byte-level tokenizer: characters of several bytes come out of several ids."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|end|>"],
        show_progress=False,
    )
    tokenizer.train_from_iterator([(ROOT / "README.md").read_text("utf-8")], trainer)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    texts = ["the state that lasts", "é ü 漢字 🙂!", "  two\nlines", "<|end|>x", ""]
    script = ("build/tests/tokenizer.js", str(tmp_path / "tokenizer.json"), json.dumps(texts))
    for text, found in zip(texts, json.loads(run("node", *script)), strict=True):
        assert found["ids"] == tokenizer.encode(text, add_special_tokens=False).ids
        assert found["decoded"] == found["streamed"] == tokenizer.decode(found["ids"])


# --- one half by one runtime, the other half by another


def items(name: str) -> Array:
    """Return items that a model is used to: a text, or the items of its golden run."""
    session = Session.open(name)
    chunk = session.contract.chunk
    if isinstance(chunk.content, Tokens):
        text = (ROOT / "src/dst/heldout/stdlib.txt").read_bytes()[: FIRST + SECOND]
        return np.frombuffer(text, np.uint8).astype(chunk.dtype)
    (golden,) = session.bundle.manifest.golden
    recorded = session.bundle.tensors(golden.file)[f"t{golden.t}/chunk"]
    run_of_items = recorded.reshape(-1, recorded.shape[-1])
    return np.tile(run_of_items, (2 + (FIRST + SECOND) // len(run_of_items), 1))[: FIRST + SECOND]


def in_python(name: str, whole: Array, state: bytes | None) -> tuple[bytes, Outputs]:
    session = Session.open(name)
    if state is None:
        stream = session.stream()
        stream.advance(whole[:FIRST])
    else:
        stream = session.stream(Saved.from_bytes(state))
    between = stream.saved().to_bytes()
    parts = [stream.advance(whole[FIRST:]), stream.flush()]
    return between, {f"{i}.{n}": v for i, part in enumerate(parts) for n, v in part.items()}


def elsewhere(
    runtime: str, name: str, whole: Array, state: bytes | None, work: Path
) -> tuple[bytes, Outputs]:
    """Do what `in_python` does, in Node or Chromium."""
    work.mkdir()
    (work / "first").write_bytes(whole[:FIRST].tobytes())
    (work / "second").write_bytes(whole[FIRST:].tobytes())
    more = []
    if state is not None:
        (work / "saved").write_bytes(state)
        more = [str(work / "saved")]
    paths = [str(SHIPPED / name), str(work / "first"), str(work / "second"), str(work / "out")]
    run("node", "build/tests/pairs.js", runtime, *paths, *more)
    dtypes = {o.name: o.dtype for o in Session.open(name).contract.outputs}
    files = [path for path in (work / "out").iterdir() if path.name != "state"]
    return (work / "out/state").read_bytes(), {
        path.name: np.frombuffer(path.read_bytes(), dtypes[path.name.partition(".")[2]])
        for path in files
    }


def half(
    runtime: str, name: str, whole: Array, state: bytes | None, work: Path
) -> tuple[bytes, Outputs]:
    if runtime == "python":
        return in_python(name, whole, state)
    if runtime == "chromium":
        chromium()
    return elsewhere(runtime, name, whole, state, work)


@pytest.mark.parametrize("writer", RUNTIMES)
@pytest.mark.parametrize("name", ["text", "log", "feed"])
def test_a_saved_stream_goes_on_in_every_other_runtime(
    name: str, writer: str, tmp_path: Path
) -> None:
    """Within the bundle's tolerance: each runtime has another build of ONNX Runtime."""
    whole = items(name)
    tolerance = max(g.golden_tolerance for g in Session.open(name).bundle.manifest.graphs)
    _, expected = in_python(name, whole, None)
    saved, own = half(writer, name, whole, None, tmp_path / "whole")
    assert own.keys() == expected.keys()
    for reader in RUNTIMES:
        again, found = half(reader, name, whole, saved, tmp_path / reader)
        assert again == saved, f"{reader} does not save what it has loaded"
        for key, value in expected.items():
            error = relative_error(found[key].reshape(value.shape), value)
            assert error <= tolerance, f"{writer} to {reader}: {key}: {error:.2g}"
            if reader == writer:
                assert found[key].tobytes() == own[key].tobytes()
