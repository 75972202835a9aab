#include "base/hash.h"

#include <openssl/evp.h>
#include <xxhash.h>

#include <memory>
#include <new>
#include <stdexcept>
#include <vector>

#include "base/file.h"

namespace dst::core {

namespace {

std::string hex_of(const unsigned char* bytes, size_t size) {
  static const char* digits = "0123456789abcdef";
  std::string text;
  for (size_t i = 0; i < size; ++i) {
    text += digits[bytes[i] >> 4];
    text += digits[bytes[i] & 15];
  }
  return text;
}

class Sha256 {
 public:
  Sha256() : context_(EVP_MD_CTX_new(), EVP_MD_CTX_free) {
    if (!context_ || EVP_DigestInit_ex(context_.get(), EVP_sha256(), nullptr) != 1) {
      throw std::runtime_error("OpenSSL has no SHA-256");
    }
  }
  void add(const void* bytes, size_t size) { EVP_DigestUpdate(context_.get(), bytes, size); }
  std::string hex() {
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned int size = 0;
    EVP_DigestFinal_ex(context_.get(), digest, &size);
    return hex_of(digest, size);
  }

 private:
  std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> context_;
};

}  // namespace

std::string sha256_of(std::string_view bytes) {
  Sha256 hash;
  hash.add(bytes.data(), bytes.size());
  return hash.hex();
}

std::string sha256_of_file(const std::string& path) {
  ReadFile file(path);
  Sha256 hash;
  std::vector<char> piece(size_t{1} << 20);
  while (const size_t size = file.read(piece.data(), piece.size())) hash.add(piece.data(), size);
  return hash.hex();
}

Checksum::Checksum() : state_(XXH3_createState()) {
  if (state_ == nullptr) throw std::bad_alloc();
  XXH3_128bits_reset(state_);
}
Checksum::~Checksum() { XXH3_freeState(state_); }
void Checksum::add(const void* bytes, size_t size) { XXH3_128bits_update(state_, bytes, size); }
std::string Checksum::hex() const {
  XXH128_canonical_t bytes;
  XXH128_canonicalFromHash(&bytes, XXH3_128bits_digest(state_));
  return hex_of(bytes.digest, sizeof bytes.digest);
}

}  // namespace dst::core
