# Install the library, its headers, and what CMake and pkg-config find them by.
include(CMakePackageConfigHelpers)
include(GNUInstallDirs)
set(package "${CMAKE_INSTALL_LIBDIR}/cmake/dst_native")

install(TARGETS dst_native EXPORT dst_native INCLUDES DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}")
install(FILES include/dst.h include/dst.hpp DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}")
set_target_properties(dst_native PROPERTIES EXPORT_NAME native)
install(EXPORT dst_native NAMESPACE dst:: FILE dst_native-targets.cmake DESTINATION "${package}")

# A C compiler that links an archive of C++ has to be told of the libraries of C++.
set(DST_CXX_LIBRARIES "")
if(NOT BUILD_SHARED_LIBS)
  set(DST_CXX_LIBRARIES "${CMAKE_CXX_IMPLICIT_LINK_LIBRARIES}")
  list(FILTER DST_CXX_LIBRARIES INCLUDE REGEX "^(m|(std)?c\\+\\+(abi|_shared|_static)?)$")
endif()
configure_package_config_file(cmake/dst_native-config.cmake.in dst_native-config.cmake
  INSTALL_DESTINATION "${package}")
write_basic_package_version_file(dst_native-config-version.cmake COMPATIBILITY SameMinorVersion)
install(FILES
  "${CMAKE_CURRENT_BINARY_DIR}/dst_native-config.cmake"
  "${CMAKE_CURRENT_BINARY_DIR}/dst_native-config-version.cmake"
  cmake/FindOnnxRuntime.cmake cmake/FindXxHash.cmake
  DESTINATION "${package}")

# Where FindOnnxRuntime.cmake had to make a link that programs can load, one is installed too, in a
# folder of its own: among the libraries of a system it would be in the way. A shared library looks
# for ONNX Runtime by itself, since the rpath of a program does not hold for what it loads.
get_target_property(ONNXRUNTIME_LOADED OnnxRuntime::OnnxRuntime IMPORTED_LOCATION)
get_filename_component(DST_PC_ONNXRUNTIME "${ONNXRUNTIME_LOADED}" NAME)
if(ONNXRUNTIME_LOADED STREQUAL ONNXRUNTIME_LIBRARY)
  get_filename_component(DST_PC_ONNXRUNTIME_LIBDIR "${ONNXRUNTIME_LIBRARY}" DIRECTORY)
  set_target_properties(dst_native PROPERTIES INSTALL_RPATH "${DST_PC_ONNXRUNTIME_LIBDIR}")
else()
  set(DST_PC_ONNXRUNTIME_LIBDIR "\${libdir}/dst_native")
  set_target_properties(dst_native PROPERTIES INSTALL_RPATH "\$ORIGIN/dst_native")
  install(FILES "${ONNXRUNTIME_LOADED}" DESTINATION "${CMAKE_INSTALL_LIBDIR}/dst_native")
endif()

# For pkg-config.
file(RELATIVE_PATH DST_PC_PREFIX
  "${CMAKE_INSTALL_FULL_LIBDIR}/pkgconfig" "${CMAKE_INSTALL_PREFIX}")
string(REGEX REPLACE "/$" "" DST_PC_PREFIX "${DST_PC_PREFIX}")
set(DST_PC_REQUIRES Requires.private)
set(DST_PC_LIBS "")
if(NOT BUILD_SHARED_LIBS)
  set(DST_PC_REQUIRES Requires)
  list(TRANSFORM DST_CXX_LIBRARIES PREPEND " -l" OUTPUT_VARIABLE DST_PC_LIBS)
  string(REPLACE ";" "" DST_PC_LIBS "${DST_PC_LIBS} ${CMAKE_THREAD_LIBS_INIT}")
  string(STRIP "${DST_PC_LIBS}" DST_PC_LIBS)
endif()
configure_file(cmake/dst_native.pc.in dst_native.pc @ONLY)
install(FILES "${CMAKE_CURRENT_BINARY_DIR}/dst_native.pc"
  DESTINATION "${CMAKE_INSTALL_LIBDIR}/pkgconfig")
