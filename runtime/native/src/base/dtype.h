// Data types and shapes, float16 arithmetic, and memory whose address is a multiple of 64.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "dst.h"

namespace dst::core {

constexpr size_t kAlignment = 64;

size_t item_size(dst_dtype dtype);
bool is_float(dst_dtype dtype);
const char* dtype_name(dst_dtype dtype);
// False where the name is none of a dtype.
bool dtype_named(const std::string& name, dst_dtype* dtype);
// The code of a dtype in a safetensors file, such as "F32".
const char* dtype_code(dst_dtype dtype);
bool dtype_coded(const std::string& code, dst_dtype* dtype);
// The least and the greatest value of a dtype.
void dtype_range(dst_dtype dtype, double* least, double* most);

// In which features are normalised: a difference of two float16 may exceed it.
inline dst_dtype normalised_in(dst_dtype dtype) {
  return dtype == DST_FLOAT16 ? DST_FLOAT32 : dtype;
}

double half_to_double(uint16_t bits);
// Rounds to nearest, ties to even.
uint16_t double_to_half(double value);
// Write one value in a dtype.
void store(double value, dst_dtype dtype, void* place);

// Whether no value is NaN or infinite; values that are not floats are always finite.
bool all_finite(const void* data, size_t count, dst_dtype dtype);

// An axis of a shape: a size, or a letter. `letter` is 0 for a size, '?' for an unknown letter.
struct Axis {
  char letter = 0;
  int64_t size = 0;
};
using Shape = std::vector<Axis>;
using Sizes = std::vector<int64_t>;

// The place of a letter in a shape, or -1.
int axis_of(const Shape& shape, char letter);
// A shape with numbers in place of its letters.
Sizes sized(const Shape& shape, int64_t t, int64_t batch = 1);
// The axes that are neither batch nor time.
Sizes fixed_axes(const Shape& shape);
// The product; the largest number where it does not fit.
uint64_t product(const Sizes& sizes);
std::string spelled(const Sizes& sizes);

struct FreeAligned {
  void operator()(uint8_t* memory) const;
};

// Zeroed bytes; made once, never moved.
class Memory {
 public:
  Memory() = default;
  explicit Memory(size_t size);
  uint8_t* data() const { return bytes_.get(); }
  size_t size() const { return size_; }

 private:
  std::unique_ptr<uint8_t, FreeAligned> bytes_;
  size_t size_ = 0;
};

}  // namespace dst::core
