"""Laws of Hugging Face models: in chunks with a carried state they answer as they do at once."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from msgspec.structs import replace
from safetensors.torch import load_file, save_file
from tests.export.hf_models import FAMILIES, VOCABULARY, WINDOW, saved, tiny
from tests.raising import refused
from torch import Tensor

from dst.export import CertificateError
from dst.export.errors import ExportError
from dst.export.hf import FAMILIES as SUPPORTED
from dst.export.hf import LanguageStep, from_pretrained
from dst.export.hf.step import whole_run
from dst.export.infer.call import check_step

TOKENS = 1024
BOUND = 1e-4


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], LanguageStep]:
    """Read each family from disk once."""
    steps: dict[str, LanguageStep] = {}

    def load(family: str) -> LanguageStep:
        if family not in steps:
            steps[family] = from_pretrained(saved(family, tmp_path_factory.mktemp(family)))
        return steps[family]

    return load


def tokens(batch: int, items: int) -> Tensor:
    return torch.randint(VOCABULARY, (batch, items), generator=torch.Generator().manual_seed(1))


def in_chunks(
    step: LanguageStep, ids: Tensor, sizes: list[int]
) -> tuple[Tensor, dict[str, Tensor]]:
    """Step through tokens with chunks of these sizes, over and over."""
    parts: list[Tensor] = []
    state, at = step.initial_state(len(ids)), 0
    with torch.no_grad():
        while at < ids.shape[1]:
            size = sizes[len(parts) % len(sizes)]
            outputs, state = step(ids[:, at : at + size], state)
            parts.append(outputs["logits"])
            at += size
    return torch.cat(parts, 1), state


def worst(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max() / expected.square().mean().sqrt())


def test_every_family_is_tried_here() -> None:
    assert sorted(SUPPORTED) == FAMILIES


@pytest.mark.parametrize("family", FAMILIES)
def test_chunks_with_a_carried_state_equal_the_whole_run(
    loaded: Callable[[str], LanguageStep], family: str
) -> None:
    step = loaded(family)
    check_step(step)
    ids = tokens(1, TOKENS)
    expected = whole_run(step.model, ids)
    for sizes, items in (([16], TOKENS), ([100, 1, 3], TOKENS), ([1], 128)):
        found, _ = in_chunks(step, ids[:, :items], sizes)
        assert worst(found, expected[:, :items]) < BOUND, sizes


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_of_a_batch_do_not_mix_and_the_cut_does_not_matter(
    loaded: Callable[[str], LanguageStep], family: str
) -> None:
    step, ids = loaded(family), tokens(3, 48)
    found, state = in_chunks(step, ids, [16])
    for row in range(3):
        alone, after = in_chunks(step, ids[row : row + 1], [1])
        assert worst(found[row : row + 1], alone) < BOUND
        for name, tensor in after.items():
            assert (state[name][row : row + 1] - tensor).abs().max() < 1e-4 * (
                1e-3 + tensor.abs().max()
            ), name


def test_the_whole_run_of_a_window_is_held_to_the_window(
    loaded: Callable[[str], LanguageStep],
) -> None:
    """Within the window the untouched model of transformers answers the same."""
    step = loaded("recurrent_gemma")
    ids = tokens(1, WINDOW)
    fresh = tiny("recurrent_gemma")
    with torch.no_grad():
        untouched = fresh(ids, use_cache=False).logits
    assert worst(whole_run(step.model, ids), untouched) < 1e-6


def test_rwkv_starts_where_nothing_was_read(loaded: Callable[[str], LanguageStep]) -> None:
    step = loaded("rwkv")
    starts = {s.input: s.init for s in step.contract.state}
    assert getattr(starts["top.1"], "value", None) == -1e30
    assert float(step.initial_state(2)["top.1"].max()) == np.float32(-1e30)


@pytest.mark.parametrize("family", ["mamba", "rwkv"])
def test_a_step_that_is_another_model_is_refused(tmp_path: Path, family: str) -> None:
    step = from_pretrained(saved(family, tmp_path))
    data = tokens(1, 64)[0].numpy()
    assert [c.name for c in step.own_certificates(data, "random", 64)] == [
        "transformers-vs-torch-t1",
        "transformers-vs-torch-t16",
    ]
    layer = step.layers[0]
    decay = layer.A if family == "mamba" else layer.decay
    assert isinstance(decay, Tensor)
    decay.mul_(1.5)
    with pytest.raises(CertificateError, match="transformers-vs-torch-t1: expected") as caught:
        step.own_certificates(data, "random", 64)
    assert caught.value.code == "hf-differs"


def test_both_forms_of_xlstm_weights_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # transformers itself cannot draw the weights of this form
    monkeypatch.setattr(transformers.xLSTMPreTrainedModel, "_init_weights", lambda *_: None)
    step = from_pretrained(saved("xlstm", tmp_path, weight_mode="fused"))
    ids = tokens(1, 100)
    assert worst(in_chunks(step, ids, [16])[0], whole_run(step.model, ids)) < BOUND


def test_a_contract_names_all_there_is(loaded: Callable[[str], LanguageStep]) -> None:
    contract = loaded("mamba").contract
    assert contract.chunk.shape == ("B", "T")
    assert (contract.chunk.nominal_t, contract.chunk.allowed_t) == (16, (1, 16))
    assert contract.chunk.tail == "exact"
    assert [(s.input, s.role, s.dtype) for s in contract.state] == [
        ("conv.0", "conv", "float32"),
        ("ssm.0", "memory", "float32"),
    ]
    (logits,) = contract.outputs
    assert (logits.meaning, logits.shape) == ("logits", ("B", "T", VOCABULARY))
    assert replace(contract.chunk, content=contract.chunk.content) == contract.chunk


def test_without_single_steps_a_rest_is_refused(tmp_path: Path) -> None:
    chunk = from_pretrained(saved("lfm2", tmp_path), t=(8,)).contract.chunk
    assert (chunk.allowed_t, chunk.tail) == ((8,), "refuse")


def test_weights_of_sixteen_bits_are_cast_and_said(tmp_path: Path) -> None:
    model = tiny("mamba").to(torch.bfloat16)
    model.save_pretrained(str(tmp_path))  # type: ignore[operator]
    step = from_pretrained(tmp_path)
    assert step.notes == ("weights of bfloat16 were cast to float32",)
    assert {p.dtype for p in step.parameters()} == {torch.float32}
    ids = tokens(1, 32)
    assert worst(in_chunks(step, ids, [16])[0], whole_run(step.model, ids)) < BOUND


def test_weights_in_several_files_are_read(tmp_path: Path) -> None:
    tiny("mamba2").save_pretrained(str(tmp_path), max_shard_size="4KB")  # type: ignore[operator]
    files = sorted(tmp_path.glob("model-*.safetensors"))
    assert len(files) > 1
    step = from_pretrained(tmp_path)
    ids = tokens(1, 32)
    assert worst(in_chunks(step, ids, [16])[0], whole_run(tiny("mamba2"), ids)) < BOUND
    files[0].unlink()
    refuse(tmp_path, "hf-no-weights", f"{files[0].name} is missing")


def refuse(folder: Path, code: str, says: str) -> None:
    with refused(ExportError, code) as caught:
        from_pretrained(folder)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def written(folder: Path, **config: object) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_what_is_no_saved_model_is_refused(tmp_path: Path) -> None:
    refuse(tmp_path / "none", "hf-no-config", "is no directory")
    refuse(tmp_path, "hf-no-config", "has no config.json")
    (tmp_path / "config.json").write_text("{")
    refuse(tmp_path, "hf-no-config", "is no JSON")
    refuse(written(tmp_path, a=1), "hf-no-config", "has no model_type")
    folder = written(tmp_path, model_type="mamba", architectures=["MambaForCausalLM"])
    refuse(folder, "hf-no-weights", "has no weights")
    (folder / "pytorch_model.bin").write_bytes(b"pickled")
    refuse(folder, "hf-no-weights", "pytorch_model.bin is not read")
    (folder / "model.safetensors").write_bytes(b"short")
    refuse(folder, "hf-no-weights", "is no safetensors file")


def test_what_has_no_bounded_state_is_refused(tmp_path: Path) -> None:
    for names, kind in (
        ({"model_type": "llama", "architectures": ["LlamaForCausalLM"]}, "state-grows"),
        ({"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}, "state-grows"),
        ({"model_type": "bert", "architectures": ["BertForMaskedLM"]}, "hf-unsupported"),
        (
            {
                "model_type": "t5",
                "architectures": ["T5ForConditionalGeneration"],
                "is_encoder_decoder": True,
            },
            "hf-unsupported",
        ),
        ({"model_type": "mamba", "architectures": ["MambaModel"]}, "hf-unsupported"),
        ({"model_type": "fancy", "architectures": ["FancyForCausalLM"]}, "hf-unsupported"),
    ):
        heads = {"num_attention_heads": 2} if kind == "state-grows" else {}
        refuse(written(tmp_path, **names, **heads), kind, str(tmp_path))
    with refused(ExportError, "hf-unsupported", match="expected one of falcon_mamba, lfm2, mamba"):
        from_pretrained(tmp_path)


@pytest.mark.parametrize("family", ["lfm2", "qwen3_next"])
def test_attention_layers_of_a_hybrid_are_refused(tmp_path: Path, family: str) -> None:
    kind = "conv" if family == "lfm2" else "linear_attention"
    model = tiny(family)
    model.save_pretrained(str(tmp_path))  # type: ignore[operator]
    config = json.loads((tmp_path / "config.json").read_text())
    config["layer_types"] = [kind, "full_attention", kind]
    refuse(written(tmp_path, **config), "state-grows", "1 of its layers are full attention")
    if family == "lfm2":  # older files say it otherwise
        del config["layer_types"]
        config["full_attn_idxs"] = [0]
        refuse(written(tmp_path, **config), "state-grows", "1 of its layers")
    else:
        config["layer_types"], config["num_experts"] = [kind], 4
        refuse(written(tmp_path, **config), "hf-unsupported", "choose experts")


def test_a_tensor_that_is_missing_is_not_made_up(tmp_path: Path) -> None:
    saved("mamba", tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    gone = next(name for name in weights if name.endswith("x_proj.weight"))
    del weights[gone]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    refuse(tmp_path, "hf-no-weights", gone)


def test_a_tokenizer_of_another_model_is_refused(tmp_path: Path) -> None:
    saved("mamba", tmp_path / "a", tokenizer=True)
    saved("mamba", tmp_path / "b")
    shutil.copy(tmp_path / "a" / "tokenizer.json", tmp_path / "b")
    refuse(tmp_path / "b", "hf-tokenizer", "ids up to 299, the model takes those below 97")
    (tmp_path / "b" / "tokenizer.json").write_text("{}")
    refuse(tmp_path / "b", "tokenizer-unreadable", "cannot read it")


@pytest.mark.parametrize("t", [(), (0, 4)])
def test_sizes_that_are_none_are_refused(tmp_path: Path, t: tuple[int, ...]) -> None:
    with refused(ExportError, "hugging-face", match="expected at least one number"):
        from_pretrained(tmp_path, t=t)
