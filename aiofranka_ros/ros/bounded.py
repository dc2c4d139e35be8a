"""Requests and goals of any size at a bounded cost: long lists are cut before they become Python objects.

Used by the nodes when they create services and action servers. A request costs rclpy up to 50 µs for each element of
its lists: one with ten thousand parameters would keep Python busy for half a second. What arrives on a topic can be
taken as bytes, whose number is known before anything is read (:func:`aiofranka_ros.ros.cdr.subscribe`); a request
cannot. But between DDS and Python it is a C structure, whose lists have known sizes, made by
:mod:`aiofranka_ros.ros.requests` or by rclpy. So :func:`bounded` makes a type of requests whose lists are cut there. A
list that was cut still has one element more than is allowed, so that it is refused when it is checked.

Long texts and lists of numbers cost less, but are cut as well: the log and answers stay short. The layout of the
structures is that of ``rosidl_generator_c``: the fields in order, with C's alignment; a string or list is a pointer, a
size and a capacity.
"""

from __future__ import annotations

import ctypes
import enum
import importlib
import re
from collections.abc import Callable
from typing import Any, NamedTuple

_WORD = ctypes.sizeof(ctypes.c_void_p)
#: Sizes of numbers [bytes], and what becomes one object for each element of a list.
_SIZES = {
    "boolean": 1, "octet": 1, "byte": 1, "char": 1, "uint8": 1, "int8": 1, "uint16": 2, "int16": 2, "uint32": 4,
    "int32": 4, "float": 4, "float32": 4, "uint64": 8, "int64": 8, "double": 8, "float64": 8,
}  # fmt: skip
_ONE_BY_ONE = ("boolean", "octet", "byte", "string", "wstring")
#: How many elements all lists of one request may have together, beyond the allowed length of one.
_MORE = 100
#: Most bytes of a text, and most numbers in a list of numbers.
_LONGEST_TEXT, _LONGEST_NUMBERS = 1000, 1000
#: So many elements are looked at one by one.
_FEW = 200


class _List(ctypes.Structure):
    """A list, or a string, of ``rosidl_runtime_c``."""

    _fields_ = (("data", ctypes.c_void_p), ("size", ctypes.c_size_t), ("capacity", ctypes.c_size_t))


class _Kind(enum.Enum):
    TEXT = enum.auto()
    NUMBERS = enum.auto()  #: a list that becomes an array
    LIST = enum.auto()  #: a list whose elements become objects one by one
    INSIDE = enum.auto()  #: a message, or several


class _Field(NamedTuple):
    """What may be long, at ``offset`` in a structure; the layout of its elements, or of ``number`` messages inside."""

    kind: _Kind
    offset: int
    element: _Layout | None = None
    number: int = 1


class _Layout(NamedTuple):
    """A structure: its size and alignment [bytes], what in it may be long, and whether there are lists among that."""

    size: int
    alignment: int
    fields: tuple[_Field, ...]

    @property
    def has_lists(self) -> bool:
        return any(
            field.kind is _Kind.LIST
            or (field.kind is _Kind.INSIDE and field.element is not None and field.element.has_lists)
            for field in self.fields
        )


def bounded(kind: type, most: int) -> type:
    """A type for messages of ``kind``, taken from DDS with lists of at most ``most + 1`` elements.

    All lists together get at most 100 elements more than ``most``; none is left for those at the end.

    :param kind: a message, or the request of a service or an action.
    """
    metaclass: Any = type(kind)
    convert, layout = _CONVERT(function_of(kind, "_CONVERT_TO_PY")), _layout_of(kind)

    def cut_and_convert(message: int) -> Any:
        cut = _Cut(most)
        try:
            cut.apply(message, layout)
            return convert(message)
        finally:
            cut.undo()

    callback = _CONVERT(cut_and_convert)
    capsule = _capsule(ctypes.cast(callback, ctypes.c_void_p), None, None)
    # The callback must live as long as the capsule.
    bounded_metaclass = type("Bounded", (metaclass,), {"_CONVERT_TO_PY": capsule, "callback": callback})
    return type.__new__(bounded_metaclass, kind.__name__, (kind,), {})


def function_of(kind: Any, name: str) -> int:
    """Address of the function that rclpy has as ``name`` for messages of ``kind``."""
    metaclass: Any = type(kind)
    if getattr(metaclass, name) is None:
        metaclass.__import_type_support__()
    return int(_pointer(getattr(metaclass, name), None))


def bounded_service(kind: Any, most: int) -> Any:
    """A type for services of ``kind`` whose requests are :func:`bounded`."""
    return type(kind)(kind.__name__, (kind,), {"Request": bounded(kind.Request, most), "Response": kind.Response})


def bounded_action(kind: Any, most: int) -> Any:
    """A type for actions of ``kind`` whose goals are :func:`bounded`."""
    goals = bounded_service(kind.Impl.SendGoalService, most)
    implementation = type("Impl", (kind.Impl,), {"SendGoalService": goals})
    return type(kind)(kind.__name__, (kind,), {"Impl": implementation})


_CONVERT = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p)
_pointer: Callable[..., Any] = ctypes.pythonapi.PyCapsule_GetPointer
_pointer.restype, _pointer.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)  # type: ignore[attr-defined]
_capsule: Callable[..., Any] = ctypes.pythonapi.PyCapsule_New
_capsule.restype = ctypes.py_object  # type: ignore[attr-defined]
_capsule.argtypes = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)  # type: ignore[attr-defined]


class _Cut:
    """Cuts one message, and undoes it, so that what was cut off is freed, too."""

    def __init__(self, most: int) -> None:
        self._most, self._left = most, most + _MORE
        self._lists: list[tuple[_List, int]] = []
        self._texts: list[tuple[ctypes.c_char, bytes]] = []

    def apply(self, message: int, layout: _Layout) -> None:
        """Cut what is long in the structure at ``message``."""
        for kind, offset, element, number in layout.fields:
            begin = message + offset
            if kind is not _Kind.INSIDE:
                found = _List.from_address(begin)
                begin, number = found.data or 0, found.size
                if kind is _Kind.TEXT:
                    if number > _LONGEST_TEXT:  # It ends with its first zero.
                        end = ctypes.c_char.from_address(begin + _LONGEST_TEXT)
                        self._texts.append((end, end.value))
                        end.value = b"\0"
                    continue
                if kind is _Kind.LIST:
                    number = min(number, self._most + 1, self._left)
                    self._left -= number
                else:
                    number = min(number, max(self._most + 1, _LONGEST_NUMBERS))
                if number < found.size:
                    self._lists.append((found, found.size))
                    found.size = number
            # Of many elements without lists, texts and numbers may be long: that costs less than to look.
            if element is not None and element.fields and (number <= _FEW or element.has_lists):
                for index in range(number):
                    self.apply(begin + index * element.size, element)

    def undo(self) -> None:
        """Restore the message."""
        for where, size in self._lists:
            where.size = size
        for end, value in self._texts:
            end.value = value


_STRING = _Layout(3 * _WORD, _WORD, (_Field(_Kind.TEXT, 0),))


def _layout_of(kind: Any) -> _Layout:
    """The layout of the structure of a message."""
    at, alignment, fields, example = 0, 1, [], kind()
    for name, type_name in kind.get_fields_and_field_types().items():
        sequence = re.fullmatch(r"sequence<(.+?)(?:, \d+)?>", type_name)
        array = re.fullmatch(r"(.+)\[(\d+)\]", type_name)
        element_name = re.sub(r"<\d+>", "", (sequence or array or [type_name, type_name])[1])
        element = None
        if "/" in element_name:
            value = getattr(example, name)
            if sequence:
                package, _, element_kind = element_name.partition("/")
                value = getattr(importlib.import_module(f"{package}.msg"), element_kind)()
            element = _layout_of(type(value[0] if array else value))
            size, needed = element.size, element.alignment
        elif element_name in _SIZES:
            size = needed = _SIZES[element_name]
        else:
            size, needed = 3 * _WORD, _WORD  # A string.
        if sequence:
            size, needed = 3 * _WORD, _WORD
        count = int(array[2]) if array else 1
        at += -at % needed
        if element_name == "string":
            element = _STRING
        if sequence:
            is_list = element is not None or element_name in _ONE_BY_ONE
            fields.append(_Field(_Kind.LIST if is_list else _Kind.NUMBERS, at, element))
        elif element is not None and element.fields:
            fields.append(_Field(_Kind.INSIDE, at, element, count))
        at, alignment = at + count * size, max(alignment, needed)
    return _Layout(max(1, at + -at % alignment), alignment, tuple(fields))
