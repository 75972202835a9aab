"""Add models that dst ships to a suite: each language saves them in mid-stream, and each goes on.

The models of the suite itself give the same bits on every machine. These give the same bits where
one build of ONNX Runtime runs them, and elsewhere the same numbers within the bundle's tolerance.
What each call must give is recorded from the Python runtime.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import safetensors.numpy
from tests.conformance.calls import Script, call, new
from tests.conformance.make import record
from tests.conformance.runner import Call
from tests.steps import Array

from dst.runtime import Session
from dst.runtime.bundle.manifest import Tokens

DST = Path(__file__).resolve().parents[2] / "src/dst"
MODELS = ("log", "text-int8", "feed")
FIRST, SECOND = 1000, 400
"""Items before and after the save; neither is a whole number of chunks."""


def items_for(name: str) -> Array:
    """Return items that a model is used to: a text, or the items of its golden run."""
    session = Session.open(name)
    chunk = session.contract.chunk
    if isinstance(chunk.content, Tokens):
        text = (DST / "heldout/stdlib.txt").read_bytes()[: FIRST + SECOND]
        return np.frombuffer(text, np.uint8).astype(chunk.dtype)
    (golden,) = session.bundle.manifest.golden
    recorded = session.bundle.tensors(golden.file)[f"t{golden.t}/chunk"]
    run = recorded.reshape(-1, recorded.shape[-1])
    return np.tile(run, (1 + (FIRST + SECOND) // len(run), 1))[: FIRST + SECOND]


def scripts(name: str) -> tuple[Script, Script]:
    """Return the script that saves a model, and the one that goes on from what was saved."""
    items = items_for(name)
    path = f"states/{{language}}/{name}.state"
    saving = [new(), call("advance", items="items")]
    loading = [
        {"call": "load", "as": "a", "file": path},
        call("look"),
        call("bytes", **{"as": "b", "same_as": path}),
        call("advance", "b", items="more"),
        call("flush", "b"),
        call("look", "b"),
    ]
    return (
        ({"bundle": name, "calls": saving}, {"items": items[:FIRST]}),
        ({"bundle": name, "each_language": True, "calls": loading}, {"more": items[FIRST:]}),
    )


def recorded(work: Path) -> dict[str, Script]:
    """Return the scripts of all models, by group and name, with what each call must give."""
    found: dict[str, Script] = {}
    (states := work / "states/python").mkdir(parents=True)
    for name in MODELS:
        shutil.copytree(DST / "shipped" / name, work / "bundles" / name)
        (saving, items), (loading, more) = scripts(name)
        stream = Session.open(name).stream()
        stream.advance(items["items"])
        stream.save(states / f"{name}.state")
        found[f"save/{name}"] = record(saving, items, work, work), items
        found[f"load/{name}"] = record(loading, more, work, work), more
    return found


def add(suite: Path, made: dict[str, Script], exact: bool) -> None:
    """Add scripts and their bundles to a suite; `exact` asks for equal bits."""
    for name, (script, arrays) in made.items():
        group, _, own = name.partition("/")
        if not (bundle := suite / "bundles" / own).exists():
            shutil.copytree(DST / "shipped" / own, bundle)
        calls: list[Call] = [{**one, "exact": exact} for one in script["calls"]]
        (suite / f"scripts/{name}.json").write_text(json.dumps({**script, "calls": calls}))
        file = suite / f"scripts/{group}.safetensors"
        held = safetensors.numpy.load_file(file)
        held |= {f"{own}/{ref}": array for ref, array in arrays.items()}
        safetensors.numpy.save_file(held, file)
