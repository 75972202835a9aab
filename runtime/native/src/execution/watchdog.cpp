#include "execution/watchdog.h"

#include "base/error.h"

namespace dst::core {

namespace {

constexpr double kLongestMs = 86400000.0;  // a day

}  // namespace

void Brake::start(Watchdog* watchdog, double deadline_ms) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (reason_ != Stop::none)
      ort_check(ort().RunOptionsUnsetTerminate(options()), "session", "run");
    reason_ = Stop::none;
    running_ = true;
  }
  if (deadline_ms > 0) {
    const std::chrono::duration<double, std::milli> time(deadline_ms);
    watchdog->watch(this, Clock::now() + std::chrono::duration_cast<Clock::duration>(time));
  }
}

void Brake::end(Watchdog* watchdog) {
  if (watched_) watchdog->forget(this);
  const std::lock_guard<std::mutex> lock(mutex_);
  running_ = false;
}

bool Brake::finish() {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (reason_ == Stop::none) running_ = false;
  return !running_;
}

Stop Brake::reason() {
  const std::lock_guard<std::mutex> lock(mutex_);
  return reason_;
}

void Brake::stop(Stop why) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (!running_ || reason_ != Stop::none) return;
  reason_ = why;
  Owned<OrtStatus> ignored(ort().RunOptionsSetTerminate(options()));
}

Watchdog::~Watchdog() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    ending_ = true;
  }
  changed_.notify_all();
  if (thread_.joinable()) thread_.join();
}

void Watchdog::watch(Brake* brake, Brake::Clock::time_point until) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (!thread_.joinable()) thread_ = std::thread([this] { run(); });
  brake->until_ = until;
  brake->next_ = first_;
  brake->watched_ = true;
  first_ = brake;
  changed_.notify_all();
}

void Watchdog::forget(Brake* brake) {
  const std::lock_guard<std::mutex> lock(mutex_);
  for (Brake** at = &first_; *at != nullptr; at = &(*at)->next_) {
    if (*at == brake) {
      *at = brake->next_;
      break;
    }
  }
  brake->watched_ = false;
}

void Watchdog::run() {
  std::unique_lock<std::mutex> lock(mutex_);
  while (!ending_) {
    const auto now = Brake::Clock::now();
    auto next = now + std::chrono::hours(24);
    for (Brake** at = &first_; *at != nullptr;) {
      Brake* brake = *at;
      if (brake->until_ <= now) {
        *at = brake->next_;  // it is stopped once; `watched_` stays, for `end` to see
        brake->stop(Stop::deadline);
      } else {
        if (brake->until_ < next) next = brake->until_;
        at = &brake->next_;
      }
    }
    changed_.wait_until(lock, next);
  }
}

Running::Running(Brake* brake, Watchdog* watchdog, double deadline_ms)
    : brake_(brake), watchdog_(watchdog) {
  if (!(deadline_ms >= 0 && deadline_ms <= kLongestMs)) {
    fail(DST_ARGUMENT, "argument", "deadline_ms: expected 0 for none, or up to a day");
  }
  brake->start(watchdog, deadline_ms);
}

}  // namespace dst::core
