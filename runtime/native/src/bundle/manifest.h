// What a manifest says, as structs, and the reader of its bytes.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/dtype.h"

namespace dst::core {

enum class Tail { exact, pad, refuse };

struct Chunk {
  std::string input;
  dst_dtype dtype;
  Shape shape;
  int64_t nominal_t;
  std::vector<int64_t> allowed_t;
  int64_t vocabulary;  // 0 for features
  std::string tokenizer;
  std::vector<double> mean, std;  // empty where nothing is normalised
  int64_t lookback, lookahead;
  double lookback_fill, pad_value;
  Tail tail;
  std::string tail_name;

  int64_t window(int64_t t) const { return lookback + t + lookahead; }
};

struct Constant {
  std::string input;
  dst_dtype dtype;
  Sizes shape;
  std::vector<uint8_t> bytes;
};

struct Port {  // a stream input
  std::string input;
  dst_dtype dtype;
  Shape shape;
};

struct Output {
  std::string name;
  dst_dtype dtype;
  Shape shape;
  std::string meaning;
};

struct State {
  std::string input, output;
  dst_dtype dtype;
  Shape shape;
  double fill;
  std::optional<std::string> stored;
};

struct Graph {
  std::string file, lowering, min_ort;
  std::vector<int64_t> allowed_t, batch;
  bool contrib;  // it uses operators of com.microsoft
  double golden_tolerance;
  std::string answers;  // "" where it has no such input
};

struct FileEntry {
  std::string sha256;
  uint64_t size;
};

struct Manifest {
  std::string name, model_id, bundle_id, state_hash, upgraded_from, precision;
  Chunk chunk;
  std::vector<Constant> constants;
  std::vector<Port> stream_inputs;
  std::vector<Output> outputs;
  std::vector<State> state;
  std::vector<Graph> graphs;
  std::map<std::string, FileEntry> files;
};

constexpr size_t kMaxManifestBytes = size_t{1} << 24;
constexpr uint64_t kMaxTensorFileBytes = uint64_t{1} << 30;
constexpr uint64_t kMaxStreamBytes = uint64_t{1} << 32;
constexpr const char* kInitFile = "init.safetensors";

// Read the bytes of manifest.json and check every rule that needs no other file. Throws Error.
Manifest decode_manifest(std::string_view bytes);

// Whether a name may be one of a bundle's files.
bool plain_name(const std::string& name);

// The line that tells a constant from another one.
std::string constant_mark(const Constant& constant);
// A mark as `constant_mark` spells it; as it is where it tells no floats.
std::string respelled(const std::string& mark);

}  // namespace dst::core
