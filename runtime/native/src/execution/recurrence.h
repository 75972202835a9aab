// The memory of one stream, moved by whole calls or not at all.
//
// Two states alternate: a step reads one and writes the other, so a failed step has changed nothing
// that counts. `Position` says what counts; committing is one assignment of it. A call that takes
// several steps copies the state that it began with before the second step overwrites it, and
// copies it back on failure. Of the three pending buffers, one holds what waits now and one what
// waited when the call began: new items only ever go to the third, or behind what waits.
#pragma once

#include <map>
#include <optional>

#include "execution/step.h"

namespace dst::core {

struct Sampler {
  uint64_t seed;
  uint64_t draws;
};

struct Position {
  int active = 0;         // which of the two states counts
  uint64_t items = 0;     // items in the state
  int slot = 0;           // the pending buffer in use
  size_t waiting = 0;     // items in it
  int unchecked = 0;      // steps since the state was last found finite
  bool good_due = false;  // the state was found finite and is to be kept as the last good one
  std::optional<Sampler> sampler;
  GivenInputs given;
};

// The state after a step is not finite; `recover` says what the caller is told.
struct BadState {
  std::string what;
};

// Everything a stream is, to be put in the place of what it is: views into memory of the caller.
struct Contents {
  std::vector<const uint8_t*> state;  // in the order of the contract
  const uint8_t* lookback;
  const uint8_t* pending;
  size_t waiting;
  uint64_t items;
  std::optional<Sampler> sampler;
  GivenInputs given;
};

class Recurrence {
 public:
  explicit Recurrence(Engine* engine);

  Position position;

  const uint8_t* state() const { return blocks_[position.active]; }
  const uint8_t* pending() const { return pending_[position.slot].data(); }
  const uint8_t* lookback() const { return look_[position.active].data(); }
  const ItemLayout& layout() const { return layout_; }
  // The step for chunks of `t` items; made, and its graph loaded, where it is not there yet.
  BoundStep& step_for(int64_t t, bool last, Brake* brake);
  // The same for this chunk. Throws Error where none fits.
  BoundStep* step_fitting(const dst_tensor& chunk, bool last, Brake* brake);

  // Open a call; give the position it returns to `undo` if the call fails.
  Position begin();
  // Step on the chunk that lies in `step` and move on. Throws Error (nothing moved) or BadState.
  void step_once(BoundStep& step, Brake* brake);
  // Close a call of several steps: a state checked on the way is checked at its end too.
  void settle();
  // Check the state now, if it was not since it last moved. Throws BadState.
  void check();
  void undo(const Position& before);
  // Undo a call that found a bad state; if it was bad before, go back to the last good one.
  [[noreturn]] void recover(const Position& before, const BadState& bad);

  // Keep the state and lookback, before steps that `release` takes back.
  void hold();
  void release();

  // Replace everything; the copies are complete before the position moves. Throws Error.
  void put(const Contents& contents);
  void reset(const GivenInputs& given);
  // Let items wait behind those that do, and set the random source.
  void append(const uint8_t* items, size_t count, const std::optional<Sampler>& sampler);
  // Let only `first` and then `second` wait.
  void leave(const uint8_t* first, size_t count, const uint8_t* second, size_t more);

 private:
  struct Backup {
    uint8_t* block;
    std::vector<uint8_t> lookback;
    Position position;
  };

  int free_slot() const;
  void guard();
  void keep_good();
  void copy_to(Backup* backup, int active);
  void put_back(const Backup& backup, const Position& position);
  const char* bad_tensor(const uint8_t* block) const;
  void check_block(int active, uint64_t items);

  Engine* engine_;
  ItemLayout layout_;
  Memory memory_;
  uint8_t* blocks_[2];
  std::vector<uint8_t> look_[2];
  std::vector<uint8_t> pending_[3];
  std::map<std::pair<int64_t, bool>, std::unique_ptr<BoundStep>> steps_;
  BoundStep* recent_ = nullptr;
  bool recent_last_ = false;
  int taken_ = 0;  // steps of this call; 2 for more than one
  bool checked_ = false;
  Position before_;
  Backup last_good_, undo_, held_;
};

}  // namespace dst::core
