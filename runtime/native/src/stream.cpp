#include "stream.h"

#include <algorithm>
#include <cstring>

#include "base/error.h"

namespace dst::core {

Stream::Stream(std::shared_ptr<Engine> engine, const GivenInputs& given)
    : engine_(std::move(engine)), core_(engine_.get()) {
  joined_.resize(engine_->manifest().outputs.size());
  outputs_.resize(joined_.size());
  core_.reset(given);
}

Stream::Stream(std::shared_ptr<Engine> engine, const Record& record, bool allow_precision,
               const std::string& where)
    : engine_(std::move(engine)), core_(engine_.get()) {
  joined_.resize(engine_->manifest().outputs.size());
  outputs_.resize(joined_.size());
  try {
    put_record(engine_.get(), &core_, record, allow_precision, where);
  } catch (const Error& error) {
    if (error.code != "state-not-finite") throw;
    fail(DST_STATE_CORRUPT, "state-not-finite", where + ": " + error.message);
  }
}

void Stream::step(const dst_tensor& chunk, bool last, double deadline_ms) {
  answered_ = false;
  const Running running(&brake_, &engine_->watchdog(), deadline_ms);
  BoundStep* step = nullptr;
  whole([&] {
    step = core_.step_fitting(chunk, last, &brake_);
    if (core_.position.waiting) {
      fail(DST_STEP, "items-pending",
           std::to_string(core_.position.waiting) +
               " items from advance wait, and step would overtake them; flush first, or go on with "
               "advance");
    }
    step->fill(chunk);
    core_.step_once(*step, &brake_);
    finish();
  });
  step->collect();
  for (size_t i = 0; i < outputs_.size(); ++i) {
    const Answer& answer = step->answers()[i];
    outputs_[i] = {answer.dtype, static_cast<int32_t>(answer.shape.size()), answer.shape.data(),
                   answer.begin};
  }
  answered_ = true;
}

void Stream::advance(const dst_tensor& items, bool last, double deadline_ms) {
  answered_ = false;
  const Running running(&brake_, &engine_->watchdog(), deadline_ms);
  read(items, last);
}

void Stream::advance_bytes(const uint8_t* bytes, size_t count, bool last, double deadline_ms) {
  answered_ = false;
  const Running running(&brake_, &engine_->watchdog(), deadline_ms);
  const Chunk& chunk = engine_->chunk();
  if (chunk.tokenizer != "bytes") {
    fail(DST_STEP, "chunk-type", "items are bytes, and the tokens of this model are not");
  }
  const auto shape = static_cast<int64_t>(count);
  std::vector<int64_t> wide;
  std::vector<int32_t> middle;
  const void* data = bytes;
  if (chunk.dtype == DST_INT64) {
    wide.assign(bytes, bytes + count);
    data = wide.data();
  } else if (chunk.dtype == DST_INT32) {
    middle.assign(bytes, bytes + count);
    data = middle.data();
  }
  read({chunk.dtype, 1, &shape, data}, last);
}

void Stream::read(const dst_tensor& items, bool last) {
  const size_t count = check_items(engine_->chunk(), items);
  whole([&] {
    plan_chunks(static_cast<const uint8_t*>(items.data), count, last);
    finish();
  });
  show_joined();
}

void Stream::flush(double deadline_ms) {
  answered_ = false;
  const Running running(&brake_, &engine_->watchdog(), deadline_ms);
  whole([&] {
    plan_tail(false);
    finish();
  });
  show_joined();
}

Record Stream::finite_record() {
  const Position before = core_.begin();
  try {
    core_.check();
  } catch (const BadState& bad) {
    core_.recover(before, bad);
  }
  return record_of(*engine_, core_);
}

const dst_tensor* Stream::output(size_t index) const {
  return answered_ && index < outputs_.size() ? &outputs_[index] : nullptr;
}

// Do some steps of the call that runs: all of them, or none.
template <typename Work>
void Stream::whole(Work work) {
  const Position before = core_.begin();
  try {
    work();
    core_.settle();
  } catch (const BadState& bad) {
    core_.recover(before, bad);
  } catch (const Error& error) {
    core_.undo(before);
    // A graph that was stopped fails like one that cannot run.
    if (error.code == "graph-failed") tell_stop();
    throw;
  } catch (...) {  // no memory for the answers
    core_.undo(before);
    throw;
  }
}

// Close the call, or fail where it was stopped.
void Stream::finish() {
  if (!brake_.finish()) tell_stop();
}

void Stream::tell_stop() {
  const Stop why = brake_.reason();
  if (why == Stop::deadline) {
    fail(DST_DEADLINE, "deadline", "the call did not finish in time; it was not taken");
  }
  if (why == Stop::cancelled) {
    fail(DST_CANCELLED, "cancelled", "the call was cancelled; it was not taken");
  }
}

void Stream::plan_chunks(const uint8_t* items, size_t count, bool last) {
  const Chunk& chunk = engine_->chunk();
  const size_t all = core_.position.waiting + count;
  const auto ahead = static_cast<size_t>(chunk.lookahead);
  const size_t chunks = all > ahead ? (all - ahead) / static_cast<size_t>(chunk.nominal_t) : 0;
  sizes_.assign(chunks, chunk.nominal_t);
  take_steps(items, count, 0, last);
}

void Stream::plan_tail(bool last) {
  const Chunk& chunk = engine_->chunk();
  const size_t waiting = core_.position.waiting;
  const auto ahead = static_cast<size_t>(chunk.lookahead);
  const auto nominal = static_cast<size_t>(chunk.nominal_t);
  const size_t chunks = waiting > ahead ? (waiting - ahead) / nominal : 0;
  sizes_.assign(chunks, chunk.nominal_t);
  size_t rest = waiting - chunks * nominal;
  if (rest && chunk.tail == Tail::refuse) {
    fail(DST_PARTIAL_CHUNK, "partial-chunk",
         std::to_string(rest) + " items wait and this model takes whole chunks of " +
             std::to_string(nominal) + " only; give more, or reset the stream");
  }
  if (rest && chunk.tail == Tail::pad) return take_steps(nullptr, 0, rest, last);
  const std::vector<int64_t>& allowed = engine_->chunk_sizes();
  for (auto t = allowed.rbegin(); t != allowed.rend(); ++t) {  // the largest that fit, repeatedly
    for (; rest >= static_cast<size_t>(*t); rest -= static_cast<size_t>(*t)) sizes_.push_back(*t);
  }
  if (rest) {
    fail(DST_SESSION, "chunk-size",
         std::to_string(rest) +
             " items are left that no chunk of this session can hold; open it "
             "with T = 1 among its chunk_sizes");
  }
  take_steps(nullptr, 0, 0, last);
}

void Stream::take_steps(const uint8_t* items, size_t count, size_t padded, bool last) {
  const auto nominal = static_cast<size_t>(engine_->chunk().nominal_t);
  const size_t firm = sizes_.size(), waiting = core_.position.waiting;
  const uint8_t* const waited = core_.pending();
  size_t read = 0, at = 0;
  for (const int64_t t : sizes_) read += static_cast<size_t>(t);
  const size_t answered = read + padded;
  if (padded) last = false;  // the last item before padding is not the chunk's last
  for (size_t i = 0; i < (padded + nominal - 1) / nominal; ++i) {
    sizes_.push_back(engine_->chunk().nominal_t);
  }
  make_room(answered, last);
  for (size_t i = 0; i < sizes_.size(); ++i) core_.step_for(sizes_[i], last, &brake_);
  for (size_t i = 0; i < sizes_.size(); ++i) {
    BoundStep& step = core_.step_for(sizes_[i], last, &brake_);
    if (i == firm) core_.hold();
    fill(step, items, count, at, i >= firm);
    core_.step_once(step, &brake_);
    const size_t taken = std::min(static_cast<size_t>(sizes_[i]), answered - at);
    take(step, i, at, taken, last);
    at += taken;
  }
  if (padded) core_.release();
  const size_t size = core_.layout().item_bytes();
  if (read) {
    const size_t kept = std::min(read, waiting), used = read - kept;
    core_.leave(waited + kept * size, waiting - kept,
                items == nullptr ? nullptr : items + used * size, count - used);
  } else if (count) {
    core_.append(items, count, std::optional<Sampler>(core_.position.sampler));
  }
}

// Copy the items of the next chunk, which begin `at` items into what waits and then `items`.
void Stream::fill(BoundStep& step, const uint8_t* items, size_t count, size_t at, bool padding) {
  const Chunk& chunk = engine_->chunk();
  const ItemLayout& layout = core_.layout();
  const size_t size = layout.item_bytes(), window = step.chunk().window();
  const size_t waiting = core_.position.waiting;
  auto to = static_cast<size_t>(chunk.lookback);
  size_t left = window - to;
  if (padding) left = std::min(left, waiting + count - at);
  const size_t first = at < waiting ? std::min(left, waiting - at) : 0;
  layout.put(step.chunk().raw(), window, to, core_.pending() + at * size, first);
  const size_t skip = at > waiting ? at - waiting : 0;
  if (left > first) {
    layout.put(step.chunk().raw(), window, to + first, items + skip * size, left - first);
  }
  to += left;
  const size_t value = item_size(chunk.dtype);
  for (; to < window; ++to) {
    for (size_t o = 0; o < layout.outer; ++o) {
      uint8_t* place = step.chunk().raw() + (o * window + to) * layout.inner;
      for (size_t j = 0; j < layout.inner; j += value) {
        store(chunk.pad_value, chunk.dtype, place + j);
      }
    }
  }
}

void Stream::make_room(size_t answered, bool last) {
  const std::vector<Output>& outputs = engine_->manifest().outputs;
  for (size_t i = 0; i < outputs.size(); ++i) {
    Joined& joined = joined_[i];
    joined.shape.clear();
    const bool per_item = axis_of(outputs[i].shape, 'T') >= 0;
    joined.items = !per_item ? sizes_.size() : last ? std::min<size_t>(1, answered) : answered;
    if (!per_item) joined.shape.push_back(static_cast<int64_t>(sizes_.size()));
    for (const Axis& axis : outputs[i].shape) {
      joined.shape.push_back(axis.letter == 'B'   ? 1
                             : axis.letter == 'T' ? static_cast<int64_t>(joined.items)
                                                  : axis.size);
    }
    joined.bytes.resize(static_cast<size_t>(product(joined.shape)) * item_size(outputs[i].dtype));
  }
}

void Stream::take(BoundStep& step, size_t number, size_t at, size_t count, bool last) {
  step.collect();
  for (size_t i = 0; i < joined_.size(); ++i) {
    const Answer& answer = step.answers()[i];
    Joined& joined = joined_[i];
    if (!answer.per_item || last) {
      const size_t size = answer.outer * answer.inner;
      std::memcpy(joined.bytes.data() + (answer.per_item ? 0 : number * size), answer.begin, size);
      continue;
    }
    for (size_t o = 0; o < answer.outer; ++o) {
      std::memcpy(joined.bytes.data() + (o * joined.items + at) * answer.inner,
                  answer.begin + o * answer.items * answer.inner, count * answer.inner);
    }
  }
}

void Stream::show_joined() {
  for (size_t i = 0; i < joined_.size(); ++i) {
    const Joined& joined = joined_[i];
    outputs_[i] = {engine_->manifest().outputs[i].dtype, static_cast<int32_t>(joined.shape.size()),
                   joined.shape.data(), joined.bytes.data()};
  }
  answered_ = true;
}

// --- generation

size_t Stream::logits_place() const {
  const Manifest& manifest = engine_->manifest();
  const auto refuse = [](const char* why) { fail(DST_STEP, "generate", why); };
  if (!manifest.chunk.vocabulary)
    refuse("this model reads features, and only tokens can be chosen");
  if (manifest.chunk.lookahead) refuse("this model looks ahead, and cannot choose the next token");
  if (manifest.chunk.tail != Tail::exact) refuse("this model cannot step one token at a time");
  for (size_t i = 0; i < manifest.outputs.size(); ++i) {
    const Output& output = manifest.outputs[i];
    const bool fits = output.shape.size() == 3 && output.shape[0].letter == 'B' &&
                      output.shape[1].letter == 'T' && !output.shape[2].letter &&
                      output.shape[2].size == manifest.chunk.vocabulary;
    if (output.meaning == "logits" && fits) return i;
  }
  refuse("this model has no logits per item over its vocabulary");
  return 0;
}

// The last row of logits that the steps just taken have answered; false where there is none.
bool Stream::last_logits(size_t place, std::vector<double>* row) const {
  const Joined& joined = joined_[place];
  if (joined.items == 0) return false;
  const dst_dtype dtype = engine_->manifest().outputs[place].dtype;
  const auto width = static_cast<size_t>(engine_->chunk().vocabulary);
  const uint8_t* from = joined.bytes.data() + (joined.items - 1) * width * item_size(dtype);
  row->resize(width);
  for (size_t i = 0; i < width; ++i) {
    if (dtype == DST_FLOAT64) {
      std::memcpy(&(*row)[i], from + i * 8, 8);
    } else if (dtype == DST_FLOAT32) {
      float value;
      std::memcpy(&value, from + i * 4, 4);
      (*row)[i] = value;
    } else {
      uint16_t bits;
      std::memcpy(&bits, from + i * 2, 2);
      (*row)[i] = half_to_double(bits);
    }
  }
  return true;
}

// Read items, flush, choose a token and let it wait, as a whole. Between two tokens the token waits
// and is not in the state: whatever is saved then goes on to the same text.
int64_t Stream::predict(const uint8_t* items, size_t count, const Choice& choice,
                        const uint64_t* seed, size_t logits) {
  int64_t token = 0;
  whole([&] {
    std::vector<double> row;
    plan_chunks(items, count, true);
    bool found = last_logits(logits, &row);
    plan_tail(true);
    found = last_logits(logits, &row) || found;
    if (!found) fail(DST_STEP, "generate", "there is nothing to continue");
    Sampler sampler = seed                     ? Sampler{*seed, 0}
                      : core_.position.sampler ? *core_.position.sampler
                                               : fresh_sampler();
    token = choice.pick(row, &sampler);
    uint8_t item[8];
    if (engine_->chunk().dtype == DST_INT64) {
      std::memcpy(item, &token, sizeof token);
    } else {
      store(static_cast<double>(token), engine_->chunk().dtype, item);
    }
    core_.append(item, 1, sampler);
  });
  return token;
}

void Stream::generate(const dst_tensor& prompt, size_t count, const dst_sampling& sampling,
                      int64_t* tokens, size_t* made) {
  answered_ = false;
  const Running running(&brake_, &engine_->watchdog(), 0);  // a cancel between two tokens counts
  const size_t logits = logits_place();
  const Choice choice{sampling.temperature, sampling.top_k, sampling.top_p};
  choice.check();
  size_t length = check_items(engine_->chunk(), prompt);
  if (length == 0 && core_.position.waiting == 0) {
    fail(DST_STEP, "generate",
         "the prompt is empty and no item waits: there is nothing to continue");
  }
  const auto* items = static_cast<const uint8_t*>(prompt.data);
  const uint64_t* seed = sampling.seed;
  for (*made = 0; *made < count;) {
    const int64_t token = predict(items, length, choice, seed, logits);
    length = 0;
    seed = nullptr;
    tokens[(*made)++] = token;
    const int64_t* end = sampling.stop + sampling.stop_count;
    if (sampling.stop_count && std::find(sampling.stop, end, token) != end) break;
  }
  finish();
}

}  // namespace dst::core
