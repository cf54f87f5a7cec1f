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
MAY_DIFFERENTIATE = ("verification/", "interop.py")
# Lowest first: a file imports from its own tier and from those before it. Every file is in one of them.
TIERS = (
    ("core/",),
    ("combinators.py", "initializers.py", "interop.py"),
    ("layers/", "losses/"),
    ("backprop.py",),
    ("quantities/", "credit/", "training/", "inspection/", "verification/"),
    ("curvature/", "decoding/", "models/"),
    ("__init__.py",),
)


def tier(name):
    """The number of the tier that a file, or a dotted module without "jaxbp.", lies in."""
    found = [i for i, tier in enumerate(TIERS) for start in tier if name.startswith(start)]
    assert len(found) == 1, f"{name} must lie in one tier, lies in {found}"
    return found[0]


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
    allowed = AUTODIFF if name.startswith(MAY_DIFFERENTIATE) else {"jvp"} if name.startswith("curvature/") else set()
    assert found <= allowed


@pytest.mark.parametrize("name", FILES)
def test_a_file_imports_from_its_own_tier_and_lower_ones(name):
    for node in ast.walk(ast.parse(FILES[name].read_text())):
        if isinstance(node, ast.ImportFrom) and node.module.startswith("jaxbp."):
            module = node.module.removeprefix("jaxbp.").replace(".", "/")
            assert tier(f"{module}.py" if f"{module}.py" in FILES else f"{module}/") <= tier(name), node.module


@pytest.mark.parametrize("room", ["layers", "losses"])
def test_layers_and_losses_know_nothing_of_each_other(room):
    other = {"layers": "losses", "losses": "layers"}[room]
    for name in FILES:
        if name.startswith(f"{room}/"):
            assert not any(module.startswith(f"jaxbp.{other}") for module in imports(FILES[name].read_text())), name


def test_the_root_holds_at_most_eight_modules():
    assert sum("/" not in name for name in FILES) <= 8


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


def test_every_public_name_belongs_to_one_namespace():
    names = [name for namespace in jaxbp._NAMESPACES for name in namespace.__all__]
    assert len(names) == len(set(names))
    assert jaxbp.__all__ == sorted(names)


def test_types_are_shipped():
    assert (ROOT / "py.typed").exists()
