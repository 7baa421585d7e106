# The GPU's kernels: sluice_cuda is what a program links, with or without the toolkit.
# Defines SLUICE_CUDA_FOUND.
set(SLUICE_CUDA AUTO CACHE STRING "GPU kernels: AUTO (where the CUDA Toolkit is found), ON or OFF")
set_property(CACHE SLUICE_CUDA PROPERTY STRINGS AUTO ON OFF)
file(GLOB CUDA_KERNELS CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/kernels/cuda/*.cu)
file(GLOB CUDA_HOST CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/kernels/cuda/*.c)
list(FILTER CUDA_HOST EXCLUDE REGEX "/absent\\.c$")

set(SLUICE_CUDA_FOUND OFF)
if(NOT SLUICE_CUDA STREQUAL OFF)
  include(CheckLanguage)
  if(NOT DEFINED CMAKE_CUDA_COMPILER AND NOT DEFINED ENV{CUDACXX})
    find_program(SLUICE_NVCC nvcc PATHS /usr/local/cuda/bin $ENV{CUDA_HOME}/bin)
    if(SLUICE_NVCC)
      set(CMAKE_CUDA_COMPILER ${SLUICE_NVCC})
    endif()
  endif()
  # Machine code for the first target and for its oldest relative; every other one, of compute
  # capability 8.0 and later, gets its own from the PTX when it first runs.
  if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
    set(CMAKE_CUDA_ARCHITECTURES "80;90a-real")
  endif()
  check_language(CUDA)
  if(CMAKE_CUDA_COMPILER)
    enable_language(CUDA)
    # CMake 3.25 marks this library, which CUDA 13 no longer has, and stops where it is not.
    if(CMAKE_VERSION VERSION_LESS 3.27 AND NOT TARGET CUDA::nvToolsExt)
      add_library(CUDA::nvToolsExt INTERFACE IMPORTED)
    endif()
    find_package(CUDAToolkit 12.0)
    set(SLUICE_CUDA_FOUND ${CUDAToolkit_FOUND})
  endif()
endif()
if(SLUICE_CUDA STREQUAL ON AND NOT SLUICE_CUDA_FOUND)
  message(FATAL_ERROR "SLUICE_CUDA=ON: no CUDA Toolkit 12 or newer was found; put nvcc into PATH, set "
                      "CUDACXX, or use AUTO or OFF")
endif()

if(SLUICE_CUDA_FOUND)
  message(STATUS "GPU: kernels for ${CMAKE_CUDA_ARCHITECTURES}, CUDA ${CUDAToolkit_VERSION}")
  add_library(sluice_cuda STATIC ${CUDA_KERNELS} ${CUDA_HOST})
  # No contraction of a*b+c, as on the CPU: what is written is what is rounded.
  target_compile_options(sluice_cuda PRIVATE
    "$<$<COMPILE_LANGUAGE:CUDA>:--fmad=false;--Werror=all-warnings;-lineinfo;-Xcompiler=-Wall,-Wextra,-Wshadow,-Wno-missing-field-initializers,-fno-exceptions,-fno-rtti,-fno-threadsafe-statics>")
  set_target_properties(sluice_cuda PROPERTIES CUDA_STANDARD 17 CUDA_STANDARD_REQUIRED ON
                        CUDA_RUNTIME_LIBRARY Static CUDA_VISIBILITY_PRESET hidden)
  target_include_directories(sluice_cuda PRIVATE ${PROJECT_SOURCE_DIR} ${CUDAToolkit_INCLUDE_DIRS})
  target_link_libraries(sluice_cuda PUBLIC sluice_kernels CUDA::cudart_static)
  # The header is enough: kernels/cuda/cublas.c loads the library when it is asked for.
  find_file(SLUICE_CUBLASLT_HEADER cublasLt.h PATHS ${CUDAToolkit_INCLUDE_DIRS} NO_DEFAULT_PATH)
  if(SLUICE_CUBLASLT_HEADER)
    target_compile_definitions(sluice_cuda PRIVATE SL_WITH_CUBLASLT)
  else()
    message(STATUS "cuBLASLt: left out, the CUDA Toolkit has no cublasLt.h")
  endif()
else()
  message(STATUS "GPU: left out, no CUDA Toolkit is used")
  add_library(sluice_cuda STATIC kernels/cuda/absent.c)
  target_link_libraries(sluice_cuda PUBLIC sluice_kernels)
endif()
