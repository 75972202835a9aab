// The spelling of floats in the marks of constants, compared with tests/data/numbers.json.
//
//   numbers TABLE
#include <cstdio>
#include <cstring>
#include <fstream>
#include <sstream>

#include "base/hash.h"
#include "base/json.h"
#include "bundle/manifest.h"

using namespace dst::core;

namespace {

int wrong = 0;

void expect(const std::string& found, const std::string& expected) {
  if (found != expected && ++wrong < 20) {
    std::printf("%s, expected %s\n", found.c_str(), expected.c_str());
  }
}

std::string mark(dst_dtype dtype, uint64_t bits) {
  Constant constant{"", dtype, {}, std::vector<uint8_t>(item_size(dtype))};
  for (uint8_t& byte : constant.bytes) byte = static_cast<uint8_t>(bits), bits >>= 8;
  return constant_mark(constant);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) return std::fprintf(stderr, "usage: numbers TABLE\n"), 2;
  std::ostringstream held;
  held << std::ifstream(argv[1], std::ios::binary).rdbuf();
  const Json table = parse_json(held.str());
  for (const dst_dtype dtype : {DST_FLOAT32, DST_FLOAT64}) {
    const std::string name = dtype_name(dtype);
    for (const Json& row : table.at(name)) {
      const uint64_t bits = std::stoull(row[0].get<std::string>(), nullptr, 16);
      expect(mark(dtype, bits), name + " [] " + row[1].get<std::string>());
    }
  }
  std::string all;
  for (int bits = 0; bits < 0x10000; ++bits) {
    if ((bits & 0x7c00) != 0x7c00) all += mark(DST_FLOAT16, static_cast<uint64_t>(bits)) + "\n";
  }
  expect(sha256_of(all), table.at("float16_sha256").get<std::string>());
  for (const Json& row : table.at("respelled")) expect(respelled(row[0]), row[1]);
  std::printf("%d of the marks are wrong\n", wrong);
  return wrong != 0;
}
