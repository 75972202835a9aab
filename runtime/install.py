"""Say how to install what an extra of this package brings."""

import json
from importlib import metadata
from pathlib import Path
from urllib.parse import unquote, urlsplit

NAME = "dst-edge"


def install_line(extra: str, *first: str) -> str:
    """Return the pip command that installs an extra beside what is installed now.

    It names the checkout where this package is an editable install, the file or folder that it was
    installed from where that is still there, and the package itself otherwise. Requirements in
    `first`, e.g. `torch==2.13.0`, come before it.
    """
    source, editable = _source()
    words = ["pip install", *first, *(["-e"] if editable else []), f'"{source}[{extra}]"']
    return " ".join(words)


def _source() -> tuple[str, bool]:
    """Where this package was installed from, and whether it is editable."""
    # all of that name: in a checkout's own folder the build's egg-info stands before what pip wrote
    told = [found.read_text("direct_url.json") for found in metadata.distributions(name=NAME)]
    try:
        held = json.loads(next(filter(None, told), "{}"))
        address, folder = urlsplit(held.get("url", "")), held.get("dir_info", {})
    except (ValueError, AttributeError):
        return NAME, False
    path = unquote(address.path)
    if path[:1] == "/" and path[2:3] == ":":
        path = path[1:]  # file:///C:/folder
    if address.scheme != "file" or not Path(path).exists():
        return NAME, False
    return path, bool(folder.get("editable"))
