// What crosses JNI, for dst_jni.cpp alone: arrays, texts, tensors and errors, each copied.
#pragma once

#include <jni.h>

#include <cstdint>
#include <exception>
#include <new>
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

void out_of_memory(JNIEnv* env, const char* what) {
  if (env->ExceptionCheck()) return;
  jclass error = env->FindClass("java/lang/OutOfMemoryError");
  if (error != nullptr) env->ThrowNew(error, what);
}

jbyteArray bytes_of(JNIEnv* env, const void* data, size_t size) {
  if (size > INT32_MAX) {
    out_of_memory(env, "more bytes than an array can hold");
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

void throw_dst(JNIEnv* env, dst_status status, const char* name, const char* what,
               const std::vector<int64_t>* tokens = nullptr) {
  if (env->ExceptionCheck()) return;
  jbyteArray code = bytes_of(env, name);
  jbyteArray message = bytes_of(env, what);
  jlongArray made = tokens == nullptr ? nullptr : longs_of(env, tokens->data(), tokens->size());
  if (env->ExceptionCheck()) return;  // no memory is left
  jobject error = env->CallStaticObjectMethod(called.native, called.error,
                                              static_cast<jint>(status), code, message, made);
  if (!env->ExceptionCheck() && error != nullptr) env->Throw(static_cast<jthrowable>(error));
}

// Throws where the call failed; true where it did not.
bool good(JNIEnv* env, dst_status status, const std::vector<int64_t>* tokens = nullptr) {
  if (status != DST_OK) throw_dst(env, status, dst_last_code(), dst_last_message(), tokens);
  return status == DST_OK;
}

// Called where a native function catches: an exception of C++ that left it would end the process.
template <typename Result>
Result thrown(JNIEnv* env) noexcept {
  try {
    throw;
  } catch (const std::bad_alloc&) {
    out_of_memory(env, "no memory is left");
  } catch (const std::exception& error) {
    throw_dst(env, DST_INTERNAL, "internal", error.what());
  } catch (...) {
    throw_dst(env, DST_INTERNAL, "internal", "an unknown fault");
  }
  return Result();
}

size_t item_size(dst_dtype dtype) {
  constexpr size_t sizes[] = {2, 4, 8, 1, 4, 8, 1, 1};
  return sizes[dtype];
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
    if (!enough(env->GetDirectBufferCapacity(buffer))) {
      throw_dst(env, DST_ARGUMENT, "argument", "a buffer is smaller than its shape says");
    }
  }
  bool enough(jlong bytes) const {
    uint64_t size = item_size(view.dtype);
    for (const int64_t axis : shape) {
      if (__builtin_mul_overflow(size, static_cast<uint64_t>(axis), &size)) return false;
    }
    return bytes >= 0 && size <= static_cast<uint64_t>(bytes);
  }
  std::vector<int64_t> shape;
  jobject buffer = nullptr;
  dst_tensor view{};
};

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
