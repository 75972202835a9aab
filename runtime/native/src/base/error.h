// What any part of the library throws; the C functions turn it into a status.
#pragma once

#include <exception>
#include <string>
#include <utility>

#include "dst.h"

namespace dst::core {

class Error : public std::exception {
 public:
  Error(dst_status kind, std::string name, std::string text)
      : status(kind), code(std::move(name)), message(std::move(text)) {}
  const char* what() const noexcept override { return message.c_str(); }

  dst_status status;
  std::string code;
  std::string message;
};

[[noreturn]] inline void fail(dst_status status, const char* code, std::string message) {
  throw Error(status, code, std::move(message));
}

// Foreign text for a message: one line, nothing that a terminal would obey.
std::string shown(const std::string& text);

}  // namespace dst::core
