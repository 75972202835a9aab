"""Hooks of mkdocs: make pages of documents outside docs/, and lead links to where things are."""

import ast
import logging
import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
OUTSIDE = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
    "runtime/FORMAT.md": "format.md",
}
"""Documents that stand elsewhere in the repository, and the pages they become."""
SOURCES = {page: source for source, page in OUTSIDE.items()}
LOG = logging.getLogger("mkdocs.hooks")  # a strict build fails at its warnings
LINK = re.compile(
    r"^ *(?P<fence>`{3,}|~{3,}).*?^ *(?P=fence)$"  # code is left alone
    r"|(?P<ticks>`+)(?!`).+?(?<!`)(?P=ticks)(?!`)"
    r"|(?P<image>!?)\[(?P<text>[^\]]*)\]\((?P<target>[^)\s]+)\)",
    re.MULTILINE | re.DOTALL,
)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the documents that stand outside docs/."""
    for source, page in OUTSIDE.items():
        content = (ROOT / source).read_text("utf-8")
        files.append(File.generated(config, page, content=content))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn the links of a document, which are right in the repository, into the site's."""
    here = page.file.src_uri
    source = SOURCES.get(here, f"docs/{here}")

    def lead(match: re.Match[str]) -> str:
        """Return a link to a page, to the hosted repository, or a path where there is neither."""
        path, mark, anchor = (match["target"] or "").partition("#")
        if not path or re.match(r"[a-z]+:", path):
            return match[0]
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
        inside = OUTSIDE.get(path) or (path[5:] if path.startswith("docs/") else None)
        text = match["text"]
        if inside:
            there = posixpath.relpath(inside, posixpath.dirname(here) or ".")
            return f"{match['image']}[{text}]({there}{mark}{anchor})"
        if config.repo_url:
            kind = "tree" if (ROOT / path).is_dir() else "blob"
            return f"[{text}]({config.repo_url.rstrip('/')}/{kind}/main/{path})"
        return text if path in text else f"{text} (`{path}`)"

    return LINK.sub(lead, markdown)


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Warn where a page of the reference leaves out a public name of its package."""
    folder, _, name = page.file.src_uri.removesuffix(".md").partition("/")
    if folder == "reference":
        shown = {found.rpartition(".")[2] for found in re.findall(r'<h2 id="([^"]+)"', html)}
        if missing := public_names(ROOT / "src/dst" / name / "__init__.py") - shown:
            LOG.warning("%s: shows nothing of %s", page.file.src_uri, ", ".join(sorted(missing)))
    return html


def public_names(file: Path) -> set[str]:
    """Return the names in the `__all__` of a package."""
    for node in ast.parse(file.read_text("utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return set(ast.literal_eval(node.value))
    raise ValueError(f"{file}: has no __all__")
