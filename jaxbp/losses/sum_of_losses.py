"""A sum of losses over several outputs. Of part p, with outputs y_p, targets of its own and a factor c_p,

    J = Σ_p c_p J_p          ∂J/∂y_p = c_p ∂J_p/∂y_p          H = diag_p(c_p H_p)          S = diag_p(√c_p S_p)

Each part leaves out its own ignored labels and is divided by its own total W_p: J is a sum of means. The vectors of the
empirical Fisher are gradients of an example's whole loss, so they have c_p, not its root.

Outputs, targets, totals, residuals and gradients are dicts by name, or tuples, as the parts are.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Real

import jax
from jaxtyping import PyTree

from jaxbp.core.text import describe
from jaxbp.losses.base import Loss
from jaxbp.losses.reduction import Reduction


@dataclass(frozen=True)
class SumOfLosses(Loss):
    """As in SumOfLosses({"rating": (MeanSquaredError(), 1.0), "click": (SoftmaxCrossEntropy(), 0.5)}).

    Outputs and targets are dicts with the names of the parts; where the parts are a sequence, tuples in their order.
    Weights are one number an example for all parts, or a dict (tuple) of each part's weights or None.

    Args:
        parts: (loss, factor), by name or one for each output.
        reduction: that of all parts, unless it is the default: then each has its own.
    """

    parts: Mapping | Sequence  # kept as ((name or place, (loss, factor)), ...), for a dict has no hash

    def __post_init__(self):
        parts = []
        for place, part in enumerate(self.parts.items() if isinstance(self.parts, Mapping) else self.parts):
            match part:
                case (str() | int() as name, (Loss() as loss, Real() as factor)):
                    pass
                case (Loss() as loss, Real() as factor):
                    name = place
                case _:
                    raise TypeError(f"SumOfLosses needs parts such as (MeanSquaredError(), 0.5), not {part}")
            if self.reduction is not Reduction.MEAN_OVER_WEIGHTS:
                loss = replace(loss, reduction=self.reduction)
            parts.append((name, (loss, float(factor))))
        if not parts:
            raise ValueError("SumOfLosses needs at least one part")
        object.__setattr__(self, "parts", tuple(parts))

    @property
    def _named(self) -> bool:
        return isinstance(self.parts[0][0], str)

    @property
    def _by_name(self) -> dict[str | int, tuple[Loss, float]]:
        return dict(self.parts)

    @property
    def mixes_examples(self):
        return any(loss.mixes_examples for loss, _ in self._by_name.values())

    def _each(self, method: Callable, *trees: PyTree) -> PyTree:
        """method(loss, factor, its part of each tree) of every part."""
        answers = {k: method(loss, c, *(tree[k] for tree in trees)) for k, (loss, c) in self._by_name.items()}
        return answers if self._named else tuple(answers.values())

    def _spread(self, given: PyTree) -> PyTree:
        """What was given by part, and what was given once for every part."""
        if isinstance(given, Mapping if self._named else tuple):
            self._require_parts(**{"weights or totals": given})
            return given
        return self._each(lambda loss, c: given)

    def require(self, outputs, targets):
        self._require_parts(outputs=outputs, targets=targets)
        self._each(lambda loss, c, *part: loss.require(*part), outputs, targets)

    def _require_parts(self, **trees):
        for what, tree in trees.items():
            if self._named:
                fits = isinstance(tree, Mapping) and set(tree) == set(self._by_name)
            else:
                fits = isinstance(tree, tuple) and len(tree) == len(self.parts)
            if not fits:
                wanted = f"dict of {list(self._by_name)}" if self._named else f"tuple of {len(self.parts)}"
                raise TypeError(
                    f"{self}: expected {what} as a {wanted}, got {describe(tree)}; let the model end with Select(...) "
                    "where it returns more"
                )

    def forward(self, outputs, targets, weights=None, total=None):
        self._require_parts(outputs=outputs, targets=targets)
        weights, total = self._spread(weights), self._spread(total)
        both = self._each(lambda loss, c, *part: loss.forward(*part), outputs, targets, weights, total)
        value = sum(jax.tree.leaves(self._each(lambda loss, c, pair: c * pair[0], both)))
        return value, self._each(lambda loss, c, pair: pair[1], both)

    def values(self, outputs: PyTree, targets: PyTree, weights: PyTree = None) -> PyTree:
        """J_p of every part, before it is multiplied by its factor."""
        self._require_parts(outputs=outputs, targets=targets)
        return self._each(lambda loss, c, *part: loss.forward(*part)[0], outputs, targets, self._spread(weights))

    def backward(self, residuals):
        return self._each(lambda loss, c, kept: _times(c, loss.backward(kept)), residuals)

    def hessian(self, residuals, v):
        return self._each(lambda loss, c, kept, v: _times(c, loss.hessian(kept, v)), residuals, v)

    def hessian_root(self, residuals, v):
        if any(c < 0 for _, c in self._by_name.values()):
            raise ValueError(f"{self}: a negative factor gives a Hessian that has no root")
        return self._each(lambda loss, c, kept, v: _times(c**0.5, loss.hessian_root(kept, v)), residuals, v)

    def root_input(self, outputs):
        return self._each(lambda loss, c, y: loss.root_input(y), outputs)

    def empirical_root(self, residuals):
        return self._each(lambda loss, c, kept: _times(c, loss.empirical_root(kept)), residuals)

    def weigh(self, outputs, targets, weights=None):
        return self._each(lambda loss, c, *part: loss.weigh(*part), outputs, targets, self._spread(weights))

    def total(self, outputs, targets, weights=None):
        return self._each(lambda loss, c, *part: loss.total(*part), outputs, targets, self._spread(weights))

    def measure(self, outputs, targets, weights=None):
        """The measures of every part under its name and a dot, as in "click.accuracy"."""
        self._require_parts(outputs=outputs, targets=targets)
        weights = self._spread(weights)
        return {
            f"{k}.{name}": measure
            for k, (loss, _) in self._by_name.items()
            for name, measure in loss.measure(outputs[k], targets[k], weights[k]).items()
        }

    def summary(self, measures):
        """Of every part as it says itself, and of their sum as "loss"."""
        found, value = {}, 0
        for k, (loss, c) in self._by_name.items():
            own = {name.removeprefix(f"{k}."): m for name, m in measures.items() if name.startswith(f"{k}.")}
            own = loss.summary(own)
            found |= {f"{k}.{name}": mean for name, mean in own.items()}
            value += c * own["loss"]
        return {"loss": value} | found

    def __str__(self):
        named = {k: f"({loss}, {c})" for k, (loss, c) in self._by_name.items()}
        if self._named:
            return f"SumOfLosses({{{', '.join(f'{k!r}: {pair}' for k, pair in named.items())}}})"
        return f"SumOfLosses([{', '.join(named.values())}])"


def _times(c: float, tree: PyTree) -> PyTree:
    """c times every array, in its own dtype."""
    return jax.tree.map(lambda a: c * a, tree)
