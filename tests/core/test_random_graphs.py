import pytest

from tests.support.random_graphs import compare, draw_graph

GRAPHS = 24  # a few dozen; `python -m tests.support.random_graphs 300` takes more


@pytest.mark.parametrize("seed", range(GRAPHS))
def test_a_random_graph_agrees_with_autodiff_in_every_quantity(seed):
    errors = compare(seed)
    assert max(errors.values()) < 1e-12, errors


def test_random_graphs_have_several_inputs_and_outputs_and_shared_layers():
    graphs = [draw_graph(seed) for seed in range(GRAPHS)]
    calls = [[name for name, _ in graph.steps if name] for graph, _ in graphs]
    assert any(len(inputs) > 1 for _, inputs in graphs)
    assert any(len(graph.outputs) > 1 for graph, _ in graphs)
    assert sum(len(names) > len(set(names)) for names in calls) > 3
