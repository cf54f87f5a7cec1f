"""The example networks: their gradients and norms are those of jax, and they learn the digits."""

import importlib
import inspect
import pkgutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbp
from experiments import examples
from experiments.examples import experts, gan, siamese, two_towers, unet, vae
from tests.support.arrays import labels, normal
from tests.support.whole_network import NORMS, drawn, gradient_is_that_of_jax, in_float64, norms_are_those_of_jax, same

IMAGES, OTHERS = normal(3, 8, 8), normal(3, 8, 8, seed=1)
CASES = {
    "unet": (unet.UNet(2), unet.LOSS, IMAGES[..., None], OTHERS[..., None]),
    "siamese": (siamese.MODEL, siamese.LOSS, (IMAGES, IMAGES + OTHERS / 9), jnp.array([1, 0, 0])),
    "two towers": (
        two_towers.MODEL,
        two_towers.LOSS,
        {"first": IMAGES, "second": OTHERS},
        {"total": normal(3, 1), "larger": jnp.array([[1.0], [0.0], [1.0]])},
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_the_gradient_is_that_of_jax(case):
    gradient_is_that_of_jax(*case)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_the_norms_of_per_example_gradients_are_those_of_jax(case):
    norms_are_those_of_jax(*case)


@pytest.mark.parametrize("example", [unet, siamese, two_towers, vae, experts], ids=lambda module: module.__name__[21:])
def test_the_network_learns_the_digits(example, capsys):
    history = example.train(epochs=2)
    assert history["loss"][1] < history["loss"][0]
    assert capsys.readouterr().out


def divergence(params, x):
    """The KL of the latent from N(0, 1), as Kingma and Welling write it (with variances), a mean over examples."""
    m, s = jnp.split(vae.MODEL.children["encoder"](params["encoder"], x), 2, -1)
    return -jnp.mean(jnp.sum(1 + s - m**2 - jnp.exp(s), -1)) / 2


def test_an_autoencoder_with_its_divergence_as_a_penalty_has_the_gradients_of_jax():
    x = jax.nn.sigmoid(IMAGES)
    penalized = {"penalties": vae.PENALTIES, "cost": divergence}
    gradient_is_that_of_jax(vae.MODEL, vae.LOSS, x, x, jax.random.key(0), **penalized)
    norms_are_those_of_jax(vae.MODEL, vae.LOSS, x, x, **penalized)


def imbalance(params, x):
    """0.2 E Σ_e F_e P_e, F the shares of requests."""
    p = experts.GATE(params["mixture"]["gate"], x.reshape(len(x), -1))
    asked = jax.nn.one_hot(jnp.argsort(-p)[:, :2], 8).sum(1)
    return 0.2 * 8 * jnp.sum(asked.mean(0) / 2 * p.mean(0))


def test_a_mixture_of_experts_with_balanced_loads_has_the_gradient_of_jax():
    gradient_is_that_of_jax(
        experts.MODEL, experts.LOSS, IMAGES, labels(3, 10), penalties=experts.PENALTIES, cost=imbalance
    )


def test_a_mixture_of_experts_has_per_example_norms_unless_a_penalty_looks_at_the_batch():
    norms_are_those_of_jax(experts.MODEL, experts.LOSS, IMAGES, labels(3, 10))
    with pytest.raises(ValueError, match=r"LoadBalance.*mixes"):
        jaxbp.value_and_quantities(experts.MODEL, experts.LOSS, NORMS, penalties=experts.PENALTIES)


def test_the_top_k_are_kept_and_the_others_get_no_gradient():
    jaxbp.check_layer(experts.TopK(2), normal(4, 5))
    y, residuals = experts.TopK(2).forward((), jnp.array([[0.1, 0.4, 0.2, 0.3]]))
    np.testing.assert_array_equal(y, jnp.array([[0, 0.4, 0, 0.3]]))
    gradient = experts.TopK(2).input_gradient((), residuals, jnp.array([[1.0, 2.0, 3.0, 4.0]]))
    np.testing.assert_array_equal(gradient, [[0, 2, 0, 4]])


def test_every_wiring_has_less_than_fifteen_lines():
    for module in pkgutil.iter_modules(examples.__path__):
        for name, member in vars(importlib.import_module(f"{examples.__name__}.{module.name}")).items():
            if isinstance(member, type) and "wire" in vars(member) and issubclass(member, jaxbp.Composite):
                assert len(inspect.getsource(member.wire).splitlines()) < 15, name


def test_the_contrastive_loss_pulls_equal_pairs_and_pushes_others_up_to_the_margin():
    origin, near, far = jnp.zeros(2), jnp.array([0.3, 0.4]), jnp.array([3.0, 4.0])
    outputs = jnp.stack([origin] * 4), jnp.stack([near, near, far, origin])
    value, kept = siamese.LOSS.forward(outputs, jnp.array([1, 0, 0, 0]))
    np.testing.assert_allclose(4 * value, (0.5**2 + 0.5**2 + 0 + 1) / 2, rtol=1e-6)
    first, second = siamese.LOSS.backward(kept)
    np.testing.assert_allclose(4 * first, [-near, near, origin, origin], rtol=1e-6)
    np.testing.assert_array_equal(second, -first)


@pytest.fixture
def players():
    """θ, φ, z and real images of the GAN, in float64."""
    with jax.enable_x64(True):
        z, real = in_float64((normal(3, 16), jax.nn.sigmoid(IMAGES)))
        yield drawn(gan.GENERATOR, z), drawn(gan.DISCRIMINATOR, real), z, real


def logits(theta, phi, z):
    """What the discriminator says of generated images."""
    return gan.DISCRIMINATOR(phi, gan.GENERATOR(theta, z))


def test_both_gradients_of_a_gan_are_those_of_jax(players):
    theta, phi, z, real = players

    def generators(theta):
        return jnp.mean(jax.nn.softplus(-logits(theta, phi, z)))

    def discriminators(phi):
        on_real = jax.nn.softplus(-gan.DISCRIMINATOR(phi, real))
        return jnp.mean(jnp.concatenate([on_real, jax.nn.softplus(logits(theta, phi, z))]))

    ours = jax.jit(gan.generator_gradient)(theta, phi, z), jax.jit(gan.discriminator_gradient)(*players)
    same(ours[0], jax.jit(jax.value_and_grad(generators))(theta), 1e-10)
    same(ours[1], jax.jit(jax.value_and_grad(discriminators))(phi), 1e-10)


def test_the_norms_of_what_each_fake_teaches_the_generator_are_those_of_jax(players):
    theta, phi, z, _ = players
    norms = jaxbp.per_example_norms
    found = jax.jit(lambda *args: norms.gather(gan.generator_gradient(*args, visit=norms.visit)[1]))(theta, phi, z)

    def of_one(theta, z):
        return jnp.sum(jax.nn.softplus(-logits(theta, phi, z[None])))

    gradients = jax.jit(jax.vmap(jax.grad(of_one), (None, 0)))(theta, z)
    squares = sum(jnp.sum(g**2, range(1, g.ndim)) for g in jax.tree.leaves(gradients))
    same(found, jnp.sqrt(squares), 1e-9)


def test_a_frozen_discriminator_is_asked_for_no_parameter_gradient(players, monkeypatch):
    theta, phi, z, _ = players

    class Frozen(jaxbp.Dense):
        def param_gradient(self, params, residuals, g):
            raise AssertionError("the discriminator is frozen")

    frozen = jaxbp.Serial(
        *(Frozen(layer.outputs) if isinstance(layer, jaxbp.Dense) else layer for layer in gan.DISCRIMINATOR.layers)
    )
    expected = jax.jit(gan.generator_gradient)(theta, phi, z)
    monkeypatch.setattr(gan, "DISCRIMINATOR", frozen)
    same(jax.jit(lambda *args: gan.generator_gradient(*args))(theta, phi, z), expected, 1e-12)


def test_a_gan_learns_where_digits_have_ink(capsys):
    (theta, _), losses = gan.train(steps=400)
    assert np.isfinite(losses).all()
    drawn = gan.GENERATOR(theta, normal(300, 16))
    assert np.corrcoef(drawn.mean(0).ravel(), gan.load_digits().images.mean(0).ravel())[0, 1] > 0.4  # 0.1 at first
    assert "losses of the last 100 steps" in capsys.readouterr().out
