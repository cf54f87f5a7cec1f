import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxbp
from jaxbp import (
    DropLengths,
    DropMemory,
    EncoderDecoder,
    LanguageModel,
    LayerNorm,
    LearnedPositions,
    LinearCrossEntropy,
    MapValues,
    Sequences,
    Serial,
    SoftmaxCrossEntropy,
    decoder_block,
    encoder_block,
)
from jaxbp.decoding import generate
from tests.support.arrays import labels, normal
from tests.support.autodiff import agrees_with_autodiff

KEY, WORDS, F = jax.random.key(0), 5, 4
SOURCE, TARGET, NEXT = labels(6, WORDS).reshape(2, 3), labels(8, WORDS).reshape(2, 4), labels(8, 4).reshape(2, 4)
LENGTHS = jnp.array([3, 2]), jnp.array([4, 2])
TRANSLATOR = EncoderDecoder(
    WORDS,
    F,
    encoder_block(F, 2, 3, post_norm=True, rotary=True),
    Serial(MapValues(LearnedPositions(9)), decoder_block(F, 2, 3), DropMemory(), DropLengths()),
    initializer=jaxbp.Normal(1.0),
)


def pair(more=0):
    """Source and target, with some padding more; of no real value, and so of no consequence."""
    longer = [jnp.pad(a, ((0, 0), (0, more)), constant_values=1) for a in (SOURCE, TARGET)]
    return tuple(map(Sequences, longer, LENGTHS))


def test_an_encoder_decoder_has_the_gradients_of_autodiff():
    agrees_with_autodiff(TRANSLATOR, pair(), normal(2, 4, WORDS, seed=5))


def test_padding_changes_nothing():
    with jax.enable_x64(True):
        params = jax.tree.map(lambda p: p + 0.3 * normal(*p.shape, dtype=float), TRANSLATOR.init(KEY, pair()))
        run = jax.jit(jaxbp.value_and_grad(TRANSLATOR, SoftmaxCrossEntropy(ignored_label=-1)))

        def with_padding(more):
            y = jnp.where(jnp.arange(4 + more) < LENGTHS[1][:, None], jnp.pad(NEXT, ((0, 0), (0, more))), -1)
            return run(params, pair(more), y)

        for a, b in zip(*map(jax.tree.leaves, (with_padding(0), with_padding(3))), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


def test_a_small_language_model_learns_a_text_by_heart_and_says_it():
    model = LanguageModel(
        7, 16, Serial(LearnedPositions(12), encoder_block(16, 2, causal=True), LayerNorm()), full_logits=False
    )
    text = labels(13, 7)[None]
    x, y, optimizer = text[:, :-1], text[:, 1:], optax.adam(1e-2)
    step = jaxbp.make_train_step(model, LinearCrossEntropy(), optimizer)
    state = jaxbp.TrainState.create(model, optimizer, x, KEY)
    for _ in range(60):
        state, metrics = step(state, x, y)
    assert float(metrics["loss"]) < 0.1
    assert generate(model, state.params, text[:, :3], 10).tokens.tolist() == text[:, 3:].tolist()
