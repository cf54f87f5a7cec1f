import json

import jax
import numpy as np
import optax
import pytest

import jaxbp
from experiments.benchmarks import against, attention_memory, sweep
from experiments.benchmarks.__main__ import Options, build_share, main
from experiments.benchmarks.ctc import CTCGradient
from experiments.benchmarks.engines import STAGES
from experiments.benchmarks.pairwise_timing import in_turns, measure, measure_builds, processor
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
    main(Options(workloads=("mlp-sgd",), rivals=("jax.grad",), rounds=1, builds=1, output=tmp_path))
    printed = capsys.readouterr().out
    assert "jax.grad / jaxbp" in printed
    assert "of jax.grad's (trace, lower, compile)" in printed
    (row,) = json.loads((tmp_path / "results.json").read_text())["rows"]
    assert set(row["jax.grad"]["build"]["seconds"]["jaxbp"]) == {*STAGES, "all"}
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


def test_two_engines_take_turns():
    calls = []
    found = in_turns({name: lambda name=name: calls.append(name) or len(calls) for name in "AB"}, 4)
    assert "".join(calls) == "ABBAABBA"
    assert found == {"A": [1, 4, 5, 8], "B": [2, 3, 6, 7]}


def test_building_is_timed_stage_by_stage():
    work = TrainingStep("small", mlp(5, 3), optax.sgd(0.1), (4, 6), classes=3)
    found = measure_builds(work, "jaxbp", "jax.grad", 2)
    assert found["ratio"]["of"] == "jaxbp / jax.grad"
    for seconds in found["seconds"].values():
        assert all(0 < seconds[stage] < seconds["all"] for stage in STAGES)


def test_the_share_of_building_is_written_in_all_and_by_stage():
    ratio = {"trace": 0.5, "lower": 0.75, "compile": 1.0, "all": 0.9}
    build = {"seconds": {"jaxbp": {"all": 1.25}}, "ratio": ratio}
    assert build_share(build) == ("1.25", "0.90 (0.50, 0.75, 1.00)")
    assert build_share(None) == ("", "")


def test_the_processor_is_named_with_its_widest_vectors(tmp_path):
    description = tmp_path / "cpuinfo"
    description.write_text("processor\t: 0\nmodel name\t: Fast 9000\nflags\t\t: sse avx2 avx512f sha\n")
    assert processor(description) == "Fast 9000, AVX-512"
    assert processor(tmp_path / "nowhere")


def test_two_checkouts_are_timed_against_each_other(tmp_path, capsys):
    options = against.Options(against.HERE, only=("average-pool 2x2",), rounds=2, output=tmp_path)
    (row,) = against.main(options)["rows"]
    assert row["ratio"]["of"] == "other / this"
    assert 0 < row["ratio"]["q1"] <= row["ratio"]["median"] <= row["ratio"]["q3"]
    assert row["temporary_bytes"]["this"] == row["temporary_bytes"]["other"]
    printed = capsys.readouterr().out
    assert processor() in printed
    assert "1 rows; slower" in printed
    assert json.loads((tmp_path / "table" / "results.json").read_text())["rows"] == [row]


ROWS = """
import os
from types import SimpleNamespace

def work(name, run=lambda: None, build=None):
    engine = SimpleNamespace(run=run, temporary_bytes=lambda: 8)
    return SimpleNamespace(name=name, by_jaxbp=build or (lambda: engine))

def fail():
    raise ValueError("no such layer")

WORKLOADS = {w.name: w for w in [work("fine", lambda: print("noise")), *OTHERS, work("fine too")]}
"""


def checkout(folder, others):
    """A folder that looks like a checkout, with two rows and these others; its quantities can't be imported."""
    (folder / "experiments" / "benchmarks").mkdir(parents=True)
    (folder / "jaxbp").mkdir()
    for package in ("experiments", "experiments/benchmarks", "jaxbp"):
        (folder / package / "__init__.py").touch()
    (folder / "experiments" / "benchmarks" / "workloads.py").write_text(ROWS.replace("*OTHERS", others))
    return folder


def test_what_fails_in_a_checkout_is_told_and_the_rest_goes_on(tmp_path, monkeypatch, capsys):
    ours = 'work("broken"), work("deadly"), work("new")'
    theirs = 'work("broken", build=fail), work("deadly", lambda: os._exit(3)), work("old")'
    monkeypatch.setattr(against, "HERE", checkout(tmp_path / "here", ours))
    options = against.Options(checkout(tmp_path / "there", theirs), rounds=2, output=tmp_path)
    found = against.main(options)
    assert {row["workload"] for row in found["rows"] if "ratio" in row} == {"fine", "fine too"}
    printed = capsys.readouterr().out
    for words in (
        "broken: fails in other checkout: ValueError: no such layer",
        "deadly: fails in other checkout: the process ended with exit code 3",
        "new: only in this checkout",
        "old: only in other checkout",
        "experiments.benchmarks.quantities in this checkout can't be imported: ModuleNotFoundError",
    ):
        assert words in printed


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"other": "nowhere"}, "nowhere has no folder experiments/benchmarks: name the folder of another checkout"),
        ({"only": ("mpl*",)}, r"no row's name fits mpl\*"),
        ({"other": "empty"}, "nothing can be timed in .*empty: the process ended with exit code 1"),
    ],
)
def test_what_cannot_be_timed_against_is_told(settings, words, tmp_path, monkeypatch):
    monkeypatch.setattr(against, "HERE", checkout(tmp_path / "here", ""))
    (tmp_path / "empty" / "experiments" / "benchmarks").mkdir(parents=True)
    settings = {"other": "here", **settings}
    with pytest.raises(SystemExit, match=words):
        against.main(against.Options(**{**settings, "other": tmp_path / settings["other"], "output": tmp_path}))
