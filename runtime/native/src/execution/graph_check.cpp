#include <algorithm>
#include <map>

#include "base/error.h"
#include "execution/engine.h"

namespace dst::core {

namespace {

struct Wanted {
  dst_dtype dtype;
  Shape shape;
  std::vector<int64_t> lengths;  // what a static axis may be where the contract says T
};

std::string name_of(const OrtSession* session, size_t index, bool input) {
  OrtAllocator* allocator = nullptr;
  ort_check(ort().GetAllocatorWithDefaultOptions(&allocator), "graph", "graph");
  char* name = nullptr;
  ort_check(input ? ort().SessionGetInputName(session, index, allocator, &name)
                  : ort().SessionGetOutputName(session, index, allocator, &name),
            "graph", "graph");
  const std::string copy = name;
  Owned<OrtStatus> ignored(ort().AllocatorFree(allocator, name));
  return copy;
}

int dtype_of(ONNXTensorElementDataType type) {
  switch (type) {
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16:
      return DST_FLOAT16;
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT:
      return DST_FLOAT32;
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE:
      return DST_FLOAT64;
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8:
      return DST_INT8;
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32:
      return DST_INT32;
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64:
      return DST_INT64;
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8:
      return DST_UINT8;
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL:
      return DST_BOOL;
    default:
      return -1;
  }
}

// A symbolic axis of the graph fits any size; a static one must be the contract's.
bool fits(const Wanted& wanted, const OrtTensorTypeAndShapeInfo* info,
          const std::vector<int64_t>& batch) {
  ONNXTensorElementDataType type = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
  size_t rank = 0;
  ort_check(ort().GetTensorElementType(info, &type), "graph", "graph");
  ort_check(ort().GetDimensionsCount(info, &rank), "graph", "graph");
  if (dtype_of(type) != wanted.dtype || rank != wanted.shape.size()) return false;
  Sizes sizes(rank);
  ort_check(ort().GetDimensions(info, sizes.data(), rank), "graph", "graph");
  const auto has = [](const std::vector<int64_t>& values, int64_t value) {
    return std::find(values.begin(), values.end(), value) != values.end();
  };
  for (size_t i = 0; i < rank; ++i) {
    const Axis axis = wanted.shape[i];
    if (sizes[i] < 0) continue;
    const bool good = axis.letter == 'B'   ? has(batch, sizes[i])
                      : axis.letter == 'T' ? has(wanted.lengths, sizes[i])
                      : axis.letter        ? false
                                           : axis.size == sizes[i];
    if (!good) return false;
  }
  return true;
}

void compare(const std::string& where, bool input, const std::map<std::string, Wanted>& wanted,
             const OrtSession* session, const std::vector<int64_t>& batch) {
  const std::string kind = input ? "input" : "output";
  size_t count = 0;
  ort_check(input ? ort().SessionGetInputCount(session, &count)
                  : ort().SessionGetOutputCount(session, &count),
            "graph", where);
  std::map<std::string, size_t> found;
  for (size_t i = 0; i < count; ++i) found[name_of(session, i, input)] = i;
  for (const auto& [name, port] : wanted) {
    if (!found.count(name)) {
      fail(DST_SESSION, "graph",
           where + ": has no " + kind + " " + shown(name) + ", which the manifest names");
    }
  }
  for (const auto& [name, index] : found) {
    const auto port = wanted.find(name);
    if (port == wanted.end()) {
      fail(DST_SESSION, "graph",
           where + ": has an " + kind + " " + shown(name) + ", which the manifest does not name");
    }
    OrtTypeInfo* made = nullptr;
    ort_check(input ? ort().SessionGetInputTypeInfo(session, index, &made)
                    : ort().SessionGetOutputTypeInfo(session, index, &made),
              "graph", where);
    const Owned<OrtTypeInfo> type(made);
    const OrtTensorTypeAndShapeInfo* info = nullptr;
    ort_check(ort().CastTypeInfoToTensorInfo(made, &info), "graph", where);
    if (info == nullptr || !fits(port->second, info, batch)) {
      fail(DST_SESSION, "graph",
           where + ": " + kind + " " + shown(name) +
               " has another dtype or shape than the manifest says");
    }
  }
}

}  // namespace

void check_graph(const std::string& where, const Graph& graph, const Manifest& manifest,
                 const OrtSession* session) {
  const std::vector<int64_t> batch = graph.batch.empty() ? std::vector<int64_t>{1} : graph.batch;
  std::vector<int64_t> lengths, windows;
  if (graph.allowed_t.size() == 1) {
    lengths.push_back(graph.allowed_t[0]);
    windows.push_back(manifest.chunk.window(graph.allowed_t[0]));
  }
  std::map<std::string, Wanted> inputs, outputs;
  inputs[manifest.chunk.input] = {manifest.chunk.dtype, manifest.chunk.shape, windows};
  for (const Constant& one : manifest.constants) {
    Shape shape;
    for (const int64_t size : one.shape) shape.push_back({0, size});
    inputs[one.input] = {one.dtype, shape, {}};
  }
  for (const Port& one : manifest.stream_inputs) inputs[one.input] = {one.dtype, one.shape, {}};
  if (!graph.answers.empty()) inputs[graph.answers] = {DST_INT64, {{'?', 0}}, {}};
  for (const Output& one : manifest.outputs) outputs[one.name] = {one.dtype, one.shape, lengths};
  for (const State& one : manifest.state) {
    inputs[one.input] = {one.dtype, one.shape, {}};
    outputs[one.output] = {one.dtype, one.shape, {}};
  }
  compare(where, true, inputs, session, batch);
  compare(where, false, outputs, session, batch);
}

}  // namespace dst::core
