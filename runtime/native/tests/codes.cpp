// Print by which code each bundle, or each saved state of a bundle, is refused; "" where it is not.
//
//   codes bundles FOLDER...      codes states BUNDLE FILE...
//
// A program to compare runtimes with: `tests/conformance/compare.py` mutates files and does so.
#include <cstdio>
#include <cstring>

#include "dst.hpp"

namespace {

template <typename Work>
void tell(Work work) {
  try {
    work();
    std::puts("");
  } catch (const dst::Error& error) {
    std::puts(error.code.c_str());
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) return std::fprintf(stderr, "usage: codes bundles|states PATH...\n"), 2;
  if (std::strcmp(argv[1], "bundles") == 0) {
    for (int i = 2; i < argc; ++i) tell([&] { dst::Session session(argv[i]); });
    return 0;
  }
  const dst::Session session(argv[2]);
  for (int i = 3; i < argc; ++i) {
    tell([&] { dst::Stream::load(session, argv[i], DST_ALLOW_PRECISION); });
  }
  return 0;
}
