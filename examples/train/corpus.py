"""The text of the shipped model, and a split into what is learned and what is held out.

    python examples/train/corpus.py --work runs/corpus

Two halves. `split` gives the modules of CPython 3.11's standard library, which are on this machine;
a million bytes of them, by the SHA-256 of their path, are held out. `packages` gives documentation,
markup, JSON and code in other languages out of source packages that are fetched from PyPI by name
and SHA-256; of these a tenth of the files is held out, and the prose of two projects whole,
of which nothing is learned.
"""

import argparse
import fnmatch
import hashlib
import json
import os
import subprocess
import sys
import sysconfig
import tarfile
import urllib.request
from dataclasses import dataclass
from pathlib import Path

HELD_OUT_BYTES = 1_000_000
LARGEST_HELD_OUT = 200_000
SKIPPED = {"site-packages", "__pycache__", "test", "tests", "idle_test"}


@dataclass(frozen=True, slots=True)
class Package:
    """A source package, and what of it is read.

    Attributes:
        file: its name on PyPI.
        sha256: of that file.
        licence: of what is read.
        take: kind of text -> patterns of paths inside the package; at most `LIMIT` bytes a kind.
        whole: held out whole.
    """

    file: str
    sha256: str
    licence: str
    take: dict[str, tuple[str, ...]]
    whole: bool = False


LIMIT = 3_000_000
PACKAGES = (
    Package(
        "django-6.1.3.tar.gz",
        "b5d2d9e35295065d13b1927b3f19a59bd119f737aa6299def14ccca1ae3c8c0d",
        "BSD-3-Clause",
        {"prose": ("docs/*.txt",), "markup": ("django/*.html", "tests/*.html")},
    ),
    Package(
        "sqlalchemy-2.1.9.tar.gz",
        "d700a8b2edfb26282a470333d6bc4a454c4acda4d201a3bea7b72fa76c217d28",
        "MIT",
        {"prose": ("doc/build/*.rst",)},
    ),
    Package(
        "docutils-0.23.tar.gz",
        "746f5060322511280a1e50eb76846ed6bf2342984b2ac04dc42caa1a8d78799e",
        "public domain, BSD-2-Clause",
        {"prose": ("docs/*.rst", "*.rst"), "markup": ("test/functional/expected/*.html",)},
    ),
    Package(
        "sphinx-9.2.0.tar.gz",
        "90470459f3cab15d9dfed146c71cf77694b0445df17b2e0e69059cb9f7fc9ee4",
        "BSD-2-Clause",
        {"prose": ("doc/*.rst",)},
    ),
    Package(
        "scikit_learn-1.9.1.tar.gz",
        "629cada3e33e2b9bf376cdc7614a47a4140b8aedc1d836579e359736fbd82977",
        "BSD-3-Clause",
        {"prose": ("doc/*.rst",)},
    ),
    Package(
        "numpy-2.5.5.tar.gz",
        "5cddc243c75114ba845f01b1f87aca1572dbf7b6c2d88636ed3e1d2bccd7f1bf",
        "BSD-3-Clause",
        {"prose": ("doc/source/*.rst",), "code": ("numpy/_core/src/*.c", "numpy/_core/src/*.h")},
    ),
    Package(
        "twisted-26.10.0.tar.gz",
        "5f0355403e507fc23ceea85e9dbb4bc59335aabde41dd324e8b8cea180dd38de",
        "MIT",
        {"prose": ("docs/*.rst",)},
        whole=True,
    ),
    Package(
        "celery-5.7.0.tar.gz",
        "6a5dfcf6662287204f009a02002b9e66c83d4105e47ebabdc7079108772fc6f0",
        "BSD-3-Clause",
        {"prose": ("docs/*.rst",)},
        whole=True,
    ),
    Package(
        "pyramid-2.1.tar.gz",
        "5a24bc1b5f9e0f0d1c0b6ddd1111e84c15dac44a07e3c1d24e74dd9bb4fc22eb",
        "Repoze (BSD-like)",
        {"prose": ("docs/*.rst",)},
    ),
    Package(
        "sympy-1.14.0.tar.gz",
        "d3d3fe8df1e5a0b42f0e7bdf50541697dbe7d23746e894990c030e2b05e72517",
        "BSD-3-Clause",
        {"prose": ("doc/*.rst", "doc/*.md")},
    ),
    Package(
        "pygments-2.21.0.tar.gz",
        "610ca751c9bc2492b38eb9a38a7fbc93edbbb2d7182edaf34e66ae493dee5c8c",
        "BSD-2-Clause",
        {"code": ("tests/examplefiles/*/*",)},
    ),
    Package(
        "bokeh-3.10.2.tar.gz",
        "d9fba1004fae149c6e6d54ba37410e52b8d4622ed5c6dad2220afa1b61362de0",
        "BSD-3-Clause",
        {"code": ("*.ts",), "json": ("*.json",)},
    ),
    Package(
        "botocore-1.44.8.tar.gz",
        "945b783c1a1259e2a8b078f3f3dd40fae32ea84ab01d3a9953af6b378da7108a",
        "Apache-2.0",
        {"json": ("botocore/data/*/service-2.json",)},
    ),
)


def modules() -> dict[str, bytes]:
    """Read every module of the standard library but tests, by relative path, in order.

    Raises:
        SystemExit: this is not Python 3.11, so the split would be another one.
    """
    if sys.version_info[:2] != (3, 11):
        raise SystemExit("corpus: the split is defined on Python 3.11; run this with python3.11")
    root = Path(sysconfig.get_paths()["stdlib"])
    found: dict[str, bytes] = {}
    for path in root.rglob("*.py"):
        parts = path.relative_to(root).parts
        if not SKIPPED.intersection(parts) and not parts[0].startswith("config-"):
            found["/".join(parts)] = path.read_bytes()
    return dict(sorted(found.items()))


def split() -> tuple[dict[str, bytes], dict[str, bytes]]:
    """Return training modules and held-out modules, each by path, in order.

    Modules are ranked by the SHA-256 of their path. Files over 200,000 bytes (two, one of them
    generated) are never held out.
    """
    everything = modules()
    held_out: dict[str, bytes] = {}
    for path in sorted(everything, key=digest):
        if sum(map(len, held_out.values())) >= HELD_OUT_BYTES:
            break
        if len(everything[path]) <= LARGEST_HELD_OUT:
            held_out[path] = everything[path]
    training = {path: text for path, text in everything.items() if path not in held_out}
    return training, dict(sorted(held_out.items()))


def digest(path: str) -> str:
    """Rank a path for the split, the same on every machine."""
    return hashlib.sha256(path.encode()).hexdigest()


def index() -> str:
    """Return where pip looks for packages.

    Pip is asked in a process of its own: once it is imported, setuptools cannot be, and torch needs
    that to compile.
    """
    asked = "from pip._internal.models.index import PyPI; print(PyPI.simple_url)"
    found = (
        os.environ.get("PIP_INDEX_URL")
        or subprocess.run(
            [sys.executable, "-c", asked], check=True, capture_output=True, text=True
        ).stdout
    )
    return found.strip().rstrip("/")


def fetched(package: Package, work: Path) -> Path:
    """Fetch a source package from PyPI, or find it where that was done before.

    Raises:
        SystemExit: it is not there any more, or its bytes are others.
    """
    target = work / package.file
    if not target.exists():
        name = package.file.rpartition("-")[0].replace("_", "-")
        asked = urllib.request.Request(
            f"{index()}/{name}/",
            headers={"Accept": "application/vnd.pypi.simple.v1+json"},
        )
        with urllib.request.urlopen(asked, timeout=60) as answer:
            files = json.load(answer)["files"]
        urls = [file["url"] for file in files if file["filename"] == package.file]
        if not urls:
            raise SystemExit(f"corpus: {index()} has no {package.file}")
        with urllib.request.urlopen(urls[0], timeout=300) as answer:
            part = target.with_suffix(".part")
            part.write_bytes(answer.read())
            part.replace(target)
    found = hashlib.sha256(target.read_bytes()).hexdigest()
    if found != package.sha256:
        raise SystemExit(f"corpus: {package.file} has SHA-256 {found}, expected {package.sha256}")
    return target


def packages(work: Path) -> tuple[dict[str, dict[str, bytes]], dict[str, dict[str, bytes]]]:
    """Return what is learned from packages and what is held out: kind -> path -> text.

    Held-out kinds that end in ` elsewhere` are of projects of which nothing is learned.
    """
    work.mkdir(parents=True, exist_ok=True)
    training: dict[str, dict[str, bytes]] = {}
    held_out: dict[str, dict[str, bytes]] = {}
    for package in PACKAGES:
        with tarfile.open(fetched(package, work)) as archive:
            members = {
                member.name.partition("/")[2]: member
                for member in archive.getmembers()
                if member.isfile() and 200 <= member.size <= LARGEST_HELD_OUT
            }
            for kind, patterns in package.take.items():
                taken = 0
                for path in sorted(members, key=digest):
                    if taken >= LIMIT or not any(fnmatch.fnmatch(path, p) for p in patterns):
                        continue
                    source = archive.extractfile(members[path])
                    assert source is not None
                    text = source.read()
                    if b"\0" in text:
                        continue
                    taken += len(text)
                    name = f"{package.file}/{path}"
                    if package.whole:
                        held_out.setdefault(f"{kind} elsewhere", {})[name] = text
                    elif int(digest(name), 16) % 10 == 0:
                        held_out.setdefault(kind, {})[name] = text
                    else:
                        training.setdefault(kind, {})[name] = text
    return training, held_out


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("runs/corpus"), help="packages, kept")
    given = parser.parse_args()
    python = split()
    others = packages(given.work)
    for name, first, more in zip(("learned", "held out"), python, others, strict=True):
        for kind, texts in {"Python": first, **more}.items():
            size = sum(map(len, texts.values()))
            print(f"{name}: {kind}: {len(texts)} files, {size:,} bytes")
    print("licences: Python: PSF-2.0; " + "; ".join(f"{p.file}: {p.licence}" for p in PACKAGES))


if __name__ == "__main__":
    main()
