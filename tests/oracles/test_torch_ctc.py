"""PyTorch's CTC as a second, independent oracle, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import jaxbp
from tests.support.arrays import normal

# Padding, labels repeated once and twice, no label, as many labels as frames, and two that do not fit.
TARGETS = jaxbp.Transcripts(
    np.array([[1, 1, 2, 3, 3], [2, 2, 2, 0, 0], [0] * 5, [1, 3, 1, 2, 0], [4, 4, 4, 0, 0], [1, 2, 3, 4, 1]]),
    np.array([5, 3, 0, 4, 3, 5]),
    np.array([9, 6, 5, 4, 4, 3]),
)
LOGITS = np.asarray(3 * normal(6, 9, 5), float)


@pytest.mark.parametrize("zero_infinity", [False, True])
@pytest.mark.parametrize("blank", [0, 4])
def test_ctc_agrees_with_pytorch(blank, zero_infinity):
    labels = np.where(TARGETS.labels == blank, 0, TARGETS.labels) if blank else TARGETS.labels
    z = torch.tensor(LOGITS, requires_grad=True)
    theirs = torch.nn.functional.ctc_loss(
        z.log_softmax(-1).transpose(0, 1),
        *(torch.tensor(a) for a in (labels, TARGETS.logit_lengths, TARGETS.label_lengths)),
        blank=blank,
        reduction="none",
        zero_infinity=zero_infinity,
    )
    theirs.sum().backward()
    with jax.enable_x64(True):
        loss = jaxbp.CTC(blank, zero_infinity)
        targets = jax.tree.map(jnp.asarray, TARGETS._replace(labels=labels))
        losses, residuals = jax.jit(loss.per_example)(jnp.asarray(LOGITS), targets)
        gradient = np.asarray(jax.jit(loss.scaled_gradient)(residuals, 1.0))
    np.testing.assert_allclose(losses, theirs.detach(), rtol=1e-12)
    assert np.isinf(losses).sum() == (0 if zero_infinity else 2)
    assert not gradient[4:].any()  # PyTorch's is no number there, unless asked to zero it
    of = slice(None) if zero_infinity else slice(4)
    np.testing.assert_allclose(gradient[of], z.grad[of], atol=1e-12)
