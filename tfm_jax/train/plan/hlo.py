"""Optimized HLO as a data structure: computations, calls, trip counts of loops, and lines of source."""

import dataclasses
import functools
import math
import re
from collections.abc import Iterator, Mapping, Sequence

__all__ = ["Instruction", "Program", "Visit", "arrays", "parse"]

_BITS = {"pred": 8, "token": 0, "opaque": 0}
_ARRAY = re.compile(r"\b([a-z]\w*)\[([\d,<=]*)\]")
_CALLED = re.compile(r"\b(calls|to_apply|body|condition|true_computation|false_computation)=%([^\s,)}]+)")
_BRANCHES = re.compile(r"\b(?:branch_computations|called_computations)=\{([^}]*)\}")
_END = re.compile(r'\}(, execution_thread="[^"]*")?')
"""The last line of a computation; one that another core runs names its thread."""
_IDENTITIES = {"copy", "bitcast", "convert", "reshape", "copy-start", "copy-done", "opt-barrier", "broadcast"}
_MOST_STEPS = 1000
"""Longest chain of instructions that is followed for the value of a scalar."""


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One instruction of a computation.

    Args:
      name: unique in its program.
      type: of the result, as text.
      opcode: such as "fusion" or "all-gather-start".
      operands: names of the instructions that it reads.
      arguments: the text in the parentheses, such as "4" of ``constant(4)``.
      attributes: the text after them.
      is_root: whether it is the result of its computation.
    """

    name: str
    type: str
    opcode: str
    operands: tuple[str, ...]
    arguments: str
    attributes: str
    is_root: bool

    def attribute(self, name: str) -> str | None:
        """The value of an attribute: a word, a list in braces, or a quoted text."""
        found = re.search(rf"(?:^|[\s,{{]){name}=(\{{[^}}]*\}}|\"[^\"]*\"|[^\s,}}]+)", self.attributes)
        return None if found is None else found[1].strip('"')

    @property
    def is_reduction(self) -> bool:
        """Whether ``to_apply`` is a function of two scalars, not a call."""
        return self.opcode not in ("call", "call-start")


Computation = dict[str, Instruction]


@dataclasses.dataclass(frozen=True)
class _Frame:
    """A computation with what its parameters are: names in the frame of its caller."""

    computation: str
    arguments: tuple[str, ...] = ()
    caller: "_Frame | None" = None
    loop: Instruction | None = None


@dataclasses.dataclass(frozen=True)
class Visit:
    """An instruction with how often a program runs it, and the fusion that it is a part of, if any."""

    instruction: Instruction
    count: int
    fusion: Instruction | None


@dataclasses.dataclass(frozen=True)
class Program:
    """An optimized program, from `parse`.

    Args:
      computations: by name, each its instructions by name.
      entry: the name of the first one.
      stack_frames: by number: ``("file:line", the number of the caller or 0)``.
    """

    computations: Mapping[str, Computation]
    entry: str
    stack_frames: Mapping[int, tuple[str, int]]

    def visits(self) -> Iterator[Visit]:
        """Every instruction that runs, also those inside of fusions; not the functions of reductions.

        A loop whose number of trips cannot be read counts once, as does each branch of a conditional.
        """
        yield from self._visits(_Frame(self.entry), 1, None)

    def _visits(self, frame: _Frame, count: int, fusion: Instruction | None) -> Iterator[Visit]:
        for instruction in self.computations[frame.computation].values():
            yield Visit(instruction, count, fusion)
            inner = instruction if instruction.opcode == "fusion" else fusion
            loop = instruction if instruction.opcode == "while" else None
            trips = None if loop is None else self.trips(loop, frame)
            for name in called(instruction):
                if name in self.computations:
                    below = _Frame(name, instruction.operands, frame, loop)
                    yield from self._visits(below, count * (1 if trips is None else trips), inner)

    def unknown_loops(self) -> int:
        """The number of loops whose trips cannot be read; each counts once."""
        return sum(self._unknown(_Frame(self.entry)))

    def _unknown(self, frame: _Frame) -> Iterator[int]:
        for instruction in self.computations[frame.computation].values():
            loop = instruction if instruction.opcode == "while" else None
            if loop is not None and self.trips(loop, frame) is None:
                yield 1
            for name in called(instruction):
                if name in self.computations:
                    yield from self._unknown(_Frame(name, instruction.operands, frame, loop))

    def trips(self, loop: Instruction, frame: _Frame) -> int | None:
        """The trips of a ``while``: those that the compiler wrote down, else from its condition; or None."""
        known = re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.attributes)
        if known:
            return int(known[1])
        condition, body = loop.attribute("condition"), loop.attribute("body")
        if condition is None or body is None:
            return None
        test_frame = _Frame(condition[1:], loop.operands, frame, loop)
        test, test_frame = self._definition(self._root(condition[1:]).name, test_frame)
        if test.opcode != "compare":
            return None
        direction = test.attribute("direction")
        for counter, bound in (test.operands, test.operands[::-1]):
            index, end = self._loop_index(counter, test_frame), self._value(bound, test_frame)
            if index is not None and end is not None:
                start = self._element_value(loop.operands[0], index, frame)
                step = self._step(body[1:], index, _Frame(body[1:], loop.operands, frame, loop))
                if start is None or not step:
                    return None
                inclusive = direction in ("LE", "GE")
                return max(0, math.ceil((end - start + (math.copysign(1, step) if inclusive else 0)) / step))
        return None

    def _root(self, computation: str) -> Instruction:
        return next(x for x in self.computations[computation].values() if x.is_root)

    def _loop_index(self, name: str, frame: _Frame) -> int | None:
        """The index of the loop's state that a value is, if it changes."""
        found, where = self._definition(name, frame)
        if found.opcode != "get-tuple-element" or where.loop is None:
            return None
        source, _ = self._definition(found.operands[0], where, through_parameters=False)
        index = int(found.attribute("index") or -1)
        if source.opcode == "parameter" and not self._is_invariant(where.loop, index):
            return index
        return None

    def _is_invariant(self, loop: Instruction, index: int) -> bool:
        """Whether the body of a loop passes an element of its state on unchanged."""
        body = (loop.attribute("body") or "%")[1:]
        root = self._root(body)
        if root.opcode != "tuple" or index >= len(root.operands):
            return False
        instructions = self.computations[body]
        found = instructions.get(root.operands[index])
        while found is not None and found.opcode in ("copy", "bitcast"):
            found = instructions.get(found.operands[0])
        if found is None or found.opcode != "get-tuple-element":
            return False
        source = instructions.get(found.operands[0])
        return source is not None and source.opcode == "parameter" and found.attribute("index") == str(index)

    def _step(self, body: str, index: int, frame: _Frame) -> int | None:
        root = self._root(body)
        if root.opcode != "tuple":
            return None
        update, where = self._definition(root.operands[index], frame)
        if update.opcode not in ("add", "subtract"):
            return None
        pairs = [update.operands] if update.opcode == "subtract" else [update.operands, update.operands[::-1]]
        for counter, step in pairs:
            amount = self._value(step, where)
            if amount is not None and self._loop_index(counter, where) == index:
                return amount if update.opcode == "add" else -amount
        return None

    def _definition(
        self, name: str, frame: _Frame, through_parameters: bool = True
    ) -> tuple[Instruction, _Frame]:
        """The instruction that computes a value, through copies, fusions, calls and parameters."""
        for _ in range(_MOST_STEPS):
            found = self.computations[frame.computation][name]
            if found.opcode in _IDENTITIES and found.operands:
                name = found.operands[0]
            elif found.opcode in ("fusion", "call") and (inner := next(iter(called(found)), None)):
                frame = _Frame(inner, found.operands, frame)
                name = self._root(inner).name
            elif found.opcode == "parameter" and frame.loop is None and frame.caller and through_parameters:
                name, frame = frame.arguments[int(found.arguments)], frame.caller
            elif found.opcode == "get-tuple-element":
                element = self._element(found.operands[0], int(found.attribute("index") or 0), frame)
                if element is None:
                    return found, frame
                name, frame = element
            else:
                return found, frame
        return found, frame

    def _element(self, name: str, index: int, frame: _Frame) -> tuple[str, _Frame] | None:
        """An element of a tuple, as the name of a value in a frame; None if a loop changes it."""
        for _ in range(_MOST_STEPS):
            found = self.computations[frame.computation][name]
            if found.opcode == "tuple":
                return found.operands[index], frame
            if found.opcode in ("copy", "bitcast", "opt-barrier"):
                name = found.operands[0]
            elif found.opcode == "while":
                if not self._is_invariant(found, index):
                    return None
                name = found.operands[0]
            elif found.opcode == "parameter" and frame.caller is not None:
                if frame.loop is not None and not self._is_invariant(frame.loop, index):
                    return None
                argument = 0 if frame.loop is not None else int(found.arguments)
                name, frame = frame.arguments[argument], frame.caller
            else:
                return None
        return None

    def _element_value(self, name: str, index: int, frame: _Frame) -> int | None:
        element = self._element(name, index, frame)
        return None if element is None else self._value(*element)

    def _value(self, name: str, frame: _Frame) -> int | None:
        """The integer that a scalar is, if the program says so."""
        found, where = self._definition(name, frame)
        if found.opcode == "constant":
            return int(found.arguments) if re.fullmatch(r"-?\d+", found.arguments) else None
        if found.opcode not in ("add", "subtract", "multiply"):
            return None
        left, right = (self._value(operand, where) for operand in found.operands)
        if left is None or right is None:
            return None
        return {"add": left + right, "subtract": left - right, "multiply": left * right}[found.opcode]

    def find(self, instruction: Instruction, name: str) -> Instruction | None:
        """An operand of an instruction."""
        computation = self.home.get(instruction.name, "")
        return self.computations.get(computation, {}).get(name)

    def first_operand(self, instruction: Instruction) -> Instruction | None:
        """The first operand of an instruction, if it has one."""
        return self.find(instruction, instruction.operands[0]) if instruction.operands else None

    def first_user(self, instruction: Instruction) -> Instruction | None:
        """The first instruction that reads the result of another, if there is one."""
        return next(self._users(instruction), None)

    def _users(self, instruction: Instruction) -> Iterator[Instruction]:
        names = self.computations.get(self.home.get(instruction.name, ""), {})
        return (x for x in names.values() if instruction.name in x.operands)

    def element(self, instruction: Instruction, index: int) -> Instruction | None:
        """The ``get-tuple-element`` of a result, of an asynchronous instruction's when it is done."""
        for x in self._users(instruction):
            if x.opcode.endswith("-done"):
                return self.element(x, index)
            if x.opcode == "get-tuple-element" and x.attribute("index") == str(index):
                return x
        return None

    @functools.cached_property
    def home(self) -> Mapping[str, str]:
        """The computation of each instruction, whose names are unique in a program."""
        return {name: computation for computation, names in self.computations.items() for name in names}

    @functools.cached_property
    def callers(self) -> Mapping[str, Instruction]:
        """The instruction that runs each computation; the last one of several."""
        return {
            inner: instruction
            for names in self.computations.values()
            for instruction in names.values()
            for inner in called(instruction)
        }

    def lines(self, instruction: Instruction) -> tuple[str, ...]:
        """The lines of source of an instruction as "file:line", the innermost first; () without any."""
        if (number := instruction.attribute("stack_frame_id")) is None:
            file, line = instruction.attribute("source_file"), instruction.attribute("source_line")
            return () if file is None else (f"{file}:{line}",)
        found: list[str] = []
        frame = int(number)
        while frame in self.stack_frames and len(found) < _MOST_STEPS:
            line, frame = self.stack_frames[frame]
            found.append(line)
        return tuple(found)


def called(instruction: Instruction) -> list[str]:
    """The computations that an instruction runs, not the functions of reductions."""
    if instruction.opcode in ("async-update", "async-done"):  # async-start runs it
        return []
    names = [
        name
        for kind, name in _CALLED.findall(instruction.attributes)
        if kind != "to_apply" or not instruction.is_reduction
    ]
    for branches in _BRANCHES.findall(instruction.attributes):
        names += [name.strip().lstrip("%") for name in branches.split(",") if name.strip().startswith("%")]
    return names


def arrays(type_text: str) -> list[tuple[str, tuple[int, ...], int]]:
    """The arrays of a type: ``"(f32[2,3]{1,0}, s32[])"`` -> [("f32", (2, 3), 24), ("s32", (), 4)]."""
    found = []
    for dtype, sizes in _ARRAY.findall(type_text):
        shape = tuple(int(size.lstrip("<=")) for size in sizes.split(",") if size)
        found.append((dtype, shape, math.prod(shape) * _bits(dtype) // 8))
    return found


def _bits(dtype: str) -> int:
    if dtype in _BITS:
        return _BITS[dtype]
    found = re.match(r"(?:bf|f|s|u|c)(\d+)", dtype)
    return int(found[1]) if found else 8


@functools.lru_cache(maxsize=4)
def parse(text: str) -> Program:
    """Parses the text of an optimized program, ``compiled.as_text()``.

    Raises:
      ValueError: the text has no entry computation.
    """
    computations: dict[str, Computation] = {}
    entry, current = "", None
    for line in _logical_lines(text):
        if line.startswith(("ENTRY ", "%")) and line.rstrip().endswith("{"):
            name = line.removeprefix("ENTRY ").split(" ", 1)[0].lstrip("%")
            current = computations.setdefault(name, {})
            entry = name if line.startswith("ENTRY") else entry
        elif _END.fullmatch(line):
            current = None
        elif current is not None and (instruction := _instruction(line)) is not None:
            current[instruction.name] = instruction
    if not entry:
        raise ValueError("parse: got text without an ENTRY; wanted an optimized HLO program.")
    return Program(computations, entry, _stack_frames(text))


def _logical_lines(text: str) -> Iterator[str]:
    """The lines of a program, without the line breaks in the metadata of a kernel."""
    pending: str | None = None
    for line in text.splitlines():
        if pending is not None and not _END.fullmatch(line) and not line.startswith("  "):
            pending += line
            continue
        if pending is not None:
            yield pending
        pending = line if line.startswith("  ") else None
        if pending is None:
            yield line
    if pending is not None:
        yield pending


def _instruction(line: str) -> Instruction | None:
    head, equals, rest = line.strip().partition(" = ")
    if not equals:
        return None
    is_root, name = head.startswith("ROOT "), head.removeprefix("ROOT ").lstrip("%")
    split = _closing(rest) + 1 if rest.startswith("(") else rest.find(" ")
    type_text, rest = rest[:split], rest[split:].lstrip()
    opcode, parenthesis, _ = rest.partition("(")
    if not parenthesis:
        return None
    rest = rest[len(opcode) :]
    end = _closing(rest)
    arguments = rest[1:end]
    operands = tuple(re.findall(r"%([^\s,(){}]+)", arguments))
    return Instruction(name, type_text, opcode, operands, arguments, rest[end + 1 :].lstrip(", "), is_root)


def _closing(text: str) -> int:
    """The position of the parenthesis that closes the first one."""
    depth = 0
    for found in re.finditer(r"[()]", text):
        depth += 1 if found[0] == "(" else -1
        if depth == 0:
            return found.start()
    return len(text)


def _stack_frames(text: str) -> dict[int, tuple[str, int]]:
    """The tables of a program's head: file names, locations and frames."""

    def table(title: str) -> Sequence[tuple[int, str]]:
        found = re.search(rf"^{title}\n((?:\d+ .*\n)+)", text, re.MULTILINE)
        lines = found[1].splitlines() if found else []
        return [(int(number), rest) for number, _, rest in (line.partition(" ") for line in lines)]

    def number(name: str, line: str) -> int:
        found = re.search(rf"\b{name}=(\d+)", line)
        return int(found[1]) if found else 0

    files = {key: value.strip('"') for key, value in table("FileNames")}
    places = {
        key: f"{files.get(number('file_name_id', line), '?')}:{number('line', line)}"
        for key, line in table("FileLocations")
    }
    # XLA writes the number of the caller plus one.
    return {
        key: (places.get(number("file_location_id", line), "?"), number("parent_frame_id", line) - 1)
        for key, line in table("StackFrames")
    }
