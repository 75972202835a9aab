// dst.h for C++17: owners for sessions, streams and snapshots; a failed call throws dst::Error.
#ifndef DST_HPP
#define DST_HPP

#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "dst.h"

namespace dst {

// What a call refused: `code` is that of FORMAT.md, `what()` a line for people.
class Error : public std::runtime_error {
 public:
  explicit Error(dst_status failed)
      : std::runtime_error(dst_last_message()), status(failed), code(dst_last_code()) {}
  dst_status status;
  std::string code;
};

inline void check(dst_status status) {
  if (status != DST_OK) throw Error(status);
}

class Session {
 public:
  explicit Session(const std::string& path, const dst_session_options* options = nullptr) {
    dst_session* made = nullptr;
    check(dst_session_open(path.c_str(), options, &made));
    session_.reset(made);
  }
  dst_session* get() const { return session_.get(); }
  dst_session_info describe() const {
    dst_session_info info;
    check(dst_session_describe(get(), &info));
    return info;
  }

 private:
  struct Close {
    void operator()(dst_session* session) const { dst_session_close(session); }
  };
  std::unique_ptr<dst_session, Close> session_;
};

class Snapshot {
 public:
  explicit Snapshot(dst_snapshot* snapshot) : snapshot_(snapshot) {}
  const dst_snapshot* get() const { return snapshot_.get(); }

 private:
  struct Free {
    void operator()(dst_snapshot* snapshot) const { dst_snapshot_free(snapshot); }
  };
  std::unique_ptr<dst_snapshot, Free> snapshot_;
};

class Stream {
 public:
  explicit Stream(const Session& session, const std::vector<dst_named_tensor>& inputs = {}) {
    dst_stream* made = nullptr;
    check(dst_stream_new(session.get(), inputs.data(), inputs.size(), &made));
    stream_.reset(made);
  }
  static Stream load(const Session& session, const std::string& path, uint32_t flags = 0) {
    dst_stream* made = nullptr;
    check(dst_stream_load(session.get(), path.c_str(), flags, &made));
    return Stream(made);
  }
  static Stream from_bytes(const Session& session, const std::vector<uint8_t>& bytes,
                           uint32_t flags = 0) {
    dst_stream* made = nullptr;
    check(dst_stream_from_bytes(session.get(), bytes.data(), bytes.size(), flags, &made));
    return Stream(made);
  }
  dst_stream* get() const { return stream_.get(); }

  void step(const dst_tensor& chunk, uint32_t flags = 0, double deadline_ms = 0) {
    check(dst_stream_step(get(), &chunk, flags, deadline_ms));
  }
  void advance(const dst_tensor& items, uint32_t flags = 0, double deadline_ms = 0) {
    check(dst_stream_advance(get(), &items, flags, deadline_ms));
  }
  void advance(const std::string& bytes, uint32_t flags = 0, double deadline_ms = 0) {
    check(dst_stream_advance_bytes(get(), bytes.data(), bytes.size(), flags, deadline_ms));
  }
  void flush(double deadline_ms = 0) { check(dst_stream_flush(get(), deadline_ms)); }
  void cancel() { dst_stream_cancel(get()); }
  dst_tensor output(size_t index) const {
    dst_tensor tensor;
    check(dst_stream_output(get(), index, &tensor));
    return tensor;
  }
  dst_tensor state(size_t index) const {
    dst_tensor tensor;
    check(dst_stream_state(get(), index, &tensor));
    return tensor;
  }
  uint64_t items_consumed() const { return dst_stream_items_consumed(get()); }
  size_t pending() const { return dst_stream_pending(get()); }

  void reset() { check(dst_stream_reset(get())); }
  Stream fork() const {
    dst_stream* made = nullptr;
    check(dst_stream_fork(get(), &made));
    return Stream(made);
  }
  Snapshot snapshot() const {
    dst_snapshot* made = nullptr;
    check(dst_stream_snapshot(get(), &made));
    return Snapshot(made);
  }
  void restore(const Snapshot& snapshot) { check(dst_stream_restore(get(), snapshot.get())); }
  void save(const std::string& path, uint32_t flags = 0) {
    check(dst_stream_save(get(), path.c_str(), flags));
  }
  std::vector<uint8_t> to_bytes() {
    size_t size = 0;
    check(dst_stream_to_bytes(get(), nullptr, &size));
    std::vector<uint8_t> bytes(size);
    check(dst_stream_to_bytes(get(), bytes.data(), &size));
    return bytes;
  }

 private:
  struct Free {
    void operator()(dst_stream* stream) const { dst_stream_free(stream); }
  };
  explicit Stream(dst_stream* stream) : stream_(stream) {}
  std::unique_ptr<dst_stream, Free> stream_;
};

}  // namespace dst

#endif
