"""Which quantity can be had of which layer: every pair is compared with jax, or seen to be refused by name.

Each layer stands above a `Dense`, so that deltas pass through it, in float64 on a batch of three, with a
`BinaryCrossEntropy` of the outputs z. All truths are NumPy's, from three things that jax gives, z, its Jacobian J_f and
a product with the Hessian: G_n = J_fᵀ (σ(z) - y) of one example, GGN = 1/N Σ_n J_fᵀ diag(σ(z) (1 - σ(z))) J_f.

    python -m tests.quantities.coverage_table          writes the table into README.md; a test says when it differs
"""

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

import jaxbp
from jaxbp import Conv, Dense, Layer, Serial
from jaxbp.core.paths import from_leaves
from jaxbp.credit.feedback import weights_in
from jaxbp.curvature.kronecker import from_matrix

README = Path(__file__).parents[2] / "README.md"
MARKS = "<!-- coverage: written by python -m tests.quantities.coverage_table -->\n", "<!-- end of coverage -->"
LOSS, N, KEY = jaxbp.BinaryCrossEntropy(), 3, jax.random.key(0)
FA, DFA = {"1": jaxbp.FeedbackAlignment()}, {"0": jaxbp.DirectFeedback()}


class Signs(Layer):
    """Tokens to look up: whether a number is above zero. No gradient comes back."""

    def forward(self, params, x, rng=None):
        return (x > 0).astype(int), x

    def input_gradient(self, params, x, g):
        return jnp.zeros_like(x)


@dataclass(frozen=True)
class Siamese(jaxbp.Composite):
    """The same layer for both inputs."""

    body: Layer

    def wire(self, call, x):
        a, b = x
        return call("body", a), call("body", b)


ROWS: dict[str, tuple[Layer, tuple[int, ...]]] = {  # the layer, and the shape of one example
    "`Dense`": (Dense(2), (3,)),
    "`Dense` along a sequence": (Serial(jaxbp.Tanh(), Dense(2, bias=False)), (3, 2)),
    "`Conv`, 1 axis": (Conv(2, (2,)), (4, 2)),
    "`Conv`, 2 axes, stride": (Conv(2, (2, 2), stride=2), (4, 4, 2)),
    "`Conv`, 3 axes": (Conv(2, (2, 1, 2), padding="VALID"), (2, 2, 2, 2)),
    "`Conv`, groups": (Conv(2, (2,), groups=2), (4, 2)),
    "`ConvTranspose`": (jaxbp.ConvTranspose(2, (2,), stride=2), (2, 2)),
    "`RNN`, `GRU`, `LSTM`, `Bidirectional`, `MapValues`": (
        Serial(jaxbp.Bidirectional(jaxbp.RNN(1), jaxbp.GRU(1)), jaxbp.MapValues(Dense(1)), jaxbp.LSTM(1)),
        (2, 2),
    ),
    "`LayerNorm`": (jaxbp.LayerNorm(), (2, 3)),
    "`RMSNorm`": (jaxbp.RMSNorm(), (3,)),
    "`GroupNorm`": (jaxbp.GroupNorm(2), (2, 4)),
    "`InstanceNorm`": (jaxbp.InstanceNorm(), (3, 2)),
    "`BatchNorm`": (jaxbp.BatchNorm(), (3,)),
    "`Scale`": (jaxbp.Scale(), (2, 3)),
    "`PReLU`": (jaxbp.PReLU(), (2, 3)),
    "layers without parameters": (Serial(jaxbp.GELU(), jaxbp.MaxPool((2,)), jaxbp.Flatten(), jaxbp.Softmax()), (4, 2)),
    "`FromAutodiff`": (
        jaxbp.FromAutodiff(lambda params, x: jnp.sin(params * x), initial=lambda key, x: jnp.ones(x.shape[-1])),
        (3,),
    ),
    "`Residual`, `Parallel`": (
        jaxbp.Residual(Dense(3), Serial(jaxbp.Parallel(jaxbp.Tanh(), Dense(3, bias=False)), jaxbp.Add())),
        (3,),
    ),
    "`MultiHeadAttention`, `Sublayer`": (
        jaxbp.Sublayer(jaxbp.MultiHeadAttention(2, 1, causal=True), norm=jaxbp.Identity()),
        (2, 2),
    ),
    "`Embedding`, `LearnedPositions`": (Serial(Signs(), jaxbp.Embedding(2, 2), jaxbp.LearnedPositions(3)), (2,)),
    "`LanguageModel`, `TiedEmbedding`": (Serial(Signs(), jaxbp.LanguageModel(2, 2, Dense(2))), (2,)),
    "a layer called twice": (Serial(jaxbp.Parallel(jaxbp.Tanh(), jaxbp.SiLU()), Siamese(Dense(2)), jaxbp.Add()), (2,)),
    "`Vmap`": (Serial(jaxbp.Vmap(Serial(Dense(2), jaxbp.Tanh()), 2), jaxbp.Flatten()), (2,)),
    "`Repeat`": (jaxbp.Repeat(Serial(Dense(2), jaxbp.Tanh()), 2), (2,)),
    "`Recompute`": (jaxbp.Recompute(Serial(Dense(2), jaxbp.Tanh())), (2,)),
}


# Columns: what is computed, a function of (model, truths) -> function of (params, x, y, rng); and what should come out.


def from_sweep(*quantities):
    """Quantities of one sweep."""

    def ours(model, true):
        run = jaxbp.value_and_quantities(model, LOSS, {str(i): quantity for i, quantity in enumerate(quantities)})
        return lambda params, x, y, rng: list(run(params, x, y, rng)[1].values())

    return ours


def clipped(model, true):
    return lambda *batch: jaxbp.clipped_value_and_grad(model, LOSS, true.limit)(*batch)[1:]


def dot_products(model, true):
    run = from_sweep(jaxbp.gram_matrix)(model, true)
    return lambda params, x, y, rng: [*run(params, x, y, rng), jaxbp.tangent_kernel(model, params, x)]


def product(operator):
    return lambda model, true: lambda params, x, y, rng: operator(model, LOSS, params, x, y, rng)(true.v)


def diagonal(model, true):
    return jaxbp.ggn_diagonal(model, LOSS, jaxbp.Exact())


def kronecker(model, true):
    """EKFAC in the basis of the parameters is the GGN's diagonal, the B of reduce is the bias's block of the GGN."""

    def in_own_basis(factors):
        if not isinstance(factors, jaxbp.Factors):
            return factors
        return jaxbp.Eigen(*(jnp.broadcast_to(jnp.eye(m.shape[-1]), m.shape) for m in factors), as_values(factors))

    def as_values(factors):
        return factors.inputs[..., :1] * factors.outputs[..., :1, :]

    def run(params, x, y, rng):
        factors = jaxbp.kronecker_factors(model, LOSS, jaxbp.Exact(), jaxbp.kfac_reduce)(params, x, y)[2]
        basis = jax.tree.map(in_own_basis, factors, is_leaf=lambda f: isinstance(f, jaxbp.Factors))
        found = jaxbp.leaves(model, jaxbp.ekfac(model, LOSS, jaxbp.Exact())(params, basis, x, y))
        own, factors = jaxbp.leaves(model, params), jaxbp.leaves(model, factors)
        values = {p: from_matrix(f.values, own[p]) if isinstance(f, jaxbp.Eigen) else () for p, f in found.items()}
        return from_leaves(model, values), [f.outputs for p, f in factors.items() if "bias" in own[p]]

    return run


def feedback(model, true):
    """Through the true weights, sent as feedback, it is backprop."""

    def run(params, x, y, rng):
        jaxbp.init_feedback(model, FA, KEY, params, x)
        weights = {}
        for path, own in jaxbp.leaves(model, params).items():
            kept = tuple(a for a, is_weight in zip(*weights_in(model, path, own), strict=True) if is_weight)
            weights |= {path: kept} if kept and path != "0" else {}
        return jaxbp.feedback_value_and_grad(model, LOSS, FA)((params, {}), weights, x, y, rng)[1][0]

    return run


def direct(model, true):
    """The delta of the `Dense` below is e B."""

    def run(params, x, y, rng):
        return jaxbp.feedback_value_and_grad(model, LOSS, DFA)((params, {}), true.fixed, x, y, rng)[1][0][0]

    return run


COLUMNS = {
    "per-example gradients": (from_sweep(jaxbp.per_example_gradients), lambda t: t.g),
    "their norms": (from_sweep(jaxbp.per_example_norms), lambda t: t.norms),
    "clipping": (clipped, lambda t: (np.minimum(1, t.limit / t.norms) @ t.g / N, t.norms)),
    "variance, noise scale": (
        from_sweep(jaxbp.gradient_second_moment, jaxbp.gradient_variance, jaxbp.noise_scale),
        lambda t: ((t.g**2).mean(0), t.g.var(0), t.scale),
    ),
    "dot products, NTK": (dot_products, lambda t: (t.g @ t.g.T, np.einsum("nkp,mlp->nkml", t.jacobian, t.jacobian))),
    "Hessian products": (product(jaxbp.hessian_operator), lambda t: t.hessian_v),
    "GGN products": (product(jaxbp.ggn_operator), lambda t: t.ggn_v),
    "GGN diagonal": (diagonal, lambda t: np.diag(t.ggn)),
    "K-FAC, EKFAC": (kronecker, lambda t: (np.diag(t.ggn), t.bias_blocks)),
    "feedback weights": (feedback, lambda t: t.gradient),
    "direct feedback": (direct, lambda t: t.direct),
}

WHY = {"mixes the examples": "mixes examples", "no Kronecker factors": "no factors", "finds no weights": "no weights"}


def setting(name):
    """The network of a row, and its numbers."""
    layer, shape = ROWS[name]
    numbers = np.random.default_rng(0)
    model, x = Serial(Dense(shape[-1]), layer), jnp.asarray(numbers.normal(size=(N, *shape)))
    params = jax.jit(model.init)(KEY, x)
    params = jax.tree.map(lambda p: jnp.asarray(p + 0.3 * numbers.uniform(size=p.shape)), params)
    y = jax.eval_shape(lambda: model.forward(params, x)[0])
    return model, params, x, jnp.asarray(numbers.uniform(size=y.shape)), KEY if model.mixes_examples else None


def truths(model, params, x, y, rng):
    """What should come out, from jax's Jacobian and Hessian product by formulas in NumPy."""
    vector, unflatten = ravel_pytree(params)
    v = np.random.default_rng(1).normal(size=vector.shape)

    def outputs(vector):
        return model.forward(unflatten(vector), x, rng)[0].reshape(N, -1)

    def loss(vector):
        z = outputs(vector)
        return jnp.sum(jax.nn.softplus(z) - y.reshape(z.shape) * z) / N

    @jax.jit
    def by_jax(vector, v):
        return outputs(vector), jax.jacrev(outputs)(vector), jax.jvp(jax.grad(loss), (vector,), (v,))[1]

    z, jacobian, hessian_v = map(np.asarray, by_jax(vector, v))
    a = 1 / (1 + np.exp(-z))
    error = a - np.asarray(y).reshape(z.shape)
    g = np.einsum("nkp,nk->np", jacobian, error)
    ggn = np.einsum("nkp,nk,nkq->pq", jacobian, a * (1 - a), jacobian) / N
    gradient, noise = g.mean(0), g.var(0, ddof=1).sum()
    signal = gradient @ gradient - noise / N
    norms = np.linalg.norm(g, axis=1)
    places = jaxbp.leaves(model, unflatten(np.arange(vector.size, dtype=float)))
    biases = [np.asarray(p["bias"], int) for p in places.values() if isinstance(p, dict) and "bias" in p]
    fixed, _ = jaxbp.init_feedback(model, DFA, KEY, params, x)
    delta = (error / N @ fixed["0"]).reshape(-1, x.shape[-1])
    return SimpleNamespace(
        jacobian=jacobian,
        hessian_v=hessian_v,
        v=unflatten(v),
        ggn=ggn,
        ggn_v=ggn @ v,
        g=g,
        gradient=gradient,
        norms=norms,
        limit=float(np.median(norms)),
        scale=np.array([noise, signal, noise / signal]),
        bias_blocks=np.concatenate([ggn[i[..., :, None], i[..., None, :]].ravel() for i in biases]),
        fixed=fixed,
        direct=np.concatenate([delta.sum(0), (np.asarray(x).reshape(len(delta), -1).T @ delta).ravel()]),
    )


def examine(name):
    """{column: "✓" or why it is refused} of one row; raises where a number is wrong or a refusal names no layer."""
    model, *batch = setting(name)
    true, asked, cells = truths(model, *batch), {}, {}
    for column, (ours, _) in COLUMNS.items():
        try:
            function = ours(model, true)
            jax.eval_shape(function, *batch)
            asked[column] = function
        except (ValueError, TypeError) as refusal:
            cells[column] = next((short for words, short in WHY.items() if words in str(refusal)), None)
            if cells[column] is None or '"1' not in str(refusal):
                raise
    found = jax.jit(lambda *batch: {column: function(*batch) for column, function in asked.items()})(*batch)
    for column, ours in found.items():
        error = difference(ours, COLUMNS[column][1](true), batch[0])
        assert error < 1e-9, f"{name}, {column}: relative error {error:.1e}"
        cells[column] = "✓"
    return {column: cells[column] for column in COLUMNS}


def difference(ours, true, params):
    """The largest relative error; trees are laid out as vectors of parameters."""
    if isinstance(true, tuple):
        return max(difference(*pair, params) for pair in zip(ours, true, strict=True))
    arrays = jax.tree.leaves(ours)
    if true.ndim == 2 and true.shape[1] == ravel_pytree(params)[0].size:
        # Inside a Repeat the turns stand before the examples.
        arrays = [a if a.shape[0] == N else jnp.swapaxes(a, 0, 1) for a in arrays]
        ours = jnp.concatenate([a.reshape(N, -1) for a in arrays], 1)
    else:
        ours = jnp.concatenate([a.ravel() for a in arrays]).reshape(true.shape)
    return np.max(np.abs(ours - true)) / (np.max(np.abs(true)) or 1.0)


def in_readme():
    """{row: {column: cell}} as README.md has it."""
    block = README.read_text().split(MARKS[0])[1].split(MARKS[1])[0]
    heading, _, *lines = [
        [cell.strip() for cell in line.strip("|\n").split("|")] for line in block.strip().splitlines()
    ]
    return {row: dict(zip(heading[1:], words, strict=True)) for row, *words in lines}


def write():
    """Examines every row and writes the table."""
    with jax.enable_x64(True):
        rows = [(name, *examine(name).values()) for name in ROWS]
    lines = [("layer", *COLUMNS), ("---",) * (1 + len(COLUMNS)), *rows]
    table = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    before, rest = README.read_text().split(MARKS[0])
    README.write_text(before + MARKS[0] + "\n" + table + "\n" + MARKS[1] + rest.split(MARKS[1])[1])


if __name__ == "__main__":
    write()
