// The native functions of dst.Native, over dst.h: they copy arguments and results, and turn a
// status into a DstException. Texts cross as UTF-8 in byte arrays, since the strings of JNI have an
// encoding of their own.
#include <jni.h>

#include <cstdint>
#include <string>
#include <vector>

#include "dst.h"

namespace {

template <typename T>
T* at(jlong handle) {
  return reinterpret_cast<T*>(static_cast<intptr_t>(handle));
}

jlong handle_of(const void* pointer) {
  return static_cast<jlong>(reinterpret_cast<intptr_t>(pointer));
}

jbyteArray bytes_of(JNIEnv* env, const void* data, size_t size) {
  if (size > INT32_MAX) {
    env->ThrowNew(env->FindClass("java/lang/OutOfMemoryError"),
                  "more bytes than an array can hold");
    return nullptr;
  }
  jbyteArray array = env->NewByteArray(static_cast<jsize>(size));
  if (array != nullptr && size != 0) {
    env->SetByteArrayRegion(array, 0, static_cast<jsize>(size), static_cast<const jbyte*>(data));
  }
  return array;
}

jbyteArray bytes_of(JNIEnv* env, const char* text) {
  return bytes_of(env, text, std::char_traits<char>::length(text));
}

jlongArray longs_of(JNIEnv* env, const int64_t* values, size_t count) {
  static_assert(sizeof(jlong) == sizeof(int64_t), "jlong has 64 bits");
  jlongArray array = env->NewLongArray(static_cast<jsize>(count));
  if (array != nullptr) {
    env->SetLongArrayRegion(array, 0, static_cast<jsize>(count),
                            reinterpret_cast<const jlong*>(values));
  }
  return array;
}

std::string text_of(JNIEnv* env, jbyteArray array) {
  std::string text(static_cast<size_t>(env->GetArrayLength(array)), '\0');
  env->GetByteArrayRegion(array, 0, static_cast<jsize>(text.size()),
                          reinterpret_cast<jbyte*>(&text[0]));
  return text;
}

std::vector<int64_t> longs_in(JNIEnv* env, jlongArray array) {
  std::vector<int64_t> values(static_cast<size_t>(env->GetArrayLength(array)));
  env->GetLongArrayRegion(array, 0, static_cast<jsize>(values.size()),
                          reinterpret_cast<jlong*>(values.data()));
  return values;
}

std::vector<int32_t> ints_in(JNIEnv* env, jintArray array) {
  static_assert(sizeof(jint) == sizeof(int32_t), "jint has 32 bits");
  std::vector<int32_t> values(static_cast<size_t>(env->GetArrayLength(array)));
  env->GetIntArrayRegion(array, 0, static_cast<jsize>(values.size()),
                         reinterpret_cast<jint*>(values.data()));
  return values;
}

// What of dst.Native this file calls; found once, when the library is loaded.
struct Called {
  jclass native;
  jmethodID error, tensor, dtype, shape, direct;
};
Called called;

// Throws where the call failed; true where it did not.
bool good(JNIEnv* env, dst_status status, const std::vector<int64_t>* tokens = nullptr) {
  if (status == DST_OK) return true;
  jbyteArray code = bytes_of(env, dst_last_code());
  jbyteArray message = bytes_of(env, dst_last_message());
  jlongArray made = tokens == nullptr ? nullptr : longs_of(env, tokens->data(), tokens->size());
  if (env->ExceptionCheck()) return false;  // no memory is left
  jobject error = env->CallStaticObjectMethod(called.native, called.error,
                                              static_cast<jint>(status), code, message, made);
  if (!env->ExceptionCheck() && error != nullptr) env->Throw(static_cast<jthrowable>(error));
  return false;
}

// A dst.Tensor as a dst_tensor, for as long as this lives. The buffer stays where it is: it is
// direct.
struct Given {
  Given(JNIEnv* env, jobject tensor) {
    const jint dtype = env->CallStaticIntMethod(called.native, called.dtype, tensor);
    if (env->ExceptionCheck()) return;
    jobject sizes = env->CallStaticObjectMethod(called.native, called.shape, tensor);
    if (env->ExceptionCheck()) return;
    shape = longs_in(env, static_cast<jlongArray>(sizes));
    buffer = env->CallStaticObjectMethod(called.native, called.direct, tensor);
    if (env->ExceptionCheck()) return;
    view = {static_cast<dst_dtype>(dtype), static_cast<int32_t>(shape.size()), shape.data(),
            env->GetDirectBufferAddress(buffer)};
  }
  std::vector<int64_t> shape;
  jobject buffer = nullptr;
  dst_tensor view{};
};

size_t item_size(dst_dtype dtype) {
  constexpr size_t sizes[] = {2, 4, 8, 1, 4, 8, 1, 1};
  return sizes[dtype];
}

jobject tensor_of(JNIEnv* env, const dst_tensor& tensor) {
  size_t size = item_size(tensor.dtype);
  for (int32_t i = 0; i < tensor.rank; ++i) size *= static_cast<size_t>(tensor.shape[i]);
  jlongArray shape = longs_of(env, tensor.shape, static_cast<size_t>(tensor.rank));
  jbyteArray bytes = bytes_of(env, tensor.data, size);
  if (env->ExceptionCheck()) return nullptr;
  return env->CallStaticObjectMethod(called.native, called.tensor, static_cast<jint>(tensor.dtype),
                                     shape, bytes);
}

}  // namespace

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

DST_JNI(jbyteArray, version)(JNIEnv* env, jclass) { return bytes_of(env, dst_version()); }

DST_JNI(jlong, open)
(JNIEnv* env, jclass, jbyteArray path, jintArray numbers, jbyteArray lowering, jintArray sizes) {
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
}

DST_JNI(void, closeSession)(JNIEnv*, jclass, jlong session) {
  dst_session_close(at<dst_session>(session));
}

DST_JNI(void, loadGraphs)(JNIEnv* env, jclass, jlong session) {
  good(env, dst_session_load_graphs(at<dst_session>(session)));
}

DST_JNI(jobjectArray, infoTexts)(JNIEnv* env, jclass, jlong handle) {
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
}

DST_JNI(jlongArray, infoNumbers)(JNIEnv* env, jclass, jlong session) {
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
}

DST_JNI(jdouble, tolerance)(JNIEnv* env, jclass, jlong session) {
  dst_session_info info{};
  good(env, dst_session_describe(at<dst_session>(session), &info));
  return info.tolerance;
}

// --- streams

DST_JNI(jlong, start)
(JNIEnv* env, jclass, jlong session, jobjectArray names, jobjectArray tensors) {
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
}

DST_JNI(jlong, load)(JNIEnv* env, jclass, jlong session, jbyteArray path, jint flags) {
  dst_stream* stream = nullptr;
  good(env, dst_stream_load(at<dst_session>(session), text_of(env, path).c_str(),
                            static_cast<uint32_t>(flags), &stream));
  return handle_of(stream);
}

DST_JNI(jlong, fromBytes)(JNIEnv* env, jclass, jlong session, jbyteArray bytes, jint flags) {
  const std::string held = text_of(env, bytes);
  dst_stream* stream = nullptr;
  good(env, dst_stream_from_bytes(at<dst_session>(session), held.data(), held.size(),
                                  static_cast<uint32_t>(flags), &stream));
  return handle_of(stream);
}

DST_JNI(void, free)(JNIEnv*, jclass, jlong stream) { dst_stream_free(at<dst_stream>(stream)); }

DST_JNI(void, step)
(JNIEnv* env, jclass, jlong stream, jobject chunk, jint flags, jdouble deadline_ms) {
  const Given given(env, chunk);
  if (env->ExceptionCheck()) return;
  good(env, dst_stream_step(at<dst_stream>(stream), &given.view, static_cast<uint32_t>(flags),
                            deadline_ms));
}

DST_JNI(void, advance)
(JNIEnv* env, jclass, jlong stream, jobject items, jint flags, jdouble deadline_ms) {
  const Given given(env, items);
  if (env->ExceptionCheck()) return;
  good(env, dst_stream_advance(at<dst_stream>(stream), &given.view, static_cast<uint32_t>(flags),
                               deadline_ms));
}

DST_JNI(void, advanceBytes)
(JNIEnv* env, jclass, jlong stream, jbyteArray bytes, jint flags, jdouble deadline_ms) {
  const std::string held = text_of(env, bytes);
  good(env, dst_stream_advance_bytes(at<dst_stream>(stream), held.data(), held.size(),
                                     static_cast<uint32_t>(flags), deadline_ms));
}

DST_JNI(void, flush)(JNIEnv* env, jclass, jlong stream, jdouble deadline_ms) {
  good(env, dst_stream_flush(at<dst_stream>(stream), deadline_ms));
}

DST_JNI(void, cancel)(JNIEnv*, jclass, jlong stream) { dst_stream_cancel(at<dst_stream>(stream)); }

DST_JNI(jobject, output)(JNIEnv* env, jclass, jlong stream, jint index) {
  dst_tensor tensor;
  if (!good(env, dst_stream_output(at<dst_stream>(stream), static_cast<size_t>(index), &tensor))) {
    return nullptr;
  }
  return tensor_of(env, tensor);
}

DST_JNI(jobject, state)(JNIEnv* env, jclass, jlong stream, jint index) {
  dst_tensor tensor;
  if (!good(env, dst_stream_state(at<dst_stream>(stream), static_cast<size_t>(index), &tensor))) {
    return nullptr;
  }
  return tensor_of(env, tensor);
}

DST_JNI(jlong, itemsConsumed)(JNIEnv*, jclass, jlong stream) {
  return static_cast<jlong>(dst_stream_items_consumed(at<dst_stream>(stream)));
}

DST_JNI(jlong, pending)(JNIEnv*, jclass, jlong stream) {
  return static_cast<jlong>(dst_stream_pending(at<dst_stream>(stream)));
}

DST_JNI(jlongArray, sampler)(JNIEnv* env, jclass, jlong stream) {
  uint64_t seed = 0, draws = 0;
  if (!dst_stream_sampler(at<dst_stream>(stream), &seed, &draws)) return nullptr;
  const int64_t values[] = {static_cast<int64_t>(seed), static_cast<int64_t>(draws)};
  return longs_of(env, values, 2);
}

DST_JNI(jlongArray, generate)
(JNIEnv* env, jclass, jlong stream, jobject prompt, jint count, jdouble temperature, jlong top_k,
 jdouble top_p, jlongArray seed, jlongArray stop) {
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
}

// --- state

DST_JNI(void, reset)(JNIEnv* env, jclass, jlong stream) {
  good(env, dst_stream_reset(at<dst_stream>(stream)));
}

DST_JNI(jlong, fork)(JNIEnv* env, jclass, jlong stream) {
  dst_stream* other = nullptr;
  good(env, dst_stream_fork(at<dst_stream>(stream), &other));
  return handle_of(other);
}

DST_JNI(jlong, snapshot)(JNIEnv* env, jclass, jlong stream) {
  dst_snapshot* snapshot = nullptr;
  good(env, dst_stream_snapshot(at<dst_stream>(stream), &snapshot));
  return handle_of(snapshot);
}

DST_JNI(void, restore)(JNIEnv* env, jclass, jlong stream, jlong snapshot) {
  good(env, dst_stream_restore(at<dst_stream>(stream), at<dst_snapshot>(snapshot)));
}

DST_JNI(void, freeSnapshot)(JNIEnv*, jclass, jlong snapshot) {
  dst_snapshot_free(at<dst_snapshot>(snapshot));
}

DST_JNI(void, save)(JNIEnv* env, jclass, jlong stream, jbyteArray path, jint flags) {
  good(env, dst_stream_save(at<dst_stream>(stream), text_of(env, path).c_str(),
                            static_cast<uint32_t>(flags)));
}

DST_JNI(jbyteArray, toBytes)(JNIEnv* env, jclass, jlong stream) {
  size_t size = 0;
  if (!good(env, dst_stream_to_bytes(at<dst_stream>(stream), nullptr, &size))) return nullptr;
  std::string bytes(size, '\0');
  if (!good(env, dst_stream_to_bytes(at<dst_stream>(stream), &bytes[0], &size))) return nullptr;
  return bytes_of(env, bytes.data(), size);
}
