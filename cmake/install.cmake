# Program, static library with its headers, pkg-config file and man page.
install(TARGETS sluice RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
add_library(sluice_archive STATIC $<TARGET_OBJECTS:sluice_kernels> $<TARGET_OBJECTS:sluice_offload>
            $<TARGET_OBJECTS:sluice_runtime> $<TARGET_OBJECTS:sluice_cuda>)
set_target_properties(sluice_archive PROPERTIES OUTPUT_NAME sluice LINKER_LANGUAGE C)
install(TARGETS sluice_archive ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(FILES runtime/sl.h DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/sluice/runtime)
install(FILES kernels/status.h DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/sluice/kernels)
# The file finds its prefix from where it lies, so that an installed tree can be moved.
file(RELATIVE_PATH SLUICE_PC_TO_PREFIX /${CMAKE_INSTALL_LIBDIR}/pkgconfig /)
configure_file(cmake/sluice.pc.in sluice.pc @ONLY)
install(FILES ${CMAKE_BINARY_DIR}/sluice.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
install(FILES docs/sluice.1 DESTINATION ${CMAKE_INSTALL_MANDIR}/man1)
