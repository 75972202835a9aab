/* Feed numbers to a model of features: 40 readings of a sensor, one each five minutes. Prints what
 * it has learned to expect, and the surprise of the reading that breaks the habit.
 *
 *   features BUNDLE   such as: features src/dst/shipped/feed
 */
#include <stdio.h>
#include <string.h>

#include "dst.h"

#define READINGS 40
#define FEATURES 3 /* of `feed`: the value, the day, and the second of the day */

static int failed(dst_status status) {
  if (status != DST_OK) fprintf(stderr, "%s: %s\n", dst_last_code(), dst_last_message());
  return status != DST_OK;
}

/* Print what the last call answered; `first` is the number of its first item. */
static int64_t print_surprise(const dst_session* session, const dst_stream* stream, int64_t first) {
  dst_tensor surprise;
  size_t place = 0;
  int64_t i;
  const char* name;
  while ((name = dst_session_output_name(session, place)) && strcmp(name, "surprise") != 0) ++place;
  if (failed(dst_stream_output(stream, place, &surprise))) return -1;
  for (i = 0; i < surprise.shape[1]; ++i) { /* the shape is [1, items, 1] */
    printf("reading %2d: surprise %5.2f\n", (int)(first + i), ((const float*)surprise.data)[i]);
  }
  return surprise.shape[1];
}

int main(int argc, char** argv) {
  float readings[READINGS][FEATURES];
  const int64_t shape[] = {READINGS, FEATURES}; /* time first, no batch axis */
  dst_tensor items = {DST_FLOAT32, 2, NULL, NULL};
  dst_session* session = NULL;
  dst_stream* stream = NULL;
  int64_t answered, i;
  if (argc < 2) return fprintf(stderr, "usage: features BUNDLE\n"), 2;

  for (i = 0; i < READINGS; ++i) {
    readings[i][0] = i == 36 ? 90.0f : 20.0f + (float)(i % 2);
    readings[i][1] = 20000.0f;
    readings[i][2] = (float)i * 300.0f;
  }
  items.shape = shape;
  items.data = readings;
  if (failed(dst_session_open(argv[1], NULL, &session))) return 1;
  if (failed(dst_stream_new(session, NULL, 0, &stream))) return 1;
  if (failed(dst_stream_advance(stream, &items, 0, 0))) return 1;
  answered = print_surprise(session, stream, 0);
  if (answered < 0) return 1;
  printf("advance answers for %d items, %d wait\n", (int)answered, (int)dst_stream_pending(stream));
  if (failed(dst_stream_flush(stream, 0))) return 1;
  answered = print_surprise(session, stream, answered);
  if (answered < 0) return 1;
  printf("flush answers for %d items\n", (int)answered);
  dst_stream_free(stream);
  dst_session_close(session);
  return 0;
}
