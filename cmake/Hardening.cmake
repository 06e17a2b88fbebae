# Flags for every binary; tests/integration/hardening.sh reads the built files and fails where one is missing.
include(CheckPIESupported)
check_pie_supported(LANGUAGES C)
set(KDS_SANITIZE "" CACHE STRING "Sanitizers: address,undefined or thread; empty: none")

add_compile_options(-fstack-protector-strong -fno-common -fno-omit-frame-pointer)
add_link_options(-Wl,-z,relro -Wl,-z,now -Wl,-z,noexecstack -Wl,--as-needed)
if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|i[3-6]86")
  add_compile_options(-fcf-protection=full)
elseif(CMAKE_SYSTEM_PROCESSOR MATCHES "aarch64")
  add_compile_options(-mbranch-protection=standard)
endif()
if(KDS_SANITIZE)
  add_compile_options(-fsanitize=${KDS_SANITIZE} -fno-sanitize-recover=all)
  add_link_options(-fsanitize=${KDS_SANITIZE})
elseif(NOT CMAKE_BUILD_TYPE STREQUAL "Debug")
  add_compile_options(-U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=2) # needs optimisation; sanitizers bring checks of their own
endif()
