"""What `check_gradients` found: a table that prints, and the first wrong layer by name."""

from dataclasses import dataclass

from jaxbp.core.text import shorten, table


@dataclass(frozen=True)
class Finding:
    """One gradient under test.

    path: the layer's, or "loss", "input" for the two ends.
    layer: what it is.
    what: "delta", "input gradient", or "gradient of" one parameter.
    whole: relative error of the whole backward pass at this place against jax.grad; None where it has no such value.
    alone: relative error of this layer's own function, for a random cotangent; idem.
    mistake: what is wrong here, in words; None if nothing is, or if the error was handed down from above.
    """

    path: str
    layer: str
    what: str
    whole: float | None = None
    alone: float | None = None
    mistake: str | None = None


@dataclass(frozen=True)
class Report:
    """Findings in backward order. True as a condition if every gradient is right."""

    findings: tuple[Finding, ...]
    tolerance: float

    @property
    def ok(self) -> bool:
        """Whether every gradient agrees with jax.grad."""
        return self.worst <= self.tolerance and self.first_wrong is None

    @property
    def worst(self) -> float:
        """The largest relative error."""
        return max(error for f in self.findings for error in (f.whole, f.alone) if error is not None)

    @property
    def wrong(self) -> tuple[Finding, ...]:
        """The findings that are to blame, in backward order."""
        return tuple(f for f in self.findings if f.mistake is not None)

    @property
    def first_wrong(self) -> Finding | None:
        """The first mistake that a delta meets on its way down."""
        return self.wrong[0] if self.wrong else None

    def __bool__(self) -> bool:
        return self.ok

    def __str__(self) -> str:
        rows, previous = [("path", "layer", "quantity", "whole pass", "layer alone", "")], None
        for f in self.findings:
            new = (f.path, f.layer) != previous
            verdict = "WRONG: " + f.mistake if f.mistake else self._verdict(f)
            name = (f.path, shorten(f.layer, 32)) if new else ("", "")
            rows.append((*name, f.what, _error(f.whole), _error(f.alone), verdict))
            previous = (f.path, f.layer)
        return f"{table(rows)}\n\n{self._conclusion()}"

    def _verdict(self, f: Finding) -> str:
        errors = [error for error in (f.whole, f.alone) if error is not None]
        if not errors:
            return "not reached"
        return "ok" if max(errors) <= self.tolerance else "wrong from above"

    def _conclusion(self) -> str:
        if self.ok:
            return f"All gradients agree with jax.grad in float64; the largest relative error is {self.worst:.1e}."
        lines = [f"{'First' if i == 0 else 'Then'} {self._sentence(f)}" for i, f in enumerate(self.wrong)]
        return "\n".join(lines)

    def _sentence(self, f: Finding) -> str:
        where = f.path if f.path in ("loss", "input") else f'layer "{f.path}"'
        return f"wrong in backward order: {where}, {f.layer}: {f.what}: {f.mistake}."


def _error(error: float | None) -> str:
    return "" if error is None else f"{error:.1e}"
