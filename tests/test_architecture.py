"""The rules of the house, read from the syntax tree."""

import ast
import inspect
from pathlib import Path

import pytest

import jaxbp

ROOT = Path(jaxbp.__file__).parent
FILES = {str(path.relative_to(ROOT)): path for path in sorted(ROOT.rglob("*.py"))}
AUTODIFF = {
    *("grad", "value_and_grad", "vjp", "jvp", "linearize", "linear_transpose", "jacrev", "jacfwd", "jacobian"),
    *("hessian", "checkpoint", "remat", "custom_vjp", "custom_jvp", "custom_gradient"),
}
MAY_DIFFERENTIATE = {"check.py", "interop.py"}
# Each module and the modules above it, which it may not import.
BELOW = {
    "layer.py": ["reverse", "compose", "layers", "losses", "backprop", "train", "loop", "check", "interop", "inspect"],
    "reverse.py": ["compose", "layers", "losses", "backprop", "train", "loop", "check", "interop", "inspect"],
    "compose.py": ["layers", "losses", "backprop", "train", "loop", "check", "interop", "inspect"],
    "layers/": ["compose", "losses", "backprop", "quantities", "train", "loop", "check", "interop", "inspect"],
    "losses/": ["reverse", "compose", "layers", "backprop", "quantities", "train", "loop", "check", "interop"],
    "backprop.py": ["layers", "quantities", "feedback", "train", "loop", "check", "interop", "inspect"],
    "quantities/": ["layers", "train", "loop", "check", "interop", "inspect"],
    "kfac.py": ["layers", "train", "loop", "check", "interop", "inspect"],
    "credit.py": ["layers", "train", "loop", "check", "interop", "inspect"],
    "feedback.py": ["layers", "train", "loop", "check", "interop", "inspect"],
    "train.py": ["layers", "check", "interop", "inspect", "loop"],
    "loop.py": ["layers", "check", "interop", "inspect"],
}


def imports(source):
    """The modules that a source imports, dotted; `from a import b` counts as a and as a.b."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def autodiff_in(source):
    """The names of autodiff that a source takes from JAX."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in ("jax", "ad"):
            yield from {node.attr} & AUTODIFF
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "jax":
            yield from {alias.name for alias in node.names} & (AUTODIFF | {"ad_checkpoint"})


@pytest.mark.parametrize(
    "source", ["jax.grad(f)", "from jax import vjp as f", "@jax.custom_vjp\ndef f(): ...", "jax.checkpoint"]
)
def test_the_reader_finds_autodiff(source):
    assert list(autodiff_in(source))


@pytest.mark.parametrize("name", FILES)
def test_only_the_checker_and_interop_name_autodiff(name):
    found = set(autodiff_in(FILES[name].read_text()))
    allowed = AUTODIFF if name in MAY_DIFFERENTIATE else {"jvp"} if name.startswith("quantities/") else set()
    assert found <= allowed


@pytest.mark.parametrize("name", FILES)
def test_imports_run_one_way(name):
    found = set(imports(FILES[name].read_text()))
    forbidden = [module for start, above in BELOW.items() if name.startswith(start) for module in above]
    assert not found & {f"jaxbp.{module}" for module in forbidden}
    assert not {module for module in found if any(module.startswith(f"jaxbp.{above}.") for above in forbidden)}


@pytest.mark.parametrize("name", FILES)
def test_the_library_knows_no_experiments_and_no_private_jax(name):
    assert not {
        module for module in imports(FILES[name].read_text()) if module.split(".")[0] in ("experiments", "tests")
    }
    assert not {module for module in imports(FILES[name].read_text()) if module.startswith(("jax._src", "jaxlib"))}


@pytest.mark.parametrize("name", FILES)
def test_files_are_short_and_begin_with_their_idea(name):
    source = FILES[name].read_text()
    assert len(source.splitlines()) < 300
    assert ast.get_docstring(ast.parse(source))


@pytest.mark.parametrize("name", jaxbp.__all__)
def test_public_names_have_a_docstring_of_their_own(name):
    public = getattr(jaxbp, name)
    assert inspect.getdoc(public)
    if inspect.isclass(public):
        assert not str(public.__doc__).startswith(f"{public.__name__}(")  # the dataclass's default


def test_the_public_names_are_sorted_and_complete():
    imported = {
        alias.asname or alias.name
        for node in ast.parse(FILES["__init__.py"].read_text()).body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert set(jaxbp.__all__) == imported


def test_types_are_shipped():
    assert (ROOT / "py.typed").exists()
