// The C functions of dst.h: no exception and no type of C++ crosses them.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <new>

#include "base/error.h"
#include "dst.h"
#include "handles.h"

using dst::core::Engine;
using dst::core::Error;
using dst::core::fail;
using dst::core::Record;
using dst::core::Stream;

namespace {

struct LastError {
  std::string code, message;
};

LastError& last_error() {
  thread_local LastError error;
  return error;
}

dst_status keep(dst_status status, const std::string& code, const std::string& message) noexcept {
  try {
    last_error() = {code, message};
  } catch (...) {  // no memory for the words; the status says enough
  }
  return status;
}

template <typename Work>
dst_status guarded(Work work) noexcept {
  try {
    work();
    return DST_OK;
  } catch (const Error& error) {
    return keep(error.status, error.code, error.message);
  } catch (const std::bad_alloc&) {
    return keep(DST_MEMORY, "memory", "no memory is left");
  } catch (const std::exception& error) {
    return keep(DST_INTERNAL, "internal", error.what());
  } catch (...) {
    return keep(DST_INTERNAL, "internal", "an unknown fault");
  }
}

void need(const void* pointer, const char* what) {
  if (pointer == nullptr) fail(DST_ARGUMENT, "argument", std::string(what) + " is NULL");
}

// An array of the caller; one that is larger than any object comes from wrong arithmetic.
void need_array(const void* pointer, size_t count, size_t item, const char* what) {
  if (count) need(pointer, what);
  if (count > PTRDIFF_MAX / item) {
    fail(DST_ARGUMENT, "argument", std::string(what) + ": " + std::to_string(count) +
                                       " of them are more than any memory holds");
  }
}

void need_tensor(const dst_tensor* tensor, const char* what) {
  need(tensor, what);
  if (tensor->rank < 0 || tensor->rank > 16 || (tensor->rank > 0 && tensor->shape == nullptr)) {
    fail(DST_ARGUMENT, "argument", std::string(what) + " has no shape");
  }
  int dtype = 0;  // a caller in C may have put any number there
  std::memcpy(&dtype, &tensor->dtype, sizeof dtype);
  if (dtype < DST_FLOAT16 || dtype > DST_BOOL) {
    fail(DST_ARGUMENT, "argument", std::string(what) + " has an unknown dtype");
  }
}

dst::core::Options options_of(const dst_session_options* given) {
  dst_session_options all;
  dst_session_options_init(&all);
  if (given != nullptr) {
    if (given->struct_size < sizeof(size_t) || given->struct_size > sizeof all) {
      fail(DST_ARGUMENT, "argument", "options: call dst_session_options_init first");
    }
    std::memcpy(&all, given, given->struct_size);
  }
  dst::core::Options options;
  options.threads = all.threads;
  options.spin = all.spin != 0;
  options.prepack = all.prepack != 0;
  options.check_state_every = all.check_state_every;
  options.hash_files = all.hash_files != 0;
  if (all.lowering != nullptr) options.lowering = all.lowering;
  if (all.chunk_sizes != nullptr) {
    need_array(all.chunk_sizes, all.chunk_size_count, sizeof(int32_t), "chunk_sizes");
    options.chunk_sizes.assign(all.chunk_sizes, all.chunk_sizes + all.chunk_size_count);
    if (options.chunk_sizes.empty()) {
      fail(DST_SESSION, "chunk-size", "chunk_sizes is empty; give at least one T");
    }
  }
  return options;
}

}  // namespace

extern "C" {

const char* dst_last_code(void) { return last_error().code.c_str(); }
const char* dst_last_message(void) { return last_error().message.c_str(); }
const char* dst_version(void) { return DST_VERSION; }

void dst_session_options_init(dst_session_options* options) {
  if (options != nullptr) *options = {sizeof *options, 1, 0, 1, 64, 1, nullptr, nullptr, 0};
}

dst_status dst_session_open(const char* path, const dst_session_options* options,
                            dst_session** session) {
  return guarded([&] {
    need(path, "path");
    need(session, "session");
    *session = nullptr;
    *session = new dst_session{std::make_shared<Engine>(path, options_of(options))};
  });
}

void dst_session_close(dst_session* session) { delete session; }

dst_status dst_session_load_graphs(dst_session* session) {
  return guarded([&] {
    need(session, "session");
    for (const int64_t t : session->engine->chunk_sizes()) session->engine->session_for(t);
  });
}

dst_status dst_session_describe(const dst_session* session, dst_session_info* info) {
  return guarded([&] {
    need(session, "session");
    need(info, "info");
    const dst::core::Manifest& m = session->engine->manifest();
    double tolerance = 0;
    for (const auto& graph : m.graphs) tolerance = std::max(tolerance, graph.golden_tolerance);
    *info = {m.name.c_str(),
             m.model_id.c_str(),
             m.bundle_id.c_str(),
             m.precision.c_str(),
             m.chunk.tail_name.c_str(),
             m.chunk.dtype,
             static_cast<int32_t>(m.chunk.nominal_t),
             m.chunk.lookback,
             m.chunk.lookahead,
             m.chunk.vocabulary,
             static_cast<size_t>(dst::core::product(dst::core::fixed_axes(m.chunk.shape))),
             m.outputs.size(),
             m.state.size(),
             session->engine->state_bytes(),
             tolerance};
  });
}

const char* dst_session_output_name(const dst_session* session, size_t index) {
  if (session == nullptr) return nullptr;
  const auto& outputs = session->engine->manifest().outputs;
  return index < outputs.size() ? outputs[index].name.c_str() : nullptr;
}

const char* dst_session_state_name(const dst_session* session, size_t index) {
  if (session == nullptr) return nullptr;
  const auto& states = session->engine->manifest().state;
  return index < states.size() ? states[index].input.c_str() : nullptr;
}

dst_status dst_stream_new(dst_session* session, const dst_named_tensor* inputs, size_t input_count,
                          dst_stream** stream) {
  return guarded([&] {
    need(session, "session");
    need(stream, "stream");
    *stream = nullptr;
    need_array(inputs, input_count, sizeof *inputs, "inputs");
    for (size_t i = 0; i < input_count; ++i) {
      need(inputs[i].name, "the name of an input");
      need_tensor(&inputs[i].tensor, "an input");
    }
    const auto& engine = session->engine;
    const auto given = dst::core::given_inputs(engine->manifest(), inputs, input_count);
    *stream = new dst_stream{Stream(engine, given)};
  });
}

void dst_stream_free(dst_stream* stream) { delete stream; }

dst_status dst_stream_step(dst_stream* stream, const dst_tensor* chunk, uint32_t flags,
                           double deadline_ms) {
  return guarded([&] {
    need(stream, "stream");
    need_tensor(chunk, "chunk");
    stream->stream.step(*chunk, (flags & DST_LAST) != 0, deadline_ms);
  });
}

dst_status dst_stream_advance(dst_stream* stream, const dst_tensor* items, uint32_t flags,
                              double deadline_ms) {
  return guarded([&] {
    need(stream, "stream");
    need_tensor(items, "items");
    stream->stream.advance(*items, (flags & DST_LAST) != 0, deadline_ms);
  });
}

dst_status dst_stream_advance_bytes(dst_stream* stream, const void* bytes, size_t count,
                                    uint32_t flags, double deadline_ms) {
  return guarded([&] {
    need(stream, "stream");
    need_array(bytes, count, sizeof(int64_t), "bytes");  // as tokens, into which they are copied
    stream->stream.advance_bytes(static_cast<const uint8_t*>(bytes), count, (flags & DST_LAST) != 0,
                                 deadline_ms);
  });
}

dst_status dst_stream_flush(dst_stream* stream, double deadline_ms) {
  return guarded([&] {
    need(stream, "stream");
    stream->stream.flush(deadline_ms);
  });
}

void dst_stream_cancel(dst_stream* stream) {
  if (stream != nullptr) stream->stream.cancel();
}

dst_status dst_stream_output(const dst_stream* stream, size_t index, dst_tensor* output) {
  return guarded([&] {
    need(stream, "stream");
    need(output, "output");
    const dst_tensor* held = stream->stream.output(index);
    if (held == nullptr) fail(DST_ARGUMENT, "argument", "there is no such output now");
    *output = *held;
  });
}

dst_status dst_stream_state(const dst_stream* stream, size_t index, dst_tensor* state) {
  return guarded([&] {
    need(stream, "stream");
    need(state, "state");
    const auto& places = stream->stream.engine()->places();
    if (index >= places.size()) fail(DST_ARGUMENT, "argument", "there is no such state tensor");
    const auto& place = places[index];
    *state = {place.dtype, static_cast<int32_t>(place.shape.size()), place.shape.data(),
              stream->stream.core().state() + place.begin};
  });
}

uint64_t dst_stream_items_consumed(const dst_stream* stream) {
  return stream == nullptr ? 0 : stream->stream.position().items;
}

size_t dst_stream_pending(const dst_stream* stream) {
  return stream == nullptr ? 0 : stream->stream.position().waiting;
}

int dst_stream_sampler(const dst_stream* stream, uint64_t* seed, uint64_t* draws) {
  if (stream == nullptr || seed == nullptr || draws == nullptr) return 0;
  const auto& sampler = stream->stream.position().sampler;
  if (!sampler) return 0;
  *seed = sampler->seed;
  *draws = sampler->draws;
  return 1;
}

dst_status dst_stream_generate(dst_stream* stream, const dst_tensor* prompt, size_t count,
                               const dst_sampling* sampling, int64_t* tokens, size_t* made) {
  return guarded([&] {
    need(stream, "stream");
    need_tensor(prompt, "prompt");
    need(sampling, "sampling");
    need(made, "made");
    *made = 0;
    if (count) need(tokens, "tokens");
    need_array(sampling->stop, sampling->stop_count, sizeof(int64_t), "stop");
    stream->stream.generate(*prompt, count, *sampling, tokens, made);
  });
}

dst_status dst_stream_reset(dst_stream* stream) {
  return guarded([&] {
    need(stream, "stream");
    stream->stream.reset();
  });
}

dst_status dst_stream_fork(const dst_stream* stream, dst_stream** other) {
  return guarded([&] {
    need(stream, "stream");
    need(other, "other");
    *other = nullptr;
    const Stream& from = stream->stream;
    const Record now = dst::core::record_of(*from.engine(), from.core());
    *other = new dst_stream{Stream(from.engine(), now, false, "fork")};
  });
}

dst_status dst_stream_snapshot(const dst_stream* stream, dst_snapshot** snapshot) {
  return guarded([&] {
    need(stream, "stream");
    need(snapshot, "snapshot");
    *snapshot = nullptr;
    const Stream& from = stream->stream;
    *snapshot =
        new dst_snapshot{dst::core::copied(dst::core::record_of(*from.engine(), from.core()))};
  });
}

dst_status dst_stream_restore(dst_stream* stream, const dst_snapshot* snapshot) {
  return guarded([&] {
    need(stream, "stream");
    need(snapshot, "snapshot");
    stream->stream.restore(snapshot->record);
  });
}

void dst_snapshot_free(dst_snapshot* snapshot) { delete snapshot; }

dst_status dst_stream_save(dst_stream* stream, const char* path, uint32_t flags) {
  return guarded([&] {
    need(stream, "stream");
    need(path, "path");
    Record record = stream->stream.finite_record();
    std::string header;
    dst::core::replace_file(path, dst::core::pack(&record, &header), !(flags & DST_NOT_DURABLE));
  });
}

dst_status dst_stream_load(dst_session* session, const char* path, uint32_t flags,
                           dst_stream** stream) {
  return guarded([&] {
    need(session, "session");
    need(path, "path");
    need(stream, "stream");
    *stream = nullptr;
    const Record record = dst::core::read_record(path);
    const std::string where = "state " + dst::core::shown(path);
    *stream =
        new dst_stream{Stream(session->engine, record, (flags & DST_ALLOW_PRECISION) != 0, where)};
  });
}

dst_status dst_stream_to_bytes(dst_stream* stream, void* bytes, size_t* size) {
  return guarded([&] {
    need(stream, "stream");
    need(size, "size");
    Record record = stream->stream.finite_record();
    std::string header;
    const auto parts = dst::core::pack(&record, &header);
    size_t all = 0;
    for (const auto& part : parts) all += part.second;
    const size_t room = *size;
    *size = all;
    if (bytes == nullptr) return;
    if (room < all) fail(DST_ARGUMENT, "argument", "there is not enough room for the bytes");
    auto* at = static_cast<uint8_t*>(bytes);
    for (const auto& [from, count] : parts) {
      if (count) std::memcpy(at, from, count);
      at += count;
    }
  });
}

dst_status dst_stream_from_bytes(dst_session* session, const void* bytes, size_t size,
                                 uint32_t flags, dst_stream** stream) {
  return guarded([&] {
    need(session, "session");
    need(stream, "stream");
    *stream = nullptr;
    need_array(bytes, size, 1, "bytes");
    const auto* from = static_cast<const uint8_t*>(bytes);
    const Record record = dst::core::unpack({from, from + size});
    *stream = new dst_stream{
        Stream(session->engine, record, (flags & DST_ALLOW_PRECISION) != 0, "saved state")};
  });
}

}  // extern "C"
