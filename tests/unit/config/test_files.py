"""Files and folders: several files are one configuration, and what `init` writes is one that runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from controller.config import load_config, write_initial
from controller.config.files import MAX_BYTES
from controller.config.init import initial_files
from controller.errors import ConfigError, InvalidInput
from tests.unit.config.texts import BASE

# ---------------------------------------------------------------------------------------------------- files and folders


def test_a_folder_is_read_as_one_configuration(folder: Path) -> None:
    Path("conf").mkdir()
    Path("conf/10-base.yaml").write_text("version: 1\nsources: {landing: {type: files, path: landing}}\n")
    Path("conf/20-churn.yml").write_text(
        "version: 1\nmodels: {churn: {policies: {a: {on: {source: landing}}}, train: {command: [x]}}}\n"
    )
    Path("conf/30-fraud.yaml").write_text("models: {fraud: {train: {command: [x]}}}\n")
    Path("conf/.hidden.yaml").write_text("broken: [")
    Path("conf/notes.txt").write_text("not yaml: [")

    config = load_config("conf")

    assert set(config.models) == {"churn", "fraud"}
    assert config.base == folder / "conf"
    assert [file.name for file in config.files] == ["10-base.yaml", "20-churn.yml", "30-fraud.yaml"]


def test_a_name_in_two_files_is_refused_with_both_places(folder: Path) -> None:
    Path("conf").mkdir()
    Path("conf/a.yaml").write_text("version: 1\nstate_dir: x\nmodels:\n  churn: {train: {command: [x]}}\n")
    Path("conf/b.yaml").write_text("state_dir: y\nmodels:\n  churn: {train: {command: [x]}}\n")

    with pytest.raises(ConfigError) as refusal:
        load_config("conf")

    assert [str(problem) for problem in refusal.value.problems] == [
        "conf/b.yaml:1:1: state_dir: 'state_dir' is given twice; first at conf/a.yaml:2:1",
        "conf/b.yaml:3:3: models.churn: 'churn' is given twice; first at conf/a.yaml:4:3",
    ]


def test_problems_in_a_folder_name_the_right_file(folder: Path) -> None:
    Path("conf").mkdir()
    Path("conf/a.yaml").write_text("version: 1\ndefaults:\n  train: {timeout: 1x}\n")
    Path("conf/b.yaml").write_text("models:\n  churn: {train: {command: [x], retries: {attempts: 0}}}\n")

    with pytest.raises(ConfigError) as refusal:
        load_config("conf")

    assert [str(problem).split(": ")[0] for problem in refusal.value.problems] == [
        "conf/a.yaml:3:20",
        "conf/b.yaml:2:53",
    ]


def test_a_mounted_config_map_is_read_through_its_links(folder: Path) -> None:
    Path("conf/..2026_01").mkdir(parents=True)
    Path("conf/..2026_01/retrain.yaml").write_text(BASE)
    Path("conf/..data").symlink_to("..2026_01")
    Path("conf/retrain.yaml").symlink_to("..data/retrain.yaml")

    config = load_config("conf")

    assert [str(file) for file in config.files] == ["conf/retrain.yaml"]
    assert config.base == folder / "conf"


@pytest.mark.parametrize(
    "path,message",
    [
        (
            "nowhere.yaml",
            "nowhere.yaml:1:1: there is no such file (`retrainctl init` writes a configuration that runs)",
        ),
        ("empty", "empty:1:1: the folder holds no *.yaml file (`retrainctl init` writes a configuration that runs)"),
        ("big.yaml", f"big.yaml:1:1: the configuration is larger than {MAX_BYTES // 2**20} MiB"),
    ],
)
def test_files_that_cannot_be_read_are_named(folder: Path, path: str, message: str) -> None:
    Path("empty").mkdir()
    with Path("big.yaml").open("wb") as stream:
        stream.truncate(50 * 2**20)

    with pytest.raises(ConfigError) as refusal:
        load_config(path)

    assert str(refusal.value) == message


# ----------------------------------------------------------------------------------------------------------------- init

REPOSITORY = Path(__file__).resolve().parents[3]


def test_init_writes_a_configuration_without_problems(folder: Path) -> None:
    written = write_initial("here")

    config = load_config("here")
    assert {file.name for file in written} == {"retrain.yaml", "train.py", "example.csv"}
    assert config.warnings == ()


def test_init_never_overwrites(folder: Path) -> None:
    Path("train.py").write_text("mine")

    with pytest.raises(InvalidInput, match=r"train\.py exists already; nothing was written"):
        write_initial(".")

    assert [file.name for file in folder.iterdir()] == ["train.py"]
    assert Path("train.py").read_text() == "mine"


def test_the_repository_s_configs_are_what_init_writes() -> None:
    shipped = {name: (REPOSITORY / "configs" / name).read_bytes() for name in initial_files()}

    assert shipped == initial_files()
