// Write a saved state to a path in one rename, with the one before it kept; and read it.
#pragma once

#include <string>
#include <vector>

#include "state/record.h"

namespace dst::core {

// Throws Error: `state-unwritable`; `not-synced` where the new file is in place and its directory
// could not be synced.
void replace_file(const std::string& path, const std::vector<Part>& parts, bool durable);

// Throws Error: `state-not-found`, `state-unreadable`, and what `unpack` throws. Messages name the
// copy that was kept before this one, where there is one.
Record read_record(const std::string& path);

}  // namespace dst::core
