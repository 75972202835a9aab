// Everything a stream is, as one record; the bytes of a saved-state file, and back.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "execution/recurrence.h"

namespace dst::core {

struct RecordTensor {
  std::string name;  // as in the file: state/<input>, stream/<input>, pending, lookback
  dst_dtype dtype;
  Sizes shape;
  const uint8_t* data;
  size_t size;
};

struct Record {
  Identity identity;
  uint64_t items = 0;
  std::optional<Sampler> sampler;
  std::vector<RecordTensor> tensors;
  std::vector<uint8_t> storage;  // what the tensors may point into

  const RecordTensor* find(const std::string& name) const;
};

// What a stream is now; views that are valid until its next call.
Record record_of(const Engine& engine, const Recurrence& core);
// The same, with copies of its own.
Record copied(const Record& record);

// The bytes of a saved-state file, in parts: the header, then each tensor where it lies.
using Part = std::pair<const void*, size_t>;
std::vector<Part> pack(Record* record, std::string* header);

// Read such bytes, which the record keeps. Throws Error: `state-header`, `state-checksum`,
// `state-version`.
Record unpack(std::vector<uint8_t> bytes);

// Make a stream what a record says; if it cannot be, it is as it was. `where` is what messages call
// the record. Throws Error.
void put_record(Engine* engine, Recurrence* core, const Record& record, bool allow_precision,
                const std::string& where);

}  // namespace dst::core
