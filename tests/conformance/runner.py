"""Run scripts of the conformance suite with the Python runtime, and compare or record.

README.md describes the scripts. A runner for another language does what `Player` does here.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import safetensors.numpy
from tests.steps import Array

from dst.runtime import DstError, Saved, Session, Snapshot, Stream, generate, relative_error

ROOT = Path(__file__).resolve().parent
Call = dict[str, Any]


class Wrong(AssertionError):
    """A result is not what the script expects; the message says where."""


class Player:
    """Do the calls of one script, one after the other.

    Attributes:
        tolerance: how far a number may be off where a call is not exact.
    """

    def __init__(
        self, script: Call, arrays: Mapping[str, Array], work: Path, root: Path = ROOT
    ) -> None:
        """Open the bundle of the script; files of saved states go to the folder `work`."""
        options = script.get("open", {})
        self.session = Session.open(root / "bundles" / script["bundle"], **options)
        self.tolerance = max(g.golden_tolerance for g in self.session.bundle.manifest.graphs)
        self._arrays = arrays
        self._work = work
        self._root = root
        self._streams: dict[str, Stream] = {}
        self._snapshots: dict[str, Snapshot] = {}

    def do(self, call: Call) -> dict[str, object]:
        """Do one call, and return what there is to compare: outputs, tokens, state and so on."""
        kind = call["call"]
        if kind == "stream":
            inputs = {n: self._arrays[ref] for n, ref in call.get("inputs", {}).items()}
            self._streams[call["as"]] = self.session.stream(inputs=inputs or None)
            return {}
        if kind == "load":
            self._streams[call["as"]] = self._load(call)
            return {}
        stream = self._streams[call["stream"]]
        if kind == "step":
            last = call.get("last", False)
            return {"outputs": stream.step(self._arrays[call["chunk"]], last=last)}
        if kind == "advance":
            items = self._arrays[call["items"]]
            return {"outputs": stream.advance(items, last=call.get("last", False))}
        if kind == "flush":
            return {"outputs": stream.flush()}
        if kind == "generate":
            return {"tokens": self._generate(stream, call)}
        if kind == "look":
            return look(stream)
        return self._keep(kind, stream, call)

    def stream(self, name: str) -> Stream:
        """Return one of the streams."""
        return self._streams[name]

    def check(self, call: Call, found: dict[str, object]) -> None:
        """Compare a result with what the call expects.

        Raises:
            Wrong: they differ.
        """
        for key, expected in call.get("expect", {}).items():
            if key not in ("outputs", "state"):
                if found[key] != expected:
                    raise Wrong(f"{key} is {found[key]}, expected {expected}")
                continue
            values = cast(dict[str, Array], found[key])
            if values.keys() != expected.keys():
                raise Wrong(f"{key} has {sorted(values)}, expected {sorted(expected)}")
            for name, ref in expected.items():
                self._compare(f"{key} {name!r}", call, values[name], self._arrays[ref])

    # --- inside

    def _compare(self, where: str, call: Call, value: Array, right: Array) -> None:
        if (value.dtype, value.shape) != (right.dtype, right.shape):
            kinds = f"{value.dtype} {list(value.shape)}, expected {right.dtype} {list(right.shape)}"
            raise Wrong(f"{where} is {kinds}")
        if call.get("exact", True):
            if value.tobytes() != right.tobytes():
                raise Wrong(f"{where} has other bits than expected")
        elif (error := relative_error(value, right)) > self.tolerance:
            raise Wrong(f"{where} has an error of {error:.2g}, allowed are {self.tolerance:g}")

    def _load(self, call: Call) -> Stream:
        allow = call.get("allow_precision", False)
        if "file" in call:
            return Stream.load(self.session, self._root / call["file"], allow_precision=allow)
        return Stream.load(self.session, self._work / call["from"], allow_precision=allow)

    def _keep(self, kind: str, stream: Stream, call: Call) -> dict[str, object]:
        """Do what copies a stream or puts it somewhere else."""
        if kind == "snapshot":
            self._snapshots[call["as"]] = stream.snapshot()
        elif kind == "restore":
            stream.restore(self._snapshots[call["from"]])
        elif kind == "fork":
            self._streams[call["as"]] = stream.fork()
        elif kind == "reset":
            stream.reset()
        elif kind == "save":
            stream.save(self._work / call["as"])
        elif kind == "bytes":
            data = stream.saved().to_bytes()
            if "same_as" in call and data != (self._root / call["same_as"]).read_bytes():
                raise Wrong(f"the saved bytes are not those of {call['same_as']}")
            self._streams[call["as"]] = self.session.stream(Saved.from_bytes(data))
        else:
            raise ValueError(f"no such call: {kind}")
        return {}

    def _generate(self, stream: Stream, call: Call) -> list[int]:
        seed = call.get("seed")
        return list(
            generate(
                stream,
                self._arrays[call["prompt"]],
                call["items"],
                temperature=call.get("temperature", 1.0),
                top_k=call.get("top_k", 0),
                top_p=call.get("top_p", 1.0),
                seed=None if seed is None else int(seed),
                stop=call.get("stop", []),
            )
        )


def look(stream: Stream) -> dict[str, object]:
    """Return all that a stream tells of itself."""
    sampler = stream.sampler
    return {
        "items_consumed": stream.items_consumed,
        "pending": stream.pending,
        "sampler": sampler and {"seed": str(sampler.seed), "draws": str(sampler.draws)},
        "state": stream.state,
    }


def languages(root: Path = ROOT) -> list[str]:
    """Return the languages that have written saved states."""
    return sorted(folder.name for folder in (root / "states").iterdir() if folder.is_dir())


def names(root: Path = ROOT) -> list[str]:
    """Return the names of all scripts, as `group/name`."""
    return sorted(f"{path.parent.name}/{path.stem}" for path in (root / "scripts").glob("*/*.json"))


def read(name: str, root: Path = ROOT) -> tuple[Call, dict[str, Array]]:
    """Read a script and its arrays."""
    script = json.loads((root / f"scripts/{name}.json").read_text("utf-8"))
    group, _, own = name.partition("/")
    held = safetensors.numpy.load_file(root / f"scripts/{group}.safetensors")
    prefix = f"{own}/"
    return script, {n.removeprefix(prefix): a for n, a in held.items() if n.startswith(prefix)}


def cases(kind: str, root: Path = ROOT) -> list[Call]:
    """Read the malformed cases: `bundles` or `states`."""
    found: list[Call] = json.loads((root / f"malformed/{kind}.json").read_text("utf-8"))
    return found


def versions(script: Call, root: Path = ROOT) -> list[Call]:
    """Return a script once for each language, where it loads states that each has written."""
    if not script.get("each_language"):
        return [script]
    text = json.dumps(script)
    return [json.loads(text.replace("{language}", language)) for language in languages(root)]


def run(script: Call, arrays: Mapping[str, Array], work: Path, root: Path = ROOT) -> Player:
    """Do all calls of a script and compare their results; return what did them.

    Raises:
        Wrong: a result is not as expected; the message names the call.
    """
    player = Player(script, arrays, work, root)
    for number, call in enumerate(script["calls"]):
        where = f"{script['bundle']}: call {number} ({call['call']})"
        try:
            found = player.do(call)
        except DstError as error:
            if error.code != call.get("error"):
                expected = call.get("error", "no error")
                raise Wrong(f"{where}: {error.code} ({error}), expected {expected}") from error
            continue
        if "error" in call:
            raise Wrong(f"{where}: no error, expected {call['error']}")
        try:
            player.check(call, found)
        except Wrong as wrong:
            raise Wrong(f"{where}: {wrong}") from None
    return player
