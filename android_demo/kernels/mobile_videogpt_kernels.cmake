# This project's operators, as a target of ExecuTorch's own Android build.
#
# Given to that build as CMAKE_PROJECT_executorch_INCLUDE, which CMake reads right behind ExecuTorch's `project(executorch)`, and named to
# it as EXECUTORCH_JNI_CUSTOM_LIBRARY; ../README.md has the commands. They have to be in libexecutorch.so itself: the library exports JNI's
# symbols only, so another one could not register operators with it.
#
# An object library: its objects stand on the link line of libexecutorch.so themselves. Nothing in there refers to an operator that
# registers itself, and of an archive the linker would drop it wherever CMake moves or merges --whole-archive.

get_filename_component(MOBILE_VIDEOGPT_OPS "${CMAKE_CURRENT_LIST_DIR}/../../export/ops" ABSOLUTE)

add_library(mobile_videogpt_kernels OBJECT "${MOBILE_VIDEOGPT_OPS}/operators.cpp")
target_compile_features(mobile_videogpt_kernels PRIVATE cxx_std_20)
set_target_properties(mobile_videogpt_kernels PROPERTIES CXX_STANDARD 20 CXX_STANDARD_REQUIRED ON POSITION_INDEPENDENT_CODE ON)
target_include_directories(mobile_videogpt_kernels PRIVATE "${MOBILE_VIDEOGPT_OPS}")
target_compile_options(mobile_videogpt_kernels PRIVATE -O3 -ffp-contract=fast)
# Names of ExecuTorch's targets: CMake looks for them once all are declared. They bring the include folders.
target_link_libraries(mobile_videogpt_kernels PRIVATE executorch_core extension_threadpool)

# With -DMOBILE_VIDEOGPT_MARCH=armv8.2-a+dotprod+fp16 the phone has to have these instructions (most since 2018); without, any arm64 one will do.
if(MOBILE_VIDEOGPT_MARCH)
  target_compile_options(mobile_videogpt_kernels PRIVATE "-march=${MOBILE_VIDEOGPT_MARCH}")
endif()
