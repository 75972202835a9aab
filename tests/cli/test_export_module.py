"""`dst export FILE.py:NAME`: a module from the shell, and one clear line on every wrong use."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tests.cli.conftest import Dst
from tests.cli.test_errors import refused

from dst.runtime import Session, open_bundle

SOURCE = """
import torch
from torch import nn


class Model(nn.Module):
    def __init__(self, hidden=4):
        super().__init__()
        self.lstm = nn.LSTM(3, hidden, batch_first=True)
        self.head = nn.Linear(hidden, 2)

    def forward(self, x, state=None):
        y, state = self.lstm(x, state)
        return self.head(y), state


class Sum(nn.Module):
    def forward(self, x, state):
        y = state["total"][:, None] + x.cumsum(1)
        return y, {"total": y[:, -1], "count": state["count"] + x.shape[1]}


class Ahead(nn.Module):
    def forward(self, x, state):
        y = x[:, :-2] + x[:, 2:] + state["sum"][:, None]
        return y, {"sum": state["sum"] * 0.5 + x[:, :-2].sum(1)}


class Centred(nn.Module):
    def forward(self, x, state):
        y = x - x.mean(1, keepdim=True) + state["sum"][:, None]
        return y, {"sum": state["sum"] * 0.5 + x.mean(1)}


def small():
    return Model(2)


made = Model(5)
number = 3
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    Path("my_model.py").write_text(SOURCE)
    return "my_model.py"


def test_a_class_with_arguments_weights_and_data_becomes_a_bundle(dst: Dst, file: str) -> None:
    torch.manual_seed(3)
    lstm, head = torch.nn.LSTM(3, 6, batch_first=True), torch.nn.Linear(6, 2)
    weights = {f"lstm.{k}": v for k, v in lstm.state_dict().items()}
    weights |= {f"head.{k}": v for k, v in head.state_dict().items()}
    torch.save({"state_dict": weights}, "model.pt")
    items = np.random.default_rng(0).normal(size=(300, 3)).astype(np.float32)
    np.save("items.npy", items)
    done = dst(
        "export", f"{file}:Model", "--args", '{"hidden": 6}', "--weights", "model.pt",
        "--chunk", "B,T,3", "--t", "1,4", "--data", "items.npy", "--out", "b",
        "--certify-steps", "20",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert "state `h`: float32 [1, B, 6], from zeros" in done.out
    assert "step.onnx: fused, T = 1, 4, any B" in done.out
    found = Session.open("b").stream().advance(items[:40])["output"]
    with torch.no_grad():
        expected = head(lstm(torch.from_numpy(items[None, :40]))[0]).numpy()
    assert np.abs(found - expected).max() <= 1e-5


def test_named_states_with_dtypes_are_a_dict(dst: Dst, file: str) -> None:
    done = dst(
        "export", f"{file}:Sum", "--chunk", "B,T,3", "--state", "total=B,3:0.5",
        "--state", "count=B:int64", "--t", "1,4", "--out", "b", "--certify-steps", "20",
        "--json", "-",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert any("state `total`: float32 [B, 3], from 0.5" in n for n in done.json["notes"])  # type: ignore[attr-defined]
    assert not Session.open("b").stream().state["count"].any()


WRONG: list[tuple[tuple[str, ...], list[str]]] = [
    ((), ["FILE.py:NAME", "--size"]),
    (("my_model.py:Model", "--size", "tiny"), ["FILE.py:NAME", "--size"]),
    (("my_model.py:Model",), ["--chunk is missing", "B,T,40"]),
    (("none.py:Model", "--chunk", "B,T,3"), ["none.py", "no such file"]),
    (("my_model.py:Modle", "--chunk", "B,T,3"), ["no `Modle`", "Model, Sum"]),
    (("my_model.py", "--chunk", "B,T,3"), ["which module is meant", "Model, Sum"]),
    (("my_model.py:number", "--chunk", "B,T,3"), ["number is int"]),
    (("my_model.py:made", "--chunk", "B,T,5"), ["Expected 3, got 5"]),
    (("my_model.py:made", "--args", "[1]", "--chunk", "B,T,3"), ["a module already"]),
    (("my_model.py:Model", "--args", "{", "--chunk", "B,T,3"), ["--args", "JSON"]),
    (("my_model.py:Model", "--args", '["x"]', "--chunk", "B,T,3"), ["cannot be made"]),
    (("my_model.py:small", "--chunk", "B,T,x"), ["--chunk B,T,x", "B,T,40"]),
    (("my_model.py:small", "--chunk", "B,T,3:half"), ["dtypes are float32"]),
    (("my_model.py:small", "--chunk", "B,T,3", "--t", "0"), ["--t 0"]),
    (("my_model.py:small", "--chunk", "B,T,3", "--state", "1,B,9"), ["failed on chunk"]),
    (("my_model.py:small", "--chunk", "B,T,3", "--state", "B,T"), ["no time axis"]),
    (("my_model.py:Sum", "--chunk", "B,T,3", "--state", "a=B", "--state", "B"), ["or none"]),
    (("my_model.py:small", "--chunk", "B,T,3", "--weights", "my_model.py"), ["torch.save"]),
    (("my_model.py:small", "--chunk", "B,T,3", "--weights", "no.pt"), ["no.pt", "No such file"]),
    (("my_model.py:small", "--chunk", "B,T,3", "--data", "no.npy"), ["no.npy"]),
    (("my_model.py:small", "--chunk", "B,T,3", "--checkpoint", "my_model.py"), ["--weights"]),
    (("--size", "tiny", "--chunk", "B,T,3"), ["--size", "FILE.py:NAME"]),
    (("broken.py:X", "--chunk", "B,T,3"), ["broken.py", "NameError", "line 2"]),
]


@pytest.mark.parametrize(("arguments", "words"), WRONG)
def test_wrong_use_is_one_line(
    dst: Dst, file: str, arguments: tuple[str, ...], words: list[str]
) -> None:
    Path("broken.py").write_text("import torch\nundefined\n")
    refused(dst("export", *arguments, "--out", "b"), *words)
    assert not Path("b").exists()


def test_weights_that_hold_code_are_not_run(dst: Dst, file: str) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return print, ("run",)

    torch.save({"lstm": Evil()}, "evil.pt")
    refused(
        dst("export", f"{file}:Model", "--chunk", "B,T,3", "--weights", "evil.pt", "--out", "b"),
        "evil.pt",
        "torch.save",
    )


def test_lookahead_is_said_on_the_shell(dst: Dst, file: str) -> None:
    words = ("export", f"{file}:Ahead", "--chunk", "B,T,3", "--state", "sum=B,3", "--t", "4")
    done = dst(
        *words, "--lookahead", "2", "--tail", "pad", "--out", "b", "--certify-steps", "5"
    )  # fmt: skip
    assert done.code == 0, done.err
    assert open_bundle("b").manifest.contract.chunk.lookahead == 2
    items = np.random.default_rng(0).normal(size=(10, 3)).astype(np.float32)
    found = np.asarray(Session.open("b").stream().advance(items)["output"])[0]
    first, later = items[:4] + items[2:6], items[4:8] + items[6:10] + items[:4].sum(0)
    np.testing.assert_allclose(found, np.concatenate([first, later]), rtol=0, atol=1e-5)


def test_a_non_causal_module_is_taken_where_it_is_said(dst: Dst, file: str) -> None:
    words = (
        *("export", f"{file}:Centred", "--chunk", "B,T,3", "--state", "sum=B,3", "--t", "4"),
        *("--tail", "refuse", "--out", "b", "--certify-steps", "5"),
    )
    refused(dst(*words), "later items")
    done = dst(*words, "--non-causal")
    assert done.code == 0, done.err
    assert not open_bundle("b").manifest.contract.chunk.causal


@pytest.mark.parametrize("words", [("--lookahead", "2"), ("--non-causal",)])
def test_what_describes_a_module_does_not_go_with_a_network_of_ours(
    dst: Dst, file: str, words: tuple[str, ...]
) -> None:
    refused(dst("export", "--size", "tiny", "--out", "b", *words), words[0], "FILE.py:NAME")


def test_a_certificate_that_does_not_hold_is_exit_code_1(
    dst: Dst, file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dst.export.curves.error_of_peak", lambda found, expected: 1.0)
    monkeypatch.setattr("dst.export.lowering.graph_set.error_of_peak", lambda found, expected: 0.0)
    done = dst("export", "my_model.py:small", "--chunk", "B,T,3", "--t", "1", "--out", "b")
    assert (done.code, "certificate" in done.err) == (1, True), done.err
    assert not Path("b").exists()
