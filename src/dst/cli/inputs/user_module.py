"""Load a module to export: from a Python file of the user, or as transformers has saved it."""

import importlib
import importlib.util
import json
import sys
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from dst.cli.errors import WrongUseError, needing

if TYPE_CHECKING:
    import torch
    from torch import nn

    from dst.export.hf import LanguageStep


DTYPES = ("float32", "float64", "int64", "int32", "uint8", "bool")
WEIGHT_KEYS = ("model", "state_dict", "model_state_dict")
"""Under which checkpoints keep the weights, where they are not the whole file."""


@dataclass(frozen=True, slots=True)
class Spec:
    """One tensor as the command line spells it: ``B,T,40``, ``1,16:int64``, ``B,64:-1e30``."""

    shape: tuple[int | str, ...]  # sizes, and the letters B and T
    dtype: str = "float32"  # the dtype's name
    value: float | None = None  # what it holds everywhere; None for random values

    @staticmethod
    def read(option: str, text: str) -> "Spec":
        """Read a spec.

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
        if self.value is None and dtype.is_floating_point:
            return torch.randn(shape).to(dtype)
        return torch.full(shape, self.value or 0.0).to(dtype)


def load_module(where: str, arguments: str | None, weights: Path | None) -> "nn.Module":
    """Get the torch module that ``FILE.py:NAME`` stands for; this runs the file.

    NAME is a class, a function that returns a module, or a module; it may be left out where the
    file has one class of modules. `arguments` are JSON for the class or function, and `weights` a
    state dict, as torch.save writes it: nothing in it is run.
    """
    from torch import nn

    file, _, name = where.rpartition(":") if not where.endswith(".py") else (where, "", "")
    found = _imported(file)
    classes = [
        key
        for key, value in vars(found).items()
        if isinstance(value, type)
        and issubclass(value, nn.Module)
        and value.__module__ == found.__name__
    ]
    told = ", ".join(classes) or "no class of torch.nn.Module"
    if not name and len(classes) != 1:
        raise WrongUseError(f"{file}: which module is meant? It defines {told}; give {file}:NAME")
    value: object = found
    for part in (name or classes[0]).split("."):
        if not hasattr(value, part):
            raise WrongUseError(f"{file} has no `{name}`; it defines {told}")
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
    frames = traceback.extract_tb(error.__traceback__)
    lines = [f.lineno for f in frames if Path(f.filename).resolve() == path.resolve()]
    return f" (line {lines[-1]})" if lines else ""


def _short(error: BaseException) -> str:
    text = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


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
    """Read what torch.save wrote; nothing in it is run."""
    import torch

    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception:  # whatever its readers raise; torch's own advice is to run what it holds
        raise WrongUseError(refusal) from None


def fill(module: "nn.Module", weights: Mapping[str, object], misfit: str) -> None:
    """Put weights into a module."""
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
    """Read ``--state``: nothing, one tensor, a tuple of several, a dict of named ones, a file."""
    if not texts:
        return None
    if len(texts) == 1 and texts[0].endswith((".pt", ".pth")):
        return _loaded("--state", Path(texts[0]))
    if texts == ("none",):
        return ()
    pairs = [text.split("=", 1) if "=" in text else ["", text] for text in texts]
    if any(name for name, _ in pairs) and not all(name for name, _ in pairs):
        raise WrongUseError("--state: give every tensor a name, or none")
    specs = [Spec.read("--state", text) for _, text in pairs]
    if any("T" in spec.shape for spec in specs):
        raise WrongUseError("--state: a state has no time axis; give sizes, and B for the batch")
    made = [Spec(spec.shape, spec.dtype, spec.value or 0.0).tensor(1) for spec in specs]
    if pairs[0][0]:
        return {name.strip(): tensor for (name, _), tensor in zip(pairs, made, strict=True)}
    return made[0] if len(made) == 1 else tuple(made)


T = (1, 16)  # tokens per step where nobody says how many


def is_network(source: Path) -> bool:
    """Whether a directory says that it holds a network of ours, in the form of transformers."""
    try:
        held = json.loads((source / "config.json").read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(held, dict) and held.get("model_type") == "dst"


def hf_step(source: Path, sizes: tuple[int, ...]) -> "LanguageStep":
    """Load the model, to run these T; none for the usual ones."""
    with needing("export --from-hf", "export,hf"):
        import transformers  # noqa: F401

        from dst.export.hf import from_pretrained
    return from_pretrained(source, t=sizes or T)
