/* Watch a log: print each line of the input with its surprise, in bits for each byte. The stream
 * learns the habits of the log; what it has learned is kept in a file and used by the next run.
 *
 *   logwatch BUNDLE STATE_FILE < log   such as: logwatch src/dst/shipped/text state.bin < app.log
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "dst.h"

#define IDS 256

/* What the model expects of the next byte; nothing before the first answer. */
static float expected[IDS];
static int known = 0;

static int failed(dst_status status) {
  if (status != DST_OK) fprintf(stderr, "%s: %s\n", dst_last_code(), dst_last_message());
  return status != DST_OK;
}

static double bits_of(unsigned char byte) {
  double sum = 0, top = expected[0];
  int i;
  for (i = 1; i < IDS; ++i) top = expected[i] > top ? expected[i] : top;
  for (i = 0; i < IDS; ++i) sum += exp(expected[i] - top);
  return (log(sum) - (expected[byte] - top)) / log(2.0);
}

/* Add the bits of the bytes that the last call has answered for; row i is about the byte after. */
static double add_bits(const dst_stream* stream, const unsigned char** at) {
  dst_tensor logits;
  double bits = 0;
  int64_t i;
  if (failed(dst_stream_output(stream, 0, &logits))) return 0;
  for (i = 0; i < logits.shape[1]; ++i, ++*at) {
    if (known) bits += bits_of(**at);
    memcpy(expected, (const float*)logits.data + i * IDS, sizeof expected);
    known = 1;
  }
  return bits;
}

int main(int argc, char** argv) {
  char line[4096];
  dst_session* session = NULL;
  dst_stream* stream = NULL;
  if (argc < 3) return fprintf(stderr, "usage: logwatch BUNDLE STATE_FILE < LOG\n"), 2;
  if (failed(dst_session_open(argv[1], NULL, &session))) return 1;
  if (dst_stream_load(session, argv[2], 0, &stream) == DST_STATE_NOT_FOUND) {
    if (failed(dst_stream_new(session, NULL, 0, &stream))) return 1; /* the first run */
  } else if (stream == NULL) {
    return fprintf(stderr, "%s: %s\n", dst_last_code(), dst_last_message()), 1;
  }
  while (fgets(line, sizeof line, stdin)) {
    const unsigned char* at = (const unsigned char*)line;
    const size_t size = strlen(line);
    double bits;
    if (failed(dst_stream_advance_bytes(stream, line, size, 0, 0))) return 1;
    bits = add_bits(stream, &at);
    if (failed(dst_stream_flush(stream, 0))) return 1; /* answer for the end of the line too */
    bits += add_bits(stream, &at);
    printf("%6.2f  %s", size ? bits / (double)size : 0, line);
  }
  if (failed(dst_stream_save(stream, argv[2], 0))) return 1;
  dst_stream_free(stream);
  dst_session_close(session);
  return 0;
}
