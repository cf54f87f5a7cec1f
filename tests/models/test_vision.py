import jax
import jax.numpy as jnp
import pytest

from jaxbp import SoftmaxCrossEntropy, check_gradients
from jaxbp.models.vision import lenet, resnet


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("model", "shape"),
    [(lenet(3, (2, 3), (2, 2), 4, dropout=0.3), (2, 4, 4, 1)), (resnet(3, 1, (2, 4)), (2, 4, 4, 3))],
    ids=["lenet", "resnet"],
)
def test_the_models_have_the_gradients_of_autodiff_in_training(model, shape):
    x = jax.random.normal(jax.random.key(0), shape)
    params = model.init(jax.random.key(1), x)
    report = check_gradients(model, SoftmaxCrossEntropy(), params, x, jnp.array([0, 2]), rng=jax.random.key(2))
    assert report.ok, str(report)


def test_resnet_20_has_the_published_number_of_weights():
    model = resnet()
    params = jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32))
    weights = sum(leaf.size for leaf in jax.tree.leaves(params) if leaf.ndim > 1)
    assert round(weights / 1e6, 2) == 0.27
