import json

import numpy as np
import pytest

from experiments.worked_example import Options, main


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    output = tmp_path_factory.mktemp("worked_example")
    return main(Options(output=output)), output


def test_squared_error_gives_the_published_numbers(results):
    """Mazur's step by step example, as far as its first output goes."""
    found = results[0]["squared_error"]
    np.testing.assert_allclose(found["a1"], [0.593269992, 0.596884378], atol=1e-9)
    np.testing.assert_allclose(found["a2"], [0.75136507], atol=1e-8)
    np.testing.assert_allclose(found["error"], [0.274811083], atol=1e-9)
    np.testing.assert_allclose(found["delta2"], [0.138498562], atol=1e-9)
    np.testing.assert_allclose(found["gradient_W2"][0], 0.082167041, atol=1e-9)
    np.testing.assert_allclose(found["updated_W2"], [0.35891648, 0.408666186], atol=1e-9)


def test_cross_entropy_leaves_no_slope_in_the_output_delta(results):
    found = results[0]["cross_entropy"]
    np.testing.assert_allclose(found["delta2"], np.subtract(found["a2"], 0.01), rtol=1e-14)


def test_every_number_agrees_with_autodiff(results):
    assert max(case["largest_difference"] for case in results[0].values()) < 1e-15


def test_other_weights_give_the_delta_rule_by_hand(tmp_path, capsys):
    """Zero hidden weights: a₁ = ½, ½; W₂ = (2, -2), b₂ = 0: z₂ = 0, ŷ = ½; y = 0: δ₂ = ½ · ¼, δ₁ = ± 2 · δ₂ · ¼."""
    options = Options(
        x=(1.0, 2.0),
        target=0.0,
        w1=((0, 0), (0, 0)),
        b1=(0, 0),
        w2=(2.0, -2.0),
        b2=0.0,
        learning_rate=8.0,
        output=tmp_path,
    )
    found = main(options)["squared_error"]
    assert found["delta2"] == [0.125]
    assert found["delta1"] == [0.0625, -0.0625]
    assert found["gradient_W2"] == [0.0625, 0.0625]
    assert found["gradient_W1"] == [0.0625, 0.125, -0.0625, -0.125]
    assert found["updated_W2"] == [1.5, -2.5]
    assert found["updated_b1"] == [-0.5, 0.5]
    printed = capsys.readouterr().out
    for symbol in ("z₁", "a₁", "z₂", "ŷ", "E", "δ₂", "δ₁", "∂E/∂W₂", "∂E/∂b₂", "∂E/∂W₁", "∂E/∂b₁", "new W₂", "new b₁"):
        assert f"  {symbol}" in printed


def test_numbers_and_both_networks_are_written(results):
    metrics, output = results
    assert json.loads((output / "results.json").read_text()) == metrics
    assert {path.name for path in output.glob("*.png")} == {"squared_error.png", "cross_entropy.png"}
