#include "state/record.h"

#include <cstring>
#include <set>

#include "base/error.h"

namespace dst::core {

namespace {

Sizes items_shape(const Chunk& chunk, size_t count) {
  Sizes shape = fixed_axes(chunk.shape);
  shape.insert(shape.begin(), static_cast<int64_t>(count));
  return shape;
}

// How the constants of one and the same model differ, or those of one name; "" if they do not.
std::string constant_fault(const Identity& theirs, const Identity& ours) {
  const auto& here = ours.constants;
  auto there = theirs.constants;
  for (auto& [name, mark] : there) {
    const auto own = here.find(name);
    if (own != here.end() && own->second != mark) mark = respelled(mark);
  }
  if (there == here || (there.empty() && theirs.bundle_id == ours.bundle_id)) return "";
  for (const auto& [name, mark] : there) {
    const auto own = here.find(name);
    if (own != here.end() && own->second != mark) {
      return name + " is " + own->second + " here, the state was made with " + mark;
    }
  }
  // That the models differ says more than a constant that one of them does not have.
  if (theirs.model_id != ours.model_id) return "";
  return "the state tells other constants than this model has";
}

void check_identity(const Identity& theirs, const Identity& ours, bool allow_precision,
                    const std::string& where) {
  const auto refuse = [&where](const char* code, const std::string& what) {
    fail(DST_STATE_MISMATCH, code, where + ": " + shown(what));
  };
  const std::string constant = constant_fault(theirs, ours);
  if (!constant.empty()) refuse("other-constant", "constant " + constant);
  if (theirs.model_id != ours.model_id) refuse("other-model", "another model made it");
  if (theirs.state_hash != ours.state_hash) {
    refuse("other-state-layout", "it was made with another layout of the state");
  }
  if (theirs.precision != ours.precision && !allow_precision) {
    refuse("other-precision", "made at precision " + theirs.precision + ", this session runs " +
                                  ours.precision + "; ask for it by DST_ALLOW_PRECISION");
  }
}

}  // namespace

const RecordTensor* Record::find(const std::string& name) const {
  for (const RecordTensor& tensor : tensors) {
    if (tensor.name == name) return &tensor;
  }
  return nullptr;
}

Record record_of(const Engine& engine, const Recurrence& core) {
  const Chunk& chunk = engine.chunk();
  const Position& now = core.position;
  Record record;
  record.identity = engine.identity();
  record.items = now.items;
  record.sampler = now.sampler;
  const size_t item = core.layout().item_bytes();
  record.tensors.push_back({"pending", chunk.dtype, items_shape(chunk, now.waiting), core.pending(),
                            now.waiting * item});
  const auto lookback = static_cast<size_t>(chunk.lookback);
  record.tensors.push_back(
      {"lookback", chunk.dtype, items_shape(chunk, lookback), core.lookback(), lookback * item});
  for (const Place& place : engine.places()) {
    record.tensors.push_back(
        {"state/" + place.name, place.dtype, place.shape, core.state() + place.begin, place.size});
  }
  const std::vector<Port>& ports = engine.manifest().stream_inputs;
  for (size_t i = 0; i < ports.size(); ++i) {
    const std::vector<uint8_t>& bytes = now.given->bytes[i];
    record.tensors.push_back({"stream/" + ports[i].input, ports[i].dtype, sized(ports[i].shape, 0),
                              bytes.data(), bytes.size()});
  }
  return record;
}

Record copied(const Record& record) {
  Record copy = record;
  size_t all = 0, at = 0;
  for (const RecordTensor& tensor : record.tensors) all += tensor.size;
  copy.storage.assign(all, 0);
  for (RecordTensor& tensor : copy.tensors) {
    if (tensor.size) std::memcpy(copy.storage.data() + at, tensor.data, tensor.size);
    tensor.data = copy.storage.data() + at;
    at += tensor.size;
  }
  return copy;
}

void put_record(Engine* engine, Recurrence* core, const Record& record, bool allow_precision,
                const std::string& where) {
  check_identity(record.identity, engine->identity(), allow_precision, where);
  const auto refuse = [&where](const std::string& what) {
    fail(DST_STATE_CORRUPT, "state-tensors", where + ": " + shown(what));
  };
  const Manifest& manifest = engine->manifest();
  const Chunk& chunk = manifest.chunk;
  std::set<std::string> known;
  const auto tensor_of = [&](const std::string& name, dst_dtype dtype,
                             const Sizes& shape) -> const RecordTensor& {
    const RecordTensor* tensor = record.find(name);
    if (tensor == nullptr) refuse("has no tensor " + name);
    if (tensor->dtype != dtype || tensor->shape != shape) {
      refuse(name + " has another dtype or shape than the contract says");
    }
    known.insert(name);
    return *tensor;
  };
  Contents contents{};
  for (const Place& place : engine->places()) {
    contents.state.push_back(tensor_of("state/" + place.name, place.dtype, place.shape).data);
  }
  const RecordTensor& lookback =
      tensor_of("lookback", chunk.dtype, items_shape(chunk, static_cast<size_t>(chunk.lookback)));
  const RecordTensor* pending = record.find("pending");
  if (pending == nullptr) refuse("has no tensor pending");
  known.insert("pending");
  for (const RecordTensor* items : {&lookback, pending}) {
    const dst_tensor view{items->dtype, static_cast<int32_t>(items->shape.size()),
                          items->shape.data(), items->data};
    try {
      const size_t count = check_items(chunk, view);
      if (items == pending) contents.waiting = count;
    } catch (const Error& error) {
      refuse(items->name + ": " + error.message);
    }
  }
  std::vector<dst_named_tensor> inputs;
  for (const Port& port : manifest.stream_inputs) {
    const RecordTensor& input = tensor_of("stream/" + port.input, port.dtype, sized(port.shape, 0));
    inputs.push_back(
        {port.input.c_str(),
         {input.dtype, static_cast<int32_t>(input.shape.size()), input.shape.data(), input.data}});
  }
  for (const RecordTensor& tensor : record.tensors) {
    if (!known.count(tensor.name)) refuse("holds an unknown tensor " + tensor.name);
  }
  try {
    contents.given = given_inputs(manifest, inputs.data(), inputs.size());
  } catch (const Error& error) {
    refuse(error.message);
  }
  contents.lookback = lookback.data;
  contents.pending = pending->data;
  contents.items = record.items;
  contents.sampler = record.sampler;
  core->put(contents);
}

}  // namespace dst::core
