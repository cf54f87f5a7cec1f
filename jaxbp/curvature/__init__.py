"""Second order: Hessian and Gauss-Newton products, Kronecker factors, K-FAC."""

from jaxbp.curvature.ekfac import Eigen, ekfac, kronecker_eigenbasis, precondition
from jaxbp.curvature.fisher import Empirical, Exact, MonteCarlo
from jaxbp.curvature.kfac import KfacState, kfac
from jaxbp.curvature.kronecker import Factors, damped_inverse, kfac_expand, kfac_reduce, kronecker_factors
from jaxbp.curvature.operators import as_flat, as_scipy, ggn_diagonal, ggn_operator, ggn_products, hessian_operator

__all__ = [
    "Eigen",
    "Empirical",
    "Exact",
    "Factors",
    "KfacState",
    "MonteCarlo",
    "as_flat",
    "as_scipy",
    "damped_inverse",
    "ekfac",
    "ggn_diagonal",
    "ggn_operator",
    "ggn_products",
    "hessian_operator",
    "kfac",
    "kfac_expand",
    "kfac_reduce",
    "kronecker_eigenbasis",
    "kronecker_factors",
    "precondition",
]
