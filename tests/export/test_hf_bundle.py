"""Laws of bundles of Hugging Face models: what the runtime answers is what transformers answers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from tests.export.hf_models import FAMILIES, VOCABULARY, saved, trained_tokenizer

from dst.cli.app import call
from dst.export.export import export_bundle
from dst.export.hf import LanguageStep, from_pretrained
from dst.export.hf.step import whole_run
from dst.runtime import Session, Stream, generate, open_bundle, replay_golden
from dst.runtime.tokenizer import TextTokenizer

TOKENS = 1024
BOUND = 1e-4
ALWAYS = {"mamba", "mamba2", "rwkv"}  # T by T, fused, and plain with any T
FREE_T = {"lfm2", "mamba2", "qwen3_next", "rwkv", "xlstm"}


PARAMS = [
    pytest.param(family, marks=() if family in ALWAYS else pytest.mark.hf) for family in FAMILIES
]


@pytest.fixture(scope="module", params=PARAMS)
def exported(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, LanguageStep, Path]:
    """Export each family with short certificates."""
    family, folder = str(request.param), tmp_path_factory.mktemp("hf")
    step = from_pretrained(saved(family, folder / "source"))
    data = np.random.default_rng(0).integers(0, VOCABULARY, 200)
    export_bundle(step, folder / "bundle", data=data, certify_steps=20, portable_t=())
    return family, step, folder / "bundle"


def logits(stream: Stream, ids: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    parts = [stream.advance(ids)["logits"], stream.flush()["logits"]]
    joined: npt.NDArray[np.float32] = np.concatenate(parts, 1)[0]
    return joined


def stepped(stream: Stream, ids: npt.NDArray[np.int64], t: int) -> npt.NDArray[np.float32]:
    parts = [stream.step(ids[None, at : at + t])["logits"] for at in range(0, len(ids), t)]
    joined: npt.NDArray[np.float32] = np.concatenate(parts, 1)[0]
    return joined


def test_the_runtime_answers_as_transformers_does_at_once(
    exported: tuple[str, LanguageStep, Path], tmp_path: Path
) -> None:
    family, step, path = exported
    ids = np.random.default_rng(1).integers(0, VOCABULARY, TOKENS)
    expected = whole_run(step.model, torch.from_numpy(ids)[None])[0].numpy()
    rms = float(np.sqrt(np.square(expected).mean()))
    by_size = {}
    for t in (16, 1):
        by_size[t] = stepped(Session.open(path).stream(), ids, t)
        assert np.abs(by_size[t] - expected).max() < BOUND * rms, (family, t)
    assert np.abs(by_size[16] - by_size[1]).max() < BOUND * rms  # the cut does not matter
    session = Session.open(path)
    stream = session.stream()
    first = stream.advance(ids[:333])["logits"][0]
    stream.save(tmp_path / "saved.state")
    rest = logits(Stream.load(Session.open(path), tmp_path / "saved.state"), ids[333:])
    unbroken = logits(session.stream(), ids)
    assert np.array_equal(np.concatenate([first, rest]), unbroken)
    assert all(check.passed for check in replay_golden(open_bundle(path)))


def test_few_graphs_are_written(exported: tuple[str, LanguageStep, Path]) -> None:
    family, _, path = exported
    manifest = open_bundle(path).manifest
    assert len(manifest.graphs) == (1 if family in FREE_T else 2)
    names = [c.name for c in manifest.certificates]
    assert names[:2] == ["transformers-vs-torch-t1", "transformers-vs-torch-t16"]
    assert all(c.passed for c in manifest.certificates)
    fused = {"mamba2", "qwen3_next"}
    assert ("com.microsoft" in manifest.graphs[0].domains) == (family in fused)


@pytest.fixture(scope="module")
def talking(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with a tokenizer, made by the command."""
    folder = tmp_path_factory.mktemp("talking")
    source = saved("lfm2", folder / "source", tokenizer=True)
    words = ["--from-hf", str(source), "--out", str(folder / "bundle"), "--certify-steps", "5"]
    assert call(["export", *words]) == 0
    return folder / "bundle"


def test_the_tokenizer_goes_with_the_bundle(talking: Path, tmp_path: Path) -> None:
    bundle = open_bundle(talking)
    assert "tokenizer.json" in bundle.manifest.files
    tokenizer = TextTokenizer.of(bundle)
    text = "déjà vu 日本 😀 in Spain"
    assert tokenizer.encode(text).tolist() == trained_tokenizer(300).encode(text).ids
    session = Session.open(talking)
    by_text = list(generate(session.stream(), text, 12, seed=3))
    assert by_text == list(generate(session.stream(), tokenizer.encode(text), 12, seed=3))
    recipe = ["quantize", str(talking), "--recipe", "int8-dynamic", "--out", f"{tmp_path}/q"]
    assert call(recipe) in (0, 1)
    if (tmp_path / "q").exists():
        assert "tokenizer.json" in open_bundle(tmp_path / "q").manifest.files


def test_the_command_reads_and_writes_text(
    talking: Path, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    words = ["generate", str(talking), "--prompt", "the rain 日", "--items", "40", "--seed", "1"]
    assert call(words) == 0
    written = capfdbinary.readouterr().out.decode()  # whole characters only
    session = Session.open(talking)
    ids = list(generate(session.stream(), "the rain 日", 40, seed=1))
    assert written == TextTokenizer.of(session.bundle).decode(ids)
    (tmp_path / "text.txt").write_text("the rain in Spain\ndéjà vu\n日本語")
    assert call(["run", str(talking), f"{tmp_path}/text.txt", "--json", f"{tmp_path}/j"]) == 0
    (tmp_path / "bad.txt").write_bytes(b"the rain\n\xff\n")
    capfdbinary.readouterr()
    assert call(["run", str(talking), f"{tmp_path}/bad.txt"]) == 2
    assert b"bad.txt: line 2 is no UTF-8 text" in capfdbinary.readouterr().err


def test_wrong_use_is_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for words in (
        ["--from-hf", f"{tmp_path}/none", "--out", f"{tmp_path}/b"],
        ["--from-hf", str(tmp_path), "--t", "1,x", "--out", f"{tmp_path}/b"],
        ["--from-hf", str(tmp_path), "--size", "tiny", "--out", f"{tmp_path}/b"],
        ["--out", f"{tmp_path}/b"],
    ):
        assert call(["export", *words]) == 2
        error = capfd.readouterr().err
        assert error.startswith("dst: ")
        assert error.count("\n") == 1
    assert not (tmp_path / "b").exists()
