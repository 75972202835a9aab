// Stop a call when its time is up or when another thread cancels it.
#pragma once

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <thread>

#include "execution/ort.h"

namespace dst::core {

enum class Stop { none, deadline, cancelled };

class Watchdog;

// The brake of one stream. `start` and `end` bracket a whole call, however many steps it takes;
// `cancel` may come from any thread.
class Brake {
 public:
  using Clock = std::chrono::steady_clock;

  Brake() : options_(run_options()) {}
  // `deadline_ms` is 0 for no deadline.
  void start(Watchdog* watchdog, double deadline_ms);
  void end(Watchdog* watchdog);
  // End a call that has done its work: false where it was stopped before. What comes later finds
  // that no call runs, so no cancel is lost between the last graph and the end.
  bool finish();
  void cancel() { stop(Stop::cancelled); }
  Stop reason();
  OrtRunOptions* options() const { return options_.get(); }

 private:
  friend class Watchdog;
  void stop(Stop why);

  Owned<OrtRunOptions> options_;
  std::mutex mutex_;
  bool running_ = false;
  Stop reason_ = Stop::none;
  // Of the watchdog, under its mutex.
  bool watched_ = false;
  Clock::time_point until_;
  Brake* next_ = nullptr;
};

// One thread for all streams of a session; it starts with the first deadline. The brakes form a
// list through themselves, so that a call with a deadline allocates nothing.
class Watchdog {
 public:
  ~Watchdog();
  void watch(Brake* brake, Brake::Clock::time_point until);
  void forget(Brake* brake);

 private:
  void run();

  std::mutex mutex_;
  std::condition_variable changed_;
  std::thread thread_;
  bool ending_ = false;
  Brake* first_ = nullptr;
};

// A call, from here to the end of the scope, however it ends. Throws Error where `deadline_ms` is
// out of its range.
class Running {
 public:
  Running(Brake* brake, Watchdog* watchdog, double deadline_ms);
  ~Running() { brake_->end(watchdog_); }
  Running(const Running&) = delete;
  Running& operator=(const Running&) = delete;

 private:
  Brake* brake_;
  Watchdog* watchdog_;
};

}  // namespace dst::core
