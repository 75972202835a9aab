// Steps in a steady stream allocate nothing of ours, take little more time than ONNX Runtime alone,
// and leave the memory of the process as it is.
//
//   steady BUNDLE STEPS [ROUNDS]   a bundle of int64 tokens that runs T = 1; fails where anything
//   was allocated; prints times and memory
#include <malloc.h>
#include <time.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <random>
#include <string>
#include <vector>

#include "dst.hpp"
#include "handles.h"

// --- the counting allocator: every allocation of this process that is not within ONNX Runtime

namespace {
thread_local bool within_ort = false;
thread_local bool counting = false;
thread_local long allocations = 0;
void count() { allocations += counting && !within_ort; }
}  // namespace

extern "C" {
void* __libc_malloc(size_t);
void* __libc_calloc(size_t, size_t);
void* __libc_realloc(void*, size_t);
void* __libc_memalign(size_t, size_t);
void* malloc(size_t size) { return count(), __libc_malloc(size); }
void* calloc(size_t n, size_t size) { return count(), __libc_calloc(n, size); }
void* realloc(void* old, size_t size) { return count(), __libc_realloc(old, size); }
void* aligned_alloc(size_t align, size_t size) { return count(), __libc_memalign(align, size); }
void* memalign(size_t align, size_t size) { return count(), __libc_memalign(align, size); }
int posix_memalign(void** out, size_t align, size_t size) {
  count();
  *out = __libc_memalign(align, size);
  return *out == nullptr ? 12 : 0;
}
}

namespace {

const OrtApi* real = nullptr;

size_t resident_kib() {
  std::ifstream file("/proc/self/statm");
  size_t all = 0, resident = 0;
  file >> all >> resident;
  return resident * 4;
}

// The time that this thread has spent computing: what other programs take does not count.
double cpu_us() {
  timespec now;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) * 1e6 + static_cast<double>(now.tv_nsec) / 1e3;
}

double wall_us() {
  using namespace std::chrono;
  return duration<double, std::micro>(steady_clock::now().time_since_epoch()).count();
}

constexpr double kDeadlineMs = 3600000;  // never reached, however busy the machine is
double run_us = 0;                       // how long the last Run took

OrtStatus* run_uncounted(OrtSession* session, const OrtRunOptions* options,
                         const OrtIoBinding* binding) noexcept {
  within_ort = true;
  const double begin = wall_us();
  OrtStatus* status = real->RunWithBinding(session, options, binding);
  run_us = wall_us() - begin;
  within_ort = false;
  return status;
}

double median(std::vector<double>& values) {
  std::nth_element(values.begin(), values.begin() + values.size() / 2, values.end());
  return values[values.size() / 2];
}

template <typename Work>
long counted(Work work) {
  allocations = 0;
  counting = true;
  work();
  counting = false;
  return allocations;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) return std::fprintf(stderr, "usage: steady BUNDLE STEPS [ROUNDS]\n"), 2;
  const long steps = std::atol(argv[2]);
  const int rounds = argc > 3 ? std::atoi(argv[3]) : 0;

  real = &dst::core::ort();
  static OrtApi table = *real;
  table.RunWithBinding = run_uncounted;
  dst::core::replace_ort(&table);

  const dst_session_info info = dst::Session(argv[1]).describe();
  const int32_t sizes[] = {1, info.nominal_t};
  dst_session_options options;
  dst_session_options_init(&options);
  options.chunk_sizes = sizes;
  options.chunk_size_count = 2;
  dst::Session session(argv[1], &options);
  dst::Stream stream(session);

  std::mt19937 random(1);
  std::vector<int64_t> ids(4096);
  for (int64_t& id : ids) id = static_cast<int64_t>(random()) % info.vocabulary;
  const int64_t one[2] = {1, 1}, many[1] = {info.nominal_t + 8};
  long failed = 0;
  const auto step = [&](long i, uint32_t flags, double deadline_ms) {
    const dst_tensor chunk{DST_INT64, 2, one, &ids[static_cast<size_t>(i) % ids.size()]};
    failed += dst_stream_step(stream.get(), &chunk, flags, deadline_ms) != DST_OK;
    dst_tensor logits;
    failed += dst_stream_output(stream.get(), 0, &logits) != DST_OK;
  };
  const auto advance = [&](long i) {
    const dst_tensor items{DST_INT64, 1, many, &ids[static_cast<size_t>(i) % 4000]};
    failed += dst_stream_advance(stream.get(), &items, 0, kDeadlineMs) != DST_OK;
    failed += dst_stream_flush(stream.get(), 0) != DST_OK;
  };
  for (long i = 0; i < 200; ++i) step(i, 0, i % 2 ? kDeadlineMs : 0);
  for (long i = 0; i < 20; ++i) advance(i);

  for (long i = 0; i < steps / 20; ++i) step(i, 0, 0);
  const size_t before = resident_kib();
  const long plain = counted([&] {
    for (long i = 0; i < steps; ++i) step(i, 0, 0);
  });
  const size_t middle = resident_kib();
  const long timed = counted([&] {
    for (long i = 0; i < steps / 20; ++i) step(i, 0, kDeadlineMs);
  });
  const long joined = counted([&] {
    for (long i = 0; i < steps / 200; ++i) advance(i);
  });
  const size_t after = resident_kib();
  std::printf("%ld steps: %ld allocations; with a deadline: %ld; advance and flush: %ld\n", steps,
              plain, timed, joined);
  std::printf("resident memory: %zu KiB before, %zu KiB after the steps, %zu KiB after all\n",
              before, middle, after);

  if (rounds > 0) {
    const auto& engine = session.get()->engine;
    const dst::core::Memory first(engine->state_bytes()), second(engine->state_bytes());
    uint8_t* const states[2] = {first.data(), second.data()};
    dst::core::BoundStep bare(engine.get(), 1, false, states);
    std::vector<double> times[4];  // wall and computing time of a step, and of Run alone
    std::vector<double> outside;   // wall time of a step without the Run in it
    int way = 0;
    const auto timed_call = [&times](int place, auto&& call) {
      const double wall = wall_us(), cpu = cpu_us();
      call();
      times[place + 1].push_back(cpu_us() - cpu);
      times[place].push_back(wall_us() - wall);
    };
    for (int round = 0; round < rounds; ++round) {
      for (const bool alone : {round % 2 == 0, round % 2 != 0}) {  // each comes first in turn
        if (alone) {
          timed_call(2, [&] { bare.run(way, nullptr); });
          way ^= 1;
        } else {
          timed_call(0, [&] { step(round, 0, 0); });
          outside.push_back(times[0].back() - run_us);
        }
      }
    }
    for (const int place : {0, 1}) {
      // The machine gets faster and slower, so a step is compared with the Run beside it.
      std::vector<double> more = times[place];
      for (size_t i = 0; i < more.size(); ++i) more[i] -= times[place + 2][i];
      std::printf(
          "%s time at T = 1, medians of %d: step %.2f us, Run alone %.2f us, difference %.2f us\n",
          place ? "computing" : "wall", rounds, median(times[place]), median(times[place + 2]),
          median(more));
    }
    std::printf("wall time of a step outside of Run, median: %.2f us\n", median(outside));
  }
  std::printf("resident memory at the end: %zu KiB\n", resident_kib());
  const long probe = counted([] { std::free(std::malloc(64)); });
  const bool good = failed == 0 && plain == 0 && timed == 0 && joined == 0 && probe == 1;
  std::printf(good ? "ok\n" : "FAILED (%ld calls failed)\n", failed);
  return good ? 0 : 1;
}
