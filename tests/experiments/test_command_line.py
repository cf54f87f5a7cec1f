import pytest
import tyro

from experiments import (
    digits,
    feedback_alignment,
    gradient_noise,
    kfac,
    language_model,
    memory,
    mnist,
    private_sgd,
    sentiment,
    spoken_digits,
    translation,
    worked_example,
)
from experiments.data import DataError
from experiments.output import command_line


@pytest.mark.parametrize(
    "module",
    [
        digits,
        feedback_alignment,
        gradient_noise,
        kfac,
        language_model,
        memory,
        mnist,
        private_sgd,
        sentiment,
        spoken_digits,
        translation,
        worked_example,
    ],
    ids=lambda module: module.__name__,
)
def test_every_experiment_explains_its_options(module, capsys):
    assert tyro.cli(module.Options, args=[]) == module.Options()
    with pytest.raises(SystemExit, match="0"):
        tyro.cli(module.Options, args=["--help"])
    assert "--output" in capsys.readouterr().out


def test_missing_data_end_a_command_with_its_sentence(monkeypatch):
    def main(options):
        raise DataError("There is no data.")

    monkeypatch.setattr("sys.argv", ["experiment"])
    with pytest.raises(SystemExit, match=r"^There is no data\.$"):
        command_line(main, digits.Options)
