# Find ONNX Runtime's C API: set ONNXRUNTIME_ROOT to an unpacked release, or ONNXRUNTIME_INCLUDE and
# ONNXRUNTIME_LIBRARY to the folder of onnxruntime_c_api.h and to the library itself. An older header
# works with a newer library.
find_path(ONNXRUNTIME_INCLUDE onnxruntime_c_api.h
  HINTS ${ONNXRUNTIME_ROOT} PATH_SUFFIXES include include/onnxruntime include/onnxruntime/core/session)
find_library(ONNXRUNTIME_LIBRARY onnxruntime HINTS ${ONNXRUNTIME_ROOT} PATH_SUFFIXES lib lib64)

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(OnnxRuntime DEFAULT_MSG ONNXRUNTIME_LIBRARY ONNXRUNTIME_INCLUDE)
if(OnnxRuntime_FOUND AND NOT TARGET OnnxRuntime::OnnxRuntime)
  add_library(OnnxRuntime::OnnxRuntime UNKNOWN IMPORTED)
  set_target_properties(OnnxRuntime::OnnxRuntime PROPERTIES
    IMPORTED_LOCATION "${ONNXRUNTIME_LIBRARY}"
    INTERFACE_INCLUDE_DIRECTORIES "${ONNXRUNTIME_INCLUDE}")
endif()
mark_as_advanced(ONNXRUNTIME_INCLUDE ONNXRUNTIME_LIBRARY)
