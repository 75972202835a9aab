// Open a bundle: check every file of it, and read its initial state.
#pragma once

#include <string>
#include <vector>

#include "bundle/manifest.h"

namespace dst::core {

struct Bundle {
  std::string root;
  std::string label;  // what messages call it
  Manifest manifest;

  std::string path_of(const std::string& file) const { return root + "/" + file; }
};

// With `hash` every file is hashed, else only sizes are compared. Throws Error.
Bundle open_bundle(const std::string& path, bool hash);

struct StoredTensor {
  std::string name;
  dst_dtype dtype;
  Sizes shape;
  size_t begin, size;  // where its bytes lie behind the header
};

// Read the header of a safetensors file. Returns where the bytes of the tensors begin. Throws
// std::runtime_error where it is none; the tensors fill the file without gaps.
size_t read_tensors(const std::vector<uint8_t>& file, std::vector<StoredTensor>* tensors);

// The initial value of each `stored` state tensor, in the order of the contract; else empty.
std::vector<std::vector<uint8_t>> initial_tensors(const Bundle& bundle);

}  // namespace dst::core
