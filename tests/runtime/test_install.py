"""The command that installs an extra fits how this package itself was installed."""

import json
from importlib import metadata
from pathlib import Path

import pytest

from dst.runtime.install import install_line


class Installed:
    """A distribution, as far as `install_line` looks at it."""

    def __init__(self, told: str | None) -> None:
        self._told = told

    def read_text(self, name: str) -> str | None:
        assert name == "direct_url.json"
        return self._told


def line(monkeypatch: pytest.MonkeyPatch, *told: object) -> str:
    texts = [each if each is None or isinstance(each, str) else json.dumps(each) for each in told]
    found = [Installed(text) for text in texts]
    monkeypatch.setattr(metadata, "distributions", lambda name: iter(found))
    return install_line("onnx", "torch==2.13.0")


def test_a_checkout_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = tmp_path / "with a space"
    folder.mkdir()
    told = {"url": folder.as_uri(), "dir_info": {"editable": True}}
    assert line(monkeypatch, told) == f'pip install torch==2.13.0 -e "{folder}[onnx]"'
    told["dir_info"] = {}
    assert line(monkeypatch, told) == f'pip install torch==2.13.0 "{folder}[onnx]"'


def test_a_wheel_is_named_while_it_is_there(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    wheel = tmp_path / "dst_edge-1-py3-none-any.whl"
    told = {"url": wheel.as_uri(), "archive_info": {}}
    assert line(monkeypatch, told) == 'pip install torch==2.13.0 "dst-edge[onnx]"'
    wheel.touch()
    assert line(monkeypatch, told) == f'pip install torch==2.13.0 "{wheel}[onnx]"'


@pytest.mark.parametrize("told", [None, "", "no json", "[]", {"url": "https://host/a.whl"}])
def test_otherwise_the_name_stands(monkeypatch: pytest.MonkeyPatch, told: object) -> None:
    assert line(monkeypatch, told) == 'pip install torch==2.13.0 "dst-edge[onnx]"'


def test_the_build_s_own_record_does_not_hide_what_pip_wrote(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    told = {"url": tmp_path.as_uri(), "dir_info": {"editable": True}}
    assert line(monkeypatch, None, told) == f'pip install torch==2.13.0 -e "{tmp_path}[onnx]"'


def test_a_package_that_is_not_installed_has_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    assert line(monkeypatch) == 'pip install torch==2.13.0 "dst-edge[onnx]"'
