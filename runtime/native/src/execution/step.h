// The buffers of one T, bound to the graph that takes it, both ways between two states.
#pragma once

#include <vector>

#include "execution/inputs.h"

namespace dst::core {

// One output of a step: its buffer, and the part of it that is answered with.
struct Answer {
  Sizes shape;  // of what is answered, with B = 1
  dst_dtype dtype;
  size_t outer, inner;  // values before and bytes behind the time axis; inner is all without one
  bool per_item;
  Memory buffer;
  Memory copy;           // of the last item, where it does not lie in one piece
  const uint8_t* begin;  // where the answer lies
  size_t items;          // items in the buffer
};

class BoundStep {
 public:
  // `states` are the two blocks between which steps alternate. With `last` it answers for the last
  // item only.
  BoundStep(Engine* engine, int64_t t, bool last, uint8_t* const states[2]);

  int64_t t() const { return t_; }
  bool fits(const dst_tensor& chunk) const;
  // Copy a chunk, which fits, behind the lookback.
  void fill(const dst_tensor& chunk);
  ChunkInput& chunk() { return chunk_; }
  const std::vector<Answer>& answers() const { return answers_; }

  // Bind the inputs of a stream, where other ones are bound.
  void give(const GivenInputs& given);
  // Run from state `way` to the other one, and check nothing. Throws Error (`graph-failed`).
  void run(int way, const OrtRunOptions* options);
  // The name of an output that is not finite, or nullptr.
  const char* bad_output() const;
  // Gather the answers that do not lie in one piece.
  void collect();

 private:
  void bind(int way, uint8_t* const states[2]);
  void keep(Value value, OrtIoBinding* binding, const char* name, bool input);

  Engine* engine_;
  int64_t t_;
  Sizes shape_;  // of a chunk as a caller gives it
  ItemLayout layout_;
  ChunkInput chunk_;
  std::vector<Answer> answers_;
  std::vector<int64_t> asked_;
  OrtSession* session_;
  Owned<OrtIoBinding> bindings_[2];
  std::vector<Value> values_;
  GivenInputs given_;
};

}  // namespace dst::core
