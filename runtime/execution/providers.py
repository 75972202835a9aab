"""Know each execution provider: its name in ONNX Runtime, its options, and what it can run."""

from collections.abc import Mapping
from typing import Literal

import msgspec
import onnxruntime as ort

from dst.runtime.bundle.manifest import Graph
from dst.runtime.errors import ProviderError, SessionError

Provider = Literal["cpu", "cuda", "tensorrt", "directml", "coreml", "openvino"]
Lowering = Literal["fused", "portable", "other"]
Options = Mapping[str, str]


class Place(msgspec.Struct, frozen=True):
    """How one provider runs graphs.

    Attributes:
        execution: what ONNX Runtime calls it.
        device: where its graphs want their inputs and outputs: `cpu`, `cuda` or `dml`.
        contrib: whether it has kernels for the `com.microsoft` operators of fused graphs.
        package: what to install for it.
    """

    execution: str
    device: str
    contrib: bool
    package: str


PLACES: dict[Provider, Place] = {
    "cpu": Place("CPUExecutionProvider", "cpu", True, "onnxruntime"),
    "cuda": Place("CUDAExecutionProvider", "cuda", True, "onnxruntime-gpu"),
    "tensorrt": Place("TensorrtExecutionProvider", "cuda", False, "onnxruntime-gpu"),
    "directml": Place("DmlExecutionProvider", "dml", False, "onnxruntime-directml"),
    "coreml": Place("CoreMLExecutionProvider", "cpu", False, "onnxruntime on macOS"),
    "openvino": Place("OpenVINOExecutionProvider", "cpu", False, "onnxruntime-openvino"),
}


def place_of(provider: str) -> Place:
    """Return how a provider runs graphs.

    Raises:
        ProviderError: it is unknown or not installed; the message says what there is.
    """
    names = {str(name): place for name, place in PLACES.items()}
    place = names.get(provider)
    if place is None:
        known = ", ".join(repr(name) for name in names)
        raise ProviderError(f"provider {provider!r} is unknown; this runtime has {known}")
    available = ort.get_available_providers()
    if place.execution not in available:
        here = ", ".join(
            repr(name) for name, other in names.items() if other.execution in available
        )
        raise ProviderError(
            f"provider {provider!r} needs {place.execution}; the installed onnxruntime "
            f"{ort.__version__} has {', '.join(available)}; install {place.package} in the place "
            f"of the package that is there (docs/providers.md says how), or choose {here}"
        )
    return place


def options_for(provider: Provider, given: Options | None, threads: int) -> dict[str, str]:
    """Return the options a provider is opened with: those given, over what this runtime sets.

    OpenVINO is told its threads, and on its CPU device to keep float32: it might choose bfloat16.

    Raises:
        SessionError: an option is not a string.
    """
    options: dict[str, str] = {}
    if provider == "openvino":
        options["num_of_threads"] = str(threads)
        if given is None or "device_type" not in given:
            options |= {"device_type": "CPU", "precision": "FP32"}
    for name, value in (given or {}).items():
        if not isinstance(value, str):
            raise SessionError(
                f"provider_options: {name!r} is {value!r}; ONNX Runtime wants text, such as "
                f"{str(value)!r}",
                code="provider-options",
            )
        options[name] = value
    return options


def device_number(options: Options) -> int:
    """Return which device of its kind a provider runs on; 0 where the options do not say.

    Raises:
        SessionError: `device_id` is no number.
    """
    text = options.get("device_id", "0")
    if not text.isdecimal():
        raise SessionError(
            f"provider_options: 'device_id' is {text!r}; expected a number, as text",
            code="provider-options",
        )
    return int(text)


def preferred(graph: Graph, place: Place) -> int:
    """Say how early a graph is chosen where a provider could take several: 0 comes first.

    Fused graphs are the fastest where their operators have kernels; elsewhere the static shapes
    of the portable ones suit compilers best.
    """
    order = ("fused", "other", "portable") if place.contrib else ("portable", "other", "fused")
    return order.index(graph.lowering)


def suits(graph: Graph, place: Place) -> bool:
    """Say whether a provider can run the operators that only fused graphs have."""
    return place.contrib or graph.lowering != "fused" or "com.microsoft" not in graph.domains


def session_options(threads: int, prepack: bool, spin: bool = False) -> ort.SessionOptions:
    """Make the options a graph is opened with.

    With `prepack`, weights are copied into the form that the kernels read fastest; with `spin`,
    threads keep their cores busy while they wait for work.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spin)))
    if not prepack:
        options.add_session_config_entry("session.disable_prepacking", "1")
    options.add_session_config_entry(  # for `dst.runtime.execution.placement`
        "session.record_ep_graph_assignment_info", "1"
    )
    options.log_severity_level = 4
    return options
