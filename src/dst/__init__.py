"""Stateful inference on the device.

Import what you need: ``dst.runtime`` runs bundles, ``dst.export`` makes them from torch modules and
ONNX files, ``dst.quantize`` makes them smaller, ``dst.evaluate`` measures them. Importing ``dst``
alone loads nothing else.

ONNX Runtime's wheels report their use to their maker unless told otherwise when they are imported.
A program that holds its user's memory does not phone home, so this tells them; set
``ORT_DISABLE_TELEMETRY=0`` to decide otherwise.
"""

import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__version__ = "0.1.0"
