// The arrays of the conformance suite: tensors of a safetensors file, by name.
#pragma once

#include <algorithm>
#include <cmath>
#include <fstream>
#include <iterator>
#include <map>
#include <string>
#include <vector>

#include "base/error.h"
#include "bundle/reader.h"

namespace dst::tests {

struct Array {
  dst_dtype dtype;
  std::vector<int64_t> shape;
  std::vector<uint8_t> bytes;

  dst_tensor tensor() const {
    return {dtype, static_cast<int32_t>(shape.size()), shape.data(), bytes.data()};
  }
};

inline std::vector<uint8_t> read_all(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error("cannot open " + path);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

inline std::map<std::string, Array> read_arrays(const std::string& path,
                                                const std::string& prefix) {
  const std::vector<uint8_t> file = read_all(path);
  std::vector<core::StoredTensor> tensors;
  const size_t body = core::read_tensors(file, &tensors);
  std::map<std::string, Array> arrays;
  for (const core::StoredTensor& tensor : tensors) {
    if (tensor.name.rfind(prefix, 0) != 0) continue;
    const auto* begin = file.data() + body + tensor.begin;
    arrays[tensor.name.substr(prefix.size())] = {tensor.dtype, tensor.shape,
                                                 std::vector<uint8_t>(begin, begin + tensor.size)};
  }
  return arrays;
}

// max|found - expected| / rms(expected) of floats; 0 where there is no difference.
inline double relative_error(const dst_tensor& found, const Array& right) {
  const size_t size = core::item_size(found.dtype), count = right.bytes.size() / size;
  const auto value = [&](const void* data, size_t i) {
    const auto* at = static_cast<const uint8_t*>(data) + i * size;
    if (found.dtype == DST_FLOAT64) return *reinterpret_cast<const double*>(at);
    if (found.dtype == DST_FLOAT32) return double{*reinterpret_cast<const float*>(at)};
    return core::half_to_double(*reinterpret_cast<const uint16_t*>(at));
  };
  double most = 0, squares = 0;
  for (size_t i = 0; i < count; ++i) {
    const double expected = value(right.bytes.data(), i);
    const double off = value(found.data, i) - expected;
    most = off < 0 ? std::max(most, -off) : std::max(most, off);
    squares += expected * expected;
  }
  return most == 0 ? 0 : most / std::sqrt(squares / static_cast<double>(count));
}

}  // namespace dst::tests
