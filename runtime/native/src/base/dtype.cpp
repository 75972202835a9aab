#include "base/dtype.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <new>

#include "base/error.h"

namespace dst::core {

namespace {

struct Row {
  const char* name;
  const char* code;
  size_t size;
  double least;
  double most;
};

constexpr Row kRows[] = {
    {"float16", "F16", 2, -65504.0, 65504.0},
    {"float32", "F32", 4, -static_cast<double>(std::numeric_limits<float>::max()),
     static_cast<double>(std::numeric_limits<float>::max())},
    {"float64", "F64", 8, -std::numeric_limits<double>::max(), std::numeric_limits<double>::max()},
    {"int8", "I8", 1, -128, 127},
    {"int32", "I32", 4, -2147483648.0, 2147483647.0},
    {"int64", "I64", 8, -9223372036854775808.0, 9223372036854775808.0},
    {"uint8", "U8", 1, 0, 255},
    {"bool", "BOOL", 1, 0, 1},
};
constexpr int kCount = 8;

bool find(const std::string& text, const char* Row::* column, dst_dtype* dtype) {
  for (int i = 0; i < kCount; ++i) {
    if (text == kRows[i].*column) {
      *dtype = static_cast<dst_dtype>(i);
      return true;
    }
  }
  return false;
}

// A value is not finite where all bits of its exponent are set. Without a branch in the loop the
// compiler can look at many values at once.
template <typename Bits>
bool finite_bits(const void* data, size_t count, Bits exponent) {
  const auto* bytes = static_cast<const uint8_t*>(data);
  Bits bad = 0;
  for (size_t i = 0; i < count; ++i) {
    Bits bits;
    std::memcpy(&bits, bytes + i * sizeof(Bits), sizeof(Bits));
    bad |= static_cast<Bits>((bits & exponent) == exponent);
  }
  return bad == 0;
}

}  // namespace

size_t item_size(dst_dtype dtype) { return kRows[dtype].size; }
bool is_float(dst_dtype dtype) { return dtype <= DST_FLOAT64; }
const char* dtype_name(dst_dtype dtype) {
  const int place = static_cast<int>(dtype);
  return place >= 0 && place < kCount ? kRows[place].name : "unknown";
}
const char* dtype_code(dst_dtype dtype) { return kRows[dtype].code; }
bool dtype_named(const std::string& name, dst_dtype* dtype) {
  return find(name, &Row::name, dtype);
}
bool dtype_coded(const std::string& code, dst_dtype* dtype) {
  return find(code, &Row::code, dtype);
}

void dtype_range(dst_dtype dtype, double* least, double* most) {
  *least = kRows[dtype].least;
  *most = kRows[dtype].most;
}

double half_to_double(uint16_t bits) {
  const int exponent = (bits >> 10) & 31;
  const int fraction = bits & 1023;
  double value;
  if (exponent == 31) {
    value = fraction ? std::numeric_limits<double>::quiet_NaN()
                     : std::numeric_limits<double>::infinity();
  } else if (exponent == 0) {
    value = std::ldexp(fraction, -24);
  } else {
    value = std::ldexp(1024 + fraction, exponent - 25);
  }
  return bits & 0x8000 ? -value : value;
}

uint16_t double_to_half(double value) {
  const uint16_t sign = std::signbit(value) ? 0x8000 : 0;
  const double size = std::fabs(value);
  if (std::isnan(value)) return sign | 0x7e00;
  if (size >= 65520.0) return sign | 0x7c00;  // halfway to the next power of two rounds up to it
  int exponent = 0;
  std::frexp(size, &exponent);
  const int scale = std::max(exponent - 11, -24);  // of the last bit; -24 below the normal numbers
  // nearbyint rounds ties to even in the rounding mode that a program starts with.
  const auto steps = static_cast<int>(std::nearbyint(std::ldexp(size, -scale)));
  if (size == 0) return sign;
  // Adding, not joining: a fraction that was rounded up to 2048 carries into the exponent.
  return static_cast<uint16_t>(sign + (scale == -24 ? steps : ((scale + 24) << 10) + steps));
}

void store(double value, dst_dtype dtype, void* place) {
  const auto put = [place](auto typed) { std::memcpy(place, &typed, sizeof typed); };
  switch (dtype) {
    case DST_FLOAT16:
      return put(double_to_half(value));
    case DST_FLOAT32:
      return put(static_cast<float>(value));
    case DST_FLOAT64:
      return put(value);
    case DST_INT8:
      return put(static_cast<int8_t>(value));
    case DST_INT32:
      return put(static_cast<int32_t>(value));
    case DST_INT64:
      return put(value >= 9223372036854775807.0 ? std::numeric_limits<int64_t>::max()
                                                : static_cast<int64_t>(value));
    case DST_UINT8:
      return put(static_cast<uint8_t>(value));
    case DST_BOOL:
      return put(static_cast<uint8_t>(value != 0));
  }
}

bool all_finite(const void* data, size_t count, dst_dtype dtype) {
  switch (dtype) {
    case DST_FLOAT16:
      return finite_bits<uint16_t>(data, count, 0x7c00);
    case DST_FLOAT32:
      return finite_bits<uint32_t>(data, count, 0x7f800000u);
    case DST_FLOAT64:
      return finite_bits<uint64_t>(data, count, 0x7ff0000000000000u);
    default:
      return true;
  }
}

int axis_of(const Shape& shape, char letter) {
  for (size_t i = 0; i < shape.size(); ++i) {
    if (shape[i].letter == letter) return static_cast<int>(i);
  }
  return -1;
}

Sizes sized(const Shape& shape, int64_t t, int64_t batch) {
  Sizes sizes;
  for (const Axis& axis : shape) {
    sizes.push_back(axis.letter == 'B' ? batch : axis.letter == 'T' ? t : axis.size);
  }
  return sizes;
}

Sizes fixed_axes(const Shape& shape) {
  Sizes sizes;
  for (const Axis& axis : shape) {
    if (axis.letter == 0) sizes.push_back(axis.size);
  }
  return sizes;
}

uint64_t product(const Sizes& sizes) {
  uint64_t all = 1;
  bool over = false;
  for (const int64_t size : sizes) {
    if (size == 0) return 0;
    over |= __builtin_mul_overflow(all, static_cast<uint64_t>(size), &all);
  }
  return over ? std::numeric_limits<uint64_t>::max() : all;
}

std::string spelled(const Sizes& sizes) {
  std::string text = "[";
  for (const int64_t size : sizes) {
    if (text.size() > 1) text += ", ";
    text += std::to_string(size);
  }
  return text + "]";
}

std::string shown(const std::string& text) {
  std::string safe;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    safe += byte < 32 || byte == 127 ? '?' : c;
  }
  return safe;
}

void FreeAligned::operator()(uint8_t* memory) const {
  ::operator delete(memory, std::align_val_t{kAlignment});
}

Memory::Memory(size_t size)
    : bytes_(static_cast<uint8_t*>(
          ::operator new(std::max<size_t>(size, 1), std::align_val_t{kAlignment}))),
      size_(size) {
  std::memset(bytes_.get(), 0, size);
}

}  // namespace dst::core
