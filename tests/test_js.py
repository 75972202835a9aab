"""The runtime in TypeScript: its package, its stores, its tokenizer, golden runs in Chromium.

`python -m tests.conformance node chromium` runs the suite that all languages share. Needs node with
npm, and for some tests Chromium: `CHROMIUM` names it, /usr/bin/chromium by default.
"""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from tests.conformance.languages import Missing, javascript
from tests.npm import CHROMIUM, NPM_INSTALL, needing, run
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from dst.runtime import Session, Stream

pytestmark = pytest.mark.js

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "runtime/js"
SHIPPED = ROOT / "src/dst/shipped"


@pytest.fixture(scope="module", autouse=True)
def built() -> None:
    """The package and its tests, compiled in their folder."""
    try:
        javascript()
    except Missing as missing:
        pytest.skip(str(missing))


def test_the_sources_are_formatted_and_linted() -> None:
    command = ["node_modules/.bin/biome", "check", "."]
    done = subprocess.run(command, cwd=PACKAGE, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"Checked \d+ files", done.stderr)  # a broken program checks none


def test_calls_and_stores() -> None:
    run("node", "--test", "build/tests/calls.test.js", "build/tests/stores.test.js", cwd=PACKAGE)


@pytest.mark.parametrize("name", ["text", "text-int8", "text-int4", "log", "log-int8", "feed"])
def test_shipped_models_compute_in_chromium_what_they_should(name: str) -> None:
    needing(CHROMIUM)
    checks = json.loads(
        run("node", "build/tests/golden.js", "wasm", str(SHIPPED / name), cwd=PACKAGE)
    )
    graphs = {g.file for g in Session.open(name).bundle.manifest.graphs}
    assert {check["graph"] for check in checks if check["passed"]} == graphs


def test_webgpu_runs_a_whole_graph() -> None:
    """Strictly: no node falls back to the CPU. In software here, hence one graph only."""
    needing(CHROMIUM)
    only = json.dumps({"graph": "step_t32.onnx"})
    (check,) = json.loads(
        run("node", "build/tests/golden.js", "webgpu", str(SHIPPED / "text"), only, cwd=PACKAGE)
    )
    assert check["passed"]


def test_the_package_installs_and_runs_its_example(tmp_path: Path) -> None:
    """In an empty project, from what `npm pack` makes; the state it saves is loaded by Python."""
    run("npm", "pack", "--pack-destination", str(tmp_path), cwd=PACKAGE)
    (packed,) = tmp_path.glob("*.tgz")
    project = tmp_path / "project"
    project.mkdir()
    version = json.loads((PACKAGE / "package.json").read_text())["devDependencies"]
    run(*NPM_INSTALL, str(packed), f"onnxruntime-node@{version['onnxruntime-node']}", cwd=project)
    example = re.search(r"```js\n(.*?)```", (PACKAGE / "README.md").read_text(), re.DOTALL)
    assert example
    (project / "first.mjs").write_text(example[1])
    shutil.copytree(SHIPPED / "log", project / "log")
    printed = run("node", "first.mjs", cwd=project)
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
    for text, found in zip(texts, json.loads(run("node", *script, cwd=PACKAGE)), strict=True):
        assert found["ids"] == tokenizer.encode(text, add_special_tokens=False).ids
        assert found["decoded"] == found["streamed"] == tokenizer.decode(found["ids"])
