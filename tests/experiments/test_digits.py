"""experiments.digits, an alias of experiments.images."""

import pytest

from experiments.digits.run import main
from experiments.images import run


def test_digits_is_images_under_its_name(monkeypatch, capsys):
    monkeypatch.setattr(run, "run_experiment", lambda config, name: print(name, config.data.source))
    main([])
    assert capsys.readouterr().out == "digits digits\n"
    run.main([])
    assert capsys.readouterr().out == "images digits\n"


@pytest.mark.parametrize(("program", "name"), [(main, "digits"), (run.main, "images")])
def test_help_shows_the_command(program, name, capsys):
    with pytest.raises(SystemExit):
        program(["--help"])
    assert capsys.readouterr().out.startswith(f"usage: python -m experiments.{name} ")


def test_run_without_out_has_the_name_of_the_command(tmp_path, monkeypatch):
    def stop(config, path, inputs, name):
        raise ValueError(f"stopped at {path.name} of {name}")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run, "_prepare", stop)
    with pytest.raises(SystemExit, match=r"digits: stopped at digits-\d+-\d+ of digits"):
        main([])
