"""`optimum-cli` is run as from a shell; it does what `dst` does, with the same exit codes."""

import json
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest
import torch
from transformers import PretrainedConfig, PreTrainedModel

from dst.cli.app import call
from dst.cli.optimum_cli import take_networks
from dst.export.model import Config, Network
from dst.runtime import Session, open_bundle


def optimum_cli(*words: str) -> subprocess.CompletedProcess[str]:
    """Run the command that optimum installs, with this interpreter."""
    return subprocess.run(
        [sys.executable, "-m", "optimum.commands.optimum_cli", *words],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that `optimum-cli export dst` has made."""
    out = tmp_path_factory.mktemp("exported") / "bundle"
    words = ["--size", "tiny", "--seed", "1", "--certify-steps", "2", "--name", "tiny"]
    done = optimum_cli("export", "dst", *words, "--out", str(out))
    assert done.returncode == 0, done.stderr
    assert "torch-vs-fused" in done.stdout
    return out


def test_it_exports_as_dst_does(exported: Path) -> None:
    manifest = open_bundle(exported).manifest
    assert manifest.name == "tiny"
    assert [c.passed for c in manifest.certificates] == [True] * len(manifest.certificates) != []


def test_it_quantizes_as_dst_does(exported: Path, tmp_path: Path) -> None:
    words = ["quantize", str(exported), "--recipe", "int8-dynamic", "--with", "optimum"]
    done = optimum_cli("dst", *words, "--out", f"{tmp_path}/q", "--json", "-")
    assert (done.returncode, done.stderr) == (0, "")
    told = json.loads(done.stdout)
    manifest = open_bundle(tmp_path / "q").manifest
    assert told["bundle_id"] == manifest.bundle_id
    assert manifest.recipe == "int8-dynamic, non-causal"
    assert "ort_config.json" in manifest.files
    assert call([*words, "--out", f"{tmp_path}/ours"]) == 0
    assert open_bundle(tmp_path / "ours").manifest == manifest


def test_wrong_use_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    words = ["--recipe", "int8-rows", "--with", "optimum", "--out", f"{tmp_path}/q"]
    done = optimum_cli("dst", "quantize", "text", *words)
    assert done.returncode == 2
    assert done.stderr.startswith("dst: recipe int8-rows: optimum has no int8-rows")
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_help_names_the_commands_and_leads_to_those_of_dst() -> None:
    assert "dst" in optimum_cli("export", "--help").stdout.split()
    done = optimum_cli("dst", "quantize", "--help")
    assert done.returncode == 0
    assert "Usage: dst quantize [OPTIONS]" in done.stdout


class SavedConfig(PretrainedConfig):  # type: ignore[misc]  # transformers has no types here
    """What a user of transformers writes around a DST network."""

    model_type = "dst"


class Saved(PreTrainedModel):  # type: ignore[misc]
    """The same."""

    config_class = SavedConfig

    def __init__(self, config: SavedConfig, network: Network) -> None:
        super().__init__(config)
        self.network = network


@pytest.fixture(scope="module")
def network() -> Network:
    """A small network with random weights and a learned start."""
    torch.manual_seed(0)
    config = Config(
        width=16,
        layers=1,
        heads=2,
        key=4,
        value=4,
        attention_heads=2,
        attention_width=4,
        window=4,
        hidden=16,
        max_chunk=4,
        learned_start=True,
    )
    made = Network(config).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return made


@pytest.fixture(scope="module")
def checkpoint(network: Network, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What save_pretrained writes of it."""
    folder = tmp_path_factory.mktemp("saved") / "my-dst"
    Saved(SavedConfig(**asdict(network.config)), network).save_pretrained(folder)
    return folder


def test_export_onnx_of_a_dst_checkpoint_carries_its_state(
    network: Network, checkpoint: Path, tmp_path: Path
) -> None:
    words = ("export", "onnx", "--model", str(checkpoint), str(tmp_path / "out"))
    done = optimum_cli(*words, "--model-kwargs", '{"certify-steps": 2}')
    assert done.returncode == 0, done.stderr
    graph = onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx")
    manifest = open_bundle(tmp_path / "out" / "bundle").manifest
    assert manifest.name == "my-dst"
    states = manifest.contract.state
    assert {i.name for i in graph.get_inputs()} == {"chunk", *(s.input for s in states)}
    stream = Session.open(tmp_path / "out" / "bundle").stream()
    state = network.initial_state(1)
    held = {name: tensor.detach().numpy() for name, tensor in state.items()}
    ids = np.random.default_rng(1).integers(0, 256, (50, 1, 4))
    names = [o.name for o in graph.get_outputs()]
    for step, chunk in enumerate(ids):
        chunk = chunk[:, : 1 if step % 2 else 4]
        with torch.no_grad():
            expected, state = network(torch.from_numpy(chunk), state)
        came = dict(zip(names, graph.run(None, {"chunk": chunk, **held}), strict=True))
        held = {s.input: came[s.output] for s in states}
        stepped = stream.step(chunk)
        for name, tensor in expected.items():
            assert (stepped[name] == came[name]).all()
            np.testing.assert_allclose(came[name], tensor.numpy(), rtol=0, atol=2e-5)
        for name, tensor in state.items():
            np.testing.assert_allclose(held[name], tensor.numpy(), rtol=0, atol=2e-5)


def test_options_that_do_not_fit_a_dst_checkpoint_are_refused(
    checkpoint: Path, tmp_path: Path
) -> None:
    words = ("export", "onnx", "--model", str(checkpoint), str(tmp_path / "out"))
    done = optimum_cli(*words, "--dtype", "fp16")
    assert done.returncode == 2
    assert "leave out --dtype" in done.stderr
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_other_models_are_left_to_optimum(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    called = []

    class Command:
        args = SimpleNamespace(model=str(tmp_path))

        def run(self) -> None:
            called.append(self.args.model)

    take_networks(Command)
    Command().run()
    assert called == [str(tmp_path)]


@pytest.mark.parametrize(
    ("file", "content", "told"),
    [
        ("config.json", b'{"model_type": "dst", "width": 4}', "config.json"),
        ("config.json", b'{"model_type": "dst", "items": 3}', "config.json"),
        ("model.safetensors", b"nothing", "weights cannot be read"),
        ("model.safetensors", None, "has no weights"),
    ],
)
def test_a_broken_checkpoint_is_refused_in_one_line(
    checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    file: str,
    content: bytes | None,
    told: str,
) -> None:
    source = tmp_path / "source"
    shutil.copytree(checkpoint, source)
    (source / file).unlink()
    if content is not None:
        (source / file).write_bytes(content)
    assert call(["export", "--from-hf", str(source), "--out", str(tmp_path / "b")]) == 2
    err = capsys.readouterr().err
    assert told in err
    assert err.count("\n") == 1
    assert not (tmp_path / "b").exists()
