/* Run a bundle as live streams, from C: open a session, start a stream, feed it, keep its state.
 *
 * The words, the laws and the error codes are those of FORMAT.md and of the Python runtime. Every
 * function that can fail returns a dst_status; dst_last_code() then gives the code of FORMAT.md and
 * dst_last_message() a line for people. A call that fails leaves the stream as it was before the
 * call. The code "state-not-finite" alone may put a stream further back, and its message says so.
 *
 * A function that answers a value and no status takes NULL in the place of any pointer: it then
 * answers NULL or 0, or does nothing.
 *
 * Threads may share a session. A stream belongs to one thread at a time; dst_stream_cancel() alone
 * may be called from any thread.
 */
#ifndef DST_H
#define DST_H

#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32) && defined(DST_SHARED)
#ifdef DST_BUILD
#define DST_API __declspec(dllexport)
#else
#define DST_API __declspec(dllimport)
#endif
#elif defined(__GNUC__)
#define DST_API __attribute__((visibility("default")))
#else
#define DST_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* One value for each way to react; the code says which fault it is. */
typedef enum dst_status {
  DST_OK = 0,
  DST_ARGUMENT = 1,      /* the call itself was wrong */
  DST_BUNDLE = 2,        /* the bundle is broken or cannot be read */
  DST_SESSION = 3,       /* the bundle cannot be run here as asked */
  DST_STEP = 4,          /* a step was refused or failed */
  DST_NOT_FINITE = 5,    /* a value is NaN or infinite */
  DST_PARTIAL_CHUNK = 6, /* flush with items that wait, under the tail rule `refuse` */
  DST_DEADLINE = 7,      /* the call did not finish in time */
  DST_CANCELLED = 8,     /* dst_stream_cancel() ended the call */
  DST_STATE = 9,         /* a saved state cannot be read or written */
  DST_STATE_NOT_FOUND = 10,
  DST_STATE_CORRUPT = 11,  /* its bytes are not those that were written */
  DST_STATE_MISMATCH = 12, /* it belongs to another model, layout, precision or version */
  DST_MEMORY = 13,         /* no memory is left */
  DST_INTERNAL = 14        /* a fault of this library */
} dst_status;

typedef enum dst_dtype {
  DST_FLOAT16 = 0,
  DST_FLOAT32 = 1,
  DST_FLOAT64 = 2,
  DST_INT8 = 3,
  DST_INT32 = 4,
  DST_INT64 = 5,
  DST_UINT8 = 6,
  DST_BOOL = 7
} dst_dtype;

/* A tensor in somebody else's memory: values in C order. */
typedef struct dst_tensor {
  dst_dtype dtype;
  int32_t rank;
  const int64_t* shape;
  const void* data;
} dst_tensor;

typedef struct dst_session dst_session;
typedef struct dst_stream dst_stream;
typedef struct dst_snapshot dst_snapshot;

/* The code of the last error of this thread, such as "file-hash"; "" if there was none. */
DST_API const char* dst_last_code(void);
/* What the last error of this thread was, in one line. */
DST_API const char* dst_last_message(void);
DST_API const char* dst_version(void);

/* --- sessions --------------------------------------------------------------------------------- */

typedef struct dst_session_options {
  size_t struct_size;         /* sizeof(dst_session_options), so that the struct can grow */
  int32_t threads;            /* threads inside one operator */
  int32_t spin;               /* 1: they keep their cores busy while they wait */
  int32_t prepack;            /* 0: weights stay in their file; less memory, slower chunks */
  int32_t check_state_every;  /* steps between two checks of the state for NaN */
  int32_t hash_files;         /* 0: compare the sizes of the files only */
  const char* lowering;       /* "fused", "portable" or "other"; NULL for the best */
  const int32_t* chunk_sizes; /* the T to run; NULL for all */
  size_t chunk_size_count;
} dst_session_options;

/* Fill options with their defaults: one thread, prepacked, checks every 64 steps, hashed files. */
DST_API void dst_session_options_init(dst_session_options* options);

/* Open a bundle, a folder. Its files are checked; a graph is loaded when it is first needed.
 * `options` may be NULL. Close the session at any time: its streams keep what they need. */
DST_API dst_status dst_session_open(const char* path, const dst_session_options* options,
                                    dst_session** session);
DST_API void dst_session_close(dst_session* session);
/* Load the graphs of all T now, so that the first steps do not wait for it. */
DST_API dst_status dst_session_load_graphs(dst_session* session);

typedef struct dst_session_info {
  const char* name;
  const char* model_id;
  const char* bundle_id;
  const char* precision;
  const char* tail; /* "exact", "pad" or "refuse" */
  dst_dtype chunk_dtype;
  int32_t nominal_t; /* the T by which advance cuts */
  int64_t lookback;
  int64_t lookahead;
  int64_t vocabulary; /* how many token ids there are; 0 for features */
  size_t item_values; /* values of one item */
  size_t output_count;
  size_t state_count;
  size_t state_bytes; /* of one state; a stream holds four */
  double tolerance;   /* the largest golden_tolerance of the graphs */
} dst_session_info;

/* Tell what the session runs; the texts live as long as the session. */
DST_API dst_status dst_session_describe(const dst_session* session, dst_session_info* info);
DST_API const char* dst_session_output_name(const dst_session* session, size_t index);
DST_API const char* dst_session_state_name(const dst_session* session, size_t index);

/* --- streams ---------------------------------------------------------------------------------- */

typedef struct dst_named_tensor {
  const char* name;
  dst_tensor tensor;
} dst_named_tensor;

/* Start a stream at the initial state. `inputs` are what the model takes once for each stream. */
DST_API dst_status dst_stream_new(dst_session* session, const dst_named_tensor* inputs,
                                  size_t input_count, dst_stream** stream);
DST_API void dst_stream_free(dst_stream* stream);

#define DST_LAST 1u /* answer for the last item only */

/* Step on one chunk, in the contract's shape with B = 1. `deadline_ms` is 0 for no deadline. The
 * outputs are those of the step's own buffers, valid until the next call on the stream. */
DST_API dst_status dst_stream_step(dst_stream* stream, const dst_tensor* chunk, uint32_t flags,
                                   double deadline_ms);
/* Read items `[n, ...]`: time first, no batch axis. Whole chunks are stepped, the rest waits. */
DST_API dst_status dst_stream_advance(dst_stream* stream, const dst_tensor* items, uint32_t flags,
                                      double deadline_ms);
/* The same for a model whose tokens are bytes. */
DST_API dst_status dst_stream_advance_bytes(dst_stream* stream, const void* bytes, size_t count,
                                            uint32_t flags, double deadline_ms);
/* End the input by the tail rule of the contract. */
DST_API dst_status dst_stream_flush(dst_stream* stream, double deadline_ms);
/* End the step, advance, flush or generate that runs now, from another thread; it fails with
 * DST_CANCELLED. Where none runs, nothing happens. A graph that is being loaded cannot be stopped,
 * here or by a deadline: the call ends right after. */
DST_API void dst_stream_cancel(dst_stream* stream);

/* What the last step, advance or flush answered, in the contract's order. */
DST_API dst_status dst_stream_output(const dst_stream* stream, size_t index, dst_tensor* output);
/* The state tensor of that place, valid until the next call on the stream. */
DST_API dst_status dst_stream_state(const dst_stream* stream, size_t index, dst_tensor* state);
DST_API uint64_t dst_stream_items_consumed(const dst_stream* stream);
DST_API size_t dst_stream_pending(const dst_stream* stream);
/* 1 and the random source, or 0 where nothing was sampled or a pointer is NULL. */
DST_API int dst_stream_sampler(const dst_stream* stream, uint64_t* seed, uint64_t* draws);

typedef struct dst_sampling {
  double temperature;   /* 0 takes the most likely token */
  int64_t top_k;        /* 0 for all */
  double top_p;         /* 1 for all */
  const uint64_t* seed; /* NULL goes on with the stream's random source, or makes one */
  const int64_t* stop;  /* tokens that end the text */
  size_t stop_count;
} dst_sampling;

/* Read a prompt and sample up to `count` tokens. `made` says how many; after an error too, and the
 * stream then stands behind the last of them. A cancel ends it wherever it is. */
DST_API dst_status dst_stream_generate(dst_stream* stream, const dst_tensor* prompt, size_t count,
                                       const dst_sampling* sampling, int64_t* tokens, size_t* made);

/* --- state ------------------------------------------------------------------------------------ */

DST_API dst_status dst_stream_reset(dst_stream* stream);
DST_API dst_status dst_stream_fork(const dst_stream* stream, dst_stream** other);
DST_API dst_status dst_stream_snapshot(const dst_stream* stream, dst_snapshot** snapshot);
DST_API dst_status dst_stream_restore(dst_stream* stream, const dst_snapshot* snapshot);
DST_API void dst_snapshot_free(dst_snapshot* snapshot);

#define DST_NOT_DURABLE 1u     /* save: do not wait for the disk */
#define DST_ALLOW_PRECISION 1u /* load: take a state of another precision of the model */

/* Write everything the stream is to a file, in one rename. What stood there is kept beside it as
 * `<name>.previous`. Only one process may save to a path at a time. A link there is refused, and
 * so is whatever else is no plain file. */
DST_API dst_status dst_stream_save(dst_stream* stream, const char* path, uint32_t flags);
DST_API dst_status dst_stream_load(dst_session* session, const char* path, uint32_t flags,
                                   dst_stream** stream);
/* The same bytes in memory. With `bytes` NULL only the size is told. */
DST_API dst_status dst_stream_to_bytes(dst_stream* stream, void* bytes, size_t* size);
DST_API dst_status dst_stream_from_bytes(dst_session* session, const void* bytes, size_t size,
                                         uint32_t flags, dst_stream** stream);

#ifdef __cplusplus
}
#endif
#endif
