"""Run both runtimes on an emulated 64-bit ARM processor: `python -m tests.arm64 FOLDER`.

Everything is unpacked into the folder and nothing is installed: the emulator and ARM libraries of
Debian 13 (the emulator of Debian 12 crashes in ONNX Runtime), and ARM wheels. It needs apt-get,
CMake, npm, and pip; `ONNXRUNTIME_INCLUDE` may name the folder of onnxruntime_c_api.h, which npm
fetches otherwise. It prints how far answers are from those that were recorded on another processor;
an emulator tells nothing of speed.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
RELEASE, PYTHON = "trixie", "3.13"  # the Python of that Debian
LIBRARIES = ("python3", "libstdc++6", "libssl-dev", "libxxhash-dev", "nlohmann-json3-dev")
WHEELS = (
    *("msgspec", "numpy", "onnxruntime", "rich", "safetensors", "typer", "xxhash"),
    *("hypothesis", "onnx", "pytest", "pytest-xdist"),
)
HEADERS = "com.github.asus4.onnxruntime@0.4.9"
"""A package of npm with the headers of ONNX Runtime; older ones work with a newer library."""
TARGET = "aarch64-linux-gnu.2.34"
NATIVE_TESTS = "^(conformance|numbers|stops|files|killed|example_first)$"

Word = str | Path


def run(*words: Word) -> str:
    """Run a command and return what it printed; end the program where it failed."""
    done = subprocess.run(list(map(str, words)), stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(f"{done.stdout}\n{' '.join(map(str, words))}: exit code {done.returncode}")
    return done.stdout


def show(*words: Word, **environment: str) -> bool:
    """Run a command that prints for itself; return whether it succeeded."""
    whole = {**os.environ, **environment}
    return subprocess.run(list(map(str, words)), env=whole, check=False).returncode == 0


def unpack(arch: str, packages: Sequence[str], root: Path) -> Path:
    """Unpack packages of Debian and all that they need, from the mirror that this system uses."""
    if root.exists():
        return root
    listed = run("apt-get", "indextargets", "--format", "$(REPO_URI) $(COMPONENT)").splitlines()
    mirrors = sorted({line.split()[0] for line in listed if line.endswith(" main")})
    own = root.with_suffix(".apt")
    for folder in ("lists/partial", "cache/archives/partial", "state"):
        (own / folder).mkdir(parents=True, exist_ok=True)
    (own / "status").touch()
    mirror = next(mirror for mirror in mirrors if "security" not in mirror)
    (own / "sources").write_text(f"deb {mirror} {RELEASE} main\n", "utf-8")
    options = {
        "APT::Architecture": arch,
        "APT::Architectures": arch,
        "Dir::Etc::sourcelist": own / "sources",
        "Dir::Etc::sourceparts": "/dev/null",
        "Dir::State": own / "state",
        "Dir::State::lists": own / "lists",
        "Dir::State::status": own / "status",
        "Dir::Cache": own / "cache",
        "Debug::NoLocking": "1",
    }
    apt = ["apt-get", "-q", *(f"-o{name}={value}" for name, value in options.items())]
    run(*apt, "update")
    run(*apt, "install", "-y", "--no-install-recommends", "--download-only", *packages)
    part = root.with_suffix(".part")
    part.mkdir(exist_ok=True)
    for package in sorted((own / "cache/archives").glob("*.deb")):
        run("dpkg-deb", "-x", package, part)
    if not (part / "lib").exists():  # an installed system has this link
        (part / "lib").symlink_to("usr/lib")
    return part.rename(root)


class Machine:
    """An ARM system in a folder, and the emulator that runs its programs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.emulator = unpack("amd64", ["qemu-user"], folder / "emulator") / "usr/bin/qemu-aarch64"
        self.root = unpack("arm64", LIBRARIES, folder / "root")
        self.site = folder / "site"
        if not self.site.exists():
            platforms = [f"--platform=manylinux_2_{n}_aarch64" for n in (28, 27, 17)]
            chosen = ["--only-binary=:all:", f"--python-version={PYTHON}", *platforms]
            pip = [sys.executable, "-m", "pip", "install", "--quiet"]
            run(*pip, "--target", self.site, *chosen, "--platform=manylinux2014_aarch64", *WHEELS)

    def python(self, *words: Word) -> bool:
        """Run Python there, with this checkout as its package; return whether it succeeded."""
        paths = f"{CHECKOUT / 'src'}:{self.site}:{CHECKOUT}"
        program = self.root / f"usr/bin/python{PYTHON}"
        return show(self.emulator, "-L", self.root, program, *words, PYTHONPATH=paths)


VERIFY = """
import platform, sys, onnxruntime
from dst.runtime import open_bundle, replay_golden
from dst.runtime.bundle.reader import shipped
print(platform.machine(), *platform.libc_ver(), "onnxruntime", onnxruntime.__version__)
failed = False
print("| bundle | graph | T | worst | allowed | of |", "|---|---|---|---|---|---|", sep="\\n")
for name in shipped():
    for c in replay_golden(open_bundle(name)):
        failed |= not c.passed
        worst = max(c.errors.values())
        row = name, c.graph, c.t, f"{worst:.1e}", f"{c.tolerance:.2g}", c.measure
        print("|", " | ".join(map(str, row)), "|", flush=True)
sys.exit(failed)
"""
"""What `dst verify` does, for every shipped bundle in one process: starting one takes long."""


def build_native(machine: Machine) -> Path:
    """Cross-compile the native runtime and its tests; return the folder of the build."""
    folder, build = machine.folder, machine.folder / "native"
    include = os.environ.get("ONNXRUNTIME_INCLUDE")
    if include is None:
        run("npm", "install", "--silent", "--ignore-scripts", "--prefix", folder / "npm", HEADERS)
        include = str(next((folder / "npm").rglob("onnxruntime_c_api.h")).parent)
    run(sys.executable, "-m", "pip", "install", "--quiet", "--target", folder / "zig", "ziglang")
    for name in ("cc", "c++"):
        script = folder / f"zig-{name}"
        compiler = f"{sys.executable} -m ziglang {name} -target {TARGET}"
        script.write_text(f'#!/bin/sh\nPYTHONPATH={folder / "zig"} exec {compiler} "$@"\n', "utf-8")
        script.chmod(0o755)
    needs = gather(machine)
    (wheels,) = (machine.site / "onnxruntime/capi").glob("libonnxruntime.so.*.*")
    library = needs / "lib/libonnxruntime.so.1"  # what programs that link to it ask for
    library.symlink_to(wheels)
    settings = {
        "CMAKE_SYSTEM_NAME": "Linux",
        "CMAKE_SYSTEM_PROCESSOR": "aarch64",
        "CMAKE_C_COMPILER": folder / "zig-cc",
        "CMAKE_CXX_COMPILER": folder / "zig-c++",
        "CMAKE_CROSSCOMPILING_EMULATOR": f"{machine.emulator};-L;{machine.root}",
        "CMAKE_PREFIX_PATH": needs,
        "OPENSSL_INCLUDE_DIR": needs / "include",
        "OPENSSL_CRYPTO_LIBRARY": needs / "lib/libcrypto.so.3",
        "ONNXRUNTIME_INCLUDE": include,
        "ONNXRUNTIME_LIBRARY": library,
        "CMAKE_BUILD_RPATH": needs / "lib",
    }
    options = [f"-D{name}={value}" for name, value in settings.items()]
    run("cmake", "-S", CHECKOUT / "runtime/native", "-B", build, *options)
    run("cmake", "--build", build)
    return build


def gather(machine: Machine) -> Path:
    """Copy the libraries that the native runtime needs out of the ARM system.

    The compiler has a C library of its own, and must not see the headers of the other.
    """
    needs, usr = machine.folder / "needs", machine.root / "usr"
    shutil.rmtree(needs, ignore_errors=True)
    (needs / "lib").mkdir(parents=True)
    own = "aarch64-linux-gnu"
    for name in ("openssl", "nlohmann", f"{own}/openssl"):
        to = needs / "include" / Path(name).name
        shutil.copytree(usr / "include" / name, to, dirs_exist_ok=True)
    shutil.copy2(usr / "include/xxhash.h", needs / "include")
    shutil.copytree(usr / "share/cmake/nlohmann_json", needs / "share/cmake/nlohmann_json")
    for library in ("libcrypto.so.3", "libxxhash.a"):
        shutil.copy2(usr / "lib" / own / library, needs / "lib")
    return needs


def main(folder: Path) -> None:
    """Run everything; exit with 1 where something failed, and say what."""
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    machine = Machine(folder)
    plain = ["-o", "addopts=--import-mode=importlib", "-p", "no:cacheprovider", "-q"]
    plain += ["-m", "not languages"]  # those build for the processor at hand
    suite = CHECKOUT / "tests/conformance"
    passed = {"golden runs": machine.python("-c", VERIFY)}
    passed["the suite in Python"] = machine.python("-m", "pytest", *plain, suite)
    build = build_native(machine)
    ctest = ("ctest", "--test-dir", build, "--output-on-failure", "-R", NATIVE_TESTS)
    passed["the native runtime"] = show(*ctest)
    for part, held in passed.items():
        print(f"{part}: {'passed' if held else 'FAILED'}", flush=True)
    sys.exit(not all(passed.values()))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
