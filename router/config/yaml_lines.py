"""YAML text as plain values that remember their lines.

Only the part of YAML that reads alike everywhere is accepted: one document, text keys, no tags, no aliases. YAML 1.1
takes `no` for false, `010` for 8 and `1:30` for 90; YAML 1.2, which editors follow, does not. A bare scalar that means
one thing or another by version is refused, and the message asks for quotes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, Final

import yaml
from yaml.composer import ComposerError
from yaml.reader import Reader

from router.config.errors import FileProblem
from router.field_problems import Steps, render_path

#: A nested `config` takes three levels of protobuf messages for each of its own; protobuf stops at 100.
MAX_DEPTH: Final = 24
#: Every whole number up to this is exact as a double, which is all that a Struct has.
MAX_WHOLE: Final = 2**53

_TAG: Final = "tag:yaml.org,2002:"
_WHOLE: Final = re.compile(r"[-+]?(0|[1-9][0-9]*)")
_NUMBER: Final = re.compile(r"[-+]?(\.[0-9]+|(0|[1-9][0-9]*)(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
#: Numbers in YAML 1.2 that 1.1 takes for text: 08, 0o17.
_OCTAL: Final = re.compile(r"[-+]?0[0-9]+|0o[0-7]+")
_WORD: Final = re.compile("on|off|yes|no", re.IGNORECASE)
#: Escapes can name what UTF-8 and Postgres cannot hold: half of a surrogate pair, and NUL.
_UNSTORABLE: Final = re.compile("[\0\ud800-\udfff]")


class YamlSyntaxError(Exception):
    """Text that is not YAML, or uses what is not accepted."""

    def __init__(self, line: int, column: int, message: str, hint: str = "") -> None:
        self.problem = FileProblem(line, column, "", message, hint)
        super().__init__(message)


@dataclass(frozen=True, slots=True)
class Document:
    """A file's content, with the place of every value in it."""

    #: line and column, from 1, of each value's key or, in a list, its start
    places: dict[Steps, tuple[int, int]] = field(default_factory=lambda: {(): (1, 1)})
    #: mistakes that did not keep the rest from being read
    problems: list[FileProblem] = field(default_factory=list)
    #: paths where on, off, yes and no are text
    words: frozenset[Steps] = frozenset()

    def problem(self, path: Steps, message: str, hint: str = "") -> FileProblem:
        """Return a problem with the value at the path, placed at the nearest enclosing value that the file has."""
        known = path
        while known not in self.places:
            known = known[:-1]
        return FileProblem(*self.places[known], render_path(path), message, hint)


def parse(text: str, words: Collection[Steps] = ()) -> tuple[Any, Document]:
    """Return the text's only document, as dict, list, str, int, float, bool or None, and where its values are.

    At the paths of `words` only words are expected: there on, off, yes and no are text. An empty document is None. Raises
    YamlSyntaxError, and nothing else.
    """
    document = Document(words=frozenset(words))
    node = _compose(text)
    return (None if node is None else _plain(node, (), document)), document


class _Loader(yaml.SafeLoader):
    """Composes nodes, whose marks know their lines, and refuses what has no place in a configuration."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        mark = event.start_mark
        if isinstance(event, yaml.AliasEvent):
            # A few aliases of aliases can stand for billions of values.
            raise ComposerError(None, None, "aliases (*name) are not accepted, write the value out", mark)
        if event.tag is not None:
            raise ComposerError(None, None, "tags (!name) are not accepted", mark)
        if self.depth == MAX_DEPTH:
            raise ComposerError(None, None, f"nested more than {MAX_DEPTH} levels deep", mark)
        self.depth += 1
        node: yaml.Node | None = super().compose_node(parent, index)
        self.depth -= 1
        return node


def _compose(text: str) -> yaml.Node | None:
    if match := Reader.NON_PRINTABLE.search(text):
        before = text[: match.start()]
        line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
        raise YamlSyntaxError(line, column, f"YAML does not allow the character U+{ord(match[0]):04X}")
    loader = _Loader(text)
    try:
        node: yaml.Node | None = loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark or loader.get_mark()
        message = ", ".join(part for part in (error.context, error.problem) if part)
        hint = "indent with spaces, not tabs" if "'\\t'" in message else ""
        raise YamlSyntaxError(mark.line + 1, mark.column + 1, message, hint) from error
    except (ValueError, OverflowError) as error:
        # PyYAML leaves the range of numbers in escapes and directives to Python: "\UFFFFFFFF".
        mark = loader.get_mark()
        raise YamlSyntaxError(mark.line + 1, mark.column + 1, "a number in this escape is too large") from error
    return node


def _plain(node: yaml.Node, path: Steps, document: Document) -> Any:
    if isinstance(node, yaml.MappingNode):
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = _key(key_node, path, document)
            place, at = _place(key_node), (*path, key)
            if key in result:
                message = f"duplicate key, line {document.places[at][0]} has it already"
                document.problems.append(FileProblem(*place, render_path(at), message))
                continue
            document.places[at] = place
            result[key] = _plain(value_node, at, document)
        return result
    if isinstance(node, yaml.SequenceNode):
        for i, item in enumerate(node.value):
            document.places[*path, i] = _place(item)
        return [_plain(item, (*path, i), document) for i, item in enumerate(node.value)]
    try:
        return node.value if path in document.words and _WORD.fullmatch(node.value) else _scalar(node)
    except ValueError as error:
        document.problems.append(document.problem(path, *error.args))
        return _UNSTORABLE.sub("\ufffd", node.value)


def _key(node: yaml.Node, path: Steps, document: Document) -> str:
    """The key's text; what is wrong with it goes into the document's problems."""
    scalar = isinstance(node, yaml.ScalarNode)
    text = _UNSTORABLE.sub("\ufffd", node.value) if scalar else "?"
    try:
        if not scalar or not isinstance(_scalar(node), str):
            raise ValueError("a key must be text", "put it in quotes")
    except ValueError as error:
        document.problems.append(FileProblem(*_place(node), render_path((*path, text)), *error.args))
    return text


def _scalar(node: Any) -> str | int | float | bool | None:
    """What a scalar stands for. Raises ValueError(message, hint) if that is not one clear value."""
    text: str = node.value
    shown = text if len(text) <= 24 else text[:24] + "…"
    if _UNSTORABLE.search(text):
        raise ValueError("holds NUL or half of a surrogate pair, which cannot be stored", "write the character itself")
    if node.style is not None:
        return text
    if node.tag == _TAG + "null":
        return None
    if node.tag == _TAG + "bool":
        if text.lower() in ("true", "false"):
            return text.lower() == "true"
        meant = "true" if text.lower() in ("yes", "on") else "false"
        raise ValueError(f"some readers of YAML take {text} for {meant}", f"write {meant}, or quote it")
    if _WHOLE.fullmatch(text):
        # The length first: Python refuses to convert thousands of digits.
        if len(text) > 17 or abs(int(text)) > MAX_WHOLE:
            raise ValueError(f"{shown} is too large a whole number to be kept exactly", "put it in quotes")
        return int(text)
    if _NUMBER.fullmatch(text) and math.isfinite(float(text)):
        return float(text)
    if _NUMBER.fullmatch(text) or text.lower().lstrip("+-") in (".inf", ".nan"):
        raise ValueError(f"{shown} is not a finite number", "")
    if node.tag in (_TAG + "int", _TAG + "float") or _OCTAL.fullmatch(text):
        raise ValueError(f"readers of YAML differ about the number {shown}", "write it in plain decimals, or quote it")
    return text


def _place(node: yaml.Node) -> tuple[int, int]:
    return node.start_mark.line + 1, node.start_mark.column + 1
