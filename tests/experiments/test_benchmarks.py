import jax
import numpy as np
import optax
import pytest

import jaxbp
from experiments.benchmarks import attention_memory, sweep
from experiments.benchmarks.__main__ import Options, main
from experiments.benchmarks.ctc import CTCGradient
from experiments.benchmarks.pairwise_timing import measure
from experiments.benchmarks.quantities import QUANTITIES, as_table
from experiments.benchmarks.recurrent import RecurrentGradients
from experiments.benchmarks.step_and_layer import LayerGradients, TrainingStep
from experiments.benchmarks.text import (
    AttentionGradients,
    EmbeddingGradient,
    LanguageModelStep,
    WordGradients,
    language_model,
)
from experiments.benchmarks.workloads import WORKLOADS, mlp
from tests.support.arrays import normal


@pytest.mark.parametrize("in_scan", [0, 2])
def test_both_engines_take_the_same_step(in_scan):
    work = TrainingStep("small", mlp(5, 3, dropout=0.5), optax.sgd(0.1), (4, 6), classes=3, in_scan=in_scan)
    after = []
    for engine in (work.by_jaxbp(), work.by_autodiff()):
        state = jaxbp.TrainState.create(work.model, work.optimizer, work.batch()[0], jax.random.key(0))
        after.append(engine.compiled(state, *work.batch())[0].params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), *after)


@pytest.mark.parametrize("with_forward", [False, True])
def test_both_engines_give_the_same_gradients_of_a_layer(with_forward):
    work = LayerGradients("small", jaxbp.Dense(3), (4, 6), with_forward)
    ours, theirs = work.by_jaxbp().run(), work.by_autodiff().run()
    (dx, dparams), (true_dparams, true_dx) = (ours[-1], theirs[-1]) if with_forward else (ours, theirs)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), (dx, dparams), (true_dx, true_dparams))


def test_both_engines_give_the_same_value_and_gradient_of_ctc():
    work = CTCGradient("small", 3, 12, 5, 4)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), work.by_jaxbp().run(), work.by_autodiff().run()
    )


@pytest.mark.parametrize("layer", [jaxbp.LSTM(3), jaxbp.GRU(3)], ids=str)
def test_both_engines_give_the_same_gradients_through_time(layer):
    work = RecurrentGradients("small", layer, (2, 3, 4), type(layer).__name__)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), work.by_jaxbp().run(), work.by_autodiff().run()
    )


SMALL = {
    "attention": AttentionGradients("small", False, 2, 2, 3, 5),
    "causal attention": AttentionGradients("small", True, 2, 2, 3, 5),
    "words": WordGradients("small", 6, 3, 7),
    "embedding": EmbeddingGradient("small", 7, 3, 6),
}


@pytest.mark.parametrize("work", SMALL.values(), ids=SMALL)
def test_both_engines_give_the_same_gradients_of_text(work):
    ours, theirs = work.by_jaxbp().run(), work.by_autodiff().run()
    for a, b in zip(*map(jax.tree.leaves, (ours, theirs)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_both_engines_take_the_same_step_of_a_language_model():
    model = language_model(5, 4, 2, 2, 6, repeat=True)
    work = LanguageModelStep("small", model, optax.sgd(0.1), (2, 6), classes=5)
    after = []
    for engine in (work.by_jaxbp(), work.by_autodiff()):
        state = jaxbp.TrainState.create(work.model, work.optimizer, work.batch()[0], jax.random.key(0))
        after.append(engine.compiled(state, *work.batch())[0].params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), *after)


def test_the_table_of_attentions_memory_counts_lengths(tmp_path, capsys):
    found = attention_memory.main(attention_memory.Options(lengths=(512, 1024), output=tmp_path))
    assert [row["length"] for row in found["rows"]] == [512, 1024]
    assert all(0 < row["jaxbp"] < row["jax.grad"] for row in found["rows"])
    assert "jax.grad MB" in capsys.readouterr().out
    assert (tmp_path / "memory.png").stat().st_size > 10_000


def test_the_command_measures_prints_and_draws(tmp_path, capsys):
    main(Options(workloads=("mlp-sgd",), rivals=("jax.grad",), rounds=1, output=tmp_path))
    assert "jax.grad / jaxbp" in capsys.readouterr().out
    assert (tmp_path / "results.json").exists()
    assert (tmp_path / "ratios.png").stat().st_size > 10_000


def test_an_unknown_workload_is_told(tmp_path):
    with pytest.raises(SystemExit, match=f'no workload "mpl".*{next(iter(WORKLOADS))}'):
        main(Options(workloads=("mpl",), output=tmp_path))


def test_ratios_temporary_memory_and_operations_are_reported():
    found = measure(WORKLOADS["mlp-sgd"], "jaxbp", "jax.grad", 1)
    assert found["ratio"]["of"] == "jax.grad / jaxbp"
    assert found["temporary_bytes"]["jaxbp"] <= found["temporary_bytes"]["jax.grad"]
    assert found["flops"]["jaxbp"] > 6 * 128 * 784 * 800 * 0.9


@pytest.mark.parametrize("what", ["norms of each example", "GGN-vector product", "Hessian-vector product"])
def test_quantities_of_the_benchmark_are_those_of_jax(what):
    work = QUANTITIES[f"784-800-800-10: {what}"]
    ours, theirs = work.by_jaxbp().run(), work.by_autodiff().run()
    ours = ours[1]["norms"] if what.startswith("norms") else ours
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), ours, theirs)


def test_the_table_of_quantities_counts_in_gradients():
    name = "784-800-800-10: norms of each example"
    found = {pair: measure(QUANTITIES[name], *pair, 1) for pair in (("gradient", "jaxbp"), ("jaxbp", "jax.grad"))}
    row = {"row": name, "target": 1.5, **{pair[0 if pair[0] == "gradient" else 1]: it for pair, it in found.items()}}
    table = as_table([row])
    assert "times the gradient" in table
    assert found["jaxbp", "jax.grad"]["temporary_bytes"]["jaxbp"] < 2e6
    assert found["gradient", "jaxbp"]["ratio"]["of"] == "jaxbp / gradient"


def test_the_sweep_over_shapes_measures_against_plain_forward_passes(tmp_path, capsys):
    names = [work.name for work in sweep.sweep()]
    assert len(set(names)) == len(names)
    (row,) = sweep.main(sweep.Options("AvgPool((2,)) *", rounds=1, output=tmp_path))
    assert row["workload"] in capsys.readouterr().out
    layer, x = jaxbp.AvgPool((3, 3), 2, "SAME"), normal(2, 6, 5, 3)
    np.testing.assert_allclose(sweep.plain_mean(layer)((), x), layer.forward((), x)[0], rtol=1e-5, atol=1e-6)
