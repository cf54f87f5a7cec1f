import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbp
from jaxbp import (
    Dense,
    DropMemory,
    EncoderDecoder,
    LanguageModel,
    LayerNorm,
    LearnedPositions,
    MapValues,
    MultiHeadAttention,
    Recompute,
    Repeat,
    Sequences,
    Serial,
    SinusoidalPositions,
    Sublayer,
    beam_search,
    decoder_block,
    encoder_block,
)
from jaxbp.core.stepwise import go_on
from jaxbp.decoding import generate
from jaxbp.decoding.generate import likeliest
from tests.support.arrays import labels, normal

KEY, WORDS, F = jax.random.key(0), 5, 4
TOKENS, END = labels(14, WORDS).reshape(2, 7), 4


def language_model(*body):
    return LanguageModel(WORDS, F, Serial(*body), initializer=jaxbp.Normal(1.0))


MODELS = {
    "learned, repeated, recomputed": language_model(
        LearnedPositions(7), Repeat(Recompute(encoder_block(F, 2, 6, causal=True, dropout=0.5)), 2), LayerNorm()
    ),
    "rotary, shared, post-norm": language_model(
        Sublayer(MultiHeadAttention(F, 2, causal=True, heads_per_group=2, rotary=True), post_norm=True)
    ),
    "recurrent, gated": language_model(
        jaxbp.LSTM(F),
        jaxbp.Residual(Serial(Dense(6), jaxbp.SwiGLU(), Dense(F))),
        Repeat(jaxbp.GRU(F), 2),
    ),
    "wide heads, capped": language_model(
        MultiHeadAttention(F, 2, causal=True, rotary=True, rotary_base=100.0, head_size=6, soft_cap=0.5)
    ),
    "untied": Serial(
        jaxbp.Embedding(WORDS, F), SinusoidalPositions(), encoder_block(F, 1, 6, causal=True), Dense(WORDS)
    ),
    "not whole": LanguageModel(WORDS, F, encoder_block(F, 2, 6, causal=True, rotary=True), full_logits=False),
}
TRANSLATOR = EncoderDecoder(
    WORDS,
    F,
    Serial(MapValues(LearnedPositions(9)), encoder_block(F, 2, 6)),
    Serial(MapValues(LearnedPositions(9)), Repeat(decoder_block(F, 2, 6), 2), DropMemory()),
    initializer=jaxbp.Normal(1.0),
)
SOURCE = Sequences(labels(6, WORDS, seed=1).reshape(2, 3), jnp.array([3, 2]))


def of(model, tokens, source=None, seed=0):
    """The inputs and parameters of a model, all of them random."""
    x = tokens if source is None else (source, tokens)
    params = model.init(KEY, x)
    return x, jax.tree.map(lambda p: p + 0.5 * normal(*p.shape, seed=seed, dtype=p.dtype), params)


def whole(model):
    return dataclasses.replace(model, full_logits=True) if isinstance(model, LanguageModel) else model


def log_p(model, params, tokens, source=None):
    """log p of every next token, [n, t, words], by the model as it is trained."""
    logits = whole(model).forward(params, tokens if source is None else (source, tokens))[0]
    return jax.nn.log_softmax(logits)


@pytest.mark.parametrize("model", [*MODELS.values(), TRANSLATOR], ids=[*MODELS, "translator"])
def test_bit_by_bit_the_logits_are_those_of_the_whole_text(model):
    source = SOURCE if model is TRANSLATOR else None
    with jax.enable_x64(True):
        x, params = of(model, TOKENS, source)
        params = jax.tree.map(lambda p: p.astype(float), params)
        true, found, kept = jax.jit(lambda *a: whole(model).forward(*a)[0])(params, x), [], {}
        step = jax.jit(functools.partial(go_on, model.stepwise(7)))
        for start, stop in itertools.pairwise((0, 4, 5, 6, 7)):
            bit = TOKENS[:, start:stop]
            y, kept = step(params, kept, bit if source is None else (source, bit))
            found.append(y)
        np.testing.assert_allclose(jnp.concatenate(found, 1), true, rtol=1e-12, atol=1e-12)


def texts(length, words=WORDS):
    """All that can be said in so many tokens, up to the end."""
    for text in itertools.product(range(words), repeat=length):
        stop = text.index(END) + 1 if END in text else length
        if all(word == END for word in text[stop:]):
            yield text, stop


def log_probabilities(model, params, prompt, length, source=None):
    """{text: (log p, how many tokens with the end)} of one example, by the whole model on each text."""
    said = list(texts(length))
    tokens = jnp.concatenate([jnp.repeat(prompt, len(said), 0), jnp.array([text for text, _ in said])], 1)
    if source is not None:
        source = jax.tree.map(lambda a: jnp.repeat(a, len(said), 0), source)
    each = np.asarray(jax.jit(lambda tokens: log_p(model, params, tokens, source))(tokens))
    start = prompt.shape[1] - 1
    return {text: (sum(each[i, start + t, text[t]] for t in range(stop)), stop) for i, (text, stop) in enumerate(said)}


@pytest.mark.parametrize("model", [MODELS["learned, repeated, recomputed"], TRANSLATOR], ids=["text", "translator"])
@pytest.mark.parametrize("penalty", [0.0, 2.0])
def test_with_beams_enough_the_search_finds_the_best_texts_that_there_are(model, penalty):
    source = SOURCE if model is TRANSLATOR else None
    prompt = TOKENS[:, :2]
    _, params = of(model, prompt, source)
    found = beam_search(model, params, prompt, 3, source=source, beams=40, length_penalty=penalty, end=END)
    for n in range(2):
        one = jax.tree.map(lambda a, n=n: a[n : n + 1], source)
        true = log_probabilities(model, params, prompt[n : n + 1], 3, one)
        best = sorted(true, key=lambda text: -true[text][0] / ((5 + true[text][1]) / 6) ** penalty)[:3]
        assert [tuple(map(int, tokens)) for tokens in found.tokens[n, :3]] == best
        np.testing.assert_allclose(found.log_probability[n, :3], [true[text][0] for text in best], rtol=1e-4)
        assert [int(k) for k in found.lengths[n, :3]] == [sum(word != END for word in text) for text in best]


def test_one_beam_is_greedy_and_greedy_takes_the_likeliest_again_and_again():
    model, (_, params) = TRANSLATOR, of(TRANSLATOR, TOKENS, SOURCE, seed=3)
    greedy = generate(model, params, TOKENS[:, :1], 6, source=SOURCE, end=END)
    beam = beam_search(model, params, TOKENS[:, :1], 6, source=SOURCE, beams=1, length_penalty=0.7, end=END)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b[:, 0], rtol=1e-5), greedy, beam)
    tokens = jnp.concatenate([TOKENS[:, :1], greedy.tokens], 1)
    each = jax.jit(functools.partial(log_p, model))(params, tokens[:, :-1], SOURCE)
    for n in range(2):
        length, total = int(greedy.lengths[n]), 0.0
        for t in range(min(length + 1, 6)):  # the end is taken too
            assert greedy.tokens[n, t] == jnp.argmax(each[n, t])
            total += float(jnp.max(each[n, t]))
        assert greedy.log_probability[n] == pytest.approx(total, rel=1e-4)
        assert (greedy.tokens[n, length:] == END).all()


def constant(*p):
    """A model whose next token has these probabilities, whatever came before."""
    model = Serial(jaxbp.Embedding(len(p), 1), Dense(len(p)))
    return model, (
        {"weight": jnp.zeros((len(p), 1))},
        {"weight": jnp.zeros((1, len(p))), "bias": jnp.log(jnp.array(p))},
    )


@pytest.mark.parametrize(
    ("penalty", "best"),
    [
        (0.0, [[1, 1], [0, 0], [0, 1]]),
        (2.8, [[0, 0], [1, 1], [0, 1]]),
        (3.0, [[0, 0], [0, 1], [1, 1]]),
    ],
)
def test_a_search_weighs_short_against_long_by_its_penalty(penalty, best):
    """Worked by hand: p of [end] is 0.4, of [0, end] 0.24, of [0, 0] 0.36; two tokens are forgiven (7/6)^α.

    log 0.24 / log 0.4 = 1.557 = (7/6)^2.87, and log 0.36 / log 0.4 = 1.115 = (7/6)^0.71.
    """
    model, params = constant(0.6, 0.4)
    found = beam_search(model, params, jnp.zeros((1, 1), int), 2, beams=3, length_penalty=penalty, end=1)
    assert found.tokens[0].tolist() == best
    p = {(1, 1): 0.4, (0, 0): 0.36, (0, 1): 0.24}
    np.testing.assert_allclose(jnp.exp(found.log_probability[0]), [p[tuple(text)] for text in best], rtol=1e-5)
    assert found.lengths[0].tolist() == [text.index(1) if 1 in text else 2 for text in best]


def test_more_beams_than_texts_are_empty():
    model, params = constant(0.6, 0.4)
    found = beam_search(model, params, jnp.zeros((1, 1), int), 1, beams=4)
    np.testing.assert_allclose(found.log_probability[0], [np.log(0.6), np.log(0.4), -np.inf, -np.inf], rtol=1e-5)


@pytest.mark.parametrize(
    ("top_k", "top_p", "kept"),
    [
        (None, None, {0, 1, 2, 3}),
        (2, None, {1, 3}),
        (9, None, {0, 1, 2, 3}),
        (None, 0.39, {3}),
        (None, 0.41, {3, 1}),
        (None, 0.69, {3, 1}),
        (None, 0.71, {3, 1, 0}),
        (None, 1.0, {0, 1, 2, 3}),
        (2, 0.56, {3}),  # of 0.4 and 0.3 the first has 0.57
        (2, 0.58, {3, 1}),
    ],
)
def test_exactly_the_likeliest_are_kept_and_drawn(top_k, top_p, kept):
    p = jnp.array([0.2, 0.3, 0.1, 0.4])
    logits = likeliest(jnp.log(p), top_k, top_p)
    assert set(np.flatnonzero(logits > -jnp.inf)) == kept
    np.testing.assert_array_equal(logits[jnp.array(sorted(kept))], jnp.log(p)[jnp.array(sorted(kept))])


def test_of_equals_the_first_are_kept():
    assert (likeliest(jnp.zeros(5), 2) > -jnp.inf).tolist() == [True, True, False, False, False]


def test_draws_have_the_probabilities_of_the_model_at_its_temperature():
    model, params = constant(0.2, 0.3, 0.1, 0.4)
    prompt = jnp.zeros((2000, 1), int)
    found = generate(model, params, prompt, 2, key=KEY, temperature=0.5)
    p = np.array([0.2, 0.3, 0.1, 0.4]) ** 2
    np.testing.assert_allclose(np.bincount(found.tokens.ravel(), minlength=4) / 4000, p / p.sum(), atol=0.03)
    assert (found.tokens[:, 0] != found.tokens[:, 1]).any()
    few = generate(model, params, prompt, 2, key=KEY, top_k=3, top_p=0.7)  # 0.4 and 0.3 of 0.9
    assert set(np.unique(few.tokens)) == {1, 3}
    np.testing.assert_allclose(
        few.log_probability, jnp.log(jnp.array([0.2, 0.3, 0.1, 0.4]))[few.tokens].sum(1), rtol=1e-5
    )


def test_at_a_low_temperature_a_draw_is_greedy():
    model = MODELS["not whole"]
    _, params = of(model, TOKENS)
    cold = generate(model, params, TOKENS[:, :2], 4, key=KEY, temperature=1e-4)
    assert cold.tokens.tolist() == generate(model, params, TOKENS[:, :2], 4).tokens.tolist()


def wrong(*arguments, model=MODELS["learned, repeated, recomputed"], run=generate, **options):
    return lambda: run(model, of(model, TOKENS[:, :1])[1], *arguments, **options)


LOOKS_AHEAD = language_model(encoder_block(F, 2))
AVERAGES = Serial(jaxbp.Embedding(WORDS, F), jaxbp.Softmax(1), Dense(WORDS))
WRONG = {
    "range": (wrong(TOKENS.at[0, 0].set(5), 1), '"embedding".* token 5 is out of range'),
    "numbers": (wrong(normal(2, 3), 1), '"embedding".* expected integer tokens'),
    "nothing": (wrong(TOKENS[:, :0], 1), r"at least one token, got int32\[2, 0\]"),
    "length": (wrong(TOKENS, 0), "positive length, how many tokens to give, not 0"),
    "positions": (wrong(TOKENS, 2), r'layer "body.0", .*there are 7 positions, got 8'),
    "temperature": (wrong(TOKENS, 1, temperature=0.0), "temperature > 0"),
    "top k": (wrong(TOKENS, 1, top_k=0), "top_k >= 1"),
    "top p": (wrong(TOKENS, 1, top_p=0.0), "0 < top_p <= 1"),
    "beams": (wrong(TOKENS, 1, run=beam_search, beams=0), "at least one beam, not 0"),
    "no source": (lambda: generate(TRANSLATOR, None, TOKENS, 1), "an EncoderDecoder needs a source to read"),
    "looks ahead": (wrong(TOKENS, 1, model=LOOKS_AHEAD), r'"body.0.0.body", MultiHeadAttention.*causal=True'),
    "no way": (wrong(TOKENS, 1, model=AVERAGES), r'layer "1", Softmax.* position by position'),
}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(("run", "message"), WRONG.values(), ids=WRONG)
def test_what_can_not_be_generated_is_refused(run, message):
    with pytest.raises(ValueError, match=message):
        run()
