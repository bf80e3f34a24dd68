"""The container's own settings: three sources, and every fault at once."""

from pathlib import Path

import pytest

from podpair.common.faults import FaultsError
from podpair.inference.config.settings import load_settings


def test_the_command_line_beats_the_environment_beats_the_file_beats_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "inference.yaml"
    file.write_text("server: {host: 0.0.0.0, port: 1, shutdown_seconds: 5}\nmodels: {repository: /models}\n")
    monkeypatch.setenv("PODPAIR_SERVER__PORT", "2")
    monkeypatch.setenv("PODPAIR_SERVER__SHUTDOWN_SECONDS", "6")
    settings = load_settings(file, {"server": {"port": 3}})
    assert (settings.server.host, settings.server.port, settings.server.shutdown_seconds) == ("0.0.0.0", 3, 6)
    assert settings.models.repository == Path("/models")
    assert settings.log.format == "json"


def test_it_listens_on_localhost_where_the_gateway_looks_for_it() -> None:
    settings = load_settings()
    assert (settings.server.host, settings.server.port) == ("127.0.0.1", 8081)


def test_the_gateway_s_own_variables_are_none_of_its_business(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PODPAIR_AUTH__SECRET", "x")
    monkeypatch.setenv("PODPAIR_HTTP__PORT", "8080")
    load_settings()


def test_a_list_in_the_environment_is_json_or_has_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PODPAIR_MODELS__CLASSES", '["a:A", "b=a:B"]')
    monkeypatch.setenv("podpair_grpc__enabled", "false")
    settings = load_settings()
    assert (settings.models.classes, settings.models.folder) == (("a:A", "b=a:B"), None)
    assert not settings.grpc.enabled
    monkeypatch.setenv("PODPAIR_MODELS__CLASSES", "a:A, b=a:B,")
    monkeypatch.setenv("PODPAIR_MODELS", '{"classes": ["c:C"], "watch": true}')
    monkeypatch.setenv("PODPAIR_MODELS__CUSTOM_OP_LIBRARIES", "onnxruntime_extensions")
    settings = load_settings()
    assert settings.models.classes == ("a:A", "b=a:B")
    assert settings.models.watch
    assert settings.models.custom_op_libraries == ("onnxruntime_extensions",)
    monkeypatch.delenv("PODPAIR_MODELS")
    monkeypatch.setenv("PODPAIR_MODELS__CLASSES", "[a:A")
    monkeypatch.setenv("PODPAIR_LOG", "off")
    with pytest.raises(FaultsError) as error:
        load_settings()
    text = "\n".join(error.value.faults)
    assert "environment PODPAIR_MODELS__CLASSES: models.classes: " in text
    assert "environment PODPAIR_LOG: log: " in text


def test_all_faults_come_at_once_and_each_names_its_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "inference.yaml"
    file.write_text("servr: {port: 1}\nserver: {max_body: 5}\nlog: {format: xml}\n")
    monkeypatch.setenv("PODPAIR_SERVER__PROT", "1")
    with pytest.raises(FaultsError) as error:
        load_settings(file, {"server": {"port": 99999}})
    text = "\n".join(error.value.faults)
    for expected in (
        f"{file}: servr: no such setting; did you mean server?",
        f"{file}: server.max_body: no such setting; did you mean max_body_bytes?",
        "environment PODPAIR_SERVER__PROT: server.prot: no such setting; did you mean port?",
        "command line: server.port: input should be less than or equal to 65535 (it is 99999)",
        f"{file}: log.format: input should be 'json' or 'text' (it is 'xml')",
    ):
        assert expected in text, text
    assert len(error.value.faults) == 5


@pytest.mark.parametrize(("content", "complaint"), [("- 1", "a mapping is needed"), ("a: [", "not YAML")])
def test_a_file_that_is_no_mapping(tmp_path: Path, content: str, complaint: str) -> None:
    file = tmp_path / "inference.yaml"
    file.write_text(content)
    with pytest.raises(FaultsError, match=complaint):
        load_settings(file)
    with pytest.raises(FaultsError, match="No such file or directory"):
        load_settings(tmp_path / "missing.yaml")
