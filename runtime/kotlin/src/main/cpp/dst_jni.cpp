// The native functions of dst.Native, over dst.h: they copy arguments and results, and turn a
// status into a DstException. Texts cross as UTF-8 in byte arrays, since the strings of JNI have an
// encoding of their own.
#include <jni.h>

#include <cstdint>
#include <string>
#include <vector>

#include "crossing.h"
#include "dst.h"

// One that only calls a function of dst.h which throws nothing needs no `try`.
#define DST_JNI(type, name) extern "C" JNIEXPORT type JNICALL Java_dst_Native_##name

extern "C" JNIEXPORT jint JNICALL JNI_OnLoad(JavaVM* vm, void*) {
  JNIEnv* env = nullptr;
  if (vm->GetEnv(reinterpret_cast<void**>(&env), JNI_VERSION_1_6) != JNI_OK) return JNI_ERR;
  jclass found = env->FindClass("dst/Native");
  if (found == nullptr) return JNI_ERR;
  called.native = static_cast<jclass>(env->NewGlobalRef(found));
  const auto method = [&](const char* name, const char* signature) {
    return env->ExceptionCheck() ? nullptr : env->GetStaticMethodID(found, name, signature);
  };
  called.error = method("error", "(I[B[B[J)Ldst/DstException;");
  called.tensor = method("tensor", "(I[J[B)Ldst/Tensor;");
  called.dtype = method("dtype", "(Ldst/Tensor;)I");
  called.shape = method("shape", "(Ldst/Tensor;)[J");
  called.direct = method("direct", "(Ldst/Tensor;)Ljava/nio/ByteBuffer;");
  return env->ExceptionCheck() ? JNI_ERR : JNI_VERSION_1_6;
}

// --- sessions

DST_JNI(jbyteArray, version)(JNIEnv* env, jclass) try {
  return bytes_of(env, dst_version());
} catch (...) {
  return thrown<jbyteArray>(env);
}

DST_JNI(jlong, open)
(JNIEnv* env, jclass, jbyteArray path, jintArray numbers, jbyteArray lowering,
 jintArray sizes) try {
  const std::vector<int32_t> told = ints_in(env, numbers);
  const std::string name = lowering == nullptr ? "" : text_of(env, lowering);
  const auto chunk_sizes = sizes == nullptr ? std::vector<int32_t>{} : ints_in(env, sizes);
  static const int32_t none = 0;
  dst_session_options options;
  dst_session_options_init(&options);
  options.threads = told[0];
  options.spin = told[1];
  options.prepack = told[2];
  options.check_state_every = told[3];
  options.hash_files = told[4];
  if (lowering != nullptr) options.lowering = name.c_str();
  if (sizes != nullptr) options.chunk_sizes = chunk_sizes.empty() ? &none : chunk_sizes.data();
  options.chunk_size_count = chunk_sizes.size();
  dst_session* session = nullptr;
  good(env, dst_session_open(text_of(env, path).c_str(), &options, &session));
  return handle_of(session);
} catch (...) {
  return thrown<jlong>(env);
}

DST_JNI(void, closeSession)(JNIEnv*, jclass, jlong session) {
  dst_session_close(at<dst_session>(session));
}

DST_JNI(void, loadGraphs)(JNIEnv* env, jclass, jlong session) try {
  good(env, dst_session_load_graphs(at<dst_session>(session)));
} catch (...) {
  return thrown<void>(env);
}

DST_JNI(jobjectArray, infoTexts)(JNIEnv* env, jclass, jlong handle) try {
  const auto* session = at<dst_session>(handle);
  dst_session_info info;
  if (!good(env, dst_session_describe(session, &info))) return nullptr;
  std::vector<const char*> texts{info.name, info.model_id, info.bundle_id, info.precision,
                                 info.tail};
  for (size_t i = 0; i < info.output_count; ++i) {
    texts.push_back(dst_session_output_name(session, i));
  }
  for (size_t i = 0; i < info.state_count; ++i) texts.push_back(dst_session_state_name(session, i));
  jclass bytes = env->FindClass("[B");
  jobjectArray array = env->NewObjectArray(static_cast<jsize>(texts.size()), bytes, nullptr);
  for (size_t i = 0; array != nullptr && i < texts.size(); ++i) {
    jbyteArray text = bytes_of(env, texts[i]);
    if (text == nullptr) return nullptr;
    env->SetObjectArrayElement(array, static_cast<jsize>(i), text);
    env->DeleteLocalRef(text);
  }
  return array;
} catch (...) {
  return thrown<jobjectArray>(env);
}

DST_JNI(jlongArray, infoNumbers)(JNIEnv* env, jclass, jlong session) try {
  dst_session_info info;
  if (!good(env, dst_session_describe(at<dst_session>(session), &info))) return nullptr;
  const int64_t numbers[] = {info.chunk_dtype,
                             info.nominal_t,
                             info.lookback,
                             info.lookahead,
                             info.vocabulary,
                             static_cast<int64_t>(info.item_values),
                             static_cast<int64_t>(info.output_count),
                             static_cast<int64_t>(info.state_bytes)};
  return longs_of(env, numbers, sizeof numbers / sizeof *numbers);
} catch (...) {
  return thrown<jlongArray>(env);
}

DST_JNI(jdouble, tolerance)(JNIEnv* env, jclass, jlong session) try {
  dst_session_info info{};
  good(env, dst_session_describe(at<dst_session>(session), &info));
  return info.tolerance;
} catch (...) {
  return thrown<jdouble>(env);
}

// --- streams

DST_JNI(jlong, start)
(JNIEnv* env, jclass, jlong session, jobjectArray names, jobjectArray tensors) try {
  const jsize count = env->GetArrayLength(names);
  std::vector<std::string> texts;
  std::vector<Given> given;
  texts.reserve(static_cast<size_t>(count));
  given.reserve(static_cast<size_t>(count));
  std::vector<dst_named_tensor> inputs;
  for (jsize i = 0; i < count; ++i) {
    texts.push_back(text_of(env, static_cast<jbyteArray>(env->GetObjectArrayElement(names, i))));
    given.emplace_back(env, env->GetObjectArrayElement(tensors, i));
    if (env->ExceptionCheck()) return 0;
    inputs.push_back({texts.back().c_str(), given.back().view});
  }
  dst_stream* stream = nullptr;
  good(env, dst_stream_new(at<dst_session>(session), inputs.data(), inputs.size(), &stream));
  return handle_of(stream);
} catch (...) {
  return thrown<jlong>(env);
}

DST_JNI(jlong, load)(JNIEnv* env, jclass, jlong session, jbyteArray path, jint flags) try {
  dst_stream* stream = nullptr;
  good(env, dst_stream_load(at<dst_session>(session), text_of(env, path).c_str(),
                            static_cast<uint32_t>(flags), &stream));
  return handle_of(stream);
} catch (...) {
  return thrown<jlong>(env);
}

DST_JNI(jlong, fromBytes)(JNIEnv* env, jclass, jlong session, jbyteArray bytes, jint flags) try {
  const std::string held = text_of(env, bytes);
  dst_stream* stream = nullptr;
  good(env, dst_stream_from_bytes(at<dst_session>(session), held.data(), held.size(),
                                  static_cast<uint32_t>(flags), &stream));
  return handle_of(stream);
} catch (...) {
  return thrown<jlong>(env);
}

DST_JNI(void, free)(JNIEnv*, jclass, jlong stream) { dst_stream_free(at<dst_stream>(stream)); }

DST_JNI(void, step)
(JNIEnv* env, jclass, jlong stream, jobject chunk, jint flags, jdouble deadline_ms) try {
  const Given given(env, chunk);
  if (env->ExceptionCheck()) return;
  good(env, dst_stream_step(at<dst_stream>(stream), &given.view, static_cast<uint32_t>(flags),
                            deadline_ms));
} catch (...) {
  return thrown<void>(env);
}

DST_JNI(void, advance)
(JNIEnv* env, jclass, jlong stream, jobject items, jint flags, jdouble deadline_ms) try {
  const Given given(env, items);
  if (env->ExceptionCheck()) return;
  good(env, dst_stream_advance(at<dst_stream>(stream), &given.view, static_cast<uint32_t>(flags),
                               deadline_ms));
} catch (...) {
  return thrown<void>(env);
}

DST_JNI(void, advanceBytes)
(JNIEnv* env, jclass, jlong stream, jbyteArray bytes, jint flags, jdouble deadline_ms) try {
  const std::string held = text_of(env, bytes);
  good(env, dst_stream_advance_bytes(at<dst_stream>(stream), held.data(), held.size(),
                                     static_cast<uint32_t>(flags), deadline_ms));
} catch (...) {
  return thrown<void>(env);
}

DST_JNI(void, flush)(JNIEnv* env, jclass, jlong stream, jdouble deadline_ms) try {
  good(env, dst_stream_flush(at<dst_stream>(stream), deadline_ms));
} catch (...) {
  return thrown<void>(env);
}

DST_JNI(void, cancel)(JNIEnv*, jclass, jlong stream) { dst_stream_cancel(at<dst_stream>(stream)); }

DST_JNI(jobject, output)(JNIEnv* env, jclass, jlong stream, jint index) try {
  dst_tensor tensor;
  if (!good(env, dst_stream_output(at<dst_stream>(stream), static_cast<size_t>(index), &tensor))) {
    return nullptr;
  }
  return tensor_of(env, tensor);
} catch (...) {
  return thrown<jobject>(env);
}

DST_JNI(jobject, state)(JNIEnv* env, jclass, jlong stream, jint index) try {
  dst_tensor tensor;
  if (!good(env, dst_stream_state(at<dst_stream>(stream), static_cast<size_t>(index), &tensor))) {
    return nullptr;
  }
  return tensor_of(env, tensor);
} catch (...) {
  return thrown<jobject>(env);
}

DST_JNI(jlong, itemsConsumed)(JNIEnv*, jclass, jlong stream) {
  return static_cast<jlong>(dst_stream_items_consumed(at<dst_stream>(stream)));
}

DST_JNI(jlong, pending)(JNIEnv*, jclass, jlong stream) {
  return static_cast<jlong>(dst_stream_pending(at<dst_stream>(stream)));
}

DST_JNI(jlongArray, sampler)(JNIEnv* env, jclass, jlong stream) try {
  uint64_t seed = 0, draws = 0;
  if (!dst_stream_sampler(at<dst_stream>(stream), &seed, &draws)) return nullptr;
  const int64_t values[] = {static_cast<int64_t>(seed), static_cast<int64_t>(draws)};
  return longs_of(env, values, 2);
} catch (...) {
  return thrown<jlongArray>(env);
}

DST_JNI(jlongArray, generate)
(JNIEnv* env, jclass, jlong stream, jobject prompt, jint count, jdouble temperature, jlong top_k,
 jdouble top_p, jlongArray seed, jlongArray stop) try {
  const Given given(env, prompt);
  if (env->ExceptionCheck()) return nullptr;
  const std::vector<int64_t> stops = longs_in(env, stop);
  uint64_t start = 0;
  if (seed != nullptr) start = static_cast<uint64_t>(longs_in(env, seed)[0]);
  const dst_sampling sampling{temperature,  top_k,       top_p, seed == nullptr ? nullptr : &start,
                              stops.data(), stops.size()};
  std::vector<int64_t> tokens(count < 0 ? 0 : static_cast<size_t>(count));
  size_t made = 0;
  const dst_status status = dst_stream_generate(at<dst_stream>(stream), &given.view, tokens.size(),
                                                &sampling, tokens.data(), &made);
  tokens.resize(made);
  return good(env, status, &tokens) ? longs_of(env, tokens.data(), made) : nullptr;
} catch (...) {
  return thrown<jlongArray>(env);
}

// --- state

DST_JNI(void, reset)(JNIEnv* env, jclass, jlong stream) try {
  good(env, dst_stream_reset(at<dst_stream>(stream)));
} catch (...) {
  return thrown<void>(env);
}

DST_JNI(jlong, fork)(JNIEnv* env, jclass, jlong stream) try {
  dst_stream* other = nullptr;
  good(env, dst_stream_fork(at<dst_stream>(stream), &other));
  return handle_of(other);
} catch (...) {
  return thrown<jlong>(env);
}

DST_JNI(jlong, snapshot)(JNIEnv* env, jclass, jlong stream) try {
  dst_snapshot* snapshot = nullptr;
  good(env, dst_stream_snapshot(at<dst_stream>(stream), &snapshot));
  return handle_of(snapshot);
} catch (...) {
  return thrown<jlong>(env);
}

DST_JNI(void, restore)(JNIEnv* env, jclass, jlong stream, jlong snapshot) try {
  good(env, dst_stream_restore(at<dst_stream>(stream), at<dst_snapshot>(snapshot)));
} catch (...) {
  return thrown<void>(env);
}

DST_JNI(void, freeSnapshot)(JNIEnv*, jclass, jlong snapshot) {
  dst_snapshot_free(at<dst_snapshot>(snapshot));
}

DST_JNI(void, save)(JNIEnv* env, jclass, jlong stream, jbyteArray path, jint flags) try {
  good(env, dst_stream_save(at<dst_stream>(stream), text_of(env, path).c_str(),
                            static_cast<uint32_t>(flags)));
} catch (...) {
  return thrown<void>(env);
}

DST_JNI(jbyteArray, toBytes)(JNIEnv* env, jclass, jlong stream) try {
  size_t size = 0;
  if (!good(env, dst_stream_to_bytes(at<dst_stream>(stream), nullptr, &size))) return nullptr;
  std::string bytes(size, '\0');
  if (!good(env, dst_stream_to_bytes(at<dst_stream>(stream), &bytes[0], &size))) return nullptr;
  return bytes_of(env, bytes.data(), size);
} catch (...) {
  return thrown<jbyteArray>(env);
}
