"""Make every file of the conformance suite: `python -m tests.conformance.make`.

Results are recorded from the Python runtime, whose own laws are tested in `tests/runtime`. So a
changed result shows as a changed file here; look at it before you commit it.
"""

import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from tests.conformance.malformed import bundle_cases, retold, state_cases
from tests.conformance.models import BUNDLES
from tests.conformance.runner import ROOT, Call, Player, versions
from tests.conformance.scripts import saving, scripts
from tests.steps import Array

from dst.runtime import DstError, write_bundle
from dst.runtime.state.header import spelled


def fresh(folder: str) -> Path:
    """Return an empty folder of the suite."""
    path = ROOT / folder
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    return path


def one_per_line(head: str, values: Sequence[object]) -> str:
    """Return a JSON list with a line for each value, after the beginning of what holds it."""
    return f"{head}[\n" + ",\n".join(f"  {json.dumps(value)}" for value in values) + "\n]"


def record_all(work: Path) -> None:
    """Record every script; a group has its arrays in one file, named by script."""
    folder = fresh("scripts")
    groups: dict[str, dict[str, Array]] = {}
    for name, (script, arrays) in scripts().items():
        recorded = record(script, arrays, work)
        rest = {key: value for key, value in recorded.items() if key != "calls"}
        text = one_per_line(json.dumps(rest)[:-1] + ', "calls": ', recorded["calls"]) + "}\n"
        file = folder / f"{name}.json"
        file.parent.mkdir(exist_ok=True)
        file.write_text(text, "utf-8")
        group, _, own = name.partition("/")
        held = groups.setdefault(group, {})
        held |= {f"{own}/{ref}": array for ref, array in arrays.items()}
    for group, held in groups.items():
        safetensors.numpy.save_file(held, folder / f"{group}.safetensors")


def record(script: Call, arrays: dict[str, Array], work: Path, root: Path = ROOT) -> Call:
    """Do the calls of a script of the suite `root`, and add what each of them gave."""
    player = Player(versions(script, root)[0], arrays, work, root)
    done = []
    for number, call in enumerate(script["calls"]):
        here = versions({**script, "calls": [call]}, root)[0]["calls"][0]
        try:
            found = player.do(here)
        except DstError as error:
            if error.code != call.get("error"):
                raise SystemExit(
                    f"{script['bundle']}: call {number} {call}: {error.code}: {error}"
                ) from error
            done.append(call)
            continue
        if "error" in call:
            raise SystemExit(f"{script['bundle']}: call {number} {call}: expected an error")
        expect: dict[str, Any] = {}
        for key, value in found.items():
            if key not in ("outputs", "state"):
                expect[key] = value
                continue
            assert isinstance(value, dict)
            expect[key] = {}
            for name, array in value.items():
                ref = f"{number:02}/{key}/{name}"
                arrays[ref] = np.ascontiguousarray(array)
                expect[key][name] = ref
        done.append({**call, **({"expect": expect} if expect else {})})
    return {**script, "calls": done}


def save_marks(work: Path) -> None:
    """Save a state of the bundle `marks`, and make those that older versions have saved."""
    script, arrays = scripts()["steps/marks"]
    player = Player(script, arrays, work)
    for call in script["calls"][:2]:
        player.do(call)
    good = player.stream("a").saved().to_bytes()
    held = player.session.identity.constants
    numpy = {"[1000000.0, ": "[1e+06, ", "[1024.0, ": "[1.024e+03, ", "65500.0": "6.55e+04"}
    javascript = {"0.00024414062": "0.00024414063", "1.2621775e-29": "1.26217745e-29"}
    folder = fresh("saved")
    (folder / "marks.state").write_bytes(good)
    for name, changes in (
        ("numpy", numpy),
        ("javascript", javascript),
        ("other", {"1000000.0": "1000001.0"}),
    ):
        text = spelled(held)
        for now, old in changes.items():
            assert now in text
            text = text.replace(now, old)
        (folder / f"marks-{name}.state").write_bytes(retold(good, {"constants": text}))


def main() -> None:
    """Make the suite anew; saved states of other languages stay."""
    bundles = fresh("bundles")
    for name, build in BUNDLES.items():
        model = build()
        write_bundle(bundles / name, model.manifest(name), dict(model.files))
    states = fresh("states/python")
    with tempfile.TemporaryDirectory() as folder:
        for name, (script, arrays) in saving().items():
            player = Player(script, arrays, Path(folder))
            for call in script["calls"]:
                player.do(call)
            player.stream("a").save(states / f"{name}.state")
        save_marks(Path(folder))
        most = {"items_consumed": str(2**63 - 1), "draws": str(2**63 - 1)}
        tokens = (states / "tokens.state").read_bytes()
        (ROOT / "saved/counters.state").write_bytes(retold(tokens, most))
        record_all(Path(folder))
    saved = {path.stem: path.read_bytes() for path in states.iterdir()}
    manifests = {
        name: json.loads((bundles / name / "manifest.json").read_bytes()) for name in BUNDLES
    }
    malformed = fresh("malformed")
    bundle_list, files = bundle_cases(manifests)
    state_list, more = state_cases(saved)
    (malformed / "bundles.json").write_text(one_per_line("", bundle_list), "utf-8")
    (malformed / "states.json").write_text(one_per_line("", state_list), "utf-8")
    held: dict[str, Array] = {n: np.frombuffer(d, np.uint8) for n, d in (files | more).items()}
    safetensors.numpy.save_file(held, malformed / "files.safetensors")


if __name__ == "__main__":
    main()
