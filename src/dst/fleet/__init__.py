"""Spread streams over the workers of a Ray cluster; needs `pip install "dst-edge[fleet]"`."""

from dst.fleet.fleet import Fleet, FleetError
from dst.fleet.worker import StreamMap

__all__ = ["Fleet", "FleetError", "StreamMap"]
