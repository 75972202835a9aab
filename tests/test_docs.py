"""The documents go in; their Python runs as printed and their links lead somewhere."""

import importlib
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))]
ELSEWHERE = {"models.md", "fleet.md"}  # tests/test_models.py and tests/test_fleet.py run these
EXAMPLES = [page for page in PAGES if page.name not in ELSEWHERE]
LINKING = [
    *PAGES,
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    ROOT / "SECURITY.md",
    ROOT / "runtime/FORMAT.md",
]

FENCE = re.compile(r"^(?P<indent> *)(?P<ticks>`{3,}|~{3,}) *(?P<language>\w*)")
LINK = re.compile(r"!?\[[^\]]*\]\((?P<target>[^)\s]+)[^)]*\)")


def fenced(text: str) -> list[tuple[str, str]]:
    """Return ``(language, line)`` of every line: the language is "" outside a block and on a fence.

    Lines inside a block lose the indent of its fence. A block without a language counts as "text".
    """
    lines: list[tuple[str, str]] = []
    opened: re.Match[str] | None = None
    for line in text.splitlines():
        fence = FENCE.match(line)
        if opened is None:
            opened = fence
            lines.append(("", "" if fence else line))
        elif fence and fence["ticks"].startswith(opened["ticks"]) and not fence["language"]:
            opened = None
            lines.append(("", ""))
        else:
            indent = len(opened["indent"])
            stripped = line[indent:] if line[:indent].isspace() else line
            lines.append((opened["language"].lower() or "text", stripped))
    return lines


def python_of(text: str) -> str:
    """Return the Python blocks of a document, each line under its own line number."""
    return "\n".join(
        line if language in {"python", "python3", "py"} else "" for language, line in fenced(text)
    )


def name(document: Path) -> str:
    return document.relative_to(ROOT).as_posix()


def test_blocks_keep_their_line_numbers() -> None:
    text = "a\n```python\nx = 1\n```\n`x`\n  ```py\n  if x:\n      y = 2\n  ```\n```sh\nls\n```\n"
    assert python_of(text).splitlines()[:8] == ["", "", "x = 1", "", "", "", "if x:", "    y = 2"]
    assert "ls" not in python_of(text)


def test_readme_has_a_python_example() -> None:
    assert python_of((ROOT / "README.md").read_text("utf-8")).strip()


@pytest.mark.parametrize("package", ["dst.runtime", "dst.export", "dst.quantize"])
def test_the_api_page_shows_every_public_class(package: str) -> None:
    code = python_of((ROOT / "docs/api.md").read_text("utf-8"))
    module = importlib.import_module(package)
    classes = {
        name
        for name in module.__all__
        if isinstance(getattr(module, name), type)
        and not issubclass(getattr(module, name), Exception)
    }
    assert {name for name in classes if not re.search(rf"\b{name}\b", code)} == set()


@pytest.mark.parametrize("document", EXAMPLES, ids=name)
def test_python_runs_as_printed(document: Path, tmp_path: Path) -> None:
    """All blocks of one document run in order in one fresh interpreter, in an empty folder."""
    script = tmp_path / f"page_{document.stem}.py"  # by its own name it might hide a module
    script.write_text(python_of(document.read_text("utf-8")), "utf-8")
    folder = tmp_path / "empty"
    folder.mkdir()
    done = subprocess.run(
        [sys.executable, script],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{name(document)}:\n{done.stdout}{done.stderr}"


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
def test_the_c_of_its_page_compiles(tmp_path: Path) -> None:
    """Each block is the body of a function; what it is fed, and `use`, are the reader's."""
    lines = fenced((ROOT / "docs/native.md").read_text("utf-8"))
    blocks, before = [], ""
    for language, line in lines:
        if language == "c":
            blocks += [] if before == "c" else [""]
            blocks[-1] += f"{line}\n"
        before = language
    given = "const char* text, size_t size, const float* values, dst_stream* given"
    parts = ["#include <stdio.h>", '#include "dst.h"', "void use(const dst_tensor* answer);"]
    for number, block in enumerate(blocks):
        own = "" if "dst_stream* stream;" in block else "dst_stream* stream = given;\n"
        parts.append(f"int block{number}({given});")
        parts.append(f"int block{number}({given}) {{\n{own}{block}return 0;\n}}")
    source = tmp_path / "page.c"
    source.write_text("\n".join(parts), "utf-8")
    words = [
        "-std=c99",
        "-Wall",
        "-Werror",
        "-fsyntax-only",
        f"-I{ROOT / 'runtime/native/include'}",
    ]
    done = subprocess.run(["cc", *words, source], capture_output=True, text=True, check=False)
    assert len(blocks) == 2
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("document", LINKING, ids=name)
def test_relative_links_lead_to_files(document: Path) -> None:
    prose = "\n".join(
        line for language, line in fenced(document.read_text("utf-8")) if not language
    )
    prose = re.sub(r"`[^`]*`", "", prose)  # inline code holds no links
    targets = [match["target"].partition("#")[0] for match in LINK.finditer(prose)]
    relative = [t for t in targets if t and not re.match(r"[a-z]+:", t)]
    assert [t for t in relative if not (document.parent / t).exists()] == []
