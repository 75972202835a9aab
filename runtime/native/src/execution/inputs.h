// What callers feed a stream: its checks, its layout in a chunk, and its normalisation.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "execution/engine.h"

namespace dst::core {

// A run of items is time first: [n, outer, inner]. In a chunk the time axis stands between.
struct ItemLayout {
  explicit ItemLayout(const Chunk& chunk);
  ItemLayout(const Shape& shape, dst_dtype dtype);
  size_t item_bytes() const { return outer * inner; }
  // Copy `count` items into a chunk of `window` items, from place `at` on; and back.
  void put(uint8_t* chunk, size_t window, size_t at, const uint8_t* items, size_t count) const;
  void take(const uint8_t* chunk, size_t window, size_t at, uint8_t* items, size_t count) const;

  size_t outer;  // values that stand before the time axis
  size_t inner;  // bytes that stand behind it
};

// The buffers of a step's chunk, made once.
class ChunkInput {
 public:
  ChunkInput(const Chunk& chunk, int64_t t);
  // Lookback, chunk and look-ahead as callers give them.
  uint8_t* raw() const { return raw_.data(); }
  // The same as the graph takes them.
  uint8_t* feed() const { return feed_.size() ? feed_.data() : raw_.data(); }
  size_t window() const { return window_; }
  size_t bytes() const { return raw_.size(); }
  // Bring `feed` up to date, and say whether a graph can read it: ids in the vocabulary, no NaN.
  bool readable();

 private:
  template <typename Float>
  void normalise();
  void normalise_half();

  const Chunk& chunk_;
  ItemLayout layout_;
  size_t window_;
  Memory raw_, feed_;
  std::vector<uint8_t> mean_, std_;
};

// Whether every id lies in [0, vocabulary).
bool ids_in_range(const void* ids, size_t count, dst_dtype dtype, int64_t vocabulary);

// Whether items are such as a stream takes. Throws Error: `chunk-type`, `chunk-shape`,
// `token-out-of-range`, `input-not-finite`. Returns how many they are.
size_t check_items(const Chunk& chunk, const dst_tensor& items);
// Whether a chunk fits. Returns its T. Throws Error: `chunk-type`, `chunk-shape`.
int64_t check_chunk(const Engine& engine, const dst_tensor& chunk);

// The inputs of one stream, in the contract's order; they never change, so streams may share them.
struct Given {
  std::vector<std::vector<uint8_t>> bytes;
  std::vector<Value> values;
};
using GivenInputs = std::shared_ptr<const Given>;

// Check and copy what a caller gives. Throws Error (`stream-input-…`).
GivenInputs given_inputs(const Manifest& manifest, const dst_named_tensor* inputs, size_t count);

}  // namespace dst::core
