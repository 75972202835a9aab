"""The example server: who may do what, what is answered, and that it remembers."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dst.runtime import Session

pytest.importorskip("fastapi")
httpx = pytest.importorskip("httpx")

pytestmark = pytest.mark.server

APP = Path(__file__).resolve().parents[3] / "examples/server/app.py"
PORT = 8799
URL = f"http://127.0.0.1:{PORT}"


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A running server with two users."""
    folder = tmp_path_factory.mktemp("server")
    env = {**os.environ, "DST_BYTES_PER_S": "100", "DST_SLOTS": "2"}
    made = subprocess.run(
        [sys.executable, APP, "--add-user", "ann", "bob", "cleo"],
        cwd=folder, env=env, capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    process = subprocess.Popen([sys.executable, APP, "--port", str(PORT)], cwd=folder, env=env)
    for _ in range(1200):
        try:
            httpx.get(f"{URL}/metrics")
            break
        except httpx.TransportError:
            assert process.poll() is None
            time.sleep(0.1)
    yield dict(zip(("ann", "bob", "cleo"), made, strict=True)) | {"pid": str(process.pid)}
    process.terminate()
    process.wait(60)


def call(method: str, path: str, token: str | None, body: object = None):  # type: ignore[no-untyped-def]
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    return httpx.request(method, f"{URL}{path}", headers=headers, json=body, timeout=120)


def test_a_user_cannot_be_added_twice(tokens: dict[str, str], tmp_path: Path) -> None:
    again = [sys.executable, str(APP), "--add-user", "cleo", "cleo"]
    done = subprocess.run(again, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "has a token already; nobody was added" in done.stderr
    assert "Traceback" not in done.stderr


def test_it_remembers_each_user_and_forgets_when_told(tokens: dict[str, str]) -> None:
    first = call("POST", "/v1/read", tokens["ann"], {"text": "import numpy as "})
    assert first.status_code == 200
    stream = Session.open("text").stream()
    stream.advance(b"import numpy as ")
    assert first.json()["next"][0]["byte"] == int(stream.flush(last=True)["logits"].argmax())
    assert call("GET", "/v1/state", tokens["ann"]).json()["bytes"] == 16
    assert call("GET", "/v1/state", tokens["bob"]).status_code == 404
    again = call("POST", "/v1/read", tokens["ann"], {"text": "np"}).json()["next"]
    fresh = call("POST", "/v1/read", tokens["bob"], {"text": "np"}).json()["next"]
    assert again != fresh
    assert call("DELETE", "/v1/state", tokens["ann"]).status_code == 204
    assert call("GET", "/v1/state", tokens["ann"]).status_code == 404
    assert call("POST", "/v1/read", tokens["ann"], {"text": "np"}).json()["next"] == fresh


@pytest.mark.parametrize("token", [None, "wrong", "ünïcode"])
def test_without_a_token_nothing_is_done(tokens: dict[str, str], token: str | None) -> None:
    headers = {} if token is None else {"Authorization": f"Bearer {token}".encode()}
    for method, path in (("POST", "/v1/read"), ("GET", "/v1/state"), ("DELETE", "/v1/state")):
        answer = httpx.request(method, f"{URL}{path}", headers=headers, json={"text": "x"})
        assert answer.status_code == 401, (method, path)


def peak_mib(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) // 1024


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(("known", "status"), [(False, 401), (True, 413)])
def test_a_huge_body_is_not_held(tokens: dict[str, str], known: bool, status: int) -> None:
    headers = {"Content-Type": "application/json"}
    if known:
        headers["Authorization"] = f"Bearer {tokens['ann']}"
    before = peak_mib(int(tokens["pid"]))
    parts = (bytes(1 << 20) for _ in range(100))
    answer = httpx.post(f"{URL}/v1/read", content=parts, headers=headers, timeout=120)
    assert answer.status_code == status
    assert peak_mib(int(tokens["pid"])) < before + 30


@pytest.mark.parametrize(
    "body", ['{"text":"\\ud800abc"}', '{"text":"x","temperature":NaN}', '{"text":' + "[" * 100_000]
)
def test_what_no_json_can_hold_is_refused(tokens: dict[str, str], body: str) -> None:
    headers = {"Authorization": f"Bearer {tokens['ann']}", "Content-Type": "application/json"}
    answer = httpx.post(f"{URL}/v1/generate", content=body, headers=headers, timeout=120)
    assert answer.status_code in (400, 422)
    assert answer.json()["detail"]


def test_wiping_ends_what_is_being_generated(tokens: dict[str, str]) -> None:
    headers = {"Authorization": f"Bearer {tokens['cleo']}"}
    body = {"text": "secret", "items": 900}
    with httpx.stream("POST", f"{URL}/v1/generate", headers=headers, json=body, timeout=120) as r:
        lines = r.iter_lines()
        next(lines)
        assert call("DELETE", "/v1/state", tokens["cleo"]).status_code == 204
        assert any("forgotten" in line for line in lines)
    assert call("GET", "/v1/state", tokens["cleo"]).status_code == 404


def test_too_much_is_refused_with_a_time_to_wait(tokens: dict[str, str]) -> None:
    assert call("POST", "/v1/read", tokens["bob"], {"text": "x"}).status_code == 200
    refused = call("POST", "/v1/read", tokens["bob"], {"text": "x" * 16_000})
    assert refused.status_code == 429
    assert int(refused.headers["retry-after"]) > 0


def test_events_and_socket(tokens: dict[str, str]) -> None:
    websockets = pytest.importorskip("websockets.sync.client")
    body = {"text": "def main(", "items": 5, "seed": 1}
    events = call("POST", "/v1/generate", tokens["ann"], body).text
    assert events.count('"byte"') == 5
    assert events.endswith("event: end\ndata: {}\n\n")
    with websockets.connect(f"ws://127.0.0.1:{PORT}/v1/stream") as socket:
        socket.send("[" * 100_000)
        assert "not understood" in json.loads(socket.recv())["detail"]
        socket.send("no json")
        assert "not understood" in json.loads(socket.recv())["detail"]
        socket.send(json.dumps({"token": tokens["ann"]}))
        assert json.loads(socket.recv()) == {"user": "ann"}
        socket.send(json.dumps({"text": "return "}))
        assert json.loads(socket.recv())["bytes_read"] == 7
        socket.send(json.dumps({"txt": 1}))
        assert "not understood" in json.loads(socket.recv())["detail"]
    with websockets.connect(f"ws://127.0.0.1:{PORT}/v1/stream") as socket:
        socket.send(json.dumps({"token": "wrong"}))
        with pytest.raises(Exception, match="4401"):
            socket.recv()


def test_the_metrics_are_those_of_the_scheduler(tokens: dict[str, str]) -> None:
    text = call("GET", "/metrics", None).text
    assert 'dst_serving_requests_total{outcome="ok"}' in text


def test_the_openapi_holds_under_schemathesis(tokens: dict[str, str], tmp_path: Path) -> None:
    done = subprocess.run(
        [
            Path(sys.executable).with_name("schemathesis"), "run", f"{URL}/openapi.json",
            "-H", f"Authorization: Bearer {tokens['ann']}", "--max-examples", "20",
            "--checks", "not_a_server_error,status_code_conformance,content_type_conformance,"
            "response_schema_conformance",
        ],
        cwd=tmp_path, capture_output=True, text=True, timeout=500,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:]


def test_the_page_works_in_chromium(tokens: dict[str, str]) -> None:
    playwright = pytest.importorskip("playwright.sync_api")
    path = os.environ.get("CHROMIUM", "/usr/bin/chromium")
    if not Path(path).exists():
        pytest.skip("chromium is not here")
    time.sleep(6)  # the bucket fills
    with playwright.sync_playwright() as tool:
        browser = tool.chromium.launch(
            executable_path=path, headless=True, args=["--no-sandbox", "--disable-gpu"]
        )
        page = browser.new_page()
        page.goto(URL)
        answer = page.locator("#answer")
        page.click("#read")
        playwright.expect(answer).to_contain_text("Refused: send a token")
        page.fill("#token", tokens["ann"])
        page.fill("#text", "import numpy as ")
        page.click("#read")
        playwright.expect(answer).to_contain_text("16 bytes read", timeout=60_000)
        page.click("#state")
        playwright.expect(answer).to_contain_text("bytes read so far", timeout=60_000)
        page.click("#wipe")
        playwright.expect(answer).to_have_text("Forgotten.", timeout=60_000)
        browser.close()
