"""Spread streams over the workers of a Ray cluster; needs `pip install "dst-edge[fleet]"`.

A fleet is for streams that one machine cannot hold or step; docs/fleet.md says what survives what.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dst.fleet.batch import StreamMap
    from dst.fleet.fleet import Fleet
    from dst.fleet.placing import FleetError

_WHERE = {"Fleet": "fleet", "FleetError": "placing", "StreamMap": "batch"}


def __getattr__(name: str) -> object:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)


__all__ = ["Fleet", "FleetError", "StreamMap"]
