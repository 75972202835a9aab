#include "base/file.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <stdexcept>
#include <system_error>

#ifdef _WIN32
#include <io.h>
#else
#include <unistd.h>
#endif

namespace dst::core {

namespace {

namespace fs = std::filesystem;

[[noreturn]] void system_fault(const char* what) {
  throw std::system_error(errno, std::generic_category(), what);
}

#ifdef _WIN32
using Status = struct _stat64;
int open_file(const fs::path& path) { return _wopen(path.c_str(), _O_RDONLY | _O_BINARY); }
int status_of(int file, Status* status) { return _fstat64(file, status); }
bool plain(const Status& status) { return (status.st_mode & _S_IFMT) == _S_IFREG; }
auto read_some(int file, void* bytes, size_t size) {
  return _read(file, bytes, static_cast<unsigned>(size));
}
void close_file(int file) { _close(file); }
#else
using Status = struct stat;
int open_file(const fs::path& path) {  // a pipe that nobody writes to would block without O_NONBLOCK
  return open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
}
int status_of(int file, Status* status) { return fstat(file, status); }
bool plain(const Status& status) { return S_ISREG(status.st_mode); }
auto read_some(int file, void* bytes, size_t size) { return ::read(file, bytes, size); }
void close_file(int file) { close(file); }
#endif

}  // namespace

ReadFile::ReadFile(const std::string& path) : file_(open_file(path)) {
  if (file_ < 0) system_fault("it cannot be opened");
  Status status;
  const bool told = status_of(file_, &status) == 0;
  if (told && plain(status)) {
    size_ = static_cast<uint64_t>(status.st_size);
    return;
  }
  close_file(file_);
  throw std::runtime_error(told ? "it is no plain file" : "it cannot be read");
}

ReadFile::~ReadFile() { close_file(file_); }

size_t ReadFile::read(void* bytes, size_t size) {
  size_t done = 0;
  while (done < size) {
    const size_t piece = std::min(size - done, size_t{1} << 30);
    const auto count = read_some(file_, static_cast<char*>(bytes) + done, piece);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) system_fault("it cannot be read");
    if (count == 0) break;
    done += static_cast<size_t>(count);
  }
  return done;
}

std::vector<uint8_t> ReadFile::all() {
  std::vector<uint8_t> bytes(static_cast<size_t>(size_));
  if (read(bytes.data(), bytes.size()) != bytes.size()) {
    throw std::runtime_error("it changed while it was read");
  }
  return bytes;
}

}  // namespace dst::core
