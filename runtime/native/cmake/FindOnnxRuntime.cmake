# Find ONNX Runtime's C API: set ONNXRUNTIME_ROOT to an unpacked release, or ONNXRUNTIME_INCLUDE and
# ONNXRUNTIME_LIBRARY to the folder of onnxruntime_c_api.h and to the library itself. An older header
# works with a newer library. The component `library` is the library alone: what links to dst_native
# needs no header of ONNX Runtime.
find_path(ONNXRUNTIME_INCLUDE onnxruntime_c_api.h
  HINTS ${ONNXRUNTIME_ROOT} PATH_SUFFIXES include include/onnxruntime include/onnxruntime/core/session)
find_library(ONNXRUNTIME_LIBRARY onnxruntime HINTS ${ONNXRUNTIME_ROOT} PATH_SUFFIXES lib lib64)

# A program asks for the name that the library has inside, such as libonnxruntime.so.1. The wheel of
# Python has no file of that name, so a program that links to the wheel's file would not start: make
# a link of that name in the build folder, which CMake then puts into the rpath.
function(onnxruntime_as_programs_load_it result)
  set(${result} "${ONNXRUNTIME_LIBRARY}" PARENT_SCOPE)
  if(NOT ONNXRUNTIME_LIBRARY MATCHES "\\.so\\.[0-9.]+$" OR NOT CMAKE_READELF)
    return()
  endif()
  execute_process(COMMAND "${CMAKE_COMMAND}" -E env LC_ALL=C
    "${CMAKE_READELF}" -d "${ONNXRUNTIME_LIBRARY}" OUTPUT_VARIABLE read ERROR_QUIET)
  if(NOT read MATCHES "soname: \\[([^]]+)\\]")
    return()
  endif()
  set(name "${CMAKE_MATCH_1}")
  get_filename_component(folder "${ONNXRUNTIME_LIBRARY}" DIRECTORY)
  if(EXISTS "${folder}/${name}")
    return()
  endif()
  set(link "${CMAKE_BINARY_DIR}/onnxruntime/${name}")
  file(MAKE_DIRECTORY "${CMAKE_BINARY_DIR}/onnxruntime")
  file(CREATE_LINK "${ONNXRUNTIME_LIBRARY}" "${link}" SYMBOLIC)
  set(${result} "${link}" PARENT_SCOPE)
endfunction()

set(needed ONNXRUNTIME_LIBRARY)
if(NOT OnnxRuntime_FIND_COMPONENTS STREQUAL "library")
  list(APPEND needed ONNXRUNTIME_INCLUDE)
endif()
include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(OnnxRuntime REQUIRED_VARS ${needed})
if(OnnxRuntime_FOUND AND NOT TARGET OnnxRuntime::OnnxRuntime)
  onnxruntime_as_programs_load_it(ONNXRUNTIME_LOADED)
  add_library(OnnxRuntime::OnnxRuntime UNKNOWN IMPORTED)
  set_target_properties(OnnxRuntime::OnnxRuntime PROPERTIES
    IMPORTED_LOCATION "${ONNXRUNTIME_LOADED}")
  if(ONNXRUNTIME_INCLUDE)
    set_target_properties(OnnxRuntime::OnnxRuntime PROPERTIES
      INTERFACE_INCLUDE_DIRECTORIES "${ONNXRUNTIME_INCLUDE}")
  endif()
endif()
mark_as_advanced(ONNXRUNTIME_INCLUDE ONNXRUNTIME_LIBRARY)
