"""Value and gradient of CTC, against jax.value_and_grad of optax.ctc_loss (in the column of jax.grad) and PyTorch's."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxbp
from experiments.benchmarks.engines import Engine, compiled


@dataclass(frozen=True)
class CTCGradient:
    """Sentences of random labels, no longer than `longest`, under random logits of as many frames or fewer."""

    name: str
    examples: int = 32
    frames: int = 200
    classes: int = 30
    longest: int = 40
    torch_model = True  # there is one to compare with

    def batch(self):
        """Logits, labels, their lengths, and the lengths of the logits."""
        rng = np.random.default_rng(0)
        return (
            rng.normal(size=(self.examples, self.frames, self.classes)).astype(np.float32),
            rng.integers(1, self.classes, (self.examples, self.longest)).astype(np.int32),
            rng.integers(self.longest // 4, self.longest + 1, self.examples).astype(np.int32),
            rng.integers(self.frames * 3 // 5, self.frames + 1, self.examples).astype(np.int32),
        )

    def by_jaxbp(self) -> Engine:
        """The closed form."""

        def both(logits, *targets):
            value, residuals = jaxbp.CTC().forward(logits, jaxbp.Transcripts(*targets))
            return value, jaxbp.CTC().backward(residuals)

        return compiled(both, *map(jnp.asarray, self.batch()))

    def by_autodiff(self) -> Engine:
        """Through optax's recursion over logarithms."""

        def value(logits, labels, label_lengths, logit_lengths):
            behind = [
                jnp.arange(most) >= lengths[:, None]
                for most, lengths in ((self.frames, logit_lengths), (self.longest, label_lengths))
            ]
            return jnp.mean(optax.ctc_loss(logits, behind[0].astype(float), labels, behind[1].astype(float)))

        return compiled(jax.value_and_grad(value), *map(jnp.asarray, self.batch()))

    def by_torch(self) -> Engine:
        """PyTorch's own kernels, on the same kind of device."""
        import torch

        device = "cuda" if jax.default_backend() == "gpu" else "cpu"
        logits, labels, label_lengths, logit_lengths = (torch.tensor(a, device=device) for a in self.batch())
        logits.requires_grad_()

        def run():
            logits.grad = None
            log_p = logits.log_softmax(-1).transpose(0, 1)
            losses = torch.nn.functional.ctc_loss(log_p, labels, logit_lengths, label_lengths, reduction="none")
            losses.mean().backward()
            if device == "cuda":
                torch.cuda.synchronize()

        return Engine(run)
