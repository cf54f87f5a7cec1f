"""Random models that are graphs: several inputs and outputs, values that go several ways, layers that are used twice.

    python -m tests.support.random_graphs 300          compares that many with jax and tells the largest errors

A graph is drawn step by step from the values there are so far: vectors, sequences, images and tokens. Each step calls a
new layer of any family on a value that it fits, or one that was called before, adds two values, or joins them.
"""

import random
import sys
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

import jaxbp
from jaxbp import Conv, Dense, Layer, Serial
from jaxbp.core.paths import leaves_of

N, F, T, WORDS, LIMIT = 3, 2, 3, 5, 0.5
KINDS = {"vector": (F,), "sequence": (T, F), "image": (4, 4, F), "tokens": (T,)}

# By kind of input: layers and the kind that they give. None in the place of a number is drawn anew for each graph.
PLAIN = {
    "vector": [
        (Dense(F), "vector"),
        (Serial(Dense(F, bias=False), jaxbp.Tanh()), "vector"),
        (jaxbp.Residual(Serial(Dense(3), jaxbp.GELU(), Dense(F))), "vector"),
        (jaxbp.Repeat(Serial(Dense(F), jaxbp.Tanh()), 2), "vector"),
        (jaxbp.Recompute(Serial(Dense(F), jaxbp.Sigmoid())), "vector"),
        (Serial(jaxbp.Vmap(Dense(F), 2), jaxbp.Flatten(), Dense(F)), "vector"),
        (Serial(Dense(2 * F), jaxbp.SwiGLU()), "vector"),
        (Serial(jaxbp.Parallel(Dense(F), jaxbp.Softplus()), jaxbp.Multiply()), "vector"),
        (Serial(Dense(2 * F), jaxbp.Split(2), jaxbp.Select(1), jaxbp.Softcap(2.0)), "vector"),
    ],
    "sequence": [
        (Dense(F), "sequence"),
        (Conv(F, (2,)), "sequence"),
        (jaxbp.MultiHeadAttention(F, 1, causal=True), "sequence"),
        (jaxbp.MultiHeadAttention(F, 1, rotary=True, soft_cap=3.0), "sequence"),
        (jaxbp.Sublayer(Dense(F), norm=jaxbp.Identity()), "sequence"),
        (jaxbp.GRU(F), "sequence"),
        (jaxbp.RNN(F, reverse=True), "sequence"),
        (Serial(jaxbp.Bidirectional(jaxbp.RNN(1))), "sequence"),
        (jaxbp.LSTM(F, last=True), "vector"),
        (jaxbp.MeanOverTime(), "vector"),
        (Serial(jaxbp.Flatten(), Dense(F)), "vector"),
        (Serial(jaxbp.Transpose((2, 1)), Dense(T), jaxbp.Transpose((2, 1))), "sequence"),
    ],
    "image": [
        (Conv(F, (3, 3)), "image"),
        (Serial(Conv(F, (2, 2), stride=2), jaxbp.ReLU(), jaxbp.ConvTranspose(F, (2, 2), stride=2)), "image"),
        (Serial(jaxbp.MaxPool((2, 2)), jaxbp.Flatten(), Dense(F)), "vector"),
        (jaxbp.GlobalAvgPool(), "vector"),
        (jaxbp.SiLU(), "image"),
    ],
    "tokens": [
        (jaxbp.Embedding(WORDS, F), "sequence"),
        (Serial(jaxbp.LanguageModel(WORDS, F, Dense(F)), Dense(F)), "sequence"),
    ],
}
WITHOUT_FACTORS = {  # parameters that are no matrix: Kronecker factors are refused by name
    "vector": [(jaxbp.LayerNorm(), "vector"), (jaxbp.Scale(), "vector"), (jaxbp.PReLU(), "vector")],
    "sequence": [(jaxbp.LayerNorm(), "sequence"), (jaxbp.Sublayer(jaxbp.GRU(F)), "sequence")],
    "image": [(jaxbp.InstanceNorm(), "image"), (jaxbp.GroupNorm(1), "image")],
    "tokens": [(Serial(jaxbp.Embedding(WORDS, F), jaxbp.LearnedPositions(T)), "sequence")],
}


@dataclass(frozen=True)
class Graph(jaxbp.Composite):
    """steps: the child that is called, or None for a sum, and the numbers of the values that it gets."""

    layers: tuple[tuple[str, Layer], ...]
    steps: tuple[tuple[str | None, tuple[int, ...]], ...]
    outputs: tuple[int, ...]

    def make_children(self):
        return dict(self.layers)

    def wire(self, call, x):
        values = list(x)
        for name, inputs in self.steps:
            taken = tuple(values[i] for i in inputs)
            if name is None:
                values.append(taken[0] + taken[1])
            else:
                values.append(call(name, taken[0] if len(taken) == 1 else taken))
        return tuple(values[i] for i in self.outputs)


def draw_graph(seed: int) -> tuple[Graph, list[str]]:
    """A graph, and the kinds of its inputs."""
    rng = random.Random(seed)
    inputs = rng.choices(["vector", "sequence", "image", "tokens"], k=rng.randint(1, 3))
    families = {kind: PLAIN[kind] + (WITHOUT_FACTORS[kind] if seed % 3 == 0 else []) for kind in KINDS}
    kinds, layers, steps, fitting = list(inputs), {}, [], {}
    for _ in range(rng.randint(2, 5)):
        deed, i = rng.random(), rng.randrange(len(kinds))
        alike = [j for j, kind in enumerate(kinds) if kind == kinds[i] and kind != "tokens"]
        if deed < 0.15 and alike:
            steps.append((None, (i, rng.choice(alike))))
            kinds.append(kinds[i])
            continue
        if deed < 0.3 and alike:
            name = f"join{len(layers)}"
            layers[name] = Serial(jaxbp.Concatenate(), Conv(F, (1, 1)) if kinds[i] == "image" else Dense(F))
            steps.append((name, (i, rng.choice(alike))))
            kinds.append(kinds[i])
            continue
        known = [name for name, (kind, _) in fitting.items() if kind == kinds[i]]
        if deed < 0.55 and known:
            name = rng.choice(known)
        else:
            name = f"layer{len(layers)}"
            layers[name], gives = rng.choice(families[kinds[i]])
            fitting[name] = kinds[i], gives
        steps.append((name, (i,)))
        kinds.append(fitting[name][1])
    # All that no step takes is an output; tokens can't be one.
    taken = {i for _, numbers in steps for i in numbers}
    outputs = [i for i, kind in enumerate(kinds) if i not in taken and kind != "tokens"]
    return Graph(tuple(layers.items()), tuple(steps), tuple(outputs)), inputs


def draw_case(seed: int):
    """A graph, its loss, parameters, inputs, targets and a vector like the parameters."""
    graph, kinds = draw_graph(seed)
    numbers = np.random.default_rng(seed)

    def array(kind):
        shape = (N, *KINDS[kind])
        return jnp.asarray(numbers.integers(WORDS, size=shape) if kind == "tokens" else numbers.normal(size=shape))

    x = tuple(map(array, kinds))
    like = jax.eval_shape(graph.init, jax.random.key(0), x)
    params, v = (jax.tree.map(lambda p: jnp.asarray(numbers.normal(size=p.shape)), like) for _ in range(2))
    y = jax.eval_shape(graph, params, x)
    losses = [jaxbp.BinaryCrossEntropy(), jaxbp.MeanSquaredError(), jaxbp.HalfSquaredError()]
    loss = jaxbp.SumOfLosses([(losses[numbers.integers(3)], float(numbers.uniform(0.5, 2))) for _ in y])
    targets = tuple(jnp.asarray(numbers.uniform(size=a.shape)) for a in y)
    return graph, loss, params, x, targets, v


def compare(seed: int) -> dict[str, float]:
    """The largest relative error of each quantity against jax, in float64."""
    with jax.enable_x64(True):
        graph, loss, params, x, targets, v = draw_case(seed)
        has_factors = all(
            type(layer).affine is not Layer.affine
            for path, layer in leaves_of(graph).items()
            if jax.tree.leaves(jaxbp.leaves(graph, params)[path])
        )
        ours, true = jax.jit(lambda *batch: (by_hand(graph, loss, has_factors, *batch), by_jax(graph, loss, *batch)))(
            params, x, targets, v
        )
        if has_factors:
            ours["factors"], true["factors"] = bias_blocks(graph, loss, params, x, targets, ours.pop("factors"))
        assert set(ours) == set(true)
        return {name: relative_error(ours[name], true[name]) for name in ours}


def by_hand(graph, loss, has_factors, params, x, targets, v):
    y, residuals = graph.forward(params, x)
    _, kept = loss.forward(y, targets)
    dx, gradient = jaxbp.sweep(graph, params, residuals, loss.backward(kept))
    quantities = {"norms": jaxbp.per_example_norms, "second moment": jaxbp.gradient_second_moment}
    _, found = jaxbp.value_and_quantities(graph, loss, quantities)(params, x, targets)
    clipped = jaxbp.clipped_value_and_grad(graph, loss, LIMIT)(params, x, targets)[1]
    ggn = jaxbp.ggn_operator(graph, loss, params, x, targets)(v)
    found |= {"gradient": gradient, "input": dx, "clipped": clipped, "GGN": ggn}
    if has_factors:
        factors = jaxbp.kronecker_factors(graph, loss, jaxbp.Exact(), jaxbp.kfac_reduce)(params, x, targets)[2]
        found["factors"] = jaxbp.leaves(graph, factors)
    return found


def by_jax(graph, loss, params, x, targets, v):
    floating = [i for i, a in enumerate(x) if jnp.issubdtype(a.dtype, jnp.floating)]

    def value(params, moving, x, targets):
        x = [moving[floating.index(i)] if i in floating else a for i, a in enumerate(x)]
        return loss.forward(graph(params, tuple(x)), targets)[0]

    moving = [x[i] for i in floating]
    gradient, dmoving = jax.grad(value, (0, 1))(params, moving, x, targets)
    dx = tuple(dmoving[floating.index(i)] if i in floating else None for i in range(len(x)))
    one = jax.tree.map(lambda a: a[:, None], (moving, x, targets))
    each = jax.vmap(jax.grad(value), (None, 0, 0, 0))(params, *one)
    norms = jnp.sqrt(sum(jnp.sum(g**2, range(1, g.ndim)) for g in jax.tree.leaves(each)))
    share = jnp.minimum(1, LIMIT / norms)
    clipped = jax.tree.map(lambda g: jnp.tensordot(share, g, 1) / N, each)
    moments = jax.tree.map(lambda g: jnp.mean(g**2, 0), each)
    ggn = true_ggn(graph, loss, params, x, targets)(v)
    return {
        **{"gradient": gradient, "input": dx, "norms": norms, "clipped": clipped},
        **{"second moment": moments, "GGN": ggn},
    }


def true_ggn(graph, loss, params, x, targets):
    """v ↦ Jᵀ H J v by jax alone."""
    outputs, pull_back = jax.vjp(lambda params: graph(params, x), params)

    def product(v):
        _, moved = jax.jvp(lambda params: graph(params, x), (params,), (v,))
        return pull_back(jax.jvp(jax.grad(lambda y: loss.forward(y, targets)[0]), (outputs,), (moved,))[1])[0]

    return product


def bias_blocks(graph, loss, params, x, targets, factors):
    """B of every layer with a bias, and the bias's block of the GGN, which it is where positions are added up."""
    own, ours, true = jaxbp.leaves(graph, params), {}, {}
    product = true_ggn(graph, loss, params, x, targets)
    from_leaves = jaxbp.core.paths.from_leaves
    zeros = {path: jax.tree.map(jnp.zeros_like, p) for path, p in own.items()}
    for path, f in factors.items():
        if not isinstance(f, jaxbp.Factors) or "bias" not in own[path]:
            continue
        bias = own[path]["bias"]

        def column(unit, path=path):
            v = from_leaves(graph, zeros | {path: zeros[path] | {"bias": unit}})
            return jaxbp.leaves(graph, product(v))[path]["bias"]

        units = jnp.eye(bias.size).reshape(bias.size, *bias.shape)
        whole = jax.jit(jax.vmap(column))(units).reshape(-1, bias.shape[-1], *bias.shape[:-1], bias.shape[-1])
        layers = f.outputs.reshape(-1, *f.outputs.shape[-2:])
        whole = whole.reshape(len(layers), bias.shape[-1], len(layers), bias.shape[-1])
        ours[path], true[path] = layers, jnp.stack([whole[i, :, i] for i in range(len(layers))])
    return ours, true


def relative_error(a, b) -> float:
    """‖a - b‖ / ‖b‖ over all arrays of a tree."""
    pairs = list(zip(*map(jax.tree.leaves, (a, b)), strict=True))
    size = sum(float(np.sum(np.square(q))) for _, q in pairs)
    return float(np.sqrt(sum(float(np.sum(np.square(np.asarray(p) - q))) for p, q in pairs) / max(size, 1e-30)))


if __name__ == "__main__":
    worst: dict[str, tuple[float, int, int]] = {}
    for seed in range(int(sys.argv[1])):
        for name, error in compare(seed).items():
            most, where, count = worst.get(name, (0.0, seed, 0))
            worst[name] = (*max((most, where), (error, seed)), count + 1)
        jax.clear_caches()
        print(f"\r{seed + 1} graphs", end="", flush=True)
    print()
    for name, (error, seed, count) in worst.items():
        print(f"{name:15} largest relative error {error:.1e} (graph {seed}) of {count}")
