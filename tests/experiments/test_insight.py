import jax
import jax.numpy as jnp
import numpy as np

import jaxbp
from experiments.mnist.saliency import evidence, stages
from jaxbp.models.vision import lenet


def test_evidence_is_the_gradient_of_the_log_probability_of_the_true_label():
    # Two pixels, two classes: the logits are x W, and ∂ log p_t / ∂x = W (onehot(t) - softmax(x W)).
    model = jaxbp.Serial(jaxbp.Flatten(), jaxbp.Dense(2, bias=False))
    params = ((), {"weight": jnp.array([[1.0, 0.0], [0.0, 1.0]])})
    found = evidence(model, params, jnp.zeros((1, 1, 2, 1)), jnp.array([0]))
    np.testing.assert_allclose(found, [[[0.5, -0.5]]], rtol=1e-6)


def test_the_stages_are_the_feature_maps_after_each_relu():
    model = lenet(features=(2, 3), hidden=4)
    image = np.ones((8, 8, 1), np.float32)
    maps = stages(model, model.init(jax.random.key(0), image[None]), image)
    assert [stage.shape for stage in maps] == [(4, 4, 2), (2, 2, 3)]
    assert all((stage >= 0).all() for stage in maps)


def test_a_perceptron_has_no_feature_maps():
    model = jaxbp.Serial(jaxbp.Flatten(), jaxbp.Dense(3), jaxbp.ReLU())
    image = np.ones((2, 2, 1), np.float32)
    assert stages(model, model.init(jax.random.key(0), image[None]), image) == []
