"""Feed one law of `tests/safety/laws.py` with atheris: coverage-guided bytes in, a crash file out.

    python -m venv fuzzing && fuzzing/bin/pip install -e . atheris
    fuzzing/bin/python examples/fuzz/fuzz.py LAW [--seconds 60] [--corpus DIR]

`LAW` is `manifest`, `sealed-manifest`, `saved`, `sealed-saved` or `blob`; `sealed` means that the
hashes are made right before the bytes are read, so that what lies behind them is reached. The exit
code is 0 where the law held for all that was tried. Otherwise the input is in the corpus folder,
as `crash-...`, and the traceback says which law it broke. An input that takes more than 20 s or
2 GiB breaks the law as well. Atheris runs on Linux and macOS and has no part in the package.
"""

import argparse
import random
import sys
import tempfile
from pathlib import Path

import atheris
import msgspec

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from examples.fuzz.mutate import changed, changed_header

with atheris.instrument_imports(include=["dst.runtime", "tests.safety.laws"]):
    from tests.safety.laws import LAWS, PLACE
    from tests.safety.writer import synthetic

    from dst.runtime import open_bundle
    from dst.runtime.bundle.encoding import encode, seal
    from dst.runtime.state.record import pack
    from dst.runtime.store.sealing import seal as seal_blob


def seeds(law: str) -> list[bytes]:
    """Return inputs that keep the law and are taken, to start from."""
    states = [pack(synthetic(number, 16 * number)) for number in range(1, 5)]
    if law == "blob":
        return [seal_blob(None, PLACE, state) for state in states]
    if law.endswith("saved"):
        return states
    manifest = open_bundle("text").manifest
    graphs = tuple(msgspec.structs.replace(g, multiply_adds={}) for g in manifest.graphs)
    short = msgspec.structs.replace(manifest, certificates=(), graphs=graphs)
    return [encode(seal(short))]


def mutate(law: str, data: bytes, longest: int, seed: int) -> bytes:
    """Change bytes, or one value of the JSON in them."""
    chance = random.Random(seed)
    whole: bytes | None = None
    if chance.random() < 0.5 and law != "blob":
        whole = (changed_header if law.endswith("saved") else changed)(data, chance)
    if whole is None:
        return bytes(atheris.Mutate(data, longest))
    return whole[:longest]


def main() -> None:
    """Parse the arguments and fuzz."""
    parser = argparse.ArgumentParser(description="Feed a law of our parsers with atheris.")
    parser.add_argument("law", choices=sorted(LAWS))
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--corpus", type=Path, help="folder of inputs, kept; a new one if absent")
    given = parser.parse_args()
    corpus: Path = given.corpus or Path(tempfile.mkdtemp(prefix="fuzz-"))
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(seeds(given.law)):
        (corpus / f"seed-{number}").write_bytes(seed)
    law = LAWS[given.law]

    def one(data: bytes) -> None:
        law(data)

    options = [
        f"-max_total_time={given.seconds}",
        "-max_len=16384",
        "-timeout=20",
        "-rss_limit_mb=2048",
        f"-artifact_prefix={corpus}/",
        "-print_final_stats=1",
    ]
    atheris.Setup(
        [sys.argv[0], *options, str(corpus)],
        one,
        custom_mutator=lambda data, longest, seed: mutate(given.law, data, longest, seed),
    )
    atheris.Fuzz()


if __name__ == "__main__":
    main()
