// A bundle's graphs, each opened when it is first needed, and the layout of a state in memory.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "bundle/reader.h"
#include "execution/ort.h"
#include "execution/watchdog.h"

namespace dst::core {

struct Options {
  int threads = 1;
  bool spin = false;
  bool prepack = true;
  bool hash_files = true;
  int check_state_every = 64;
  std::string lowering;              // "" for the best
  std::vector<int64_t> chunk_sizes;  // empty for all
};

// Where one state tensor lies in a block.
struct Place {
  std::string name;
  dst_dtype dtype;
  Sizes shape;
  size_t begin, size, count;
};

// Whose state a saved state is.
struct Identity {
  std::string model_id, state_hash, bundle_id, precision;
  std::map<std::string, std::string> constants;
};

class Engine {
 public:
  // Throws Error.
  Engine(const std::string& path, const Options& options);

  const Bundle& bundle() const { return bundle_; }
  const Manifest& manifest() const { return bundle_.manifest; }
  const Chunk& chunk() const { return bundle_.manifest.chunk; }
  const std::vector<int64_t>& chunk_sizes() const { return chunk_sizes_; }
  bool runs(int64_t t) const { return graphs_.count(t) != 0; }
  int check_every() const { return options_.check_state_every; }
  const std::vector<Place>& places() const { return places_; }
  size_t state_bytes() const { return state_bytes_; }
  const uint8_t* initial() const { return initial_.data(); }
  const Identity& identity() const { return identity_; }
  const std::vector<Value>& constants() const { return constants_; }
  Watchdog& watchdog() { return watchdog_; }

  const Graph& graph_for(int64_t t) const;
  // The open graph for chunks of `t` items; opened at the first call.
  OrtSession* session_for(int64_t t);

 private:
  void choose_graphs();
  void lay_out_state();
  void make_constants();
  Owned<OrtSession> load(const Graph& graph) const;

  Options options_;
  Bundle bundle_;
  std::map<int64_t, const Graph*> graphs_;
  std::vector<int64_t> chunk_sizes_;
  std::vector<Place> places_;
  size_t state_bytes_ = 0;
  Memory initial_;
  std::vector<Value> constants_;
  Identity identity_;
  std::mutex mutex_;
  std::map<std::string, Owned<OrtSession>> open_;
  Watchdog watchdog_;
};

// Compare the inputs and outputs of an open graph with the contract. Throws Error (`graph`).
void check_graph(const std::string& where, const Graph& graph, const Manifest& manifest,
                 const OrtSession* session);

}  // namespace dst::core
