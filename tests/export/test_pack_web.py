"""The packed page, by the steps of its README from an empty folder, in headless Chromium.

Needs node with npm, and Chromium (`CHROMIUM` names it, /usr/bin/chromium by default).
"""

import json
import os
import re
import shlex
import shutil
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest
from tests.npm import CHROMIUM, needing, run

from dst.export.pack import pack_bundle
from dst.runtime import open_bundle

pytestmark = pytest.mark.browser

ROOT = Path(__file__).resolve().parents[2]
SUITE = ROOT / "tests/conformance/bundles"
LOOK = """
const { chromium } = await import("playwright-core");
const [url, executablePath] = process.argv.slice(1);
const browser = await chromium.launch({ executablePath, args: ["--no-sandbox", "--disable-gpu"] });
const page = await browser.newPage();
const [asked, said] = [[], []];
page.on("request", (request) => asked.push(request.url()));
page.on("console", (message) => message.type() === "error" && said.push(message.text()));
page.on("pageerror", (error) => said.push(String(error)));
for (let wait = 0; !(await page.goto(url).catch(() => null)) && wait < 100; wait++) {
  await new Promise((go) => setTimeout(go, 100)); // the server is not there yet
}
const told = () => document.getElementById("told").textContent;
await page.waitForFunction(`!/^(Not running|Loading)/.test((${told})())`, null, { timeout: 120000 })
  .catch((error) => said.push(String(error)));
console.log(JSON.stringify({ told: await page.evaluate(told), asked, said }));
await browser.close();
"""


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout in which the first step of the README was done."""
    needing("node", "npm", CHROMIUM)
    work = tmp_path_factory.mktemp("checkout")
    skipped = shutil.ignore_patterns("node_modules", "build", "dist", "*.tgz")
    shutil.copytree(ROOT / "runtime/js", work / "runtime/js", ignore=skipped)
    shutil.copy(ROOT / "LICENSE", work)
    pack_bundle("feed", "web", work / "packed")
    readme = (work / "packed/README.md").read_text()
    step = re.search(r"`(cd DST-EDGE/.*)`", readme)
    assert step
    run("bash", "-ec", step[1].replace("DST-EDGE", str(work)), cwd=work)
    return work


def driven(checkout: Path, folder: Path) -> dict[str, Any]:
    """Follow the README of a packed folder, and look at its page."""
    steps = re.search(r"```sh\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    assert steps
    *install, serve = (line.strip() for line in steps[1].strip().splitlines())
    assert len(install) == 2
    for line in install:
        run(*shlex.split(line.replace("DST-EDGE", str(checkout))), cwd=folder)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    words = [port if word == "8000" else word for word in shlex.split(serve)]
    quiet = subprocess.DEVNULL
    with subprocess.Popen(words, cwd=folder, stdout=quiet, stderr=quiet, process_group=0) as server:
        try:
            url = f"http://127.0.0.1:{port}/"
            script = ["node", "--input-type=module", "-e", LOOK, url, CHROMIUM]
            found = json.loads(run(*script, cwd=checkout / "runtime/js"))
        finally:
            os.killpg(server.pid, 15)
    assert isinstance(found, dict)
    elsewhere = [one for one in found["asked"] if not one.startswith((url, "blob:", "data:"))]
    assert elsewhere == []
    return found


@pytest.mark.parametrize(
    "bundle",
    # bytes; features whose graphs ask for a newer ONNX Runtime than npm has; ids; stream inputs
    ["log", "feed", SUITE / "tokens", SUITE / "given", SUITE / "half", SUITE / "lookahead"],
    ids=lambda bundle: Path(bundle).name,
)
def test_the_steps_lead_to_a_page_that_reads(
    bundle: str | Path, checkout: Path, tmp_path: Path
) -> None:
    pack_bundle(bundle, "web", tmp_path / "out")
    found = driven(checkout, tmp_path / "out")
    assert found["said"] == []
    contract = open_bundle(bundle).manifest.contract
    t = contract.chunk.nominal_t
    told = re.fullmatch(r"Ready\. Items read: (\d+); answers: (.*)", found["told"])
    assert told, found["told"]
    assert int(told[1]) >= t
    names = [part.split(" ")[0] for part in told[2].split("; ")]
    assert names == [output.name for output in contract.outputs]


def test_a_damaged_bundle_is_refused_on_the_page(checkout: Path, tmp_path: Path) -> None:
    pack_bundle("log", "web", tmp_path / "out")
    weights = tmp_path / "out/bundle/weights.bin"
    data = bytearray(weights.read_bytes())
    data[len(data) // 2] ^= 1
    weights.write_bytes(data)
    assert driven(checkout, tmp_path / "out")["told"].startswith("file-hash: ")
