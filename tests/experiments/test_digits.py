import json

from experiments.digits import Options, load, main


def test_a_small_run_checks_trains_tests_and_draws(tmp_path, capsys):
    metrics = main(Options(epochs=4, examples=400, output=tmp_path))
    assert metrics["test_accuracy"] > 0.7
    assert metrics["largest_gradient_error"] < 1e-10
    assert len(metrics["history"]["loss"]) == 4
    assert json.loads((tmp_path / "results.json").read_text()) == metrics
    assert {path.stem for path in tmp_path.glob("*.png")} == {
        "learning_curves",
        "gradient_flow",
        "confusion_matrix",
        "misread_digits",
    }
    assert "Test accuracy: " in capsys.readouterr().out


def test_the_held_out_quarter_is_in_no_other_part():
    parts = load(0)
    assert [len(x) for x, _ in parts] == [1212, 135, 450]
    seen = [{image.tobytes() for image in x} for x, _ in parts]
    assert not seen[2] & (seen[0] | seen[1])
