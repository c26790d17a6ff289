"""Emission of CUDA: a folder with a formula as a library of kernels, with a header in plain C."""

from __future__ import annotations

from dataclasses import replace

from moa.backends.c_selftest import selftest
from moa.backends.cuda_library import header, host_header, host_source, source
from moa.device import many_rows
from moa.emit import Library
from moa.pipeline import Placed, specialised


class CudaLibrary(Library):
    """One formula placed on blocks of threads."""

    vector_bytes = (128,)

    def placed(self, vector_bytes: int) -> Placed:
        """The variant for many rows; `vector_bytes` is no choice here: vectors have 32 lanes."""
        return many_rows(self.derivation, self.dtype, self.kernel._stored, self.fixed)

    def files(self, backend: str) -> dict[str, str]:
        x, n = self.interface, self.name
        normal = specialised(self.derivation.equations, self.fixed)
        test = selftest(replace(x, name=f"{n}_host"), normal, self.sizes_to_test(), self.fixed, dict(x.indices))
        out = {
            f"{n}.h": header(x),
            f"{n}.cu": source(x, self.widths[0]),
            f"{n}_host.h": host_header(x),
            f"{n}_host.cu": host_source(x),
            f"{n}_selftest.c": test,
            "CMakeLists.txt": CMAKE.replace("@NAME@", n),
            f"{n}-config.cmake.in": CONFIG.replace("@NAME@", n),
        }
        out[f"{n}.json"] = self.description(backend, sorted([*out, f"{n}.json"]))
        return out


CMAKE = """# Made by moa. Use by add_subdirectory, or install and find_package(@NAME@); link to @NAME@::@NAME@.
cmake_minimum_required(VERSION 3.18)
if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
  set(CMAKE_CUDA_ARCHITECTURES 80 90a-real)
endif()
project(@NAME@ LANGUAGES C CXX CUDA)

set(CMAKE_C_STANDARD 11)
set(CMAKE_CXX_STANDARD 17)
set(CMAKE_CUDA_STANDARD 17)
if(NOT CMAKE_BUILD_TYPE AND NOT CMAKE_CONFIGURATION_TYPES)
  set(CMAKE_BUILD_TYPE Release)
endif()

add_library(@NAME@ @NAME@.cu)
add_library(@NAME@::@NAME@ ALIAS @NAME@)
target_include_directories(@NAME@ PUBLIC $<BUILD_INTERFACE:${CMAKE_CURRENT_SOURCE_DIR}> $<INSTALL_INTERFACE:include>)
target_compile_options(@NAME@ PRIVATE $<$<COMPILE_LANGUAGE:CUDA>:--fmad=false>)
set_target_properties(@NAME@ PROPERTIES POSITION_INDEPENDENT_CODE ON)

if(CMAKE_SOURCE_DIR STREQUAL CMAKE_CURRENT_SOURCE_DIR)
  enable_testing()
  add_executable(@NAME@_selftest @NAME@_selftest.c @NAME@_host.cu)
  target_link_libraries(@NAME@_selftest PRIVATE @NAME@ m)
  add_test(NAME @NAME@_selftest COMMAND @NAME@_selftest)
endif()

include(CMakePackageConfigHelpers)
configure_package_config_file(@NAME@-config.cmake.in ${CMAKE_CURRENT_BINARY_DIR}/@NAME@-config.cmake
  INSTALL_DESTINATION lib/cmake/@NAME@)
install(TARGETS @NAME@ EXPORT @NAME@-targets ARCHIVE DESTINATION lib LIBRARY DESTINATION lib RUNTIME DESTINATION bin)
install(FILES @NAME@.h DESTINATION include)
install(EXPORT @NAME@-targets NAMESPACE @NAME@:: DESTINATION lib/cmake/@NAME@)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/@NAME@-config.cmake DESTINATION lib/cmake/@NAME@)
"""

CONFIG = """@PACKAGE_INIT@
include("${CMAKE_CURRENT_LIST_DIR}/@NAME@-targets.cmake")
"""
