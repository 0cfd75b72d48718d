"""YAML files, ours and those of users, as plain data: read in one way, and refused in one line.

A key given twice is refused by name and line (PyYAML lets the last one win), as is what would take hours to read:
aliases that multiply, a value that holds itself, a file that is not text.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError, model_validator
from pydantic_core import PydanticCustomError
from yaml.composer import Composer
from yaml.constructor import SafeConstructor
from yaml.resolver import Resolver

from flashtrail.base.errors import UserError, nearest

T = TypeVar("T")

_MAX_BYTES = 1 << 20
_MAX_VALUES = 100_000  # once aliases are written out; the shipped config has some 300
_KINDS = {str: "text", int: "a number", float: "a number", bool: "a truth value", list: "a list", dict: "a mapping"}
_KINDS |= {type(None): "nothing"}
_WANTED = {
    "string_type": "text",
    **dict.fromkeys(("dict_type", "model_type", "model_attributes_type"), "a mapping"),
    **dict.fromkeys(("list_type", "tuple_type"), "a list"),
}
_UNKNOWN = "unknown_key"
_BOUNDS = {
    "greater_than": ("gt", "above"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "below"),
    "less_than_equal": ("le", "at most"),
}
_WHOLE = ("int_parsing", "int_from_float", "int_type")
_EXPECTED = {
    **dict.fromkeys(("float_type", "float_parsing"), "a number"),
    **dict.fromkeys(("bool_type", "bool_parsing"), "true or false"),
    "finite_number": "a finite number",
    "string_type": "text",
}
_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
_UNBUILT = ("tag:yaml.org,2002:merge", "tag:yaml.org,2002:value")  # << and =, which have no constructor

_NOT_AS_WRITTEN = re.compile(r"[-+]?0[0-7_]+|[^:]+:.+")  # of a number: octal, base 60
_READ_OTHERWISE = re.compile("[\t?!\ufeff]")  # tabs, `?` within words, tags and marks: libyaml takes more than PyYAML


def _quick() -> Callable[[str], Any] | None:
    """Return a loader whose events are libyaml's, which takes a fifth of the time; None where PyYAML lacks it.

    Not ``yaml.CSafeLoader``: its composer is C, and a text that is nested too deeply would end the process.
    """
    if not yaml.__with_libyaml__:
        return None

    class Quick(Composer, yaml.cyaml.CParser, SafeConstructor, Resolver):  # type: ignore[misc]
        def __init__(self, text: str) -> None:
            yaml.cyaml.CParser.__init__(self, text)
            for base in (Composer, SafeConstructor, Resolver):
                base.__init__(self)

    return Quick


_QUICK = _quick()


class Section(BaseModel):
    """A part of a document, typed: unknown keys are errors, `true` is not a number, and nothing changes once read."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _known_keys_and_no_truth_value(cls, data: Any) -> Any:
        """Refuse an unknown key, naming the nearest; and `true` for a number, at any depth: pydantic would read 1."""
        fields = {field.alias or name: field for name, field in cls.model_fields.items()}
        if not isinstance(data, Mapping):
            return data
        for key in data:
            if key not in fields:
                raise PydanticCustomError(_UNKNOWN, "unknown key", {"key": str(key), "hint": nearest(str(key), fields)})
        for key, field in fields.items():
            if _has_truth_value(data.get(key)):
                kinds = _kinds(field.annotation)
                if (int in kinds or float in kinds) and bool not in kinds and Any not in kinds:
                    raise ValueError(f"{key}: expected a number, not true or false")
        return data


def _has_truth_value(value: Any) -> bool:
    if isinstance(value, Mapping):
        value = [*value.keys(), *value.values()]
    return any(map(_has_truth_value, value)) if isinstance(value, list | tuple) else isinstance(value, bool)


def _kinds(annotation: Any) -> list[Any]:
    """Return the types that an annotation is made of."""
    inner = get_args(annotation)
    if get_origin(annotation) is Literal:
        return [type(value) for value in inner]
    return [kind for part in inner for kind in _kinds(part)] if inner else [annotation]


def read(path: str | Path) -> Any:
    """Return the data of a YAML file (None: it is empty); UserError names the file, the line and what is wrong."""
    return parsed(_text(Path(path)), str(path))


def mapping(path: str | Path, example: str = "seed: 7") -> dict[Any, Any]:
    """Return the data of a YAML file with keys at its top, {} of an empty one; UserError for anything else.

    `example`: what the error shows as a key of such a file.
    """
    data = read(path)
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise UserError(f"{path} holds {kind(data)} at its top, not keys such as `{example}`")
    return data


def overlay(path: str | Path) -> dict[Any, Any]:
    """Return the data of a YAML file that goes over another; UserError where it is empty, which Snakemake refuses."""
    data = mapping(path)
    if not data and read(path) is None:
        raise UserError(f"{path} holds no keys: give it some, such as `seed: 7`, or leave it out")
    return data


def parsed(text: str, name: str) -> Any:
    """Return the data of YAML text; `name` is how errors call it."""
    if _QUICK is not None and not _READ_OTHERWISE.search(text):
        try:
            return _parsed(_QUICK, text, name)
        except (UserError, yaml.YAMLError):
            pass  # told below, in PyYAML's words
    return _parsed(yaml.SafeLoader, text, name)


def _parsed(kind: Callable[[str], Any], text: str, name: str) -> Any:
    loader = None
    try:
        loader = kind(text)
        node = loader.get_single_node()
        if node is None:
            return None
        if _values(loader, node, {}) > _MAX_VALUES:
            raise UserError(f"{name}: its aliases (*name) multiply to over {_MAX_VALUES} values: write them out")
        return loader.construct_document(node)
    except yaml.YAMLError as error:
        raise UserError(f"{name} is not valid YAML{_line(error)}: {_reason(error)}") from None
    except RecursionError:
        raise UserError(f"{name} is not valid YAML: it is nested too deeply") from None
    except (ValueError, LookupError, AttributeError, TypeError, OverflowError) as error:
        # A value whose form promises what it is not: the date 2026-99-99, a tag such as !!bool maybe.
        raise UserError(f"{name} is not valid YAML: a value cannot be read ({error}); quote it") from None
    finally:
        if loader is not None:
            loader.dispose()


def typed(kind: TypeAdapter[T], data: Any, where: str) -> T:
    """Return plain data as an object of its type; UserError, after `where`, names the first problem and its place."""
    try:
        return kind.validate_python(data)
    except ValidationError as error:
        raise UserError(f"{where}: {first_problem(error, data)}") from None
    except RecursionError:
        raise UserError(f"{where}: it is nested too deeply") from None


def first_problem(error: ValidationError, data: Any) -> str:
    """Return what is wrong first, at its place in the data as they were written; an unknown key with the nearest."""
    problem = error.errors()[0]
    path, inner = [], data
    for part in problem["loc"]:
        try:
            inner = inner[part]
        except (LookupError, TypeError):
            continue  # the name of a union's member, or a part that is not there
        path.append(str(part))
    if problem["type"] == "missing":
        path.append(str(problem["loc"][-1]))
    if problem["type"] == _UNKNOWN:
        return f"unknown key {'.'.join([*path, problem['ctx']['key']])!r}{problem['ctx']['hint']}"
    return ": ".join(filter(None, [".".join(path), reason(problem)]))


def reason(problem: Mapping[str, Any]) -> str:
    """Return what is wrong with a value, of an entry of pydantic's ``ValidationError.errors()``."""
    value, name, context = problem.get("input"), problem["type"], problem.get("ctx", {})
    if name == "missing":
        return "is missing"
    if name == _UNKNOWN:
        return f"unknown key {context['key']!r}{context['hint']}"
    if name in ("literal_error", "union_tag_invalid"):
        what = context.get("discriminator", "value").strip("'")
        value = value[what] if name == "union_tag_invalid" and isinstance(value, Mapping) else value
        known = re.findall(r"'([^']*)'", context.get("expected", context.get("expected_tags", "")))
        return f"unknown {what} {value!r}{nearest(str(value), known)}"
    if name == "union_tag_not_found":
        return f"it has no {context['discriminator']}"
    if name in _BOUNDS:
        limit, relation = _BOUNDS[name]
        bound = context[limit]
        return f"must be {relation} {f'{bound:g}' if isinstance(bound, float) else bound}, not {value!r}"
    if name in _WANTED and (name != "string_type" or isinstance(value, list | dict)):
        return f"expected {_WANTED[name]}, not {kind(value)}"
    if name in ("too_short", "string_too_short"):
        return "is empty" if not value else f"needs at least {context['min_length']} entries, not {len(value)}"
    if name in ("too_long", "string_too_long"):
        return f"is longer than {context['max_length']}"
    if name == "string_pattern_mismatch":
        return f"{value!r} does not have the form {context['pattern']}"
    if name in _EXPECTED:
        return f"must be {_EXPECTED[name]}, not {value!r}{': quote it' if name == 'string_type' else ''}"
    if name in _WHOLE:
        try:
            meant = float(value)  # type: ignore[arg-type]
        except (TypeError, ValueError):
            meant = math.nan
        if isinstance(value, str) and meant.is_integer() and abs(meant) < 1 << 63:
            return f"{value} is text to YAML, not a whole number: write {int(meant)}"
        return f"{value!r} is not a whole number"
    return "it is nested too deeply" if name == "recursion_loop" else str(problem["msg"]).removeprefix("Value error, ")


def kind(value: Any) -> str:
    """Return what a value is to YAML, in words."""
    return _KINDS.get(type(value), f"a {type(value).__name__}")


def _text(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            content = stream.read(_MAX_BYTES + 1)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    if len(content) > _MAX_BYTES:
        raise UserError(f"{path} is larger than {_MAX_BYTES >> 20} MiB: not a settings file")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise UserError(f"{path}:{line}: byte 0x{content[error.start]:02x} is not UTF-8: save it as UTF-8") from None


def _values(loader: yaml.SafeLoader, node: yaml.Node, known: dict[int, int]) -> int:
    """Return how many values a node stands for, aliases written out; YAMLError for a key twice, or an alias in itself.

    `known`: the numbers by node, 0 for one that is under way.
    """
    if id(node) in known:
        if not known[id(node)]:
            raise _error(node, "an alias (*name) holds itself")
        return known[id(node)]
    if node.tag not in loader.yaml_constructors and node.tag not in _UNBUILT:
        tag = node.tag.replace("tag:yaml.org,2002:", "!!")
        raise _error(node, f"the tag {tag} is not allowed: delete it and write a plain value")
    if node.tag in _NUMBERS and _NOT_AS_WRITTEN.fullmatch(node.value):
        value = loader.yaml_constructors[node.tag](loader, node)
        raise _error(node, f"{node.value} means {value} in YAML: write {value}, or quote it if it is text")
    known[id(node)] = 0
    inner: list[yaml.Node] = []
    if isinstance(node, yaml.SequenceNode):
        inner = node.value
    elif isinstance(node, yaml.MappingNode):
        inner = [part for pair in node.value for part in pair]
    known[id(node)] = 1 + sum(_values(loader, part, known) for part in inner)
    if isinstance(node, yaml.MappingNode):
        _keys_once(loader, [key for key, _ in node.value])
    return known[id(node)]


def _keys_once(loader: yaml.SafeLoader, nodes: Sequence[yaml.Node]) -> None:
    lines: dict[Any, int] = {}
    for node in nodes:
        if isinstance(node, yaml.ScalarNode) and node.tag != "tag:yaml.org,2002:merge":
            key, line = loader.construct_object(node), node.start_mark.line + 1
            if key in lines:
                raise _error(node, f"duplicate key {key!r}, first in line {lines[key]}; delete one")
            lines[key] = line


def _error(node: yaml.Node, problem: str) -> yaml.YAMLError:
    return yaml.constructor.ConstructorError(None, None, problem, node.start_mark)


def _line(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    return f" (line {mark.line + 1})" if mark is not None else ""


def _reason(error: yaml.YAMLError) -> str:
    parts = [getattr(error, name, None) for name in ("context", "problem", "reason")]
    reason = ", ".join(str(part) for part in parts if part) or str(error)
    return "indent with spaces, not with tabs" if "'\\t'" in reason else reason
