// Saved states in a folder: a load beside saves finds one of them whole, and a link is left alone.
//
//   files BUNDLE WORK
#include <dlfcn.h>
#include <sys/stat.h>

#include <cstdio>
#include <filesystem>
#include <functional>
#include <string>
#include <utility>

#include "dst.hpp"

namespace fs = std::filesystem;

namespace {

std::function<void()> after_look;

template <typename Place>
int look(const char* name, Place place, struct stat* told) {
  using Look = int (*)(Place, struct stat*);
  const int result = reinterpret_cast<Look>(dlsym(RTLD_NEXT, name))(place, told);
  const auto action = std::exchange(after_look, nullptr);  // it looks at files itself
  if (action) {
    action();
    after_look = action;
  }
  return result;
}

}  // namespace

extern "C" int stat(const char* path, struct stat* told) noexcept {
  return look("stat", path, told);
}
extern "C" int fstat(int file, struct stat* told) noexcept { return look("fstat", file, told); }

namespace {

// States of two sizes, saved in turn, one right after every look at a file.
int beside(const dst::Session& session, const std::string& path) {
  dst::Stream stream(session);
  stream.save(path, DST_NOT_DURABLE);
  after_look = [&] {
    stream.pending() ? stream.reset() : stream.advance(std::string("1234567"));
    stream.save(path, DST_NOT_DURABLE);
  };
  int failed = 0;
  try {
    for (int i = 0; i < 4; ++i) dst::Stream::load(session, path);
  } catch (const dst::Error& error) {
    std::printf("FAILED: a load beside saves: %s\n", error.what());
    failed = 1;
  }
  after_look = nullptr;
  return failed;
}

// A save through a link would replace the link, and keep it as the state before.
int links(const dst::Session& session, const fs::path& folder) {
  int failed = 0;
  dst::Stream(session).save((folder / "target").string());
  for (const char* const target : {"target", "nothing"}) {
    const fs::path link = folder / "link";
    fs::remove(link);
    fs::create_symlink(target, link);
    std::string code = "no error";
    try {
      dst::Stream(session).save(link.string());
    } catch (const dst::Error& error) {
      code = error.code;
    }
    if (code == "state-unwritable" && fs::is_symlink(link)) continue;
    std::printf("FAILED: a save at a link to %s: %s\n", target, code.c_str());
    ++failed;
  }
  fs::remove(folder / "link");
  fs::create_symlink("target", folder / "link");
  dst::Stream::load(session, (folder / "link").string());
  return failed;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) return std::fprintf(stderr, "usage: files BUNDLE WORK\n"), 2;
  const fs::path folder = fs::path(argv[2]) / "files";
  fs::remove_all(folder);
  fs::create_directories(folder);
  const dst::Session session(argv[1]);
  const int failed = beside(session, (folder / "state").string()) + links(session, folder);
  fs::remove_all(folder);
  if (failed == 0) std::puts("ok");
  return failed != 0;
}
