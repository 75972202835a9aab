"""Build the conformance runner of each language, and say by which command it starts.

`python -m tests.conformance.languages FOLDER` prints how CMake finds ONNX Runtime here; what has to
be fetched for that lies in the folder afterwards.

A runner takes `SUITE WORK [--save]`: it runs the suite of that folder, prints `FAILED …` lines and
then `N of M passed`, and exits with 1 where anything failed. With `--save` it also writes
`SUITE/states/<language>/`. To add a language, write a function here and name it in `LANGUAGES`.
"""

import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HEADERS = ("com.github.asus4.onnxruntime", "0.4.9")
"""An npm package with the C headers of ONNX Runtime, in their 1.29; a newer library takes them."""
KOTLIN = ("kotlin-compiler", "2.4.20")
"""An npm package with the compiler of Kotlin."""


class Missing(Exception):
    """A language cannot be built here; the message says what is missing."""


def need(program: str, hint: str) -> str:
    """Return the path of a program.

    Raises:
        Missing: it is not installed.
    """
    path = shutil.which(program)
    if path is None:
        raise Missing(f"`{program}` is not installed: {hint}")
    return path


def call(*command: str | Path, cwd: Path = ROOT) -> None:
    """Run a command, and show what it printed only where it failed.

    Raises:
        RuntimeError: it failed.
    """
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    if done.returncode != 0:
        words = " ".join(map(str, command))
        raise RuntimeError(f"`{words}` failed:\n{done.stdout[-3000:]}{done.stderr[-3000:]}")


def npm_package(build: Path, package: tuple[str, str], wanted: str) -> Path:
    """Fetch an npm package once, and unpack the files whose path contains a text.

    Raises:
        Missing: npm is not installed or cannot fetch it.
    """
    name, version = package
    folder = build / f"{name}-{version}"
    if folder.is_dir():
        return folder
    npm = need("npm", f"it fetches the package {name}")
    try:
        call(npm, "pack", f"{name}@{version}", "--silent", cwd=build)
    except RuntimeError as error:
        raise Missing(f"npm cannot fetch {name} {version}: {str(error)[-200:]}") from error
    archive = build / f"{name}-{version}.tgz"
    part = build / f"{name}.part"
    shutil.rmtree(part, ignore_errors=True)
    with tarfile.open(archive) as files:
        files.extractall(part, (m for m in files if wanted in m.name), filter="data")
    part.rename(folder)
    archive.unlink()
    return folder


def onnxruntime_definitions(build: Path) -> list[str]:
    """Return CMake's words for ONNX Runtime: ONNXRUNTIME_ROOT, or the library that Python uses.

    With one library for all languages their results can be compared bit by bit.
    """
    if root := os.environ.get("ONNXRUNTIME_ROOT"):
        return [f"-DONNXRUNTIME_ROOT={root}"]
    spec = find_spec("onnxruntime")
    assert spec is not None
    assert spec.origin is not None
    found = sorted(Path(spec.origin).parent.glob("capi/libonnxruntime.*[0-9]*"))
    if not found:
        raise Missing("the package onnxruntime has no shared library: set ONNXRUNTIME_ROOT")
    include = os.environ.get("ONNXRUNTIME_INCLUDE")
    if include is None:
        headers = npm_package(build, HEADERS, "onnxruntime_")
        include = str(next(headers.rglob("onnxruntime_c_api.h")).parent)
    return [f"-DONNXRUNTIME_INCLUDE={include}", f"-DONNXRUNTIME_LIBRARY={found[0]}"]


def native(build: Path, target: str, *definitions: str, folder: str = "native") -> Path:
    """Build a target of the native runtime with CMake; return the folder it is built in.

    Raises:
        Missing: something that CMake looks for is not installed.
        RuntimeError: it cannot be compiled.
    """
    program = need("cmake", "docs/native.md says what the build needs")
    need(os.environ.get("CXX", "c++"), "docs/native.md says what the build needs")
    to = build / folder
    words = [*onnxruntime_definitions(build), *definitions]
    try:
        call(program, "-S", "runtime/native", "-B", to, *words)
    except RuntimeError as error:
        lines = str(error).splitlines()
        said = next((line for line in lines if "Could NOT find" in line or "Could not" in line), "")
        if not said:
            raise
        raise Missing(f"CMake says:{said.rstrip()}; docs/native.md says what it needs") from error
    call(program, "--build", to, "--target", target, "--parallel", str(os.cpu_count() or 1))
    return to


def python(build: Path) -> list[str]:
    """Start the Python runtime that is installed here."""
    return [sys.executable, "-m", "tests.conformance.run_python"]


def c(build: Path) -> list[str]:
    """Build the native runtime and its runner."""
    return [str(native(build, "conformance", "-DDST_JNI=OFF") / "tests/conformance")]


def kotlin(build: Path) -> list[str]:
    """Build the JNI library and the Kotlin package, for the JVM."""
    java = need("java", "install a JDK 17, such as openjdk-17-jdk-headless")
    gson = Path(os.environ.get("GSON_JAR", "/usr/share/java/gson.jar"))
    if not gson.is_file():
        raise Missing("gson.jar is missing: install libgoogle-gson-java, or set GSON_JAR")
    library = native(build, "dst_jni", "-DDST_JNI=ON") / "kotlin"
    home = kotlin_home(build)
    jar = build / "dst-conformance.jar"
    sources = sorted((ROOT / "runtime/kotlin/src").rglob("*.kt"))
    if not jar.is_file() or max(f.stat().st_mtime for f in sources) > jar.stat().st_mtime:
        compile_kotlin(home, jar, sources, [gson])
    path = os.pathsep.join(map(str, (jar, gson, home / "lib/kotlin-stdlib.jar")))
    return [java, "-Xcheck:jni", f"-Djava.library.path={library}", "-cp", path, MAIN]


def kotlin_home(build: Path) -> Path:
    """Return the folder of Kotlin's compiler: of the one that is installed, or of one from npm."""
    if found := shutil.which("kotlinc"):
        return Path(found).resolve().parents[1]
    return next(npm_package(build, KOTLIN, "/lib/").rglob("kotlin-compiler.jar")).parents[1]


def compile_kotlin(home: Path, jar: Path, sources: Sequence[Path], needs: Sequence[Path]) -> None:
    """Compile sources, which need other jars, to a jar."""
    java = need("java", "install a JDK 17, such as openjdk-17-jdk-headless")
    compiler = ["-XX:TieredStopAtLevel=1", "-cp", str(home / "lib/kotlin-compiler.jar")]
    main = "org.jetbrains.kotlin.cli.jvm.K2JVMCompiler"
    words: list[str | Path] = ["-kotlin-home", home, "-jvm-target", "17", "-Werror"]
    words += ["-cp", os.pathsep.join(map(str, needs)), "-d", jar]
    call(java, *compiler, main, *words, *sources)


def javascript() -> Path:
    """Compile the TypeScript package and its tests in their folder; return where they are.

    Raises:
        Missing: Node.js or npm is not installed or too old, or npm cannot fetch what it needs.
    """
    npm, program = need("npm", NODE), need("node", NODE)
    told = subprocess.run([program, "--version"], capture_output=True, text=True).stdout
    if not (found := re.match(r"v(\d+)", told)) or int(found[1]) < 20:
        raise Missing(f"`node` is {told.strip() or 'broken'}: {NODE}")
    package = ROOT / "runtime/js"
    if not (package / "node_modules/.package-lock.json").is_file():  # npm writes it last
        words = ("--ignore-scripts", "--no-audit", "--no-fund", "--no-package-lock")
        try:
            call(npm, "install", *words, cwd=package)
        except RuntimeError as error:
            raise Missing(f"npm cannot fetch what runtime/js needs: {str(error)[-200:]}") from error
    call(program, "node_modules/typescript/bin/tsc", "-p", "tsconfig.json", cwd=package)
    return package / "build/tests"


def node(build: Path) -> list[str]:
    """Build the runtime in TypeScript, for Node."""
    return [need("node", NODE), str(javascript() / "node.js")]


def chromium(build: Path) -> list[str]:
    """Build the runtime in TypeScript, for a page in Chromium, on wasm."""
    need(os.environ.get("CHROMIUM", "/usr/bin/chromium"), "CHROMIUM names another place of it")
    return [need("node", NODE), str(javascript() / "browser.js")]


def swift(build: Path) -> list[str]:
    """Build the native runtime as a shared library, and the Swift package over it."""
    program = need("swift", "docs/swift.md says what the build needs")
    definitions = ("-DBUILD_SHARED_LIBS=ON", "-DDST_JNI=OFF")
    library = native(build, "dst_native", *definitions, folder="native-shared")
    to = build / "swift"
    link = [word for end in (f"-L{library}", "-rpath", str(library)) for word in ("-Xlinker", end)]
    call(program, "build", "--package-path", "runtime/swift", "--scratch-path", to, *link)
    return [str(to / "debug/Conformance")]


MAIN = "dst.conformance.MainKt"
NODE = "install Node.js 20 or newer, with npm"
LANGUAGES: Mapping[str, Callable[[Path], list[str]]] = {
    **{"python": python, "c": c, "kotlin": kotlin, "swift": swift},
    **{"node": node, "chromium": chromium},
}


def same_onnxruntime() -> set[str]:
    """Return the languages that run the build of ONNX Runtime which Python runs."""
    native = {"c", "kotlin", "swift"}
    return {"python"} if os.environ.get("ONNXRUNTIME_ROOT") else {"python"} | native


if __name__ == "__main__":
    (folder := Path(sys.argv[1])).mkdir(parents=True, exist_ok=True)
    try:
        print("\n".join(onnxruntime_definitions(folder.resolve())))
    except Missing as missing:
        sys.exit(str(missing))
