#include "execution/recurrence.h"

#include <algorithm>
#include <cstring>

#include "base/error.h"

namespace dst::core {

namespace {

void copy(uint8_t* to, const uint8_t* from, size_t size) {
  if (size) std::memcpy(to, from, size);
}

void look_at(Brake* brake) {
  if (brake->reason() != Stop::none) fail(DST_STEP, "graph-failed", "the call was stopped");
}

}  // namespace

Recurrence::Recurrence(Engine* engine) : engine_(engine), layout_(engine->chunk()) {
  const Chunk& chunk = engine->chunk();
  // Five blocks side by side: two states, the last good one, and the copies for `undo` and `hold`.
  const size_t size = engine->state_bytes();
  const bool pads = chunk.tail == Tail::pad;  // no other rule takes steps back
  memory_ = Memory((pads ? 5 : 4) * size);
  blocks_[0] = memory_.data();
  blocks_[1] = memory_.data() + size;
  const size_t look = static_cast<size_t>(chunk.lookback) * layout_.item_bytes();
  for (auto& each : look_) each.resize(look);
  for (auto& each : pending_) {
    each.resize(static_cast<size_t>(chunk.nominal_t + chunk.lookahead) * layout_.item_bytes());
  }
  last_good_ = {memory_.data() + 2 * size, look_[0], position};
  undo_ = {memory_.data() + 3 * size, look_[0], position};
  held_ = {pads ? memory_.data() + 4 * size : nullptr, look_[0], position};
}

BoundStep& Recurrence::step_for(int64_t t, bool last, Brake* brake) {
  last = last && t > 1;
  std::unique_ptr<BoundStep>& held = steps_[{t, last}];
  if (!held) {
    auto step = std::make_unique<BoundStep>(engine_, t, last, blocks_);
    look_at(brake);  // loading a graph takes long and cannot be stopped
    step->give(position.given);
    guard();
    // This run lets ONNX Runtime allocate now and not later; it only reads the state that counts.
    step->run(position.active, brake->options());
    held = std::move(step);
  }
  return *held;
}

BoundStep* Recurrence::step_fitting(const dst_tensor& chunk, bool last, Brake* brake) {
  if (recent_ != nullptr && recent_last_ == last && recent_->fits(chunk)) return recent_;
  const int64_t t = check_chunk(*engine_, chunk);
  recent_ = nullptr;
  recent_ = &step_for(t, last, brake);
  recent_last_ = last;
  return recent_;
}

Position Recurrence::begin() {
  taken_ = 0;
  checked_ = false;
  if (position.good_due) keep_good();
  before_ = position;
  return position;
}

void Recurrence::step_once(BoundStep& step, Brake* brake) {
  const int active = position.active, other = active ^ 1;
  if (taken_) {
    guard();
  } else {
    taken_ = 1;
  }
  step.give(position.given);
  ChunkInput& chunk = step.chunk();
  const auto lookback = static_cast<size_t>(engine_->chunk().lookback);
  if (lookback) layout_.put(chunk.raw(), chunk.window(), 0, look_[active].data(), lookback);
  if (!chunk.readable()) {
    if (engine_->chunk().vocabulary) {
      fail(DST_STEP, "token-out-of-range", "the chunk holds a token outside the vocabulary");
    }
    fail(DST_NOT_FINITE, "input-not-finite",
         "the chunk holds a NaN or an infinity; nothing was stepped");
  }
  look_at(brake);
  step.run(active, brake->options());
  if (const char* name = step.bad_output()) {
    fail(DST_NOT_FINITE, "output-not-finite",
         "output " + shown(name) + " holds a NaN or an infinity; the step was not taken");
  }
  const auto t = static_cast<size_t>(step.t());
  if (lookback) layout_.take(chunk.raw(), chunk.window(), t, look_[other].data(), lookback);
  const bool due = position.unchecked + 1 >= engine_->check_every();
  if (due) check_block(other, position.items + t);
  position.active = other;
  position.items += t;
  position.unchecked = due ? 0 : position.unchecked + 1;
  position.good_due = due;
}

void Recurrence::settle() {
  if (checked_ && !position.good_due) check();
}

void Recurrence::check() {
  if (position.unchecked == 0) return;
  check_block(position.active, position.items);
  position.unchecked = 0;
  position.good_due = true;
}

void Recurrence::undo(const Position& before) {
  if (taken_ > 1) put_back(undo_, before);
  position = before;
}

void Recurrence::recover(const Position& before, const BadState& bad) {
  undo(before);
  std::string where = "the stream is as it was before the call";
  if (bad_tensor(blocks_[before.active]) != nullptr) {
    Contents good{{},
                  last_good_.lookback.data(),
                  nullptr,
                  0,
                  last_good_.position.items,
                  last_good_.position.sampler,
                  last_good_.position.given};
    for (const Place& place : engine_->places())
      good.state.push_back(last_good_.block + place.begin);
    put(good);
    where = "the stream was put back to its last good snapshot at item " +
            std::to_string(position.items) + ", with nothing pending";
  }
  fail(DST_NOT_FINITE, "state-not-finite", bad.what + "; " + where);
}

void Recurrence::hold() {
  copy_to(&held_, position.active);
  held_.position = position;
}

void Recurrence::release() {
  put_back(held_, held_.position);
  position = held_.position;
}

void Recurrence::put(const Contents& contents) {
  const int active = position.active ^ 1, slot = free_slot();
  const std::vector<Place>& places = engine_->places();
  for (size_t i = 0; i < places.size(); ++i) {
    copy(blocks_[active] + places[i].begin, contents.state[i], places[i].size);
  }
  copy(look_[active].data(), contents.lookback, look_[active].size());
  const size_t bytes = contents.waiting * layout_.item_bytes();
  if (bytes > pending_[slot].size()) pending_[slot].resize(bytes);
  copy(pending_[slot].data(), contents.pending, bytes);
  try {
    check_block(active, contents.items);
  } catch (const BadState& bad) {
    fail(DST_NOT_FINITE, "state-not-finite", bad.what + "; the stream is as it was");
  }
  position = {active, contents.items,   slot,          contents.waiting, 0,
              true,   contents.sampler, contents.given};
}

void Recurrence::reset(const GivenInputs& given) {
  const Chunk& chunk = engine_->chunk();
  std::vector<uint8_t> lookback(look_[0].size());
  const size_t size = item_size(chunk.dtype);
  for (size_t at = 0; at < lookback.size(); at += size) {
    store(chunk.lookback_fill, chunk.dtype, &lookback[at]);
  }
  Contents start{{}, lookback.data(), nullptr, 0, 0, std::nullopt, given};
  for (const Place& place : engine_->places()) {
    start.state.push_back(engine_->initial() + place.begin);
  }
  put(start);
}

void Recurrence::append(const uint8_t* items, size_t count, const std::optional<Sampler>& sampler) {
  const size_t size = layout_.item_bytes();
  std::vector<uint8_t>& room = pending_[position.slot];
  copy(room.data() + position.waiting * size, items, count * size);
  position.waiting += count;
  position.sampler = sampler;
}

void Recurrence::leave(const uint8_t* first, size_t count, const uint8_t* second, size_t more) {
  const int slot = free_slot();
  const size_t size = layout_.item_bytes();
  copy(pending_[slot].data(), first, count * size);
  copy(pending_[slot].data() + count * size, second, more * size);
  position.slot = slot;
  position.waiting = count + more;
}

int Recurrence::free_slot() const {
  for (int slot = 0; slot < 2; ++slot) {
    if (slot != before_.slot && slot != position.slot) return slot;
  }
  return 2;
}

void Recurrence::guard() {
  if (taken_ != 1) return;
  copy_to(&undo_, before_.active);
  taken_ = 2;
}

void Recurrence::keep_good() {
  copy_to(&undo_, position.active);
  undo_.position = position;
  std::swap(last_good_, undo_);
  position.good_due = false;
}

void Recurrence::copy_to(Backup* backup, int active) {
  copy(backup->block, blocks_[active], engine_->state_bytes());
  copy(backup->lookback.data(), look_[active].data(), look_[active].size());
}

void Recurrence::put_back(const Backup& backup, const Position& to) {
  copy(blocks_[to.active], backup.block, engine_->state_bytes());
  copy(look_[to.active].data(), backup.lookback.data(), backup.lookback.size());
}

const char* Recurrence::bad_tensor(const uint8_t* block) const {
  for (const Place& place : engine_->places()) {
    if (!all_finite(block + place.begin, place.count, place.dtype)) return place.name.c_str();
  }
  return nullptr;
}

void Recurrence::check_block(int active, uint64_t items) {
  const char* name = bad_tensor(blocks_[active]);
  if (name == nullptr) {
    checked_ = true;
    return;
  }
  throw BadState{"state " + shown(name) + " holds a NaN or an infinity, found at item " +
                 std::to_string(items)};
}

}  // namespace dst::core
