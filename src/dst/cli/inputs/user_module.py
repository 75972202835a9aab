"""Load a module to export: from a Python file of the user, or as transformers has saved it."""

import importlib
import importlib.util
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from dst.cli.data import held_out, read_all
from dst.cli.errors import WrongUseError, needing
from dst.runtime import TextTokenizer

if TYPE_CHECKING:
    import torch
    from torch import nn

    from dst.export.hf import LanguageStep


DTYPES = ("float32", "float64", "int64", "int32", "uint8", "bool")
WEIGHT_KEYS = ("model", "state_dict", "model_state_dict")
"""Under which checkpoints keep the weights, where they are not the whole file."""


@dataclass(frozen=True, slots=True)
class Spec:
    """One tensor as the command line spells it: ``B,T,40``, ``1,16:int64``, ``B,64:-1e30``.

    Attributes:
        shape: Sizes, and the letters B and T.
        dtype: The dtype's name.
        value: What it holds everywhere; None for random values.
    """

    shape: tuple[int | str, ...]
    dtype: str = "float32"
    value: float | None = None

    @staticmethod
    def read(option: str, text: str) -> "Spec":
        """Read a spec.

        Raises:
            WrongUseError: it is none.

        Examples:
            >>> Spec.read("--chunk", "B,T,40")
            Spec(shape=('B', 'T', 40), dtype='float32', value=None)
        """
        sizes, *rest = text.split(":")
        dtype, value = "float32", None
        try:
            parts = [part.strip() for part in sizes.strip("[]() ").split(",") if part.strip()]
            shape = tuple(p.upper() if p.upper() in ("B", "T") else int(p) for p in parts)
            if any(isinstance(size, int) and size < 1 for size in shape):
                raise ValueError
            for part in rest:
                if part in DTYPES:
                    dtype = part
                else:
                    value = float(part)
        except ValueError:
            raise WrongUseError(
                f"{option} {text}: expected sizes with commas, B for the batch and T for time, and "
                f"perhaps a dtype or a start value behind colons: B,T,40 or 1,16:int64 or "
                f"B,64:-1e30; dtypes are {', '.join(DTYPES)}"
            ) from None
        return Spec(shape, dtype, value)

    def tensor(self, t: int) -> "torch.Tensor":
        """Make it, with B = 1 and T = ``t``; random where no value is given."""
        import torch

        from dst.runtime.bundle.layout import sized

        shape = sized(self.shape, t)
        dtype: torch.dtype = getattr(torch, self.dtype)
        if self.value is not None:
            return torch.full(shape, self.value).to(dtype)
        return (
            torch.randn(shape).to(dtype)
            if dtype.is_floating_point
            else torch.zeros(shape, dtype=dtype)
        )


def load_module(where: str, arguments: str | None, weights: Path | None) -> "nn.Module":
    """Get the torch module that ``FILE.py:NAME`` stands for; this runs the file.

    Args:
        where: ``my_model.py:Model``: a class, a function that returns a module, or a module. The
            name may be left out where the file has one class of modules.
        arguments: JSON for the class or function: a list, or an object of names and values.
        weights: A state dict, as torch.save writes it; nothing in it is run.

    Raises:
        WrongUseError: there is no such thing, it fails, or the weights do not fit.
    """
    from torch import nn

    file, _, name = where.rpartition(":") if not where.endswith(".py") else (where, "", "")
    found = _imported(file)
    if not name:
        name = _only_class(file, found)
    value: object = found
    for part in name.split("."):
        if not hasattr(value, part):
            raise WrongUseError(f"{file} has no `{name}`; it defines {_names(found)}")
        value = getattr(value, part)
    if not isinstance(value, nn.Module):
        value = _made(f"{file}:{name}", value, arguments)
    elif arguments is not None:
        raise WrongUseError(f"--args: {file}:{name} is a module already and takes none")
    if not isinstance(value, nn.Module):
        raise WrongUseError(
            f"{file}:{name} gave {type(value).__name__}; expected a torch.nn.Module"
        )
    if weights is not None:
        _fill(value, weights)
    return value


def _imported(file: str) -> ModuleType:
    """Import a file by its path, or a module by its name."""
    path = Path(file)
    if path.suffix == ".py" and not path.is_file():
        raise WrongUseError(f"{file}: there is no such file")
    sys.path.insert(0, str(path.parent.resolve()) if path.suffix == ".py" else "")
    try:
        if path.suffix != ".py":
            return importlib.import_module(file)
        spec = importlib.util.spec_from_file_location(path.stem, path)
        if spec is None or spec.loader is None:
            raise WrongUseError(f"{file}: is no Python file")
        module = importlib.util.module_from_spec(spec)
        sys.modules[path.stem] = module  # dataclasses look their module up
        spec.loader.exec_module(module)
        return module
    except WrongUseError:
        raise
    except (Exception, SystemExit) as error:
        raise WrongUseError(
            f"{file}: cannot be imported: {_short(error)}{_line(error, path)}"
        ) from None


def _line(error: BaseException, path: Path) -> str:
    """Say in which line of the user's file an error arose."""
    trace, line = error.__traceback__, None
    while trace is not None:
        if Path(trace.tb_frame.f_code.co_filename).resolve() == path.resolve():
            line = trace.tb_lineno
        trace = trace.tb_next
    return f" (line {line})" if line else ""


def _short(error: BaseException) -> str:
    text = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _own_classes(found: ModuleType) -> list[str]:
    from torch import nn

    return [
        name
        for name, value in vars(found).items()
        if isinstance(value, type)
        and issubclass(value, nn.Module)
        and value.__module__ == found.__name__
    ]


def _only_class(file: str, found: ModuleType) -> str:
    names = _own_classes(found)
    if len(names) != 1:
        raise WrongUseError(
            f"{file}: which module is meant? It defines {_names(found)}; give {file}:NAME"
        )
    return names[0]


def _names(found: ModuleType) -> str:
    return ", ".join(_own_classes(found)) or "no class of torch.nn.Module"


def _made(where: str, maker: object, arguments: str | None) -> object:
    """Call a class or a function with the arguments of the command line."""
    if not callable(maker):
        raise WrongUseError(
            f"{where} is {type(maker).__name__}; expected a class or instance of torch.nn.Module, "
            "or a function that returns one"
        )
    try:
        given = json.loads(arguments) if arguments is not None else []
    except ValueError as error:
        raise WrongUseError(f"--args: is no JSON: {error}") from None
    if not isinstance(given, list | dict):
        raise WrongUseError("--args: expected a list or an object, as in '{\"hidden\": 64}'")
    try:
        return maker(*given) if isinstance(given, list) else maker(**given)
    except Exception as error:
        cure = "" if arguments is not None else "; arguments are given by --args '[40, 64]'"
        raise WrongUseError(f"{where} cannot be made: {_short(error)}{cure}") from None


def load_tensors(path: Path, refusal: str) -> object:
    """Read what torch.save wrote; nothing in it is run.

    Raises:
        WrongUseError: it is none, or holds more than tensors and plain values: `refusal`.
    """
    import torch

    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception:  # whatever its readers raise; torch's own advice is to run what it holds
        raise WrongUseError(refusal) from None


def fill(module: "nn.Module", weights: Mapping[str, object], misfit: str) -> None:
    """Put weights into a module.

    Raises:
        WrongUseError: they do not fit: `misfit` and what torch says.
    """
    try:
        module.load_state_dict(weights)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise WrongUseError(f"{misfit}: {' '.join(str(error).split())[:200]}") from None


def _loaded(option: str, path: Path) -> object:
    return load_tensors(
        path,
        f"{option} {path}: holds more than tensors and plain values, or is none of torch's files; "
        "write it with torch.save(model.state_dict(), ...)",
    )


def _fill(module: "nn.Module", path: Path) -> None:
    held = _loaded("--weights", path)
    for key in WEIGHT_KEYS:
        if isinstance(held, dict) and isinstance(held.get(key), dict):
            held = held[key]
    if not isinstance(held, dict):
        raise WrongUseError(f"--weights {path}: holds {type(held).__name__}; expected a state dict")
    fill(module, held, f"--weights {path}: does not fit the module")


def states_of(texts: Sequence[str]) -> object:
    """Read ``--state``: nothing, one tensor, several in a tuple, named ones in a dict, or a file.

    Raises:
        WrongUseError: a spec is none, or some have names and some have not.
    """
    if not texts:
        return None
    if len(texts) == 1 and texts[0].endswith((".pt", ".pth")):
        return _loaded("--state", Path(texts[0]))
    if texts == ("none",):
        return ()
    pairs = [text.split("=", 1) if "=" in text else ["", text] for text in texts]
    if any(name for name, _ in pairs) and not all(name for name, _ in pairs):
        raise WrongUseError("--state: give every tensor a name, or none")
    specs = [(name.strip(), Spec.read("--state", text)) for name, text in pairs]
    made = []
    for _, spec in specs:
        if "T" in spec.shape:
            raise WrongUseError(
                "--state: a state has no time axis; give sizes, and B for the batch"
            )
        made.append(Spec(spec.shape, spec.dtype, spec.value or 0.0).tensor(1))
    if specs[0][0]:
        return {name: tensor for (name, _), tensor in zip(specs, made, strict=True)}
    return made[0] if len(made) == 1 else tuple(made)


Array = npt.NDArray[np.generic]

HELD_OUT = "modules of Python's standard library"
T = (1, 16)
"""Tokens per step where nobody says how many."""


def is_network(source: Path) -> bool:
    """Whether a directory says that it holds a network of ours, in the form of transformers."""
    try:
        held = json.loads((source / "config.json").read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(held, dict) and held.get("model_type") == "dst"


def hf_step(source: Path, sizes: tuple[int, ...]) -> "LanguageStep":
    """Load the model, to run these T; none for the usual ones.

    Raises:
        ExportError: `hugging-face`: the directory holds no model that can become a bundle.
        WrongUseError: transformers is missing.
    """
    with needing("export --from-hf", "export,hf"):
        import transformers  # noqa: F401

        from dst.export.hf import from_pretrained
    return from_pretrained(source, t=sizes or T)


def hf_data(data: str | None, step: "LanguageStep") -> tuple[Array | None, str | None]:
    """Read the tokens to prove the graphs on, and say what they are; None for random ones."""
    tokenizer = None if step.tokenizer is None else TextTokenizer.read(step.tokenizer)
    if data is not None:
        return read_all(data, step.contract.chunk, tokenizer), Path(data).name
    ids = np.zeros(0, np.int64) if tokenizer is None else tokenizer.encode(held_out().decode())
    return (ids, HELD_OUT) if len(ids) else (None, None)
