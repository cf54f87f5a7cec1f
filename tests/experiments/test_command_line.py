import pytest
import tyro

from experiments import digits, gradient_noise, language_model, private_sgd, worked_example
from experiments.feedback_alignment import __main__ as feedback_alignment
from experiments.kfac import __main__ as kfac
from experiments.memory import __main__ as memory
from experiments.mnist import __main__ as mnist
from experiments.sentiment import __main__ as sentiment
from experiments.shared.command_line import command_line
from experiments.shared.datasets import DataError
from experiments.spoken_digits import __main__ as spoken_digits
from experiments.translation import __main__ as translation


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
