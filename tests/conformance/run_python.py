"""Run the conformance suite with the Python runtime, as the runner of another language does.

    python -m tests.conformance.run_python SUITE WORK [--save]

It exits with 1 where anything is not as expected. With `--save` it writes `states/python` too.
"""

import shutil
import sys
from pathlib import Path

import safetensors.numpy
from tests.conformance import runner
from tests.conformance.refused import code_of_bundle, code_of_state, possible
from tests.conformance.runner import Call, Wrong

from dst.runtime import DstError


class Tally:
    """Run the cases of the suite one after the other, and count.

    Attributes:
        ran: how many have run.
        failed: how many of them were not as expected.
    """

    def __init__(self, root: Path, work: Path) -> None:
        """Take the suite from `root`; each case has the folder `work`, emptied, for itself."""
        self.ran = 0
        self.failed = 0
        self._root = root
        self._work = work

    def fresh(self) -> Path:
        """Return the empty folder of the next case."""
        shutil.rmtree(self._work, ignore_errors=True)
        self._work.mkdir(parents=True)
        return self._work

    def script(self, name: str, save: bool) -> None:
        """Run one script, for each language where it loads what each has written."""
        self.ran += 1
        script, arrays = runner.read(name, self._root)
        group, _, own = name.partition("/")
        try:
            for version in runner.versions(script, self._root):
                player = runner.run(version, arrays, self.fresh(), self._root)
                if save and group == "save":
                    state = self._root / f"states/python/{own}.state"
                    state.parent.mkdir(parents=True, exist_ok=True)
                    state.unlink(missing_ok=True)  # so that no `.previous` is kept in the suite
                    player.stream("a").save(state)
        except (Wrong, DstError) as error:
            self.fail(name, error)

    def malformed(self, kind: str, case: Call) -> None:
        """Try one malformed bundle or saved state."""
        self.ran += 1
        files = safetensors.numpy.load_file(self._root / "malformed/files.safetensors")
        code_of = code_of_bundle if kind == "bundles" else code_of_state
        code = code_of(case, files, self.fresh(), self._root)
        if code != case["code"]:
            self.fail(f"malformed {case['name']}", f"{code}, expected {case['code']}")

    def fail(self, name: str, why: object) -> None:
        """Count and print what was not as expected."""
        self.failed += 1
        print(f"FAILED {name}: {why}")


def main(root: Path, work: Path, save: bool) -> int:
    """Run everything; return the exit status."""
    tally = Tally(root, work / "conformance")
    for name in runner.names(root):
        tally.script(name, save)
    for kind in ("bundles", "states"):
        for case in filter(possible, runner.cases(kind, root)):
            tally.malformed(kind, case)
    shutil.rmtree(work / "conformance", ignore_errors=True)
    print(f"{tally.ran - tally.failed} of {tally.ran} passed")
    return int(tally.failed > 0 or tally.ran == 0)


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit("usage: python -m tests.conformance.run_python SUITE WORK [--save]")
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2]), "--save" in sys.argv[3:]))
