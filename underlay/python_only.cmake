# Included by every package of the underlay, before it generates its interfaces: only what a Python process needs is made,
# the C structures, their type supports and the Python classes. No C++ program includes these headers, and compiling C++
# for them would take most of the time.
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

# Finding a message package registers the C++ generators too, whoever asked. Each entry is "package:file".
list(FILTER AMENT_EXTENSIONS_rosidl_generate_idl_interfaces EXCLUDE REGEX "_cpp:")
