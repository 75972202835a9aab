"""Session options: threads and packing in, ONNX Runtime's options for one graph out."""

import onnxruntime as ort

RECORD_ASSIGNMENT = "session.record_ep_graph_assignment_info"


def session_options(threads: int, prepack: bool) -> ort.SessionOptions:
    """Make the options a graph is opened with.

    Args:
        threads: threads inside one operator.
        prepack: copy the weights into the form that the kernels read fastest.
    """
    options = ort.SessionOptions()
    options.enable_mem_pattern = False  # a pattern per T would stay in memory
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if not prepack:
        options.add_session_config_entry("session.disable_prepacking", "1")
    options.add_session_config_entry(RECORD_ASSIGNMENT, "1")  # for the load report
    options.log_severity_level = 4
    return options
