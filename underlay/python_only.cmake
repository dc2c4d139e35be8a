# Included by every package of the underlay, before it generates its interfaces. It restricts them to what a Python process
# needs: C structures, their type supports and Python classes. No C++ program includes these headers, and compiling C++ for
# them would take most of the time.
find_package(ament_cmake REQUIRED)
find_package(rosidl_cmake REQUIRED)
find_package(rosidl_generator_type_description QUIET)  # since Iron
find_package(rosidl_generator_c REQUIRED)
find_package(rosidl_typesupport_fastrtps_c REQUIRED)
find_package(rosidl_typesupport_introspection_c REQUIRED)
find_package(rosidl_typesupport_c REQUIRED)
find_package(rosidl_generator_py REQUIRED)
foreach(dependency ${INTERFACE_DEPENDENCIES})
  find_package(${dependency} REQUIRED)
endforeach()

# find_package of a message package always registers the C++ generators, too. Each entry is "package:file".
list(FILTER AMENT_EXTENSIONS_rosidl_generate_idl_interfaces EXCLUDE REGEX "_cpp:")
