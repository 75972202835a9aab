"""Make the models of one size, all of as many parameters, and list who runs them.

Everything made is kept in the work folder: GGUF files for good, bundles as long as the sources of
this package stay the same.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import torch
from examples.bench.peers.building import (
    EXECUTORCH,
    HERE,
    OPENVINO,
    LeftOutError,
    Llama,
    called,
    environment,
)

import dst.export
import dst.graphs
import dst.quantize
from dst.export import export_bundle
from dst.export.model import Network, Tokens, sized
from dst.quantize import quantize_bundle, recipe_named
from dst.runtime import Bundle, DstError, open_bundle, write_bundle

NETWORKS = {"tiny": "tiny", "text": "small", "130m": "130m"}
"""Size of the comparison -> the name of our network's size."""
SHIPPED = {"float32": "text", "int8-rows": "text-int8", "int4-rows": "text-int4"}
"""Recipe -> the shipped bundle of the size `text`, whose weights are trained."""
RECIPES = (
    "int8-dynamic",
    "int8-rows",
    "int8-weights",
    "int4-rows",
    "int4-weights",
    "int4-weights/128",
)
FAMILIES, QUANTS = ("lfm2", "mamba", "rwkv7"), ("Q8_0", "Q4_0", "Q4_K_M")
UNPACKED = ("--repack", "0")
"""llama.cpp without its second layout of weights, which is at times the faster one."""
PEERS = ("dst", "llama", "naive", "openvino", "executorch", "eager", "compiled")


@dataclass(frozen=True, slots=True)
class Contestant:
    """One engine with one file, and what a step of that costs.

    Attributes:
        engine: one of `PEERS`.
        name: the model and what it is called with.
        precision: the recipe, or llama.cpp's name of it.
        model: the bundle or the file.
        options: more arguments of `llama-bench`.
        python: which Python holds it; None for this one.
        parameters: all of them.
        parameters_read: those that a step multiplies with: not a table it only looks up in.
        parameters_of_head: those that only the logits need.
        weights_bytes: of the parameters that are read.
        logits: for which items of a chunk they are computed: `all` or `last`.
    """

    engine: str
    name: str
    precision: str
    model: str
    parameters: int
    parameters_read: int
    parameters_of_head: int
    weights_bytes: int
    logits: str = "all"
    options: tuple[str, ...] = ()
    python: Path | None = None


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Who did not take part, and why. `t` and `threads` are None where it is for all of them."""

    size: str
    contestant: str
    why: str
    t: int | None = None
    threads: int | None = None


Tell = Callable[[str], None]


class Making:
    """Makes the contestants of one size for one T.

    Args:
        work: the folder where all is kept; an absolute path.
        size: a key of `NETWORKS`.
        tell: is told what takes long.
    """

    def __init__(self, work: Path, size: str, tell: Tell) -> None:
        self.work = work
        self.size = size
        self.left_out: list[LeftOut] = []
        self._tell = tell
        self._bundles = work / "bundles" / sources_mark()
        self._bundles.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(0)
        config = sized(NETWORKS[size])
        self._network = Network(config).eval().requires_grad_(False)
        numbers = {name: p.numel() for name, p in self._network.named_parameters()}
        table = numbers["head.embedding.weight"]
        tied = isinstance(config.items, Tokens) and config.items.tied
        self._total = sum(numbers.values())
        self._read = self._total - (0 if tied else table)
        self._head = numbers["head.out.weight"] + (table if tied else 0)

    def refuse(self, contestant: str, error: Exception) -> None:
        """Note that a contestant does not take part."""
        why = (str(error).strip().splitlines() or [type(error).__name__])[0]
        self.left_out.append(LeftOut(self.size, contestant, why))

    def ours(
        self, engine: str, name: str, precision: str, model: str, weights_bytes: int
    ) -> Contestant:
        """A contestant that runs our network."""
        share = self._read / self._total
        counts = (self._total, self._read, self._head, round(weights_bytes * share))
        return Contestant(engine, name, precision, model, *counts)

    def bundles(self, t: int) -> Iterator[tuple[str, Bundle]]:
        """Our bundles for this T: full precision, and each recipe that can be had."""
        full = open_bundle("text") if self.size == "text" else self.exported()
        yield "float32", full
        for recipe in RECIPES:
            if self.size == "text" and recipe in SHIPPED:
                yield recipe, open_bundle(SHIPPED[recipe])
                continue
            path = self._bundles / f"{self.size}-{recipe.replace('/', '-')}"
            plain, _, block = recipe.partition("/")
            source = full
            try:
                if plain == "int8-dynamic" and t > 1:  # such a bundle is made for one T
                    path = path.with_name(f"{path.name}-t{t}")
                    source = self.meant_for(full, t)
                if not path.exists():
                    self._tell(f"quantizing {path.name}")
                    chosen = recipe_named(plain, block=int(block) if block else None)
                    quantize_bundle(source, path, chosen)
                yield recipe, open_bundle(path, "size")
            except DstError as error:
                self.refuse(f"dst {recipe}", error)

    def exported(self, portable_t: Sequence[int] | None = None) -> Bundle:
        """Our network with random weights, as `dst export` makes it but hardly proved.

        Args:
            portable_t: make these portable graphs, in a bundle of their own.
        """
        end = "" if portable_t is None else "-portable-" + "-".join(map(str, portable_t))
        path = self._bundles / (self.size + end)
        if not path.exists():
            self._tell(f"exporting {path.name}")
            export_bundle(
                self._network,
                path,
                portable_t=portable_t,
                certify_steps=1,
                description="random weights, for measuring speed",
            )
        return open_bundle(path, "size")

    def meant_for(self, full: Bundle, t: int) -> Bundle:
        """The same bundle with this T as its usual one, and no golden runs."""
        path = self._bundles / f"{self.size}-usual-t{t}"
        if not path.exists():
            held = full.manifest
            chunk = msgspec.structs.replace(held.contract.chunk, nominal_t=t)
            contract = msgspec.structs.replace(held.contract, chunk=chunk)
            manifest = msgspec.structs.replace(held, contract=contract, golden=())
            files = {name: full.root / name for name in held.files if "golden" not in name}
            write_bundle(path, manifest, files)
        return open_bundle(path, "size")

    def dst(self, t: int, engine: str = "dst") -> list[Contestant]:
        """Our runtime on each bundle; or, as `naive`, a loop without it on the same graphs."""
        return [
            self.ours(engine, engine, recipe, str(bundle.root), bundle.manifest.weights_bytes)
            for recipe, bundle in self.bundles(t)
        ]

    def torch(self, engine: str) -> list[Contestant]:
        """Torch itself, `eager` or `compiled`."""
        return [self.ours(engine, f"torch {engine}", "float32", "", 4 * self._total)]

    def openvino(self, sizes: Sequence[int], t: int) -> list[Contestant]:
        """OpenVINO on the portable graph for this T."""
        python = environment(self.work / "openvino", OPENVINO)
        bundle = self.exported(sizes)
        files = [
            graph.file
            for graph in bundle.manifest.graphs
            if graph.lowering == "portable" and t in graph.allowed_t
        ]
        if not files:
            raise LeftOutError(f"the bundle holds no portable graph for T = {t}")
        made = self.ours(
            "openvino", "openvino", "float32", str(bundle.root / files[0]), 4 * self._total
        )
        return [replace(made, python=python)]

    def executorch(self, t: int) -> list[Contestant]:
        """ExecuTorch on a file for this T; it is lowered where it is run first."""
        python = environment(self.work / "executorch", EXECUTORCH)
        path = self._bundles / f"{self.size}-t{t}.pte"
        if not path.exists():
            export_torch(self._network, t, path)
        made = self.ours("executorch", "executorch", "float32", str(path), 4 * self._total)
        return [replace(made, python=python)]

    def llama(self, build: Llama) -> list[Contestant]:
        """llama.cpp on each family and quantization, some without repacking."""
        folder = self.work / "gguf"
        folder.mkdir(exist_ok=True)
        if not all((folder / f"{self.size}-{f}-f32.gguf").exists() for f in FAMILIES):
            self._tell(f"writing GGUF files of {self.size}")
            script = HERE / "gguf_models.py"
            paths = f"import sys; sys.path.insert(0, {str(build.gguf)!r}); "
            run = f"import runpy; runpy.run_path({str(script)!r}, run_name='__main__')"
            called([build.python, "-c", paths + run, self.size, folder])
        return [c for family in FAMILIES for c in self._family(build, folder, family)]

    def _family(self, build: Llama, folder: Path, family: str) -> Iterator[Contestant]:
        source = folder / f"{self.size}-{family}-f32.gguf"
        counts = json.loads(source.with_suffix(".json").read_text("utf-8"))
        total, read, head = (
            counts[name] for name in ("parameters", "parameters_read", "parameters_of_head")
        )
        for quant in ("f32", *QUANTS):
            path = folder / f"{self.size}-{family}-{quant}.gguf"
            if not path.exists():
                part = path.with_suffix(".part")
                try:
                    called([build.quantize, source, part, quant, "1"])
                except LeftOutError as error:
                    self.refuse(f"llama {family} {quant}", error)
                    continue
                part.replace(path)
            whole = path.stat().st_size
            both = ((), UNPACKED) if family == "lfm2" and quant != "f32" else ((),)
            for options in both:
                yield Contestant(
                    engine="llama",
                    name=" ".join((f"llama {family}", *options)),
                    precision=quant,
                    model=str(path),
                    parameters=total,
                    parameters_read=read,
                    parameters_of_head=head,
                    weights_bytes=round(whole * read / total),
                    logits="last",
                    options=options,
                )

    def contestants(
        self, peers: Sequence[str], sizes: Sequence[int], t: int, build: Llama | None
    ) -> list[Contestant]:
        """All contestants at this T; who cannot be had is added to `left_out` instead."""
        makers: dict[str, Callable[[], list[Contestant]]] = {
            "dst": lambda: self.dst(t),
            "naive": lambda: self.dst(t, "naive"),
            "eager": lambda: self.torch("eager"),
            "compiled": lambda: self.torch("compiled"),
            "openvino": lambda: self.openvino(sizes, t),
            "executorch": lambda: self.executorch(t),
        }
        if build is not None:
            makers["llama"] = lambda: self.llama(build)
        made = []
        for peer in peers:
            try:
                made += makers[peer]() if peer in makers else []
            except Exception as error:  # each engine has errors of its own
                self.refuse(peer, error)
        return made


def export_torch(network: Network, t: int, path: Path) -> None:
    """Write the step by `torch.export`, state after chunk, and inputs to run it on."""
    names = [state.input for state in network.contract.state]

    class Flat(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, chunk: torch.Tensor, *state: torch.Tensor) -> tuple[torch.Tensor, ...]:
            outputs, new = self.network(chunk, dict(zip(names, state, strict=True)))
            return (*outputs.values(), *(new[name] for name in names))

    start = network.initial_state(1)
    inputs = (torch.zeros(1, t, dtype=torch.int64), *(start[name] for name in names))
    with torch.no_grad():
        program = torch.export.export(Flat().eval(), inputs, strict=False)
    torch.save(list(inputs), path.with_suffix(".inputs"))
    torch.export.save(program, path.with_suffix(".pt2"))


def sources_mark() -> str:
    """Name the sources that make bundles: another mark, other bundles."""
    digest = hashlib.sha256()
    for package in (dst.export, dst.graphs, dst.quantize):
        for folder in package.__path__:
            for file in sorted(Path(folder).rglob("*.py")):
                digest.update(file.read_bytes())
    return digest.hexdigest()[:8]
