// A process that is killed while it saves loses nothing that it was told is saved.
//
//   killed BUNDLE WORK KILLS
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <random>
#include <string>

#include "dst.hpp"

namespace fs = std::filesystem;

namespace {

// Save after every step, and tell the number of items through the pipe when it is saved.
[[noreturn]] void save_for_ever(dst::Session& session, const std::string& path, int out) {
  dst::Stream stream = fs::exists(path) ? dst::Stream::load(session, path) : dst::Stream(session);
  const float values[2] = {1.5f, -2.25f};
  const int64_t shape[3] = {1, 1, 2};
  for (;;) {
    stream.step({DST_FLOAT32, 3, shape, values});
    stream.save(path, DST_NOT_DURABLE);  // what a kill can take does not depend on the disk
    const uint64_t items = stream.items_consumed();
    if (write(out, &items, sizeof items) != sizeof items) _exit(1);
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 4) return std::fprintf(stderr, "usage: killed BUNDLE WORK KILLS\n"), 2;
  const fs::path folder = fs::path(argv[2]) / "killed";
  fs::remove_all(folder);
  fs::create_directories(folder);
  const std::string path = (folder / "state").string();
  dst::Session session(argv[1]);
  std::mt19937 random(7);
  uint64_t saved = 0, saves = 0;
  for (int kill_number = 0; kill_number < std::atoi(argv[3]); ++kill_number) {
    int ends[2];
    if (pipe(ends) != 0) return 1;
    const pid_t child = fork();
    if (child == 0) {
      close(ends[0]);
      save_for_ever(session, path, ends[1]);
    }
    close(ends[1]);
    uint64_t items = 0;
    // The first save shows that the child runs; the kill then comes at any moment of a later one.
    if (read(ends[0], &items, sizeof items) != sizeof items) return std::puts("no save"), 1;
    usleep(random() % 3000);
    kill(child, SIGKILL);
    waitpid(child, nullptr, 0);
    do {
      saved = items;
      ++saves;
    } while (read(ends[0], &items, sizeof items) == sizeof items);
    close(ends[0]);
    try {
      const dst::Stream stream = dst::Stream::load(session, path);
      if (stream.items_consumed() < saved || stream.items_consumed() > saved + 1) {
        return std::printf("kill %d: item %llu, expected %llu\n", kill_number,
                           static_cast<unsigned long long>(stream.items_consumed()),
                           static_cast<unsigned long long>(saved)),
               1;
      }
      if (fs::exists(path + ".previous")) dst::Stream::load(session, path + ".previous");
    } catch (const dst::Error& error) {
      return std::printf("kill %d: %s: %s\n", kill_number, error.code.c_str(), error.what()), 1;
    }
  }
  std::printf("%s kills during %llu saves: nothing was lost\n", argv[3],
              static_cast<unsigned long long>(saves));
  fs::remove_all(folder);
  return 0;
}
