// Read JSON, and spell it in the canonical form of FORMAT.md, section 2.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace dst::core {

using Json = nlohmann::json;  // objects are sorted by the bytes of their keys

// Deeper than anything the formats hold, and shallow enough for recursion.
constexpr int kMaxDepth = 64;

// Throws std::runtime_error with one line where the text is no JSON or is nested too deeply.
Json parse_json(std::string_view text);

// The numbers of a list of sizes. Throws std::runtime_error where one is no whole number from 0 to
// the largest int64.
std::vector<int64_t> counts_in(const Json& list);

std::string canonical(const Json& value);

size_t characters(const std::string& text);
// Whether a text is a name of FORMAT.md, section 3.
bool is_name(const std::string& text);

// The shortest decimal that reads back the same, spelled as Python spells it.
std::string number_text(double value);
std::string number_text(float value);
std::string half_text(uint16_t bits);

}  // namespace dst::core
