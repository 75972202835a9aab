// SHA-256 by OpenSSL and XXH3 by xxHash, as lower-case hex.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

struct XXH3_state_s;

namespace dst::core {

std::string sha256_of(std::string_view bytes);
// The same of a file, read piece by piece. Throws std::runtime_error where it cannot be read.
std::string sha256_of_file(const std::string& path);

// XXH3 of 128 bits, fed in pieces.
class Checksum {
 public:
  Checksum();
  ~Checksum();
  Checksum(const Checksum&) = delete;
  Checksum& operator=(const Checksum&) = delete;
  void add(const void* bytes, size_t size);
  std::string hex() const;

 private:
  XXH3_state_s* state_;
};

}  // namespace dst::core
