#include "execution/ort.h"

#include <filesystem>

#include "base/error.h"

namespace dst::core {

namespace {

const OrtApi* replacement = nullptr;

const OrtApi* real_table() {
  static const OrtApi* table = OrtGetApiBase()->GetApi(kOrtApi);
  if (table == nullptr) fail(DST_SESSION, "onnxruntime-too-old", "ONNX Runtime is older than 1.17");
  return table;
}

// ONNX Runtime wants one environment that outlives every session; it is never released, since
// nobody knows which destructor of a program runs last.
OrtEnv* environment() {
  static OrtEnv* const env = [] {
    OrtEnv* made = nullptr;
    ort_check(ort().CreateEnv(ORT_LOGGING_LEVEL_FATAL, "dst", &made), "session", "ONNX Runtime");
    return made;
  }();
  return env;
}

const OrtMemoryInfo* host_memory() {
  static OrtMemoryInfo* const memory = [] {
    OrtMemoryInfo* made = nullptr;
    ort_check(ort().CreateCpuMemoryInfo(OrtDeviceAllocator, OrtMemTypeDefault, &made), "session",
              "ONNX Runtime");
    return made;
  }();
  return memory;
}

ONNXTensorElementDataType element_type(dst_dtype dtype) {
  switch (dtype) {
    case DST_FLOAT16:
      return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16;
    case DST_FLOAT32:
      return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
    case DST_FLOAT64:
      return ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE;
    case DST_INT8:
      return ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8;
    case DST_INT32:
      return ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32;
    case DST_INT64:
      return ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64;
    case DST_UINT8:
      return ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8;
    case DST_BOOL:
      return ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL;
  }
  return ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
}

}  // namespace

const OrtApi& ort() { return replacement != nullptr ? *replacement : *real_table(); }
void replace_ort(const OrtApi* table) { replacement = table; }
std::string ort_version() { return OrtGetApiBase()->GetVersionString(); }

void ort_check(OrtStatus* status, const char* code, const std::string& where) {
  if (status == nullptr) return;
  const Owned<OrtStatus> owned(status);
  const std::string message = ort().GetErrorMessage(status);
  fail(DST_SESSION, code, where + ": " + shown(message.substr(0, message.find('\n'))));
}

Owned<OrtSession> open_graph(const std::string& path, const OrtSessionOptions* options,
                             const std::string& where) {
  OrtSession* session = nullptr;
  const std::filesystem::path file(path);  // its own characters: wide ones on Windows
  ort_check(ort().CreateSession(environment(), file.c_str(), options, &session), "graph", where);
  return Owned<OrtSession>(session);
}

Value tensor_value(void* data, size_t bytes, dst_dtype dtype, const Sizes& shape) {
  OrtValue* value = nullptr;
  ort_check(ort().CreateTensorWithDataAsOrtValue(host_memory(), data, bytes, shape.data(),
                                                 shape.size(), element_type(dtype), &value),
            "session", "a tensor");
  return Value(value);
}

Owned<OrtRunOptions> run_options() {
  OrtRunOptions* options = nullptr;
  ort_check(ort().CreateRunOptions(&options), "session", "run options");
  return Owned<OrtRunOptions>(options);
}

}  // namespace dst::core
