"""The repository goes in; its layout, imports and the wheel built from it keep their promises."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections import Counter
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

import pytest

import dst

ROOT = Path(__file__).resolve().parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
PACKAGES: list[str] = PROJECT["tool"]["setuptools"]["packages"]
PLUGIN = "optimum.commands.register"
"""A namespace of optimum's, to which distributions add modules: it must not have an __init__."""
FOLDERS = {
    "dst": "src/dst",
    **{f"dst.{n}": n for n in ("export", "runtime", "quantize")},
    PLUGIN: "src/optimum/commands/register",
}
LINKS = {f"src/dst/{name}": f"../../{name}" for name in ("export", "runtime", "quantize")}
JS = "runtime/js/"
OTHER_LANGUAGES = (JS, "runtime/native/", "runtime/kotlin/", "runtime/swift/")
"""The runtimes in other languages, which no wheel holds."""
HEAVY = {"torch", "onnx", "onnx_ir", "onnxscript", "transformers", "optimum"}
TEXT_LIMIT_BYTES = 12 * 2**20
FEED_LIMIT_BYTES = 2 * 2**20
MODELS_LIMIT_BYTES = 20 * 2**20  # of all of them, as the wheel holds them


def source_files() -> list[str]:
    """Return every file git tracks or would track, links included, relative to the root."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    ).stdout.decode()
    return sorted(f for f in set(listed.split("\0")) if f and os.path.lexists(ROOT / f))


def module_path(file: str) -> str | None:
    """Return where a source file of the packages stands in the wheel, or None for other files."""
    if file in LINKS or file.startswith(OTHER_LANGUAGES):
        return None
    for package, folder in FOLDERS.items():
        if file.startswith(f"{folder}/"):
            return package.replace(".", "/") + file.removeprefix(folder)
    return None


# The layout on disk


def test_every_package_is_listed_and_every_listed_package_exists() -> None:
    on_disk = {
        str(Path(inside).parent).replace(os.sep, ".")
        for inside in map(module_path, source_files())
        if inside and inside.endswith(".py")
    }
    assert on_disk == set(PACKAGES)
    assert len(PACKAGES) == len(set(PACKAGES))


@pytest.mark.parametrize("package", sorted({*PACKAGES} - {PLUGIN}))
def test_every_package_has_an_init(package: str) -> None:
    folder, rest = FOLDERS["dst"], package.split(".")[1:]
    if rest and f"dst.{rest[0]}" in FOLDERS:
        folder, rest = FOLDERS[f"dst.{rest[0]}"], rest[1:]
    assert ROOT.joinpath(folder, *rest, "__init__.py").is_file()


def test_the_namespace_of_optimum_has_no_init() -> None:
    inside = [f for f in source_files() if f.startswith("src/optimum/")]
    assert inside == [f"{FOLDERS[PLUGIN]}/register_dst.py"]


def test_mapping_is_the_one_the_links_show() -> None:
    assert PROJECT["tool"]["setuptools"]["package-dir"] == FOLDERS


@pytest.mark.parametrize("link", LINKS)
def test_links_point_to_the_folders(link: str) -> None:
    path = ROOT / link  # git without links checks them out as files that hold the target
    target = os.readlink(path) if path.is_symlink() else path.read_text("utf-8")
    assert target.replace("\\", "/") == LINKS[link]


def test_version_stands_in_one_place() -> None:
    assert PROJECT["project"]["dynamic"] == ["version"]
    assert "version" not in PROJECT["project"]
    assert PROJECT["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "dst.__version__"}
    assert f"## [{dst.__version__}]" in (ROOT / "CHANGELOG.md").read_text("utf-8")


def test_every_file_can_be_read_in_one_sitting() -> None:
    read = [f for f in source_files() if f.endswith((".py", ".md", ".toml", ".html", ".js"))]
    written = [f for f in read if f not in LINKS and not f.startswith("src/dst/heldout/")]
    lengths = {f: len((ROOT / f).read_text("utf-8").splitlines()) for f in written}
    assert {f: n for f, n in lengths.items() if n > 500} == {}
    assert "tests/test_layout.py" in lengths


def test_no_file_names_a_place_on_somebodys_machine() -> None:
    place = re.compile(rb"(?<![\w.~>})*-])/(?:home|root|work|Users)/\w|\b[A-Za-z]:\\+Users\\")
    assert place.search(b"in /" + b"home/ann/dst")
    assert place.search(b"C:" + b"\\Users\\ann")
    written = [f for f in source_files() if not f.startswith("src/dst/heldout/")]
    found = {f: place.search((ROOT / f).read_bytes()) for f in written if f not in LINKS}
    assert {f: match.group() for f, match in found.items() if match} == {}


# What imports what


def imported_by(file: Path) -> set[str]:
    """Return the dotted names a file imports anywhere, inside functions too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


PARTS: dict[str, set[str]] = {
    "runtime": set(),
    "fleet": {"runtime"},
    "graphs": {"runtime"},
    "evaluate": {"runtime", "graphs", "words"},
    "export": {"runtime", "graphs"},
    "quantize": {"runtime", "graphs", "evaluate"},
    "cli": {"runtime", "graphs", "evaluate", "export", "quantize", "upgrade", "words"},
    "upgrade": {"runtime"},
    "words": set(),
}
"""The top-level parts of the package, each with the parts of ours that it may import."""
BARRED = {
    "runtime": {*HEAVY, "ray"},
    "fleet": HEAVY,
    "graphs": {"torch"},
    "evaluate": {"torch"},
    "quantize": {"torch"},
}


def modules_of(part: str) -> dict[str, Path]:
    """Return the modules of a top-level part by their dotted names."""
    folder = ROOT / FOLDERS.get(f"dst.{part}", f"src/dst/{part}")
    found = {}
    if (alone := folder.with_suffix(".py")).is_file():
        return {f"dst.{part}": alone}
    for file in sorted(folder.rglob("*.py")):
        inside = file.relative_to(folder).with_suffix("").parts
        found[".".join(("dst", part, *(p for p in inside if p != "__init__")))] = file
    return found


MODULES = {part: modules_of(part) for part in PARTS}
KNOWN = {name: file for files in MODULES.values() for name, file in files.items()}


def owner(name: str) -> str:
    """Return the module that an imported dotted name is, or is a part of; or ''."""
    while name and name not in KNOWN:
        name = name.rpartition(".")[0]
    return name


@pytest.mark.parametrize("part", PARTS)
def test_arrows_run_one_way(part: str) -> None:
    refused = {f"dst.{p}" for p in PARTS.keys() - PARTS[part] - {part}} | BARRED.get(part, set())
    wrong = {
        f"{module}: {name}"
        for module, file in MODULES[part].items()
        for name in imported_by(file)
        if any(f"{name}.".startswith(f"{r}.") for r in refused)
    }
    assert MODULES[part]
    assert wrong == set()


def test_no_part_imports_a_private_name_of_another() -> None:
    wrong = {
        f"{module}: {name}"
        for part, files in MODULES.items()
        for module, file in files.items()
        for name in imported_by(file)
        if owner(name) and name.split(".")[1] != part and "._" in name
    }
    assert wrong == set()


def test_no_module_imports_itself_in_a_circle() -> None:
    graph = {
        name: {owner(n) for n in imported_by(file)} - {"", name} for name, file in KNOWN.items()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


@pytest.mark.parametrize("part", PARTS)
def test_a_folder_is_seen_at_a_glance_and_a_file_read_in_one_sitting(part: str) -> None:
    held = Counter(str(file.parent.relative_to(ROOT)) for file in MODULES[part].values())
    assert {folder: n for folder, n in held.items() if n > 14} == {}
    lengths = {n: len(f.read_text("utf-8").splitlines()) for n, f in MODULES[part].items()}
    assert {name: n for name, n in lengths.items() if n > 400} == {}


def loaded_by(statement: str) -> set[str]:
    """Return the modules that a statement adds to a fresh interpreter, and their dotted names."""
    code = f"import sys; b = set(sys.modules)\n{statement}\nprint(*(set(sys.modules) - b))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(out.stdout.split())


def test_runtime_loads_nothing_of_the_makers() -> None:
    loaded = loaded_by("from dst.runtime import *")
    assert {name for name in loaded if name.startswith("dst.runtime.")} >= {
        f"dst.runtime.{name}" for name in ("session", "pool.pool", "store.store", "health")
    }
    assert loaded & {*HEAVY, "dst.export", "dst.quantize", "dst.cli"} == set()


def test_quantize_loads_optimum_only_when_it_is_asked_to() -> None:
    loaded = loaded_by("import dst.quantize.optimum, dst.cli.verbs.quantize")
    assert "dst.quantize.optimum.backend" in loaded
    assert loaded & {"optimum", "transformers", "torch"} == set()


def test_dst_alone_loads_nothing_else() -> None:
    loaded = loaded_by("import dst")
    assert {m for m in loaded if m.split(".")[0] not in sys.stdlib_module_names} == {"dst"}


def test_dst_names_no_function_like_its_packages() -> None:
    code = "import dst, json; print(json.dumps(sorted(vars(dst))))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    names = set(json.loads(out.stdout))
    assert "__version__" in names
    assert names & {"export", "runtime", "quantize"} == set()


# What is built


def copy_sources(to: Path) -> Path:
    """Copy the source files to a new folder, links as links."""
    for file in source_files():
        (to / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / file, to / file, follow_symlinks=False)
    return to


def build(kind: str, source: Path, to: Path) -> Path:
    """Call the build backend as pip does, offline; ``kind`` is wheel, sdist or editable."""
    to.mkdir(exist_ok=True)
    code = (
        "import sys; from setuptools import build_meta as b; getattr(b, sys.argv[1])(sys.argv[2])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, f"build_{kind}", str(to)],
        cwd=source,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = to.iterdir()
    return built


def members(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture(scope="module")
def wheel_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    return build("wheel", copy_sources(folder / "source"), folder / "out")


@pytest.fixture(scope="module")
def wheel(wheel_file: Path) -> dict[str, bytes]:
    return members(wheel_file)


def test_wheel_holds_the_packages_whole_and_nothing_else(wheel: dict[str, bytes]) -> None:
    expected = {inside: f for f in source_files() if (inside := module_path(f))}
    assert {name for name in wheel if ".dist-info/" not in name} == set(expected)
    assert {i for i, f in expected.items() if wheel[i] != (ROOT / f).read_bytes()} == set()
    assert {"dst/py.typed", "dst/runtime/FORMAT.md"} <= set(wheel)


def test_wheel_holds_nothing_of_the_runtimes_in_other_languages(wheel: dict[str, bytes]) -> None:
    written = [f for f in source_files() if f.startswith(OTHER_LANGUAGES)]
    assert "runtime/native/include/dst.h" in written
    assert [f for f in written if f.endswith(".py")] == []  # packages are found by their modules
    found = [n for n in wheel if n.startswith(tuple(f"dst/{name}" for name in OTHER_LANGUAGES))]
    assert found == []


def test_wheel_holds_nothing_of_the_runtime_in_typescript(wheel: dict[str, bytes]) -> None:
    written = [f for f in source_files() if f.startswith(JS)]
    assert f"{JS}src/index.ts" in written
    assert [f for f in written if f.startswith((f"{JS}dist", f"{JS}node_modules"))] == []
    assert [name for name in wheel if name.endswith((".ts", ".js"))] == []


def test_other_languages_too_have_short_files_and_small_folders() -> None:
    code = (
        ".cpp",
        ".hpp",
        ".h",
        ".c",
        ".txt",
        ".cmake",
        ".kt",
        ".kts",
        ".swift",
        ".ts",
        ".js",
        ".mjs",
    )
    written = [f for f in source_files() if f.startswith((*OTHER_LANGUAGES, "examples/c/"))]
    lengths = {f: len((ROOT / f).read_text("utf-8").splitlines()) for f in written}
    assert {f: n for f, n in lengths.items() if n > 400 and f.endswith(code)} == {}
    held = Counter(str(Path(f).parent) for f in written)
    assert {folder: n for folder, n in held.items() if n > 14} == {}


def test_wheel_states_its_version_and_licence(wheel: dict[str, bytes]) -> None:
    (metadata,) = [text for name, text in wheel.items() if name.endswith(".dist-info/METADATA")]
    header = metadata.decode().partition("\n\n")[0].splitlines()
    assert f"Version: {dst.__version__}" in header
    assert "License-Expression: Apache-2.0" in header
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in wheel)


def test_wheel_ships_the_models_and_the_held_out_text(
    wheel: dict[str, bytes], wheel_file: Path
) -> None:
    names = {name.split("/")[2] for name in wheel if name.startswith("dst/shipped/")}
    assert names == {"text", "text-int8", "text-int4", "feed", "feed-int8", "log", "log-int8"}
    text = [len(data) for name, data in wheel.items() if name.startswith("dst/shipped/text/")]
    assert sum(text) <= TEXT_LIMIT_BYTES
    feed = [len(data) for name, data in wheel.items() if name.startswith("dst/shipped/feed")]
    assert sum(feed) <= FEED_LIMIT_BYTES
    with zipfile.ZipFile(wheel_file) as packed:
        models = [i for i in packed.infolist() if i.filename.startswith("dst/shipped/")]
        assert sum(info.compress_size for info in models) <= MODELS_LIMIT_BYTES
    assert any(name.startswith("dst/heldout/") for name in wheel)


def test_wheel_from_sdist_equals_wheel_from_source(wheel: dict[str, bytes], tmp_path: Path) -> None:
    sdist = build("sdist", copy_sources(tmp_path / "source"), tmp_path / "sdist")
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path / "unpacked", filter="data")
    (source,) = (tmp_path / "unpacked").iterdir()
    assert members(build("wheel", source, tmp_path / "wheel")) == wheel


def test_editable_install_works_where_git_makes_no_links(tmp_path: Path) -> None:
    source = copy_sources(tmp_path / "source")
    for link, target in LINKS.items():
        (source / link).unlink()
        (source / link).write_text(target, "utf-8")
    site = tmp_path / "site"
    with zipfile.ZipFile(build("editable", source, tmp_path / "editable")) as archive:
        archive.extractall(site)
    code = (
        "import site, sys; site.addsitedir(sys.argv[1]); from importlib.util import find_spec\n"
        "print(*(find_spec(f'dst.{n}').origin for n in sys.argv[3:]), sep='\\n')\n"
        "print(*find_spec(sys.argv[2]).submodule_search_locations, sep='\\n')"
    )
    names = ["export", "runtime", "quantize"]
    out = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code, str(site), PLUGIN, *names],
        capture_output=True,
        text=True,
        check=True,
    )
    found = [Path(line).resolve() for line in out.stdout.splitlines()]
    assert found[:3] == [(source / name / "__init__.py").resolve() for name in names]
    assert (source / FOLDERS[PLUGIN]).resolve() in found[3:]
