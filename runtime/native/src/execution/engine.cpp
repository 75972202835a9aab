#include "execution/engine.h"

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstring>

#include "base/error.h"

namespace dst::core {

namespace {

constexpr int kMaxThreads = 1024;

std::array<int, 3> version(const std::string& text) {
  std::array<int, 3> numbers{};
  std::sscanf(text.c_str(), "%d.%d.%d", &numbers[0], &numbers[1], &numbers[2]);
  return numbers;
}

bool has(const std::vector<int64_t>& values, int64_t value) {
  return std::find(values.begin(), values.end(), value) != values.end();
}

// Fused graphs are the fastest on a CPU, which has kernels for their operators.
int rank(const Graph* graph) {
  return graph->lowering == "fused" ? 0 : graph->lowering == "other" ? 1 : 2;
}

}  // namespace

Engine::Engine(const std::string& path, const Options& options) : options_(options) {
  if (options.threads < 1 || options.threads > kMaxThreads) {
    fail(DST_ARGUMENT, "argument", "threads: expected 1 to 1024");
  }
  if (options.check_state_every < 1) {
    fail(DST_ARGUMENT, "argument", "check_state_every: expected 1 or more");
  }
  bundle_ = open_bundle(path, options.hash_files);
  choose_graphs();
  lay_out_state();
  make_constants();
  const Manifest& m = manifest();
  identity_.model_id = m.model_id;
  identity_.state_hash = m.state_hash;
  identity_.bundle_id = m.upgraded_from.empty() ? m.bundle_id : m.upgraded_from;
  identity_.precision = m.precision;
  for (const Constant& one : m.constants) identity_.constants[one.input] = constant_mark(one);
}

// Of graphs of one lowering, one that runs every T goes before those for one T alone: each open
// graph holds its weights once more.
void Engine::choose_graphs() {
  std::vector<const Graph*> able;
  for (const Graph& graph : manifest().graphs) {
    if (options_.lowering.empty() || graph.lowering == options_.lowering) able.push_back(&graph);
  }
  if (able.empty()) {
    fail(DST_SESSION, "lowering",
         bundle_.label + ": has no graph of lowering " + options_.lowering);
  }
  const auto here = version(ort_version());
  able.erase(std::remove_if(able.begin(), able.end(),
                            [&here](const Graph* g) { return version(g->min_ort) > here; }),
             able.end());
  if (able.empty()) {
    fail(DST_SESSION, "onnxruntime-too-old",
         bundle_.label + ": its graphs need a newer ONNX Runtime than " + ort_version());
  }
  std::stable_sort(able.begin(), able.end(), [](const Graph* a, const Graph* b) {
    return std::pair(rank(a), a->allowed_t.size()) < std::pair(rank(b), b->allowed_t.size());
  });
  able.erase(std::remove_if(able.begin(), able.end(),
                            [](const Graph* g) { return !g->batch.empty() && !has(g->batch, 1); }),
             able.end());
  std::set<int64_t> wanted(options_.chunk_sizes.begin(), options_.chunk_sizes.end());
  if (wanted.empty()) {
    for (const Graph* graph : able) wanted.insert(graph->allowed_t.begin(), graph->allowed_t.end());
  }
  for (const int64_t t : wanted) {
    const Graph* first = nullptr;
    for (const Graph* graph : able) {
      if (first == nullptr && has(graph->allowed_t, t)) first = graph;
    }
    if (first == nullptr) {
      fail(DST_SESSION, "chunk-size",
           bundle_.label + ": no graph runs T = " + std::to_string(t) + " as asked");
    }
    const auto for_all = std::find_if(able.begin(), able.end(), [&](const Graph* graph) {
      return graph->lowering == first->lowering &&
             std::all_of(wanted.begin(), wanted.end(),
                         [graph](int64_t size) { return has(graph->allowed_t, size); });
    });
    graphs_[t] = for_all == able.end() ? first : *for_all;
    chunk_sizes_.push_back(t);
  }
  if (chunk_sizes_.empty())
    fail(DST_SESSION, "chunk-size", bundle_.label + ": no graph runs B = 1");
}

void Engine::lay_out_state() {
  for (const State& state : manifest().state) {
    Place place{state.input, state.dtype, sized(state.shape, 0), state_bytes_, 0, 0};
    place.count = static_cast<size_t>(product(place.shape));
    place.size = place.count * item_size(place.dtype);
    state_bytes_ += (place.size + kAlignment - 1) / kAlignment * kAlignment;
    places_.push_back(std::move(place));
  }
  initial_ = Memory(state_bytes_);
  const auto stored = initial_tensors(bundle_);
  for (size_t i = 0; i < places_.size(); ++i) {
    const Place& place = places_[i];
    uint8_t* at = initial_.data() + place.begin;
    if (manifest().state[i].stored) {
      if (place.size) std::memcpy(at, stored[i].data(), place.size);
      continue;
    }
    const size_t size = item_size(place.dtype);
    for (size_t n = 0; n < place.count; ++n) {
      store(manifest().state[i].fill, place.dtype, at + n * size);
    }
  }
}

void Engine::make_constants() {
  for (Constant& one : bundle_.manifest.constants) {
    one.bytes.reserve(1);  // a tensor without values still wants an address
    constants_.push_back(tensor_value(one.bytes.data(), one.bytes.size(), one.dtype, one.shape));
  }
}

const Graph& Engine::graph_for(int64_t t) const {
  const auto held = graphs_.find(t);
  if (held == graphs_.end()) {
    fail(DST_SESSION, "chunk-size",
         bundle_.label + ": T = " + std::to_string(t) + " is not open in this session");
  }
  return *held->second;
}

OrtSession* Engine::session_for(int64_t t) {
  const Graph& graph = graph_for(t);
  const std::lock_guard<std::mutex> lock(mutex_);
  Owned<OrtSession>& session = open_[graph.file];
  if (!session) session = load(graph);
  return session.get();
}

Owned<OrtSession> Engine::load(const Graph& graph) const {
  const std::string where = bundle_.label + ": " + graph.file;
  OrtSessionOptions* made = nullptr;
  ort_check(ort().CreateSessionOptions(&made), "session", where);
  const Owned<OrtSessionOptions> options(made);
  const auto set = [&](const char* key, const char* value) {
    ort_check(ort().AddSessionConfigEntry(made, key, value), "session", where);
  };
  ort_check(ort().SetIntraOpNumThreads(made, options_.threads), "session", where);
  ort_check(ort().SetInterOpNumThreads(made, 1), "session", where);
  ort_check(ort().SetSessionLogSeverityLevel(made, 4), "session", where);
  set("session.intra_op.allow_spinning", options_.spin ? "1" : "0");
  if (!options_.prepack) set("session.disable_prepacking", "1");
  Owned<OrtSession> session = open_graph(bundle_.path_of(graph.file), made, where);
  check_graph(where, graph, manifest(), session.get());
  return session;
}

}  // namespace dst::core
