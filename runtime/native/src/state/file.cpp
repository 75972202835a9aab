#include "state/file.h"

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <stdexcept>
#include <system_error>

#include "base/error.h"
#include "base/file.h"

#ifdef _WIN32
#include <fcntl.h>
#include <io.h>
#include <sys/stat.h>
#else
#include <fcntl.h>
#include <unistd.h>
#endif

namespace dst::core {

namespace fs = std::filesystem;

namespace {

[[noreturn]] void system_fault(const char* what) {
  throw std::runtime_error(std::string(what) + ": " + std::strerror(errno));
}

#ifdef _WIN32
int make_file(const fs::path& path) {
  return _wopen(path.c_str(), _O_CREAT | _O_EXCL | _O_WRONLY | _O_BINARY, _S_IREAD | _S_IWRITE);
}
auto write_some(int file, const void* bytes, size_t size) {
  return _write(file, bytes, static_cast<unsigned>(size < (1u << 30) ? size : (1u << 30)));
}
int sync_file(int file) { return _commit(file); }
int close_file(int file) { return _close(file); }
void sync_folder(const fs::path&) {}  // Windows has no such call
#else
int make_file(const fs::path& path) {
  return open(path.c_str(), O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0666);
}
auto write_some(int file, const void* bytes, size_t size) { return write(file, bytes, size); }
int sync_file(int file) { return fsync(file); }
int close_file(int file) { return close(file); }
void sync_folder(const fs::path& path) {
  const int folder = open(path.empty() ? "." : path.c_str(), O_RDONLY | O_CLOEXEC);
  if (folder < 0) system_fault("its folder cannot be opened");
  const bool synced = fsync(folder) == 0 || errno == EINVAL || errno == ENOTSUP;
  const int why = errno;
  close(folder);
  errno = why;
  if (!synced) system_fault("its folder cannot be synced");
}
#endif

void write_new(const fs::path& path, const std::vector<Part>& parts, bool durable) {
  const int file = make_file(path);
  if (file < 0) system_fault("it cannot be made");
  try {
    for (const auto& [bytes, size] : parts) {
      const auto* at = static_cast<const char*>(bytes);
      for (size_t left = size; left > 0;) {
        const auto written = write_some(file, at, left);
        if (written < 0 && errno == EINTR) continue;
        if (written <= 0) system_fault("it cannot be written");
        at += written;
        left -= static_cast<size_t>(written);
      }
    }
    if (durable && sync_file(file) != 0) system_fault("it cannot be synced");
  } catch (...) {
    close_file(file);
    throw;
  }
  if (close_file(file) != 0) system_fault("it cannot be closed");
}

fs::path beside(const fs::path& path, const std::string& name) {
  fs::path other = path;
  return other.replace_filename(name);
}

fs::path previous_of(const fs::path& path) {
  return beside(path, path.filename().string() + ".previous");
}

// Removes what a failed or killed writer left behind.
struct Leftovers {
  fs::path fresh, kept;
  ~Leftovers() {
    std::error_code ignored;
    fs::remove(fresh, ignored);
    fs::remove(kept, ignored);
  }
};

void replace(const fs::path& path, const std::vector<Part>& parts, bool durable) {
  const std::string name = path.filename().string();
  if (name.empty()) throw std::runtime_error("it has no name");
  // Neither a link: a rename would replace it and leave alone the file that it leads to.
  const fs::file_status held = fs::symlink_status(path);
  if (fs::exists(held) && !fs::is_regular_file(held)) {
    throw std::runtime_error("what stands there is no plain file");
  }
  // What a killed writer left goes first and is never written into: it may share its content with
  // the target where a crash cut a rename in half, or be a link to another file.
  const Leftovers files{beside(path, "." + name + ".tmp"),
                        beside(path, "." + name + ".previous.tmp")};
  fs::remove(files.fresh);
  fs::remove(files.kept);
  write_new(files.fresh, parts, durable);
  if (fs::exists(held)) {
    std::error_code failed;
    fs::create_hard_link(path, files.kept, failed);
    if (failed) {  // a file system without hard links
      const std::vector<uint8_t> old = ReadFile(path.string()).all();
      write_new(files.kept, {{old.data(), old.size()}}, durable);
    }
    fs::rename(files.kept, previous_of(path));
  }
  fs::rename(files.fresh, path);
}

}  // namespace

void replace_file(const std::string& path, const std::vector<Part>& parts, bool durable) {
  const std::string where = "state " + shown(path) + ": ";
  try {
    replace(path, parts, durable);
  } catch (const std::runtime_error& error) {
    fail(DST_STATE, "state-unwritable", where + "cannot be written: " + shown(error.what()));
  }
  try {
    if (durable) sync_folder(fs::path(path).parent_path());
  } catch (const std::runtime_error& error) {
    fail(DST_STATE, "not-synced",
         where + "the new state is in place, but " + shown(error.what()) +
             "; a loss of power may bring back the one before, save again");
  }
}

Record read_record(const std::string& path) {
  const fs::path place(path);
  std::error_code failed;
  std::string hint;
  if (fs::is_regular_file(previous_of(place), failed)) {
    hint = "; the state saved before it is " + shown(previous_of(place).filename().string());
  }
  const std::string where = "state " + shown(path) + ": ";
  try {
    ReadFile file(path);
    if (file.size() > 2 * kMaxStreamBytes) {
      fail(DST_STATE_CORRUPT, "state-too-large", "larger than any state of this format");
    }
    return unpack(file.all());
  } catch (const Error& error) {
    throw Error(error.status, error.code, where + error.message + hint);
  } catch (const std::system_error& error) {
    const std::error_code& why = error.code();
    if (why == std::errc::no_such_file_or_directory || why == std::errc::not_a_directory) {
      fail(DST_STATE_NOT_FOUND, "state-not-found", where + "no such file" + hint);
    }
    fail(DST_STATE, "state-unreadable", where + "cannot be read: " + shown(error.what()) + hint);
  } catch (const std::bad_alloc&) {
    fail(DST_STATE, "state-unreadable", where + "is larger than the free memory" + hint);
  } catch (const std::runtime_error& error) {
    fail(DST_STATE, "state-unreadable", where + "cannot be read: " + shown(error.what()) + hint);
  }
}

}  // namespace dst::core
