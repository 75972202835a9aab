// Read a plain file that is opened once.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace dst::core {

// Its size and its bytes are those of one file, whatever is renamed to its path meanwhile.
class ReadFile {
 public:
  // Throws std::system_error where it cannot be opened, std::runtime_error where it is no plain
  // file: a pipe would block, and a device might never end.
  explicit ReadFile(const std::string& path);
  ~ReadFile();
  ReadFile(const ReadFile&) = delete;
  ReadFile& operator=(const ReadFile&) = delete;

  uint64_t size() const { return size_; }
  // Read up to `size` bytes; fewer at the end alone. Throws std::system_error.
  size_t read(void* bytes, size_t size);
  // Read the whole file. Throws std::runtime_error where it became shorter.
  std::vector<uint8_t> all();

 private:
  int file_;
  uint64_t size_ = 0;
};

}  // namespace dst::core
