#include "execution/inputs.h"

#include <cstring>

#include "base/error.h"

namespace dst::core {

namespace {

template <typename Unsigned>
bool below(const void* ids, size_t count, uint64_t vocabulary) {
  // A negative id reads as a huge unsigned one: one comparison finds both.
  const auto* bytes = static_cast<const uint8_t*>(ids);
  bool good = true;
  for (size_t i = 0; i < count; ++i) {
    Unsigned id;
    std::memcpy(&id, bytes + i * sizeof id, sizeof id);
    good &= id < vocabulary;
  }
  return good;
}

Sizes shape_of(const dst_tensor& tensor) {
  return tensor.rank > 0 ? Sizes(tensor.shape, tensor.shape + tensor.rank) : Sizes{};
}

void check_tensor(const char* what, const dst_tensor& tensor, dst_dtype wanted) {
  if (tensor.dtype != wanted) {
    fail(DST_STEP, "chunk-type",
         std::string(what) + " has dtype " + dtype_name(tensor.dtype) + ", expected " +
             dtype_name(wanted));
  }
}

}  // namespace

ItemLayout::ItemLayout(const Chunk& chunk) : ItemLayout(chunk.shape, chunk.dtype) {}

ItemLayout::ItemLayout(const Shape& shape, dst_dtype dtype) : outer(1), inner(item_size(dtype)) {
  const int time = axis_of(shape, 'T');
  for (int i = 0; i < static_cast<int>(shape.size()); ++i) {
    if (shape[i].letter) continue;
    (i < time ? outer : inner) *= static_cast<size_t>(shape[i].size);
  }
}

void ItemLayout::put(uint8_t* chunk, size_t window, size_t at, const uint8_t* items,
                     size_t count) const {
  if (outer == 1) {
    if (count) std::memcpy(chunk + at * inner, items, count * inner);
    return;
  }
  for (size_t o = 0; o < outer; ++o) {
    for (size_t i = 0; i < count; ++i) {
      std::memcpy(chunk + (o * window + at + i) * inner, items + (i * outer + o) * inner, inner);
    }
  }
}

void ItemLayout::take(const uint8_t* chunk, size_t window, size_t at, uint8_t* items,
                      size_t count) const {
  if (outer == 1) {
    if (count) std::memcpy(items, chunk + at * inner, count * inner);
    return;
  }
  for (size_t o = 0; o < outer; ++o) {
    for (size_t i = 0; i < count; ++i) {
      std::memcpy(items + (i * outer + o) * inner, chunk + (o * window + at + i) * inner, inner);
    }
  }
}

ChunkInput::ChunkInput(const Chunk& chunk, int64_t t)
    : chunk_(chunk),
      layout_(chunk),
      window_(static_cast<size_t>(chunk.window(t))),
      raw_(window_ * layout_.item_bytes()) {
  if (chunk.mean.empty()) return;
  feed_ = Memory(raw_.size());
  const dst_dtype wide = normalised_in(chunk.dtype);
  const size_t size = item_size(wide), count = chunk.mean.size();
  mean_.resize(count * size);
  std_.resize(count * size);
  for (size_t i = 0; i < count; ++i) {
    store(chunk.mean[i], wide, &mean_[i * size]);
    store(chunk.std[i], wide, &std_[i * size]);
  }
}

template <typename Float>
void ChunkInput::normalise() {
  const size_t row = layout_.inner / sizeof(Float);
  const auto *mean = reinterpret_cast<const Float*>(mean_.data()),
             *std = reinterpret_cast<const Float*>(std_.data());
  const auto* from = reinterpret_cast<const Float*>(raw_.data());
  auto* to = reinterpret_cast<Float*>(feed_.data());
  for (size_t o = 0; o < layout_.outer; ++o, mean += row, std += row) {
    for (size_t i = 0; i < window_; ++i) {
      for (size_t j = 0; j < row; ++j) *to++ = (*from++ - mean[j]) / std[j];
    }
  }
}

// In float32, where no difference of two float16 overflows, and rounded once.
void ChunkInput::normalise_half() {
  const size_t row = layout_.inner / 2;
  const auto *mean = reinterpret_cast<const float*>(mean_.data()),
             *std = reinterpret_cast<const float*>(std_.data());
  const auto* from = reinterpret_cast<const uint16_t*>(raw_.data());
  auto* to = reinterpret_cast<uint16_t*>(feed_.data());
  for (size_t o = 0; o < layout_.outer; ++o, mean += row, std += row) {
    for (size_t i = 0; i < window_; ++i) {
      for (size_t j = 0; j < row; ++j) {
        const float centred = static_cast<float>(half_to_double(*from++)) - mean[j];
        *to++ = double_to_half(centred / std[j]);
      }
    }
  }
}

bool ChunkInput::readable() {
  const size_t count = raw_.size() / item_size(chunk_.dtype);
  if (chunk_.vocabulary) return ids_in_range(raw(), count, chunk_.dtype, chunk_.vocabulary);
  if (feed_.size()) {
    if (chunk_.dtype == DST_FLOAT32) {
      normalise<float>();
    } else if (chunk_.dtype == DST_FLOAT64) {
      normalise<double>();
    } else {
      normalise_half();
    }
  }
  return all_finite(feed(), count, chunk_.dtype);
}

bool ids_in_range(const void* ids, size_t count, dst_dtype dtype, int64_t vocabulary) {
  const auto limit = static_cast<uint64_t>(vocabulary);
  if (dtype == DST_INT64) return below<uint64_t>(ids, count, limit);
  if (dtype == DST_INT32) return below<uint32_t>(ids, count, limit);
  return below<uint8_t>(ids, count, limit);
}

size_t check_items(const Chunk& chunk, const dst_tensor& items) {
  check_tensor("items", items, chunk.dtype);
  bool good = items.rank >= 1 && items.shape[0] >= 0;
  int32_t at = 1;
  for (const Axis& axis : chunk.shape) {
    if (axis.letter || !good) continue;
    good = at < items.rank && items.shape[at++] == axis.size;
  }
  if (!good || at != items.rank) {
    fail(DST_STEP, "chunk-shape",
         "items have shape " + spelled(shape_of(items)) + ", expected [n] and then " +
             spelled(fixed_axes(chunk.shape)));
  }
  const auto count = static_cast<size_t>(items.shape[0]);
  const size_t values = count * (ItemLayout(chunk).item_bytes() / item_size(chunk.dtype));
  if (values && items.data == nullptr) fail(DST_ARGUMENT, "argument", "items have no data");
  if (chunk.vocabulary) {
    if (!ids_in_range(items.data, values, chunk.dtype, chunk.vocabulary)) {
      fail(DST_STEP, "token-out-of-range",
           "a token lies outside 0 .. " + std::to_string(chunk.vocabulary - 1) +
               "; nothing was read");
    }
  } else if (!all_finite(items.data, values, chunk.dtype)) {
    fail(DST_NOT_FINITE, "input-not-finite", "items hold a NaN or an infinity; nothing was read");
  }
  return count;
}

int64_t check_chunk(const Engine& engine, const dst_tensor& tensor) {
  const Chunk& chunk = engine.chunk();
  check_tensor("chunk", tensor, chunk.dtype);
  const int time = axis_of(chunk.shape, 'T');
  bool good = tensor.rank == static_cast<int32_t>(chunk.shape.size());
  for (int32_t i = 0; good && i < tensor.rank; ++i) {
    const Axis axis = chunk.shape[i];
    good = axis.letter == 'T' || tensor.shape[i] == (axis.letter ? 1 : axis.size);
  }
  const int64_t t = good ? tensor.shape[time] - chunk.lookahead : 0;
  if (!good || !engine.runs(t)) {
    fail(DST_STEP, "chunk-shape",
         "chunk has shape " + spelled(shape_of(tensor)) + ", this session runs T = " +
             spelled(engine.chunk_sizes()) + "; advance takes any number of items");
  }
  if (tensor.data == nullptr) fail(DST_ARGUMENT, "argument", "the chunk has no data");
  return t;
}

GivenInputs given_inputs(const Manifest& manifest, const dst_named_tensor* inputs, size_t count) {
  const auto refuse = [](const char* code, const std::string& name, const char* what) {
    fail(DST_SESSION, code, "stream input " + shown(name) + " " + what);
  };
  const auto find = [&](const std::string& name) -> const dst_tensor* {
    for (size_t i = 0; i < count; ++i) {
      if (name == inputs[i].name) return &inputs[i].tensor;
    }
    return nullptr;
  };
  for (size_t i = 0; i < count; ++i) {
    bool known = false;
    for (const Port& port : manifest.stream_inputs) known |= port.input == inputs[i].name;
    if (!known) refuse("stream-input-unknown", inputs[i].name, "is not known");
  }
  auto given = std::make_shared<Given>();
  for (const Port& port : manifest.stream_inputs) {
    const dst_tensor* tensor = find(port.input);
    if (tensor == nullptr) refuse("stream-input-missing", port.input, "is missing");
  }
  for (const Port& port : manifest.stream_inputs) {
    const dst_tensor* tensor = find(port.input);
    if (tensor->dtype != port.dtype) refuse("stream-input-type", port.input, "has another dtype");
    const Sizes shape = sized(port.shape, 0), held = shape_of(*tensor);
    if (held != shape && held != fixed_axes(port.shape)) {
      refuse("stream-input-shape", port.input, "has another shape");
    }
    const auto values = static_cast<size_t>(product(shape));
    const auto* bytes = static_cast<const uint8_t*>(tensor->data);
    if (values && bytes == nullptr) fail(DST_ARGUMENT, "argument", "a stream input has no data");
    if (!all_finite(bytes, values, port.dtype)) {
      refuse("stream-input-not-finite", port.input, "holds a NaN or an infinity");
    }
    given->bytes.emplace_back(bytes, bytes + values * item_size(port.dtype));
    std::vector<uint8_t>& copy = given->bytes.back();
    given->values.push_back(tensor_value(copy.data(), copy.size(), port.dtype, shape));
  }
  return given;
}

}  // namespace dst::core
