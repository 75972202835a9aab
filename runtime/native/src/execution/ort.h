// ONNX Runtime's C API: one environment for the process, and owners for what the API makes.
#pragma once

#include <onnxruntime_c_api.h>

#include <memory>
#include <string>

#include "base/dtype.h"

namespace dst::core {

// The functions that are used here exist since this version of the API, so a library that is older
// than the header serves as well.
constexpr uint32_t kOrtApi = 17;

const OrtApi& ort();
// Tests put a table of their own here, to see which calls are made.
void replace_ort(const OrtApi* table);
std::string ort_version();

struct OrtDeleter {
  void operator()(OrtSession* p) const { ort().ReleaseSession(p); }
  void operator()(OrtSessionOptions* p) const { ort().ReleaseSessionOptions(p); }
  void operator()(OrtRunOptions* p) const { ort().ReleaseRunOptions(p); }
  void operator()(OrtValue* p) const { ort().ReleaseValue(p); }
  void operator()(OrtIoBinding* p) const { ort().ReleaseIoBinding(p); }
  void operator()(OrtStatus* p) const { ort().ReleaseStatus(p); }
  void operator()(OrtTypeInfo* p) const { ort().ReleaseTypeInfo(p); }
  void operator()(OrtMemoryInfo* p) const { ort().ReleaseMemoryInfo(p); }
};
template <typename Kind>
using Owned = std::unique_ptr<Kind, OrtDeleter>;
using Value = Owned<OrtValue>;

// Throws Error (DST_SESSION, `code`) with the first line of ONNX Runtime's message.
void ort_check(OrtStatus* status, const char* code, const std::string& where);

Owned<OrtSession> open_graph(const std::string& path, const OrtSessionOptions* options,
                             const std::string& where);
// A value that is a tensor in memory of ours.
Value tensor_value(void* data, size_t bytes, dst_dtype dtype, const Sizes& shape);
Owned<OrtRunOptions> run_options();

}  // namespace dst::core
