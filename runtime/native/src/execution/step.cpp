#include "execution/step.h"

#include <cstring>

#include "base/error.h"

namespace dst::core {

BoundStep::BoundStep(Engine* engine, int64_t t, bool last, uint8_t* const states[2])
    : engine_(engine),
      t_(t),
      shape_(sized(engine->chunk().shape, t + engine->chunk().lookahead)),
      layout_(engine->chunk()),
      chunk_(engine->chunk(), t),
      session_(engine->session_for(t)) {
  const Graph& graph = engine->graph_for(t);
  const int64_t answered = last && !graph.answers.empty() ? 1 : t;
  if (!graph.answers.empty()) {
    for (int64_t i = t - answered; i < t; ++i) asked_.push_back(i);
  }
  for (const Output& output : engine->manifest().outputs) {
    Answer answer;
    answer.dtype = output.dtype;
    const ItemLayout layout(output.shape, output.dtype);
    const int time = axis_of(output.shape, 'T');
    answer.per_item = time >= 0;
    answer.outer = answer.per_item ? layout.outer : 1;
    answer.inner = answer.per_item ? layout.inner : layout.outer * layout.inner;
    answer.items = answer.per_item ? static_cast<size_t>(answered) : 1;
    answer.shape = sized(output.shape, answered);
    answer.buffer = Memory(answer.outer * answer.items * answer.inner);
    answer.begin = answer.buffer.data();
    if (last && answer.items > 1) {
      answer.shape[time] = 1;
      answer.begin += (answer.items - 1) * answer.inner;
      if (answer.outer > 1) {
        answer.copy = Memory(answer.outer * answer.inner);
        answer.begin = answer.copy.data();
      }
    }
    answers_.push_back(std::move(answer));
  }
  for (const int way : {0, 1}) bind(way, states);
}

void BoundStep::keep(Value value, OrtIoBinding* binding, const char* name, bool input) {
  ort_check(input ? ort().BindInput(binding, name, value.get())
                  : ort().BindOutput(binding, name, value.get()),
            "graph", name);
  values_.push_back(std::move(value));
}

void BoundStep::bind(int way, uint8_t* const states[2]) {
  const Manifest& manifest = engine_->manifest();
  OrtIoBinding* binding = nullptr;
  ort_check(ort().CreateIoBinding(session_, &binding), "graph", "binding");
  bindings_[way].reset(binding);
  const Chunk& chunk = manifest.chunk;
  keep(tensor_value(chunk_.feed(), chunk_.bytes(), chunk.dtype,
                    sized(chunk.shape, chunk.window(t_))),
       binding, chunk.input.c_str(), true);
  if (!asked_.empty()) {
    keep(tensor_value(asked_.data(), asked_.size() * 8, DST_INT64,
                      {static_cast<int64_t>(asked_.size())}),
         binding, engine_->graph_for(t_).answers.c_str(), true);
  }
  for (size_t i = 0; i < manifest.constants.size(); ++i) {
    ort_check(ort().BindInput(binding, manifest.constants[i].input.c_str(),
                              engine_->constants()[i].get()),
              "graph", "constant");
  }
  for (size_t i = 0; i < manifest.outputs.size(); ++i) {
    const Answer& answer = answers_[i];
    keep(tensor_value(answer.buffer.data(), answer.buffer.size(), answer.dtype,
                      sized(manifest.outputs[i].shape, static_cast<int64_t>(answer.items))),
         binding, manifest.outputs[i].name.c_str(), false);
  }
  for (size_t i = 0; i < manifest.state.size(); ++i) {
    const Place& place = engine_->places()[i];
    keep(tensor_value(states[way] + place.begin, place.size, place.dtype, place.shape), binding,
         manifest.state[i].input.c_str(), true);
    keep(tensor_value(states[way ^ 1] + place.begin, place.size, place.dtype, place.shape), binding,
         manifest.state[i].output.c_str(), false);
  }
}

bool BoundStep::fits(const dst_tensor& chunk) const {
  return chunk.dtype == engine_->chunk().dtype && chunk.data != nullptr &&
         chunk.rank == static_cast<int32_t>(shape_.size()) &&
         std::memcmp(chunk.shape, shape_.data(), shape_.size() * sizeof(int64_t)) == 0;
}

void BoundStep::fill(const dst_tensor& chunk) {
  const auto* from = static_cast<const uint8_t*>(chunk.data);
  const auto lookback = static_cast<size_t>(engine_->chunk().lookback);
  const size_t row = (chunk_.window() - lookback) * layout_.inner;
  for (size_t o = 0; o < layout_.outer; ++o) {
    std::memcpy(chunk_.raw() + (o * chunk_.window() + lookback) * layout_.inner, from + o * row,
                row);
  }
}

void BoundStep::give(const GivenInputs& given) {
  if (given == given_) return;
  const std::vector<Port>& ports = engine_->manifest().stream_inputs;
  for (const auto& binding : bindings_) {
    for (size_t i = 0; i < ports.size(); ++i) {
      ort_check(ort().BindInput(binding.get(), ports[i].input.c_str(), given->values[i].get()),
                "graph", "stream input");
    }
  }
  given_ = given;
}

void BoundStep::run(int way, const OrtRunOptions* options) {
  OrtStatus* status = ort().RunWithBinding(session_, options, bindings_[way].get());
  if (status == nullptr) return;
  const Owned<OrtStatus> owned(status);
  const std::string message = ort().GetErrorMessage(status);
  fail(DST_STEP, "graph-failed",
       engine_->graph_for(t_).file + " failed: " + shown(message.substr(0, message.find('\n'))));
}

const char* BoundStep::bad_output() const {
  for (size_t i = 0; i < answers_.size(); ++i) {
    const Answer& answer = answers_[i];
    const size_t values = answer.buffer.size() / item_size(answer.dtype);
    if (!all_finite(answer.buffer.data(), values, answer.dtype)) {
      return engine_->manifest().outputs[i].name.c_str();
    }
  }
  return nullptr;
}

void BoundStep::collect() {
  for (Answer& answer : answers_) {
    for (size_t o = 0; answer.copy.size() && o < answer.outer; ++o) {
      const size_t end = (o + 1) * answer.items;
      std::memcpy(answer.copy.data() + o * answer.inner,
                  answer.buffer.data() + (end - 1) * answer.inner, answer.inner);
    }
  }
}

}  // namespace dst::core
