"""A model as a tree of paths: each layer has a name such as "2.body.1" and mirrored trees are read by it."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from jaxtyping import PyTree

from jaxbp.core.layer import Layer


def layers(model: Layer, path: str = "") -> Iterator[tuple[str, Layer]]:
    """Every layer by path, composites included, in forward order; the model itself is ""."""
    yield path, model
    if model.children:
        for name, child in model.children.items():
            yield from layers(child, join(path, name))


def leaves(model: Layer, tree: PyTree, path: str = "") -> dict[str, Any]:
    """A tree that mirrors the model, as a dict: leaf layer's path -> its entry, in forward order."""
    if not model.children:
        return {path: tree}
    found: dict[str, Any] = {}
    for name, child in model.children.items():
        found |= leaves(child, part(tree, name), join(path, name))
    return found


def from_leaves(model: Layer, by_path: Mapping[str, Any], path: str = "") -> PyTree:
    """The tree that mirrors the model, from a dict by path: the inverse of `leaves`."""
    if not model.children:
        return by_path[path]
    return model.collect(
        {name: from_leaves(child, by_path, join(path, name)) for name, child in model.children.items()}
    )


def map_layers(model: Layer, change: Callable[[str, Layer], Layer], path: str = "") -> Layer:
    """The model with each leaf layer replaced by `change(path, layer)`."""
    if not model.children:
        return change(path, model)
    return model.rebuild({name: map_layers(child, change, join(path, name)) for name, child in model.children.items()})


def require_paths(model: Layer, named: Mapping[str, Any]) -> None:
    """Refuses names that are no path of the model."""
    known = dict(layers(model))
    for path in named:
        if path not in known:
            there = ", ".join(f'"{path}"' for path in known)
            raise ValueError(f'the model has no layer "{path}"; its paths are {there}')


def is_below(path: str, top: str) -> bool:
    """Whether the layer at `path` is that at `top`, or inside it."""
    return top in ("", path) or path.startswith(f"{top}.")


def turns_around(model: Layer, path: str) -> int:
    """How many axes of turns stand in front of the parameters of the layer at this path."""
    above = [layer for p, layer in layers(model) if p != path and is_below(path, p)]
    return sum(layer.stacked for layer in above)


def join(path: str, name: str) -> str:
    """A child's path."""
    return f"{path}.{name}" if path else name


def as_path(path: str) -> tuple[str, ...]:
    """The names in a path."""
    return tuple(path.split(".")) if path else ()


def part(tree: PyTree, name: str) -> PyTree:
    """The child's entry in a tree that mirrors a composite; None (no feedback) stays None."""
    if tree is None:
        return None
    return tree[int(name)] if isinstance(tree, tuple | list) else tree[name]


def is_numbered(names: Iterable[str]) -> bool:
    """Whether names are 0, 1, 2…, so that trees have a tuple in the place of a dict."""
    return all(name == str(i) for i, name in enumerate(names))


def leaves_of(model: Layer) -> dict[str, Layer]:
    """The leaf layers by path."""
    return {path: layer for path, layer in layers(model) if not layer.children}
