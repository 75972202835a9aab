// One live recurrence: step it on chunks or items, and save, copy or reset what it remembers.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "base/error.h"
#include "state/file.h"
#include "state/sampler.h"

namespace dst::core {

class Stream {
 public:
  // A stream at the initial state, with these inputs.
  Stream(std::shared_ptr<Engine> engine, const GivenInputs& given);
  // A stream that is what a record says. Throws Error.
  Stream(std::shared_ptr<Engine> engine, const Record& record, bool allow_precision,
         const std::string& where);

  const std::shared_ptr<Engine>& engine() const { return engine_; }
  const Position& position() const { return core_.position; }
  const Recurrence& core() const { return core_; }

  // Each throws Error and then leaves the stream as it was.
  void step(const dst_tensor& chunk, bool last, double deadline_ms);
  void advance(const dst_tensor& items, bool last, double deadline_ms);
  // The same for a model whose tokens are bytes.
  void advance_bytes(const uint8_t* bytes, size_t count, bool last, double deadline_ms);
  void flush(double deadline_ms);
  // Read the prompt and make up to `count` tokens; `made` rises with each of them.
  void generate(const dst_tensor& prompt, size_t count, const dst_sampling& sampling,
                int64_t* tokens, size_t* made);
  void cancel() { brake_.cancel(); }

  void reset() { core_.reset(GivenInputs(core_.position.given)); }
  void restore(const Record& record) {
    put_record(engine_.get(), &core_, record, false, "snapshot");
  }
  // What the stream is, once its state was found finite; views until the next call.
  Record finite_record();

  // The place `index` of what the last call answered; nullptr where there is none.
  const dst_tensor* output(size_t index) const;

 private:
  // What a call of several steps answers for one output.
  struct Joined {
    std::vector<uint8_t> bytes;
    Sizes shape;
    size_t items;
  };

  template <typename Work>
  void whole(Work work);
  void finish();
  void tell_stop();
  void read(const dst_tensor& items, bool last);
  void plan_chunks(const uint8_t* items, size_t count, bool last);
  void plan_tail(bool last);
  // Take steps of `sizes_` over what waits and then `items`. `padded` items more are answered for
  // as if padding followed; they go on waiting, and the state after these steps is dropped.
  void take_steps(const uint8_t* items, size_t count, size_t padded, bool last);
  void fill(BoundStep& step, const uint8_t* items, size_t count, size_t at, bool padding);
  void make_room(size_t answered, bool last);
  void take(BoundStep& step, size_t number, size_t at, size_t count, bool last);
  void show_joined();
  size_t logits_place() const;
  int64_t predict(const uint8_t* items, size_t count, const Choice& choice, const uint64_t* seed,
                  size_t logits);
  bool last_logits(size_t place, std::vector<double>* row) const;

  std::shared_ptr<Engine> engine_;
  Brake brake_;
  Recurrence core_;
  std::vector<int64_t> sizes_;
  std::vector<Joined> joined_;
  std::vector<dst_tensor> outputs_;
  bool answered_ = false;
};

}  // namespace dst::core
