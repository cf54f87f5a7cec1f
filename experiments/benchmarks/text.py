"""Attention, the loss over words, embeddings and a language model: by hand, by jax.grad of what a user would write, and
by PyTorch.

What a user would write keeps the attention's weights and all logits. Each run takes the value or outputs and the
gradients of all that is learned, and of what came in where that has one.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxbp
from experiments.benchmarks.engines import Engine, compiled
from experiments.benchmarks.step_and_layer import TrainingStep
from jaxbp.core.paths import map_layers


def normal(*shapes: tuple[int, ...]) -> list[np.ndarray]:
    """Random arrays of these shapes."""
    random = np.random.default_rng(0)
    return [random.normal(size=shape).astype(np.float32) for shape in shapes]


def by_vjp(function: Callable, g, *arguments) -> Engine:
    """The outputs of a function, and what jax.vjp makes of g."""

    def run(g, *arguments):
        y, pull_back = jax.vjp(function, *arguments)
        return y, pull_back(g)

    return compiled(run, g, *arguments)


def by_autograd(function: Callable, arguments: list[np.ndarray]) -> Engine:
    """PyTorch's way: `function(*tensors)` gives (outputs, their cotangent), on the same kind of device."""
    import torch

    device = "cuda" if jax.default_backend() == "gpu" else "cpu"
    tensors = [torch.tensor(np.asarray(a), device=device) for a in arguments]
    for tensor in tensors:
        tensor.requires_grad_(tensor.is_floating_point())

    def run():
        for tensor in tensors:
            tensor.grad = None
        y, g = function(*tensors)
        y.backward(g)
        if device == "cuda":
            torch.cuda.synchronize()

    return Engine(run)


@dataclass(frozen=True)
class AttentionGradients:
    """Scaled dot-product attention of each position to all (or, causal, to those before)."""

    name: str
    causal: bool = False
    examples: int = 2
    heads: int = 4
    size: int = 64
    length: int = 2048
    torch_model = True  # there is one to compare with

    def batch(self):
        """∂J/∂y, queries, keys and values [n, t, h, d]."""
        return normal(*[(self.examples, self.length, self.heads, self.size)] * 4)

    def by_jaxbp(self) -> Engine:
        """A few rows of the weights at a time."""
        layer = jaxbp.Attention(self.causal)

        def run(g, *arrays):
            y, residuals = layer.forward((), jaxbp.Heads(*arrays))
            return y, layer.input_gradient((), residuals, g)[:3]

        return compiled(run, *map(jnp.asarray, self.batch()))

    def by_autodiff(self) -> Engine:
        """The textbook's lines."""

        def attention(q, k, v):
            z = jnp.einsum("nthd,nshd->nhts", q, k) / self.size**0.5
            if self.causal:
                z = jnp.where(jnp.tril(jnp.ones(z.shape[2:], bool)), z, -jnp.inf)
            return jnp.einsum("nhts,nshd->nthd", jax.nn.softmax(z), v)

        return by_vjp(attention, *map(jnp.asarray, self.batch()))

    def by_torch(self) -> Engine:
        """PyTorch's own kernel, to which heads come before positions."""
        import torch

        def attention(g, *arrays):
            q, k, v = (a.transpose(1, 2) for a in arrays)
            y = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
            return y.transpose(1, 2), g.detach()

        return by_autograd(attention, self.batch())


@dataclass(frozen=True)
class WordGradients:
    """The cross-entropy of the next word, and its gradients for hidden numbers [n, f] and output matrix [words, f]."""

    name: str
    tokens: int = 4096
    features: int = 512
    words: int = 32_000
    torch_model = True

    def batch(self):
        """Hidden numbers, output matrix, labels."""
        labels = np.random.default_rng(1).integers(0, self.words, self.tokens)
        return *normal((self.tokens, self.features), (self.words, self.features)), labels.astype(np.int32)

    def by_jaxbp(self) -> Engine:
        """Some tokens at a time."""
        loss = jaxbp.LinearCrossEntropy()

        def run(hidden, weight, labels):
            value, residuals = loss.forward(jaxbp.LazyLogits(hidden, weight), labels)
            return value, loss.backward(residuals)

        return compiled(run, *map(jnp.asarray, self.batch()))

    def by_autodiff(self) -> Engine:
        """All logits at once."""

        def value(hidden, weight, labels):
            return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(hidden @ weight.T, labels))

        return compiled(jax.value_and_grad(value, (0, 1)), *map(jnp.asarray, self.batch()))

    def by_torch(self) -> Engine:
        """All logits at once."""
        import torch

        def value(hidden, weight, labels):
            return torch.nn.functional.cross_entropy(hidden @ weight.T, labels.long()), None

        return by_autograd(value, self.batch())


@dataclass(frozen=True)
class EmbeddingGradient:
    """The gradient of an embedding, for the ∂J/∂y of some tokens."""

    name: str
    vocabulary: int = 50_000
    features: int = 256
    tokens: int = 4096
    torch_model = True

    def batch(self):
        """∂J/∂y, weight and tokens."""
        tokens = np.random.default_rng(1).integers(0, self.vocabulary, (1, self.tokens))
        return *normal((1, self.tokens, self.features), (self.vocabulary, self.features)), tokens.astype(np.int32)

    def by_jaxbp(self) -> Engine:
        """The layer's own."""
        layer = jaxbp.Embedding(self.vocabulary, self.features)

        def run(g, weight, tokens):
            y, residuals = layer.forward({"weight": weight}, tokens)
            return y, layer.param_gradient({"weight": weight}, residuals, g)["weight"]

        return compiled(run, *map(jnp.asarray, self.batch()))

    def by_autodiff(self) -> Engine:
        """Of weight[tokens]."""
        g, weight, tokens = map(jnp.asarray, self.batch())
        return by_vjp(lambda weight: weight[tokens], g, weight)

    def by_torch(self) -> Engine:
        """PyTorch's own, dense as ours."""
        import torch

        embedding = torch.nn.functional.embedding
        return by_autograd(lambda g, weight, tokens: (embedding(tokens, weight), g.detach()), self.batch())


@dataclass(frozen=True)
class LanguageModelStep(TrainingStep):
    """A training step of a language model on random tokens; jax.grad gets `PlainAttention` in its place."""

    def batch(self):
        random = np.random.default_rng(0)
        tokens = random.integers(0, self.classes, (self.shape[0], self.shape[1] + 1)).astype(np.int32)
        return tokens[:, :-1], tokens[:, 1:]

    def by_autodiff(self) -> Engine:
        """Through jax.value_and_grad of the textbook's form."""

        def plain(path, layer):
            return jaxbp.PlainAttention(layer.causal, layer.dropout) if type(layer) is jaxbp.Attention else layer

        return TrainingStep.by_autodiff(dataclasses.replace(self, model=map_layers(self.model, plain)))


def language_model(vocabulary: int, features: int, depth: int, heads: int, length: int, repeat: bool):
    """Learned positions, pre-norm blocks, tied embeddings."""
    block = jaxbp.encoder_block(features, heads, causal=True)
    blocks = [jaxbp.Repeat(block, depth)] if repeat else [block] * depth
    body = jaxbp.Serial(jaxbp.LearnedPositions(length), *blocks, jaxbp.LayerNorm())
    return jaxbp.LanguageModel(vocabulary, features, body)


def torch_language_model(vocabulary: int, features: int, depth: int, heads: int, length: int):
    """The same in PyTorch."""

    def build():
        import torch
        from torch import nn

        class Block(nn.Module):
            def __init__(self):
                super().__init__()
                self.norms = nn.ModuleList(nn.LayerNorm(features) for _ in range(2))
                self.inward, self.outward = nn.Linear(features, 3 * features), nn.Linear(features, features)
                self.network = nn.Sequential(
                    nn.Linear(features, 4 * features), nn.GELU(), nn.Linear(4 * features, features)
                )

            def forward(self, x):
                n, t, _ = x.shape
                q, k, v = self.inward(self.norms[0](x)).view(n, t, 3, heads, -1).permute(2, 0, 3, 1, 4)
                y = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
                x = x + self.outward(y.transpose(1, 2).reshape(n, t, -1))
                return x + self.network(self.norms[1](x))

        class Model(nn.Module):
            def __init__(self):
                super().__init__()
                self.embedding, self.positions = nn.Embedding(vocabulary, features), nn.Embedding(length, features)
                self.body = nn.Sequential(*(Block() for _ in range(depth)), nn.LayerNorm(features))

            def forward(self, tokens):
                x = self.embedding(tokens) + self.positions.weight[: tokens.shape[1]]
                return (self.body(x) @ self.embedding.weight.T).transpose(1, 2)

        return Model(), lambda parameters: torch.optim.Adam(parameters, lr=1e-3)

    return build


# Vocabulary, features, depth, heads and length of nanoGPT's models of characters.
SIZES, SMALL = (65, 384, 6, 6, 256), (65, 128, 4, 4, 64)

TEXT = [
    AttentionGradients("attention, 2048 positions"),
    AttentionGradients("attention, 2048 positions, causal", causal=True),
    WordGradients("cross-entropy over 32,000 words"),
    EmbeddingGradient("embedding of 50,000 words"),
    *(
        LanguageModelStep(
            name,
            language_model(*SIZES, repeat),
            optax.adam(1e-3),
            (8, 256),
            torch_language_model(*SIZES),
            classes=SIZES[0],
        )
        for name, repeat in (("language model", False), ("language model, repeated", True))
    ),
    LanguageModelStep(
        "language model, small",
        language_model(*SMALL, repeat=False),
        optax.adam(1e-3),
        (12, 64),
        torch_language_model(*SMALL),
        classes=SMALL[0],
    ),
]
