"""Build or find what the comparison needs: llama.cpp, environments for other engines, `peak`.

All of it lies in one folder and is kept: a second run finds it. What cannot be had raises
`LeftOutError` with the reason, and the comparison goes on without it.
"""

import json
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

LLAMA = "llama-cpp-python==0.3.36"
"""The package whose source holds llama.cpp and the writer of GGUF files."""
TOOLS = ("cmake>=3.28,<5", "ninja", "numpy", "tqdm", "pyyaml", "requests")
"""To build llama.cpp, and what its writer of GGUF files imports."""
TORCH = "torch==2.13.0"
OPENVINO, EXECUTORCH = ("openvino==2026.4.1",), (TORCH, "executorch==1.5.1")
PROGRAMS = ("llama-bench", "llama-quantize")
CLANG = ("clang", *(f"clang-{number}" for number in range(22, 13, -1)))
HERE = Path(__file__).resolve().parent

# The same code in fewer, longer files: most of the time goes into reading the same headers again.
# Two files of llama-common cannot share their names with others.
JOINED = """function(join_files target apart batch)
  get_target_property(sources ${target} SOURCES)
  get_target_property(folder ${target} SOURCE_DIR)
  list(FILTER sources INCLUDE REGEX "${apart}")
  list(TRANSFORM sources PREPEND "${folder}/" REGEX "^[^/]")
  set_source_files_properties(${sources} TARGET_DIRECTORY ${target}
    PROPERTIES SKIP_UNITY_BUILD_INCLUSION ON)
  set_target_properties(${target} PROPERTIES UNITY_BUILD ON UNITY_BUILD_BATCH_SIZE ${batch})
endfunction()
cmake_language(DEFER CALL join_files llama "^(llama|unicode)[^/]*$" 20)
cmake_language(DEFER CALL join_files llama-common "(json|value|llguidance)[.]cpp$" 15)
"""
SWITCHES = {
    "CMAKE_BUILD_TYPE": "Release",
    "GGML_NATIVE": "ON",  # for the instructions of this very CPU
    "GGML_CCACHE": "OFF",
    "BUILD_SHARED_LIBS": "OFF",
    "LLAMA_BUILD_TESTS": "OFF",
    "LLAMA_BUILD_EXAMPLES": "OFF",
    "LLAMA_BUILD_SERVER": "OFF",
    "LLAMA_BUILD_APP": "OFF",
    "LLAMA_OPENSSL": "OFF",
    "LLAMA_TOOLS_INSTALL": "OFF",
}


class LeftOutError(Exception):
    """Something cannot take part; the message says why, in one line."""


@dataclass(frozen=True, slots=True)
class Compiler:
    """The compiler of llama.cpp and of `peak`.

    Attributes:
        c: the program for C.
        cxx: the program for C++.
        version: its first line about itself.
    """

    c: str
    cxx: str
    version: str


@dataclass(frozen=True, slots=True)
class Llama:
    """A build of llama.cpp.

    Attributes:
        bench: the program `llama-bench`.
        quantize: the program `llama-quantize`.
        gguf: the folder that holds the Python package `gguf`.
        python: a Python that can import it.
    """

    bench: Path
    quantize: Path
    gguf: Path
    python: Path


def called(command: Sequence[str | Path], folder: Path | None = None) -> str:
    """Run a program and return what it printed.

    Raises:
        LeftOutError: it failed, or is not there.
    """
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    except OSError as error:
        raise LeftOutError(f"{Path(command[0]).name} cannot be run: {error.strerror}") from None
    if done.returncode:
        lines = (done.stderr.strip() or done.stdout.strip() or "it said nothing").splitlines()
        raise LeftOutError(f"{Path(command[0]).name} failed: {lines[-1]}")
    return done.stdout


def compiler() -> Compiler:
    """Choose clang where it is installed, which makes the faster llama.cpp, else gcc.

    Raises:
        LeftOutError: there is no compiler.
    """
    for name in (*CLANG, "gcc", "cc"):
        cxx = name.replace("clang", "clang++").replace("gcc", "g++").replace("cc", "c++")
        if shutil.which(name) and shutil.which(cxx):
            return Compiler(name, cxx, called([name, "--version"]).splitlines()[0])
    raise LeftOutError("there is no C++ compiler; install clang or gcc")


def environment(folder: Path, packages: Sequence[str]) -> Path:
    """Make or find an environment with these packages; return its Python.

    Raises:
        LeftOutError: they cannot be installed, or would bring gigabytes of CUDA with them.
    """
    python = folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    stamp = folder / "packages.json"
    if stamp.exists() and json.loads(stamp.read_text("utf-8")) == list(packages):
        return python
    called([sys.executable, "-m", "venv", folder])
    pip: list[str | Path] = [python, "-m", "pip", "--disable-pip-version-check"]
    pip += ["install", "--quiet"]
    plan = json.loads(called([*pip, "--dry-run", "--report", "-", *packages]))
    names = [entry["metadata"]["name"].lower() for entry in plan["install"]]
    huge = sorted(name for name in names if name.startswith(("nvidia-", "cuda-", "triton")))
    if huge:
        raise LeftOutError(
            f"{' '.join(packages)} would install {', '.join(huge[:3])} and more; let pip find a "
            "torch for the CPU first"
        )
    called([*pip, *packages])
    stamp.write_text(json.dumps(list(packages)), "utf-8")
    return python


def llama(work: Path, chosen: Compiler, jobs: int) -> Llama:
    """Build or find llama.cpp for this machine.

    Args:
        work: where everything is kept; an absolute path.
        chosen: the compiler.
        jobs: files that are compiled at once.

    Raises:
        LeftOutError: it cannot be fetched or built.
    """
    folder = work / "llama"
    folder.mkdir(parents=True, exist_ok=True)
    python = environment(work / "tools", TOOLS)
    name = LLAMA.replace("-", "_").replace("==", "-")
    source = folder / name / "vendor" / "llama.cpp"
    build = folder / "build"
    if not source.exists():
        package = LLAMA.partition("==")[0]
        fetch: list[str | Path] = [python, "-m", "pip", "download", "--quiet", "--no-deps"]
        called([*fetch, "--no-binary", package, LLAMA, "--dest", folder])
        with tarfile.open(folder / f"{name}.tar.gz") as archive:
            archive.extractall(folder / "unpacking", filter="data")
        (folder / "unpacking" / name).replace(folder / name)
    if not all((build / "bin" / program).exists() for program in PROGRAMS):
        joined = folder / "joined.cmake"
        joined.write_text(JOINED, "utf-8")
        switches = {
            **SWITCHES,
            "CMAKE_C_COMPILER": chosen.c,
            "CMAKE_CXX_COMPILER": chosen.cxx,
            "CMAKE_MAKE_PROGRAM": str(python.with_name("ninja")),
            "CMAKE_PROJECT_llama.cpp_INCLUDE": str(joined),
        }
        cmake = python.with_name("cmake")
        given = [f"-D{key}={value}" for key, value in switches.items()]
        called([cmake, "-G", "Ninja", "-S", source, "-B", build, *given])
        called([cmake, "--build", build, "-j", str(jobs), "--target", *PROGRAMS])
    bench, quantize = (build / "bin" / program for program in PROGRAMS)
    return Llama(bench, quantize, source / "gguf-py", python)


def limits(work: Path, chosen: Compiler, threads: int) -> dict[str, object]:
    """Measure what the machine can do with so many threads, by `peak.c`.

    Raises:
        LeftOutError: it cannot be compiled.
    """
    program = work / f"peak-{Path(chosen.c).name}"
    options = ["-O3", "-march=native", "-ffp-contract=fast", "-pthread"]
    called([chosen.c, *options, HERE / "peak.c", "-o", program])
    measured = json.loads(called([program, str(threads)]))
    assert isinstance(measured, dict)
    return measured
