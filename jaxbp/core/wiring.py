"""One reading of a wiring: the function that says how data flows through a composite becomes a tape of calls.

While a wiring runs, every array is a `Value`: it can be handed to a child by `call(name, value)`, put into tuples and
dicts, taken out of them, and added with `+`. The values are numbered as they appear, and the tape is

    call    (name, numbers in, numbers out)        y = f_name(x)           ∂J/∂x  += (∂y/∂x)ᵀ ∂J/∂y
    add     (number a, number b, number out)       c = a + b               ∂J/∂a  += ∂J/∂c,  ∂J/∂b += ∂J/∂c

Read from bottom to top it is the chain rule on a graph: each delta goes to where its input came from, and where a value
went two ways, two deltas meet and are added. The tape holds no arrays. It is the static part of the residuals, so it
crosses jit and scan, and the backward pass does not run the wiring again.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from jaxbp.core.errors import LayerError
from jaxbp.core.numerics import is_floating
from jaxbp.core.text import describe

Numbers = tuple[int, ...]


class WiringError(LayerError):
    """A wiring that does with a value what only a layer may do."""


@dataclass(frozen=True)
class Bundle:
    """A tree of values by their numbers."""

    numbers: Numbers
    structure: Any  # a PyTreeDef

    def tree(self, of: Callable[[int], Any]) -> PyTree:
        """The same tree with something else in the place of each number."""
        return self.structure.unflatten(map(of, self.numbers))


@dataclass(frozen=True)
class Step:
    """A call of a child or, without a name, the sum of two values."""

    name: str | None
    inputs: Bundle
    outputs: Bundle


@dataclass(frozen=True)
class Tape:
    """What a wiring did: the steps in forward order, where x went in and y came out, and of what kind each value is."""

    steps: tuple[Step, ...]
    inputs: Bundle
    outputs: Bundle
    kinds: tuple[jax.ShapeDtypeStruct, ...]

    def uses(self, name: str) -> int:
        """How often a child is called."""
        return sum(step.name == name for step in self.steps)


@dataclass
class Reading:
    """A wiring being read. `run(name, x, use) -> y` runs a child, for the `use`-th time."""

    composite: Any
    children: tuple[str, ...]
    run: Callable[[str, PyTree, int], PyTree]
    values: list[Any] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)

    def read(self, x: PyTree) -> tuple[PyTree, Tape]:
        """the outputs and the tape."""
        inputs = self.put(x, "the input")
        outputs = self.take(self.wired(self.value_of(inputs, "the input")), "its output")
        missing = [name for name in self.children if all(step.name != name for step in self.steps)]
        if missing:
            words = ", ".join(f'"{name}"' for name in missing)
            raise WiringError(self.composite, f"its wiring never calls {words}; call each child, or drop its field")
        kinds = tuple(jax.ShapeDtypeStruct(jnp.shape(a), jnp.result_type(a)) for a in self.values)
        return outputs.tree(self.values.__getitem__), Tape(tuple(self.steps), inputs, outputs, kinds)

    def wired(self, x: PyTree) -> PyTree:
        """What the wiring returns. JAX's own words for a `Value` handed to a compiled function would help nobody."""
        try:
            return self.composite.wire(self.call, x)
        except (TypeError, ValueError) as error:
            if isinstance(error, LayerError) or "wiring.Value" not in str(error):
                raise
            values = jax.tree.leaves(x)
            last = next((step.name for step in reversed(self.steps) if step.name), None)
            origin = values[0]._origin if last is None else f'a value, after call("{last}", …)'
            Value(self, 0, origin)._refuse("applies a function to")

    def call(self, name: str, x: PyTree) -> PyTree:
        """Runs a child on values."""
        if name not in self.children:
            known = ", ".join(f'"{child}"' for child in self.children)
            raise WiringError(self.composite, f'its wiring calls "{name}", which is not one of its children: {known}')
        inputs = self.take(x, f'the input of call("{name}", …)')
        use = sum(step.name == name for step in self.steps)
        outputs = self.put(self.run(name, inputs.tree(self.values.__getitem__), use), name)
        self.steps.append(Step(name, inputs, outputs))
        return self.value_of(outputs, f'the result of call("{name}", …)')

    def add(self, a: "Value", b: Any) -> "Value":
        """a + b; of integers (lengths beside values), which have no delta, the first."""
        if not all(isinstance(value, Value) for value in (a, b)):
            raise WiringError(self.composite, f"its wiring adds {a!r} to {b!r}; only single values can be added")
        inputs = self.take((a, b), "a sum")
        x, y = inputs.tree(self.values.__getitem__)
        if jnp.shape(x) != jnp.shape(y):
            problem = f"its wiring adds {describe(x)}, {a._origin}, to {describe(y)}, {b._origin}"
            raise WiringError(self.composite, f"{problem}; make the shapes equal, or call Add(), which broadcasts")
        struct = any(isinstance(array, jax.ShapeDtypeStruct) for array in (x, y))
        total = jax.eval_shape(jnp.add, x, y) if struct else (x + y if is_floating(x) else x)
        outputs = self.put(total, "a sum")
        self.steps.append(Step(None, inputs, outputs))
        return self.value_of(outputs, "a sum")

    def put(self, tree: PyTree, origin: str) -> Bundle:
        """Numbers for new arrays."""
        arrays, structure = jax.tree.flatten(tree)
        for array in arrays:
            if not hasattr(array, "dtype"):
                raise LayerError(self.composite, f"expected arrays, got {describe(array)} in {origin}")
        self.values += arrays
        return Bundle(tuple(range(len(self.values) - len(arrays), len(self.values))), structure)

    def value_of(self, bundle: Bundle, origin: str) -> PyTree:
        """What the wiring gets to hold."""
        return bundle.tree(lambda number: Value(self, number, origin))

    def take(self, tree: PyTree, what: str) -> Bundle:
        """The numbers of the values in a tree."""
        leaves, structure = jax.tree.flatten(tree)
        for leaf in leaves:
            if not isinstance(leaf, Value) or leaf._reading is not self:
                problem = f"{what} holds {describe(leaf)}, which came neither from the input nor from a call"
                remedy = "a wiring holds no numbers of its own: make them a layer's parameters, or part of the input"
                raise WiringError(self.composite, f"{problem}; {remedy}")
        return Bundle(tuple(leaf._number for leaf in leaves), structure)


class Value:
    """An array inside a wiring: opaque."""

    __slots__ = ("_number", "_origin", "_reading")

    def __init__(self, reading: Reading, number: int, origin: str):
        self._reading, self._number, self._origin = reading, number, origin

    def __add__(self, other: Any) -> "Value":
        return self._reading.add(self, other)

    def __radd__(self, other: Any) -> "Value":
        return self if isinstance(other, int) and other == 0 else self._reading.add(other, self)  # 0 begins a sum()

    def __getattr__(self, name: str):
        if name.startswith("__") and name != "__jax_array__":
            raise AttributeError(name)
        self._refuse("applies a function to" if name == "__jax_array__" else f"takes .{name} of")

    def __repr__(self) -> str:
        return f"<{self._origin}>"

    __hash__ = object.__hash__

    def _refuse(self, deed: str):
        problem = f"its wiring {deed} {self._origin}, but a value is opaque there"
        may = "it can be passed to call(name, value), put into tuples and dicts, and added with +"
        raise WiringError(self._reading.composite, f"{problem}: {may}; make anything else a layer and call that")


def _refusing(deed: str) -> Callable:
    return lambda self, *_: self._refuse(deed)


for _deed, _methods in {
    "applies a function to": ("array", "float", "int", "index", "complex"),
    "takes as a condition": ("bool",),
    "compares": ("eq", "ne", "lt", "le", "gt", "ge"),
    "looks inside of": ("iter", "len", "getitem", "contains"),
    "calls": ("call",),
    "computes with": (
        *("sub", "rsub", "mul", "rmul", "truediv", "rtruediv", "pow", "rpow", "matmul", "rmatmul", "neg", "abs"),
        *("floordiv", "rfloordiv", "mod", "rmod", "and", "or", "xor", "invert"),
    ),
}.items():
    for _method in _methods:
        setattr(Value, f"__{_method}__", _refusing(_deed))


class Deltas:
    """∂J/∂value for every value of a tape, filled from the outputs to the inputs."""

    def __init__(self, tape: Tape, g: PyTree):
        self.tape, self.by_number = tape, {}
        self.send(tape.outputs, g)

    def send(self, bundle: Bundle, g: PyTree) -> None:
        """Adds g where its values came from."""
        for number, delta in zip(bundle.numbers, bundle.structure.flatten_up_to(g), strict=True):
            if is_floating(self.tape.kinds[number]):
                known = self.by_number.get(number)
                self.by_number[number] = delta if known is None else known + delta

    def take(self, bundle: Bundle) -> PyTree:
        """What has arrived: zeros where nothing did, None for integers."""
        return bundle.tree(self.of)

    def of(self, number: int) -> Array | None:
        """The delta of one value."""
        kind = self.tape.kinds[number]
        if not is_floating(kind):
            return None
        return self.by_number[number] if number in self.by_number else jnp.zeros(kind.shape, kind.dtype)


def add(a: PyTree, b: PyTree) -> PyTree:
    """a + b for trees of values of the same structure."""
    if jax.tree.structure(a) != jax.tree.structure(b):
        composite = jax.tree.leaves((a, b))[0]._reading.composite
        raise WiringError(composite, f"its wiring adds {a!r} to {b!r}, trees of different structure")
    return jax.tree.map(lambda x, y: x + y, a, b)
