/* The smallest use of dst.h: feed bytes to a text model, save the stream, go on with the copy.
 *
 *   first BUNDLE STATE_FILE   such as: first src/dst/shipped/text state.bin
 */
#include <stdio.h>
#include <string.h>

#include "dst.h"

static int failed(dst_status status) {
  if (status != DST_OK) fprintf(stderr, "%s: %s\n", dst_last_code(), dst_last_message());
  return status != DST_OK;
}

int main(int argc, char** argv) {
  const char* text = "The quick brown fox jumps over the lazy dog, again and again.";
  dst_session* session = NULL;
  dst_stream *stream = NULL, *copy = NULL;
  dst_tensor logits;
  if (argc < 3) return fprintf(stderr, "usage: first BUNDLE STATE_FILE\n"), 2;

  if (failed(dst_session_open(argv[1], NULL, &session))) return 1;
  if (failed(dst_stream_new(session, NULL, 0, &stream))) return 1;
  if (failed(dst_stream_advance_bytes(stream, text, strlen(text), 0, 0))) return 1;
  if (failed(dst_stream_output(stream, 0, &logits))) return 1;
  printf("%s: logits [%d, %d, %d], %d bytes wait\n", dst_session_output_name(session, 0),
         (int)logits.shape[0], (int)logits.shape[1], (int)logits.shape[2],
         (int)dst_stream_pending(stream));

  if (failed(dst_stream_save(stream, argv[2], 0))) return 1;
  if (failed(dst_stream_load(session, argv[2], 0, &copy))) return 1;
  if (failed(dst_stream_flush(copy, 0))) return 1;
  printf("the copy has read %d bytes, the stream %d\n", (int)dst_stream_items_consumed(copy),
         (int)dst_stream_items_consumed(stream));

  dst_stream_free(copy);
  dst_stream_free(stream);
  dst_session_close(session);
  return 0;
}
