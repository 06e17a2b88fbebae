# The distribution's libraries (deploy/install-deps.sh installs them).
find_package(PkgConfig REQUIRED)
find_package(Threads REQUIRED)
find_package(nng REQUIRED)
pkg_check_modules(GNUTLS REQUIRED IMPORTED_TARGET gnutls>=3.7)
pkg_check_modules(PROTOBUF_C REQUIRED IMPORTED_TARGET libprotobuf-c>=1.4)
pkg_check_modules(UV REQUIRED IMPORTED_TARGET libuv)
pkg_check_modules(SQLITE REQUIRED IMPORTED_TARGET sqlite3)
pkg_check_modules(CONFUSE REQUIRED IMPORTED_TARGET libconfuse)
pkg_check_modules(JANSSON REQUIRED IMPORTED_TARGET jansson)
pkg_check_modules(CMOCKA IMPORTED_TARGET cmocka)

# The replicator relies on facts measured on exactly this version of libraft's core (docs/replication.md).
pkg_check_modules(RAFT IMPORTED_TARGET raft)
if(NOT RAFT_FOUND OR NOT RAFT_VERSION VERSION_EQUAL "0.22.1")
  message(FATAL_ERROR "kds needs libraft 0.22.1 exactly, found '${RAFT_VERSION}'. Debian 13 has it; on Debian 12 it is in "
                      "bookworm-backports. Run deploy/install-deps.sh, which installs it.")
endif()
