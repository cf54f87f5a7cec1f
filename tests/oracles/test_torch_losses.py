"""PyTorch's losses as a second, independent oracle, values and gradients in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import jaxbp
from tests.support.arrays import normal

A, B, C = (np.asarray(2 * normal(5, 3, seed=seed), float) for seed in range(3))
SOFT = np.exp(B) / np.exp(B).sum(1, keepdims=True)
SIGNS = np.array([1.0, -1.0, 1.0, -1.0, -1.0])
CLASSES = (B > 0).astype(float)


def squared(a, b):
    return ((a - b) ** 2).sum(-1)


def info_nce(a, p):
    similarities = functional.normalize(a) @ functional.normalize(p).T / 0.2
    return functional.cross_entropy(similarities, torch.arange(5))


CASES = {
    "divergence": (
        jaxbp.KLDivergence(),
        lambda z, y: nn.KLDivLoss(reduction="batchmean")(z.log_softmax(-1), y),
        (A,),
        SOFT,
    ),
    "poisson": (jaxbp.Poisson(), lambda z, y: 3 * nn.PoissonNLLLoss()(z, y), (A,), CLASSES * 4),
    "gaussian": (jaxbp.GaussianNLL(), lambda m, s, y: 3 * nn.GaussianNLLLoss()(m, y, s.exp()), (A, B), C),
    "hinge": (jaxbp.Hinge(), lambda z, y: (1 - y * z).clamp(min=0).sum(-1).mean(), (A,), 2 * CLASSES - 1),
    "pairs": (jaxbp.CosineEmbedding(0.1), nn.CosineEmbeddingLoss(margin=0.1), (A, B), SIGNS),
    "triplets": (
        jaxbp.Triplet(2.0),
        nn.TripletMarginWithDistanceLoss(distance_function=squared, margin=2.0),
        (A, B, C),
        None,
    ),
    "contrast": (jaxbp.InfoNCE(0.2), info_nce, (A, B), None),
}


@pytest.mark.parametrize(("ours", "theirs", "outputs", "targets"), CASES.values(), ids=CASES)
def test_losses_agree_with_pytorch(ours, theirs, outputs, targets):
    leaves = [torch.tensor(a, requires_grad=True) for a in outputs]
    value = theirs(*leaves, *([] if targets is None else [torch.tensor(targets)]))
    value.backward()
    with jax.enable_x64(True):
        arrays = tuple(map(jnp.asarray, outputs))
        our_value, kept = ours.forward(
            arrays if ours.takes else arrays[0], () if targets is None else jnp.asarray(targets)
        )
        gradient = jax.tree.leaves(ours.backward(kept))
        np.testing.assert_allclose(our_value, value.detach(), rtol=1e-10)
        for g, leaf in zip(gradient, leaves, strict=True):
            np.testing.assert_allclose(g, leaf.grad, rtol=1e-8, atol=1e-12)


def test_a_sum_of_losses_agrees_with_pytorch():
    ours = jaxbp.SumOfLosses({"a": (jaxbp.MeanSquaredError(), 2.0), "b": (jaxbp.SoftmaxCrossEntropy(), 0.5)})
    a, b, y = torch.tensor(A, requires_grad=True), torch.tensor(B, requires_grad=True), np.array([0, 2, 1, 1, 0])
    value = 2 * nn.MSELoss()(a, torch.tensor(C)) + 0.5 * nn.CrossEntropyLoss()(b, torch.tensor(y))
    value.backward()
    with jax.enable_x64(True):
        found, kept = ours.forward({"a": jnp.asarray(A), "b": jnp.asarray(B)}, {"a": jnp.asarray(C), "b": y})
        gradient = ours.backward(kept)
        np.testing.assert_allclose(found, value.detach(), rtol=1e-12)
        for name, leaf in (("a", a), ("b", b)):
            np.testing.assert_allclose(gradient[name], leaf.grad, rtol=1e-10, atol=1e-15)
