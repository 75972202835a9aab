"""The site's hooks lead each link of a document to where its target is."""

import importlib.util
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
SPEC = importlib.util.spec_from_file_location("site_hooks", ROOT / "docs/hooks.py")
assert SPEC is not None
assert SPEC.loader is not None
HOOKS: Any = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(HOOKS)


def turned(text: str, page: str, repo_url: str = "") -> str:
    """Return the text of a page as the site shows it."""
    config = SimpleNamespace(repo_url=repo_url)
    shown = SimpleNamespace(file=SimpleNamespace(src_uri=page))
    return str(HOOKS.on_page_markdown(text, shown, config, None))


@pytest.mark.parametrize(
    ("page", "written", "shown"),
    [
        ("index.md", "[a](docs/export.md#x)", "[a](export.md#x)"),
        ("index.md", "![a](docs/idea.svg)", "![a](idea.svg)"),
        ("state.md", "[a](../runtime/FORMAT.md)", "[a](format.md)"),
        ("state.md", "[a](../README.md) [b](pool.md)", "[a](index.md) [b](pool.md)"),
        ("format.md", "[a](../SECURITY.md)", "[a](security.md)"),
        ("reference/export.md", "[a](../export.md)", "[a](../export.md)"),
        ("state.md", "[a](#here) [b](https://x.org/y.md)", "[a](#here) [b](https://x.org/y.md)"),
    ],
)
def test_a_link_to_a_page_leads_to_the_page(page: str, written: str, shown: str) -> None:
    assert turned(written, page) == shown


def test_a_link_to_a_file_becomes_its_path_or_leads_to_the_hosted_repository() -> None:
    text = "[the test](../tests/test_site.py), [`examples/web`](../examples/web)"
    assert turned(text, "state.md") == "the test (`tests/test_site.py`), `examples/web`"
    assert turned(text, "state.md", "https://host.org/dst/") == (
        "[the test](https://host.org/dst/blob/main/tests/test_site.py), "
        "[`examples/web`](https://host.org/dst/tree/main/examples/web)"
    )


@pytest.mark.parametrize(
    "text",
    ["`[a](../b.py)` c", "``[a](`../b.py)``", "```sh\n[a](../b.py)\n```", "a\n~~~\n[a](b)\n~~~"],
)
def test_code_is_left_alone(text: str) -> None:
    assert turned(text, "state.md") == text


def test_a_link_between_code_words_is_found() -> None:
    assert turned("`a` [`b`](../b.py) `c`, [`d`](run.md)", "state.md") == (
        "`a` `b` (`b.py`) `c`, [`d`](run.md)"
    )


def test_the_public_names_are_those_of_the_package() -> None:
    import dst.runtime

    file = ROOT / "runtime/__init__.py"
    assert HOOKS.public_names(file) == set(dst.runtime.__all__)
