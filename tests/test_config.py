"""Configuration: strict, with errors that name the key and the nearest known one."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from lgsid.config import RunConfig, apply_overrides, load_run_config, load_yaml
from lgsid.errors import ConfigError
from lgsid.pipeline import config_yaml

CONFIGS = sorted((Path(__file__).resolve().parents[1] / "configs").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_shipped_configuration_loads(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LGSID_DATA", "/somewhere")
    config = load_run_config(path)
    assert config.name == path.stem
    assert config.data.items is None or config.data.items.is_relative_to("/somewhere")


def test_resolved_configuration_loads_as_itself(tmp_path: Path) -> None:
    for overrides in ([], ["data.world.items=7", "sid.levels=4", "report.neighbours=[3]"]):
        config = load_run_config(None, overrides)
        (tmp_path / "config.yaml").write_text(config_yaml(config))
        assert load_run_config(tmp_path / "config.yaml") == config


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("sid.code=3", r"sid.code: no such key; did you mean 'codes'\?"),
        ("sid.codes=one", r"sid.codes: Input should be a valid integer.* \(got 'one'\)"),
        ("sid.levels=1", r"sid.levels: .*greater than or equal to 2 \(got 1\)"),
        ("data.datum=wgs72", r"data.datum: .*'wgs84', 'gcj02' or 'bd09'"),
        ("seed", "expected key.path=value"),
        ("name=a/b", "name: .*pattern"),
        ("seed.x=1", "'seed' is a value"),
        ("data.items=x.csv", "exactly one of data.world and data.items"),
        ("sid.features.cty=1", "did you mean 'city'"),
    ],
)
def test_wrong_values_are_named(override: str, message: str) -> None:
    overrides = ["seed=0", override]
    with pytest.raises(ConfigError, match=message):
        load_run_config(None, overrides)


def test_a_key_written_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("sid:\n  codes: 8\n  codes: 16\n")
    with pytest.raises(ConfigError, match=r"c.yaml, line 2: key 'codes' stands twice"):
        load_yaml(tmp_path / "c.yaml")


@pytest.mark.parametrize(
    ("text", "message"), [("[1, 2]", "holds a list"), ("a: [", "is not a YAML file"), ("\xff", "a str")]
)
def test_files_that_are_no_configuration(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "c.yaml").write_text(text, encoding="latin-1" if text == "\xff" else "utf-8")
    with pytest.raises(ConfigError, match=message if text != "\xff" else "is not a YAML file"):
        load_yaml(tmp_path / "c.yaml")
    with pytest.raises(ConfigError, match="no configuration file"):
        load_yaml(tmp_path / "absent.yaml")


def test_overrides_leave_the_original_alone() -> None:
    raw = {"sid": {"codes": 8}}
    assert apply_overrides(raw, ["sid.codes=16", "data.lenient=true"]) == {
        "sid": {"codes": 16},
        "data": {"lenient": True},
    }
    assert raw == {"sid": {"codes": 8}}


def test_paths_are_relative_to_their_file_and_variables_to_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path)
    config = tmp_path / "sub" / "c.yaml"
    config.write_text(yaml.safe_dump({"data": {"items": "../items.csv", "events": "${HERE:-other}/events.csv"}}))
    assert load_run_config(config).data.items == tmp_path / "items.csv"
    assert load_run_config(config).data.events == tmp_path / "sub" / "other" / "events.csv"
    monkeypatch.setenv("HERE", "there")
    assert load_run_config(config).data.events == tmp_path / "there" / "events.csv"
    config.write_text(yaml.safe_dump({"data": {"items": "${NOT_SET_ANYWHERE}/items.csv"}}))
    with pytest.raises(ConfigError, match="no variable NOT_SET_ANYWHERE"):
        load_run_config(config)


def test_every_option_is_documented() -> None:
    def undocumented(model: type) -> list[str]:
        found = []
        for name, field in model.model_fields.items():  # type: ignore[attr-defined]
            annotation = field.annotation
            if isinstance(annotation, type) and hasattr(annotation, "model_fields"):
                found += undocumented(annotation)
            elif not field.description:
                found.append(f"{model.__name__}.{name}")
        return found

    assert [name for name in undocumented(RunConfig) if name not in ("RunConfig.name", "RunConfig.seed")] == []


def test_a_model_folder_is_relative_to_its_file_and_a_hub_name_is_not(tmp_path: Path) -> None:
    (tmp_path / "models" / "mine").mkdir(parents=True)
    config = tmp_path / "c.yaml"
    for model, resolved in (("models/mine", str(tmp_path / "models" / "mine")), ("BAAI/bge-m3", "BAAI/bge-m3")):
        config.write_text(yaml.safe_dump({"data": {"world": {}}, "align": {"encoder": {"model": model}}}))
        assert load_run_config(config).align.encoder.model == resolved
