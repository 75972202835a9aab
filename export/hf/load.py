"""Load a directory that transformers has saved, or say why it cannot become a bundle.

Nothing is downloaded, and no code of the directory is run.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from dst.export.checks.branch import quiet
from dst.export.errors import ExportError
from dst.export.hf import hybrids, mamba, recurrent_gemma, rwkv, xlstm
from dst.export.hf.parts import Foreign
from dst.export.hf.step import LanguageStep
from dst.runtime.bundle.validation import TOKENIZER_FILE
from dst.runtime.errors import StepError
from dst.runtime.tokenizer import TextTokenizer

FAMILIES = {
    "falcon_mamba": mamba.take_apart,
    "lfm2": hybrids.lfm2,
    "mamba": mamba.take_apart,
    "mamba2": mamba.take_apart,
    "qwen3_next": hybrids.qwen3_next,
    "recurrent_gemma": recurrent_gemma.take_apart,
    "rwkv": rwkv.take_apart,
    "xlstm": xlstm.take_apart,
}
"""``model_type`` of config.json to what takes such a model apart."""
_OVERRIDES: dict[str, dict[str, object]] = {
    # transformers 4 fails in its own chunk form; the step does not use either
    "xlstm": {"chunk_size": 1 << 30, "mode": "inference"}
}
WEIGHTS = ("model.safetensors", "model.safetensors.index.json")


def from_pretrained(path: str | Path, *, t: Sequence[int] = (1, 16)) -> LanguageStep:
    """Load a causal language model of bounded state that ``save_pretrained`` has written.

    ```python
    from dst.export import export_bundle
    from dst.export.hf import from_pretrained

    step = from_pretrained("my-mamba", t=(1, 16))
    export_bundle(step, "bundle", name="my-mamba", data=ids)
    ```

    Args:
        path: A directory with ``config.json``, safetensors weights and perhaps ``tokenizer.json``.
        t: The numbers of tokens a step may take. 1 must be among them if text is to be generated.

    Returns:
        A step with its contract, its weights in float32.

    Raises:
        ExportError: `hugging-face`: the directory does not hold such a model; ``code`` says what is
            wrong.
        ModuleNotFoundError: transformers is not installed.
    """
    root = Path(path)
    if not t or min(t) < 1:
        raise ExportError(
            f"t is {list(t)}; expected at least one number, each 1 or more", code="hugging-face"
        )
    config = _config(root)
    family = _family(root, config)
    notes = _check_weights(root)
    model = _model(root, _OVERRIDES.get(family, {}))
    vocabulary = int(model.config.vocab_size)
    tokenizer = _tokenizer(root, vocabulary)
    stack = FAMILIES[family](model)
    return LanguageStep(
        model, stack, family=family, vocabulary=vocabulary, t=t, tokenizer=tokenizer, notes=notes
    ).eval()


def _config(root: Path) -> dict[str, object]:
    file = root / "config.json"
    try:
        config = json.loads(file.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        what = "has no config.json" if root.is_dir() else "is no directory"
        raise ExportError(
            f"{root}: {what}; expected a local directory that transformers' save_pretrained has "
            "written (nothing is downloaded)",
            code="hf-no-config",
        ) from None
    except ValueError:
        raise ExportError(f"{file}: is no JSON", code="hf-no-config") from None
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        raise ExportError(f"{file}: has no model_type", code="hf-no-config")
    return config


def _family(root: Path, config: Mapping[str, object]) -> str:
    """Return the model type, if its state is bounded and its layers are known here."""
    family = str(config["model_type"])
    names = config.get("architectures") or ()
    architecture = str(names[0]) if isinstance(names, list) and names else ""
    known = ", ".join(sorted(FAMILIES))

    def unsupported(why: str) -> ExportError:
        return ExportError(f"{root}: {why}", code="hf-unsupported")

    def grows(what: str, cure: str) -> ExportError:
        return ExportError(
            f"{root}: {what} keeps every token it has read, so its state grows, and a bundle holds "
            f"a state of fixed size; {cure}",
            code="state-grows",
        )

    if family not in FAMILIES:
        causal = architecture.endswith(("ForCausalLM", "LMHeadModel"))
        if config.get("is_encoder_decoder") or not causal:
            raise unsupported(
                f"{architecture or family} is no language model that reads one token after another "
                f"(an encoder sees its whole input at once); expected one of {known}"
            )
        if config.keys() & {"num_attention_heads", "n_head", "num_heads"}:
            raise grows(f"model_type {family} has attention that", f"use one of {known}")
        raise unsupported(f"model_type {family} is not supported; expected one of {known}")
    if architecture and not architecture.endswith("ForCausalLM"):
        raise unsupported(f"holds a {architecture}; expected the language model, a ...ForCausalLM")
    kinds = config.get("layer_types")
    kinds = list(kinds) if isinstance(kinds, list) else []
    if family == "lfm2" and not kinds:  # what the configuration class makes of older fields
        full = config.get("full_attn_idxs")
        layers = config.get("num_hidden_layers", 0)
        kinds = ["full_attention"] * int(str(len(full) if isinstance(full, list) else layers))
    if family in ("lfm2", "qwen3_next") and "full_attention" in kinds:
        raise grows(
            f"{kinds.count('full_attention')} of its layers are full attention, which",
            f"use a {family} without them, or one of {known}",
        )
    if family == "qwen3_next" and int(str(config.get("num_experts", 512))) > 0:
        raise unsupported(
            "its feed-forward layers choose experts for each token, which one graph cannot follow; "
            "expected num_experts = 0"
        )
    return family


def _check_weights(root: Path) -> list[str]:
    """Check that every file of the weights is there; return what was noticed."""
    whole, index = (root / name for name in WEIGHTS)
    if whole.is_file():
        files = [whole]
    elif index.is_file():
        try:
            names = set(json.loads(index.read_bytes())["weight_map"].values())
        except (ValueError, KeyError, TypeError, AttributeError):
            raise ExportError(f"{index}: is no index of weights", code="hf-no-weights") from None
        files = [root / str(name) for name in sorted(names)]
    else:
        raise ExportError(
            f"{root}: has no weights; expected {' or '.join(WEIGHTS)} (a pytorch_model.bin is not "
            "read: save_pretrained writes safetensors)",
            code="hf-no-weights",
        )
    found: set[str] = set()
    for file in files:
        try:
            with safe_open(file, "numpy") as opened:
                found |= {opened.get_slice(name).get_dtype() for name in opened.keys()}  # noqa: SIM118
        except FileNotFoundError:
            why = f"{root}: {file.name} is missing, which the index names"
            raise ExportError(why, code="hf-no-weights") from None
        except SafetensorError as error:
            why = f"{file}: is no safetensors file, or a damaged one ({error})"
            raise ExportError(why, code="hf-no-weights") from None
    spelled = {"BF16": "bfloat16", "F16": "float16", "F64": "float64"}
    told = [spelled[kind] for kind in sorted(found & spelled.keys())]
    return [f"weights of {' and '.join(told)} were cast to float32"] if told else []


def _tokenizer(root: Path, vocabulary: int) -> bytes | None:
    file = root / TOKENIZER_FILE
    if not file.is_file():
        return None
    content = file.read_bytes()
    try:
        ids = TextTokenizer.read(content, str(file)).vocabulary
    except StepError as error:
        raise ExportError(str(error), code=error.code) from None
    if ids > vocabulary:
        raise ExportError(
            f"{file}: has ids up to {ids - 1}, the model takes those below {vocabulary}; they do "
            "not belong together",
            code="hf-tokenizer",
        )
    return content


def _model(root: Path, overrides: Mapping[str, object]) -> Foreign:
    from transformers import AutoModelForCausalLM

    try:
        with quiet():
            model, told = AutoModelForCausalLM.from_pretrained(
                str(root),
                dtype=torch.float32,
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                output_loading_info=True,
                **overrides,
            )
    except Exception as error:  # transformers raises whatever it likes
        what = " ".join(str(error).split())[:300]
        raise ExportError(
            f"{root}: transformers cannot load it: {what}", code="hf-not-loaded"
        ) from error
    missing = sorted(told["missing_keys"])
    if missing:
        raise ExportError(
            f"{root}: {len(missing)} tensors are missing in its weights, {missing[0]} among them",
            code="hf-no-weights",
        )
    return model.float().eval().requires_grad_(False)
