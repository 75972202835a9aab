// What the opaque handles of dst.h hold; for api.cpp, and for tests that look inside.
#pragma once

#include <memory>

#include "stream.h"

struct dst_session {
  std::shared_ptr<dst::core::Engine> engine;
};

struct dst_stream {
  dst::core::Stream stream;
};

struct dst_snapshot {
  dst::core::Record record;
};
