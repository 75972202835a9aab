"""The runtime: bundles in, live streams out, on numpy and ONNX Runtime alone."""

from dst.runtime.bundle import Bundle, open_bundle, shipped, write_bundle
from dst.runtime.errors import BundleError, DstError, SessionError, StateError, StepError
from dst.runtime.generate import generate
from dst.runtime.golden import GoldenCheck, golden_tensors, relative_error, replay_golden
from dst.runtime.memory import Memory, predict, rss_bytes
from dst.runtime.sampling import Sampler
from dst.runtime.saved import Saved
from dst.runtime.session import Session
from dst.runtime.stream import Snapshot, Stream
from dst.runtime.surprise import surprise_bits
from dst.runtime.tokens import decode_bytes, encode_bytes

__all__ = [
    "Bundle",
    "BundleError",
    "DstError",
    "GoldenCheck",
    "Memory",
    "Sampler",
    "Saved",
    "Session",
    "SessionError",
    "Snapshot",
    "StateError",
    "StepError",
    "Stream",
    "decode_bytes",
    "encode_bytes",
    "generate",
    "golden_tensors",
    "open_bundle",
    "predict",
    "relative_error",
    "replay_golden",
    "rss_bytes",
    "shipped",
    "surprise_bits",
    "write_bundle",
]
