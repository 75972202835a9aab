// A deadline or a cancel ends a call and changes nothing; threads share a session.
//
//   stops BUNDLE
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "dst.hpp"
#include "execution/ort.h"

namespace {

// What happens beside a call of ONNX Runtime, so that a test meets one moment and not another.
const OrtApi* real = nullptr;
std::function<void()> after_run, after_load;

OrtStatus* run(OrtSession* session, const OrtRunOptions* options,
               const OrtIoBinding* binding) noexcept {
  OrtStatus* status = real->RunWithBinding(session, options, binding);
  if (after_run) after_run();
  return status;
}

OrtStatus* load(const OrtEnv* env, const ORTCHAR_T* path, const OrtSessionOptions* options,
                OrtSession** session) noexcept {
  OrtStatus* status = real->CreateSession(env, path, options, session);
  if (after_load) after_load();
  return status;
}

void expect(bool good, const char* what) {
  if (good) return;
  std::printf("FAILED: %s\n", what);
  std::exit(1);
}

std::string text_of(size_t size) {
  std::string text;
  while (text.size() < size) text += "2026-11-30 12:00:00 service answered in 12 ms\n";
  return text;
}

void deadline(dst::Session& session) {
  dst::Stream stream(session);
  stream.advance("a beginning, part of which waits");
  const std::vector<uint8_t> before = stream.to_bytes();
  for (const double deadline_ms : {0.0001, 2.0}) {
    const std::string text = text_of(200000);
    const dst_status status =
        dst_stream_advance_bytes(stream.get(), text.data(), text.size(), 0, deadline_ms);
    expect(status == DST_DEADLINE && std::string(dst_last_code()) == "deadline", "deadline");
    expect(stream.to_bytes() == before, "a deadline changes nothing");
  }
  stream.advance(text_of(100), 0, 60000);
  for (const double wrong : {-1.0, 1e12}) {
    expect(dst_stream_flush(stream.get(), wrong) == DST_ARGUMENT, "a wrong deadline");
  }
}

void cancel(dst::Session& session) {
  dst::Stream stream(session);
  stream.cancel();  // no call runs: nothing happens
  stream.advance("a beginning, part of which waits");
  const std::vector<uint8_t> before = stream.to_bytes();
  std::atomic<bool> done{false};
  std::thread other([&] {
    while (!done) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
      stream.cancel();
    }
  });
  const std::string text = text_of(200000);
  const dst_status status = dst_stream_advance_bytes(stream.get(), text.data(), text.size(), 0, 0);
  done = true;
  other.join();
  expect(status == DST_CANCELLED && std::string(dst_last_code()) == "cancelled", "cancel");
  expect(stream.to_bytes() == before, "a cancel changes nothing");
  stream.advance(text_of(100));
}

// A cancel that comes when the graph has run, and before the call has ended, is not lost.
void cancel_late(dst::Session& session) {
  const int64_t token = 65, shape[2] = {1, 1}, none = 0;
  const dst_tensor chunk{DST_INT64, 2, shape, &token}, empty{DST_INT64, 1, &none, &token};
  const std::string text(static_cast<size_t>(session.describe().nominal_t), 'a');
  const uint64_t seed = 1;
  const dst_sampling sampling{1.0, 0, 1.0, &seed, nullptr, 0};
  for (const char* const kind : {"step", "advance", "flush", "generate"}) {
    const std::string call = kind;
    dst::Stream stream(session);
    if (call == "flush" || call == "generate") stream.advance("a");
    for (int turn = 0; turn < 2; ++turn) {  // with the run that prepares a step, and without
      const std::vector<uint8_t> before = stream.to_bytes();
      after_run = [&] { stream.cancel(); };
      int64_t tokens[9];
      size_t made = 0;
      const dst_status status =
          call == "step"      ? dst_stream_step(stream.get(), &chunk, 0, 0)
          : call == "advance" ? dst_stream_advance_bytes(stream.get(), text.data(), text.size(), 0, 0)
          : call == "flush"
              ? dst_stream_flush(stream.get(), 0)
              : dst_stream_generate(stream.get(), &empty, turn ? 1 : 9, &sampling, tokens, &made);
      after_run = nullptr;
      expect(status == DST_CANCELLED, kind);
      if (made == 0) expect(stream.to_bytes() == before, "a late cancel changes nothing");
      if (call == "generate") expect(made == size_t(turn), "the tokens before a cancel stand");
    }
  }
}

// While a graph is loaded a call cannot be stopped, and ends right after.
void stop_load(const char* bundle) {
  const int64_t token = 65, shape[2] = {1, 1};
  const dst_tensor chunk{DST_INT64, 2, shape, &token};
  for (const bool one : {true, false}) {
    for (const bool late : {true, false}) {
      dst::Session session(bundle);
      dst::Stream stream(session);
      const std::string text(static_cast<size_t>(session.describe().nominal_t), 'a');
      after_load = [&] {
        if (!late) return stream.cancel();
        std::this_thread::sleep_for(std::chrono::milliseconds(300));
      };
      const double deadline_ms = late ? 1 : 0;
      const dst_status status =
          one ? dst_stream_step(stream.get(), &chunk, 0, deadline_ms)
              : dst_stream_advance_bytes(stream.get(), text.data(), text.size(), 0, deadline_ms);
      after_load = nullptr;
      expect(status == (late ? DST_DEADLINE : DST_CANCELLED), "a stop during a load");
      expect(stream.items_consumed() == 0, "a stop during a load changes nothing");
    }
  }
}

void share(const char* bundle) {
  dst::Session session(bundle);  // its graphs are loaded by whoever comes first
  std::vector<std::vector<uint8_t>> states(4);
  std::vector<std::thread> threads;
  for (auto& state : states) {
    threads.emplace_back([&session, &state] {
      dst::Stream stream(session);
      for (int i = 0; i < 5; ++i) {
        stream.advance(text_of(90), 0, 60000);
        stream.flush();
      }
      state = stream.to_bytes();
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const auto& state : states) expect(state == states[0], "threads that share a session");
}

void outlive(const char* bundle) {
  auto session = std::make_unique<dst::Session>(bundle);
  dst::Stream stream(*session);
  session.reset();
  stream.advance("a stream keeps what it needs of a closed session");
  stream.flush();
}

void wrong_calls(dst::Session& session, const char* bundle) {
  dst_stream* made = nullptr;
  expect(dst_stream_new(nullptr, nullptr, 0, &made) == DST_ARGUMENT, "no session");
  dst::Stream stream(session);
  dst_tensor tensor{DST_INT64, 2, nullptr, nullptr};
  expect(dst_stream_step(stream.get(), &tensor, 0, 0) == DST_ARGUMENT, "no shape");
  expect(dst_stream_step(stream.get(), nullptr, 0, 0) == DST_ARGUMENT, "no chunk");
  expect(dst_stream_output(stream.get(), 0, &tensor) == DST_ARGUMENT, "no output yet");
  size_t size = 3;
  uint8_t small[3];
  expect(dst_stream_to_bytes(stream.get(), small, &size) == DST_ARGUMENT && size > 3, "no room");
  expect(dst_session_open("no such folder", nullptr, nullptr) == DST_ARGUMENT, "no place");
  dst_session_options options;
  dst_session_options_init(&options);
  const int32_t one = 1;
  options.chunk_sizes = &one;
  options.chunk_size_count = SIZE_MAX / 2;
  dst_session* opened = nullptr;
  expect(dst_session_open(bundle, &options, &opened) == DST_ARGUMENT, "too many chunk sizes");
  for (const size_t huge : {SIZE_MAX, SIZE_MAX / 2 + 1}) {
    expect(dst_stream_from_bytes(session.get(), "x", huge, 0, &made) == DST_ARGUMENT, "huge bytes");
    expect(dst_stream_advance_bytes(stream.get(), "x", huge, 0, 0) == DST_ARGUMENT, "huge input");
  }
}

void no_pointers(dst::Session& session) {
  dst::Stream stream(session);
  uint64_t number = 0;
  dst_session_options_init(nullptr);
  dst_session_close(nullptr);
  dst_stream_free(nullptr);
  dst_snapshot_free(nullptr);
  dst_stream_cancel(nullptr);
  expect(dst_session_output_name(nullptr, 0) == nullptr, "a name of no session");
  expect(dst_session_state_name(nullptr, 0) == nullptr, "a state of no session");
  expect(dst_stream_items_consumed(nullptr) == 0, "items of no stream");
  expect(dst_stream_pending(nullptr) == 0, "pending of no stream");
  expect(dst_stream_sampler(nullptr, &number, &number) == 0, "the sampler of no stream");
  expect(dst_stream_sampler(stream.get(), nullptr, nullptr) == 0, "no place for a sampler");
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) return std::fprintf(stderr, "usage: stops BUNDLE\n"), 2;
  real = &dst::core::ort();
  OrtApi table = *real;
  table.RunWithBinding = run;
  table.CreateSession = load;
  dst::core::replace_ort(&table);
  dst::Session session(argv[1]);
  deadline(session);
  cancel(session);
  cancel_late(session);
  stop_load(argv[1]);
  share(argv[1]);
  outlive(argv[1]);
  wrong_calls(session, argv[1]);
  no_pointers(session);
  std::puts("ok");
  return 0;
}
