"""PyTorch's attention, transformer layers, embedding and cross-entropy on the same weights, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch import nn

import jaxbp
from jaxbp import Context, Heads, Sequences, Serial
from tests.support.arrays import labels, normal

N, T, S, F, H = 2, 4, 3, 4, 2
LENGTHS = np.array([3, 2])


def tensor(a):
    """An array in float64, integers and truth values as they are; gradients are wanted of the first."""
    a = np.asarray(a)
    return torch.tensor(a.astype(float), requires_grad=True) if a.dtype == np.float32 else torch.tensor(a)


def pytorch(function, *arrays):
    """What a function of tensors gives, the cotangent that was sent back, and what arrived at each float array."""
    tensors = [tensor(a) for a in arrays]
    y = function(*tensors)
    g = normal(*y.shape, seed=9)
    y.backward(tensor(g).detach())
    return y.detach().numpy(), g, [t.grad.numpy() for t in tensors if t.requires_grad]


def by_hand(layer, params, x, g):
    """The outputs, ∂J/∂x and ∂J/∂θ of a layer in float64, in one compiled program."""

    @jax.jit
    def run(params, x, g):
        y, residuals = layer.forward(params, x)
        return y, *jaxbp.sweep(layer, params, residuals, g)

    return run(*jax.tree.map(lambda a: a.astype(float) if a.dtype == np.float32 else a, (params, x, g)))


def agree(ours, theirs):
    """Trees of arrays, equal but for rounding."""
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("layer", [jaxbp.PlainAttention, jaxbp.Attention], ids=["plain", "lean"])
@pytest.mark.parametrize("kind", ["free", "causal", "masked", "grouped"])
def test_attention_is_scaled_dot_product_attention(layer, kind):
    k = 1 if kind == "grouped" else H
    q, key, value = normal(N, T, H, 2), normal(N, T, k, 2, seed=1), normal(N, T, k, 2, seed=2)
    mask = np.random.default_rng(0).random((N, T, T)) > 0.3
    mask[..., 0] = True  # where nothing may be seen PyTorch gives NaN

    def theirs(*arrays):
        y = nn.functional.scaled_dot_product_attention(
            *(a.transpose(1, 2) for a in arrays),
            attn_mask=torch.tensor(mask[:, None]) if kind == "masked" else None,
            is_causal=kind == "causal",
            enable_gqa=kind == "grouped",
        )
        return y.transpose(1, 2)

    y, g, gradients = pytorch(theirs, q, key, value)
    with jax.enable_x64(True):
        x = Heads(q, key, value, jnp.asarray(mask) if kind == "masked" else None)
        out, dx, _ = by_hand(layer(kind == "causal"), (), x, g)
        agree((out, dx[:3]), (y, gradients))


def attention_params(module, take):
    """An nn.MultiheadAttention's arrays as ours: three matrices in one, and transposed."""
    weights, biases = np.split(take(module.in_proj_weight), 3), np.split(take(module.in_proj_bias), 3)
    params = {
        name: {"weight": w.T, "bias": b} for name, w, b in zip(("query", "key", "value"), weights, biases, strict=True)
    }
    return {**params, "split": (), "attention": (), "join": (), "output": dense(module.out_proj, take)}


def dense(module, take):
    return {"weight": take(module.weight).T, "bias": take(module.bias)}


def norm(module, take):
    return {"scale": take(module.weight), "bias": take(module.bias)}


def block_params(module, take):
    """A TransformerEncoderLayer's or DecoderLayer's arrays as those of our blocks."""
    attentions = [module.self_attn, *([module.multihead_attn] if hasattr(module, "multihead_attn") else [])]
    network = {"body": (dense(module.linear1, take), (), dense(module.linear2, take))}
    bodies = [*(attention_params(a, take) for a in attentions), network]
    norms = [module.norm1, module.norm2, *([module.norm3] if len(attentions) == 2 else [])]
    return tuple({"norm": norm(n, take), "body": body, "dropout": ()} for n, body in zip(norms, bodies, strict=True))


def values(parameter):
    return parameter.detach().numpy().astype(np.float32)


def gradient(parameter):
    return parameter.grad.numpy()


def random(module):
    """A module in float64 with random parameters that float32 holds, biases and scales too."""
    with torch.no_grad():
        for i, parameter in enumerate(module.parameters()):
            parameter.copy_(torch.tensor(np.asarray(0.5 * normal(*parameter.shape, seed=i))))
    return module.double()


@pytest.mark.parametrize("cross", [False, True], ids=["self", "cross"])
def test_multi_head_attention_is_pytorchs(cross):
    """With itself and a causal mask, or with a memory that is padded."""
    module = random(nn.MultiheadAttention(F, H, batch_first=True))
    padding = torch.tensor(np.arange(S) >= LENGTHS[:, None])
    future = torch.tensor(np.triu(np.ones((T, T), bool), 1))

    def theirs(x, memory=None):
        if memory is None:
            return module(x, x, x, attn_mask=future, need_weights=False)[0]
        return module(x, memory, memory, key_padding_mask=padding, need_weights=False)[0]

    x, memory = normal(N, T, F), normal(N, S, F, seed=1)
    y, g, gradients = pytorch(theirs, x, *([memory] if cross else []))
    with jax.enable_x64(True):
        layer = jaxbp.MultiHeadAttention(F, H, causal=not cross)
        inputs = Context(x, Sequences(memory, jnp.asarray(LENGTHS))) if cross else x
        agree(
            by_hand(layer, attention_params(module, values), inputs, g),
            (y, gradients, attention_params(module, gradient)),
        )


@pytest.mark.parametrize("post_norm", [False, True], ids=["pre-norm", "post-norm"])
def test_an_encoder_block_is_pytorchs(post_norm):
    module = random(
        nn.TransformerEncoderLayer(F, H, 6, 0.0, nn.functional.gelu, batch_first=True, norm_first=not post_norm)
    )
    padding = torch.tensor(np.arange(S) >= LENGTHS[:, None])
    x = normal(N, S, F)
    real = np.asarray(~padding)[..., None]
    y, g, (dx,) = pytorch(lambda x: module(x, src_key_padding_mask=padding) * torch.tensor(real), x)
    with jax.enable_x64(True):
        layer = jaxbp.encoder_block(F, H, 6, post_norm=post_norm, activation=jaxbp.GELU())
        inputs = Sequences(x, jnp.asarray(LENGTHS))
        out, found, params = by_hand(layer, block_params(module, values), inputs, Sequences(g * real))
        agree((out.values * real, found.values, params), (y, dx, block_params(module, gradient)))


@pytest.mark.parametrize("post_norm", [False, True], ids=["pre-norm", "post-norm"])
def test_a_decoder_block_is_pytorchs(post_norm):
    module = random(nn.TransformerDecoderLayer(F, H, 6, 0.0, "relu", batch_first=True, norm_first=not post_norm))
    future = torch.tensor(np.triu(np.ones((T, T), bool), 1))
    x, memory = normal(N, T, F), normal(N, S, F, seed=1)
    y, g, gradients = pytorch(lambda x, memory: module(x, memory, tgt_mask=future), x, memory)
    with jax.enable_x64(True):
        layer = Serial(jaxbp.decoder_block(F, H, 6, post_norm=post_norm, activation=jaxbp.ReLU()), jaxbp.DropMemory())
        params = (block_params(module, values), ())
        agree(by_hand(layer, params, Context(x, memory), g), (y, gradients, (block_params(module, gradient), ())))


def test_an_embedding_is_pytorchs():
    tokens = labels(8, 5).reshape(2, 4).at[0, :2].set(3)
    y, g, (dw,) = pytorch(lambda w, x: nn.functional.embedding(x, w), normal(5, 3), tokens)
    with jax.enable_x64(True):
        out, _, params = by_hand(jaxbp.Embedding(5, 3), {"weight": normal(5, 3)}, tokens, g)
        agree((out, params["weight"]), (y, dw))


def test_linear_cross_entropy_is_pytorchs_with_smoothing_and_ignored_labels():
    hidden, weight, y = normal(N, T, F), normal(7, F, seed=1), labels(N * T, 7).reshape(N, T).at[0, 1].set(-1)

    def theirs(hidden, weight):
        logits = (hidden @ weight.T).flatten(0, 1)
        y_ = torch.tensor(np.asarray(y)).long().flatten()
        return nn.functional.cross_entropy(logits, y_, ignore_index=-1, label_smoothing=0.1)

    tensors = [tensor(hidden), tensor(weight)]
    value = theirs(*tensors)
    value.backward()
    with jax.enable_x64(True):
        loss = jaxbp.LinearCrossEntropy(0.1, ignored_label=-1, tokens=3)
        ours, residuals = jax.jit(loss.forward)(jaxbp.LazyLogits(hidden.astype(float), weight.astype(float)), y)
        agree((ours, loss.backward(residuals)), (value.item(), [t.grad.numpy() for t in tensors]))
