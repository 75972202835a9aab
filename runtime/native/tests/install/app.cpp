// A program in C++ that finds dst.hpp in an installed dst_native: `app BUNDLE STATE_FILE`.
#include <cstdio>

#include "dst.hpp"

int main(int argc, char** argv) {
  if (argc < 3) return 2;
  try {
    const dst::Session session(argv[1]);
    dst::Stream stream(session);
    stream.advance("The quick brown fox");
    stream.flush();
    stream.save(argv[2]);
    const dst::Stream copy = dst::Stream::load(session, argv[2]);
    return copy.items_consumed() == stream.items_consumed() ? 0 : 1;
  } catch (const dst::Error& error) {
    return std::fprintf(stderr, "%s: %s\n", error.code.c_str(), error.what()), 1;
  }
}
