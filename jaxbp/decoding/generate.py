"""Text from a model of the next token: the likeliest, a draw, or the best of many.

A model gives the probability of a text token by token, p(y) = Π_t p(y[t] | y[<t]), with p = softmax of its logits z.

    greedy         y[t] = argmax p: the likeliest token, then the next; not always the likeliest text
    sampling       y[t] drawn from softmax(z / temperature), of the likeliest tokens alone: the k first (top-k), then
                   the fewest whose probabilities reach a sum P (top-p)
    beam search    the best few beginnings are kept, each goes on in all ways, and the best few of these are kept
                   again; a text that has ended stays as it is. Best by log p(y) / ((5 + |y|) / 6)^α, |y| with the end

Longer texts are less probable, and α > 0 makes up for it. With as many beams as there are beginnings the search is
exact; with one it is greedy.

Sources: Fan et al., arXiv 1805.04833 (top-k); Holtzman et al., arXiv 1904.09751 (top-p); Wu et al., arXiv 1609.08144,
section 7 (beam search and α).
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from jaxbp.core.errors import located
from jaxbp.core.layer import Layer, Params
from jaxbp.core.numerics import widened
from jaxbp.core.paths import layers
from jaxbp.core.stepwise import choose_rows, go_on
from jaxbp.core.text import describe
from jaxbp.layers.attention.tied_models import EncoderDecoder
from jaxbp.layers.embedding import Embedding, TiedEmbedding, require_tokens
from jaxbp.layers.sequences import values_of


class Generated(NamedTuple):
    """What follows a prompt, [n, ...]; the beams of `beam_search` are a second axis, the best one first.

    tokens: [..., length], the end token from where it came.
    lengths: how many tokens there are before the end.
    log_probability: of these tokens and the end, by the model; -inf: there is no such beam.
    """

    tokens: Int[Array, "*n t"]
    lengths: Int[Array, "*n"]
    log_probability: Float[Array, "*n"]


def generate(
    model: Layer,
    params: Params,
    prompt: Int[Array, "n p"],
    length: int,
    *,
    source: PyTree = None,
    key: PRNGKeyArray | None = None,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    end: int | None = None,
) -> Generated:
    """Goes on where the prompt stops; compiled once for each shape of the prompt and length.

    Args:
        model: a `LanguageModel`, an `EncoderDecoder`, or any causal layer from tokens [n, t] to logits.
        params: its parameters.
        prompt: tokens to go on from, at least one; of a translation the token that starts it.
        length: how many tokens to give at most.
        source: what an `EncoderDecoder` reads: tokens [n, s], or `Sequences` of them.
        key: what tokens are drawn from; None: the likeliest token is taken.
        temperature: positive; below 1 the likely becomes likelier.
        top_k: draw from the k likeliest alone.
        top_p: draw from the fewest whose probabilities sum up to this share or more, 0 < top_p <= 1.
        end: the token that ends a text.
    """
    if not temperature > 0 or (top_k is not None and top_k < 1) or (top_p is not None and not 0 < top_p <= 1):
        problem = f"got {temperature}, {top_k} and {top_p}"
        raise ValueError(f"generate: expected temperature > 0, top_k >= 1 and 0 < top_p <= 1, {problem}")
    _require(model, prompt, source, length)
    return _generate(model, params, prompt, length, source, key, temperature, top_k, top_p, end)


def beam_search(
    model: Layer,
    params: Params,
    prompt: Int[Array, "n p"],
    length: int,
    *,
    source: PyTree = None,
    beams: int = 4,
    length_penalty: float = 0.0,
    end: int | None = None,
) -> Generated:
    """The most probable continuations that the search finds, `beams` of them; other arguments as for `generate`.

    Args:
        model: a `LanguageModel`, an `EncoderDecoder`, or any causal layer from tokens [n, t] to logits.
        params: its parameters.
        prompt: tokens to go on from, at least one; of a translation the token that starts it.
        length: how many tokens to give at most.
        source: what an `EncoderDecoder` reads.
        beams: how many beginnings are kept.
        length_penalty: α, with which longer texts are forgiven.
        end: the token that ends a text.
    """
    if beams < 1:
        raise ValueError(f"beam_search needs at least one beam, not {beams}")
    _require(model, prompt, source, length)
    return _beam_search(model, params, prompt, length, source, beams, length_penalty, end)


def likeliest(
    logits: Float[Array, "*n v"], top_k: int | None = None, top_p: float | Float[Array, ""] | None = None
) -> Float[Array, "*n v"]:
    """The logits of the k likeliest tokens, and of these the fewest that reach the share top_p; -inf elsewhere."""
    order = jnp.argsort(-logits, -1)
    ranked = jnp.take_along_axis(logits, order, -1)
    if top_k is not None:
        ranked = jnp.where(jnp.arange(logits.shape[-1]) < top_k, ranked, -jnp.inf)
    if top_p is not None:
        p = jax.nn.softmax(ranked)
        before = jnp.cumsum(p, -1) - p
        ranked = jnp.where((before < top_p) | (top_p >= 1), ranked, -jnp.inf)
    return jnp.take_along_axis(ranked, jnp.argsort(order, -1), -1)


def _require(model, prompt, source, length):
    """Raises if this is not a prompt, or has tokens out of range, naming the embedding by its path."""
    if length < 1:
        raise ValueError(f"expected a positive length, how many tokens to give, not {length}")
    if not hasattr(prompt, "shape") or len(prompt.shape) != 2 or prompt.shape[1] < 1:
        raise ValueError(f"expected a prompt [examples, tokens] of at least one token, got {describe(prompt)}")
    if isinstance(model, EncoderDecoder) and source is None:
        raise ValueError("an EncoderDecoder needs a source to read: give source=tokens [examples, positions]")
    for path, layer in layers(model):
        if isinstance(layer, Embedding | TiedEmbedding):
            with located(path):
                require_tokens(layer, prompt)
                if source is not None and path == "embedding":
                    require_tokens(layer, values_of(source))


def _blank(shape, end):
    """Tokens not yet known: behind the end there are only ends."""
    return jnp.full(shape, 0 if end is None else end)


def _steps(model, params, source, length):
    """A function (kept, tokens [n, t]) -> (log p of what follows [n, v], kept), and the model it runs."""
    model = model.stepwise(length)

    def step(kept, tokens):
        y, kept = go_on(model, params, kept, tokens if source is None else (source, tokens))
        logits = values_of(y)[:, -1]
        return jax.nn.log_softmax(widened(logits)), kept

    return step, model


@functools.partial(jax.jit, static_argnames=("model", "length", "top_k", "end"))
def _generate(model, params, prompt, length, source, key, temperature, top_k, top_p, end):
    step, _ = _steps(model, params, source, prompt.shape[1] + length - 1)
    n = len(prompt)

    def add(found, i, log_p, done):
        if key is None:
            token = jnp.argmax(log_p, -1)
        else:
            token = jax.random.categorical(jax.random.fold_in(key, i), likeliest(log_p / temperature, top_k, top_p))
        gained = jnp.take_along_axis(log_p, token[:, None], -1)[:, 0]
        tokens = found.tokens.at[:, i].set(jnp.where(done, found.tokens[:, i], token))
        goes_on = ~done if end is None else ~done & (token != end)
        total = found.log_probability + jnp.where(done, 0, gained)
        return Generated(tokens, found.lengths + goes_on, total), ~goes_on

    def turn(state):
        found, i, done, kept = state
        log_p, kept = step(kept, lax.dynamic_slice_in_dim(found.tokens, i - 1, 1, 1))
        found, done = add(found, i, log_p, done)
        return found, i + 1, done, kept

    log_p, kept = step({}, prompt)
    nothing = Generated(_blank((n, length), end), jnp.zeros(n, int), jnp.zeros(n, log_p.dtype))
    found, done = add(nothing, 0, log_p, jnp.zeros(n, bool))
    return lax.while_loop(lambda s: (s[1] < length) & ~jnp.all(s[2]), turn, (found, 1, done, kept))[0]


@functools.partial(jax.jit, static_argnames=("model", "length", "beams", "end"))
def _beam_search(model, params, prompt, length, source, beams, length_penalty, end):
    step, stepped = _steps(model, params, source, prompt.shape[1] + length - 1)
    n = len(prompt)

    def add(found, i, log_p, done):
        """The best of all continuations, and whose they are; lengths count the end."""
        words = log_p.shape[-1]
        if end is not None:  # what has ended goes on in one way, which costs nothing
            log_p = jnp.where(done[..., None], jnp.where(jnp.arange(words) == end, 0, -jnp.inf), log_p)
        total = found.log_probability[..., None] + log_p
        lengths = found.lengths + ~done
        merit = total / ((5 + lengths) / 6)[..., None] ** length_penalty
        best = lax.top_k(merit.reshape(n, -1), beams)[1]
        parent, token = best // words, best % words
        of_parent = lambda a: jnp.take_along_axis(a, parent, 1)  # noqa: E731
        tokens = jnp.take_along_axis(found.tokens, parent[..., None], 1).at[:, :, i].set(token)
        total = jnp.take_along_axis(total.reshape(n, -1), best, 1)
        done = of_parent(done) if end is None else of_parent(done) | (token == end)
        return Generated(tokens, of_parent(lengths), total), done, parent

    def turn(state):
        found, i, done, kept = state
        last = lax.dynamic_slice_in_dim(found.tokens, i - 1, 1, 2)
        log_p, kept = step(kept, last.reshape(n * beams, 1))
        found, done, parent = add(found, i, log_p.reshape(n, beams, -1), done)
        kept = choose_rows(stepped, kept, (jnp.arange(n)[:, None] * beams + parent).ravel())
        return found, i + 1, done, kept

    log_p, kept = step({}, prompt)
    kept = choose_rows(stepped, kept, jnp.repeat(jnp.arange(n), beams))
    first = jnp.full((n, beams), -jnp.inf, log_p.dtype).at[:, 0].set(0)  # one beginning, not `beams` equal ones
    nothing = Generated(_blank((n, beams, length), end), jnp.zeros((n, beams), int), first)
    log_p = jnp.broadcast_to(log_p[:, None], (n, beams, log_p.shape[-1]))
    found, done, _ = add(nothing, 0, log_p, jnp.zeros((n, beams), bool))
    found, _, done, _ = lax.while_loop(lambda s: (s[1] < length) & ~jnp.all(s[2]), turn, (found, 1, done, kept))
    return found._replace(lengths=found.lengths - done)
