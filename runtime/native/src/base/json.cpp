#include "base/json.h"

#include <charconv>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <stdexcept>

#include "base/dtype.h"

namespace dst::core {

namespace {

// Turn "d.ddde±xx" into Python's spelling: positional from 1e-4 up to 1e16, else with an exponent.
std::string pythonic(const std::string& scientific) {
  const size_t e = scientific.find('e');
  std::string digits;
  std::string sign;
  for (const char c : scientific.substr(0, e)) {
    if (c == '-') sign = "-";
    if (c >= '0' && c <= '9') digits += c;
  }
  const int exponent = std::atoi(scientific.c_str() + e + 1);
  while (digits.size() > 1 && digits.back() == '0') digits.pop_back();
  const int count = static_cast<int>(digits.size());
  if (exponent < -4 || exponent >= 16) {
    char tail[16];
    std::snprintf(tail, sizeof tail, "e%c%02d", exponent < 0 ? '-' : '+', std::abs(exponent));
    return sign + digits[0] + (count > 1 ? "." + digits.substr(1) : "") + tail;
  }
  if (exponent < 0) return sign + "0." + std::string(-exponent - 1, '0') + digits;
  if (count <= exponent + 1) {
    return sign + digits + std::string(exponent + 1 - count, '0') + ".0";
  }
  return sign + digits.substr(0, exponent + 1) + "." + digits.substr(exponent + 1);
}

template <typename Float>
std::string shortest(Float value) {
  char text[64];
  const auto end =
      std::to_chars(text, text + sizeof text, value, std::chars_format::scientific).ptr;
  return pythonic(std::string(text, end));
}

void spell_text(const std::string& text, std::string* out) {
  static const char* hex = "0123456789abcdef";
  *out += '"';
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    switch (c) {
      case '"':
        *out += "\\\"";
        break;
      case '\\':
        *out += "\\\\";
        break;
      case '\b':
        *out += "\\b";
        break;
      case '\t':
        *out += "\\t";
        break;
      case '\n':
        *out += "\\n";
        break;
      case '\f':
        *out += "\\f";
        break;
      case '\r':
        *out += "\\r";
        break;
      default:
        if (byte < 0x20) {
          *out += "\\u00";
          *out += hex[byte >> 4];
          *out += hex[byte & 15];
        } else {
          *out += c;
        }
    }
  }
  *out += '"';
}

void spell(const Json& value, std::string* out) {
  switch (value.type()) {
    case Json::value_t::object: {
      char before = '{';
      for (const auto& [key, held] : value.items()) {
        *out += before;
        spell_text(key, out);
        *out += ':';
        spell(held, out);
        before = ',';
      }
      *out += before == '{' ? "{}" : "}";
      return;
    }
    case Json::value_t::array: {
      char before = '[';
      for (const Json& held : value) {
        *out += before;
        spell(held, out);
        before = ',';
      }
      *out += before == '[' ? "[]" : "]";
      return;
    }
    case Json::value_t::string:
      return spell_text(value.get_ref<const std::string&>(), out);
    case Json::value_t::number_float:
      *out += number_text(value.get<double>());
      return;
    default:  // integers, true, false and null have one spelling
      *out += value.dump();
  }
}

}  // namespace

Json parse_json(std::string_view text) {
  if (text.substr(0, 3) == "\xef\xbb\xbf")
    throw std::runtime_error("it begins with a byte order mark");
  const auto shallow = [](int depth, Json::parse_event_t, Json&) {
    if (depth > kMaxDepth) throw std::runtime_error("it is nested too deeply");
    return true;
  };
  try {
    return Json::parse(text.begin(), text.end(), shallow);
  } catch (const Json::exception& error) {
    throw std::runtime_error(error.what());
  }
}

std::vector<int64_t> counts_in(const Json& list) {
  if (!list.is_array()) throw std::runtime_error("a list of sizes is none");
  for (const Json& size : list) {
    if (!size.is_number_unsigned() || size.get<uint64_t>() > INT64_MAX) {
      throw std::runtime_error("a size of it is no count");
    }
  }
  return list.get<std::vector<int64_t>>();
}

bool is_name(const std::string& text) {
  const size_t count = characters(text);
  return count >= 1 && count <= 200 && text.find('\0') == std::string::npos && text != "__proto__";
}

size_t characters(const std::string& text) {
  size_t count = 0;
  for (const char c : text) count += (c & 0xc0) != 0x80;  // all but the later bytes of UTF-8
  return count;
}

std::string canonical(const Json& value) {
  std::string out;
  spell(value, &out);
  return out;
}

std::string number_text(double value) { return shortest(value); }
std::string number_text(float value) { return shortest(value); }

std::string half_text(uint16_t bits) {
  const uint16_t size = bits & 0x7fff;
  const double value = half_to_double(size);
  char text[32];
  const auto reads_back = [&](int digits, double near) {
    std::snprintf(text, sizeof text, "%.*e", digits, near);
    return double_to_half(std::strtod(text, nullptr)) == size;
  };
  for (int digits = 0; digits < 6 && !reads_back(digits, value); ++digits) {
    // Below a power of two values lie closer than above it: there the decimal above may fit alone.
    const int place = std::atoi(std::strchr(text, 'e') + 1) - digits;
    if (reads_back(digits, std::strtod(text, nullptr) + std::pow(10, place))) break;
  }
  return (bits == size ? "" : "-") + pythonic(text);
}

}  // namespace dst::core
