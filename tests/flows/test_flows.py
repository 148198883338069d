"""The flows against a real Prefect server: results, names, artifacts, logs, retries."""

from __future__ import annotations

import base64
import io
import json
import re
import time
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from PIL import Image
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, LogFilter, LogFilterFlowRunId
from prefect.client.schemas.objects import FlowRun
from prefect.exceptions import ParameterTypeError
from prefect.flows import load_flow_from_entrypoint
from prefect.settings import PREFECT_LOCAL_STORAGE_PATH
from prefect.states import Failed
from prefect.utilities.callables import parameter_schema
from prefect.utilities.schema_tools import validate as schema_errors

from flows import _run
from flows._run import FLOW_OPTIONS, engines, listening, stage, worth_retrying
from flows.check import check
from flows.compact import compact
from flows.evaluate import evaluate
from flows.export_data import export_data
from flows.infer import infer
from flows.ingest import ingest
from flows.pipeline import pipeline
from flows.preprocess import preprocess
from flows.report import report
from flows.train import train
from segtasks.engines.config import EngineConfig
from segtasks.errors import ConfigError, IncompleteError, InputError, QuarantineLimit, SegtasksError, StorageError, TooManyFindings
from segtasks.shards import open_snapshot
from segtasks.stages.config import CheckConfig, CompactConfig, EvaluateConfig, ExportDataConfig, InferConfig, IngestConfig, PipelineConfig
from segtasks.stages.pipeline import STAGES
from tests.stages.world import write_images

INLINE = EngineConfig(name="local", workers=0)
FLOWS = {flow.name: flow for flow in (ingest, preprocess, train, infer, evaluate, report, check, compact, export_data, pipeline)}
ROOT = Path(__file__).parents[2]


def newest_run(name: str) -> FlowRun:
    """The flow run of this name that started last."""
    with get_client(sync_client=True) as client:
        runs = client.read_flow_runs(flow_run_filter=FlowRunFilter.model_validate({"name": {"any_": [name]}}))
    return max(runs, key=lambda run: run.start_time or run.created)


def artifacts_of(run_id: UUID) -> dict[str, Any]:
    """The last data of each artifact key."""
    with get_client(sync_client=True) as client:
        response = client.request("POST", "/artifacts/filter", json={"artifacts": {"flow_run_id": {"any_": [str(run_id)]}}})
    found = sorted(response.json(), key=lambda item: item["updated"])
    return {item["key"]: item["data"] for item in found}


def task_runs_of(run_id: UUID) -> list[dict[str, Any]]:
    with get_client(sync_client=True) as client:
        body = {"flow_runs": {"id": {"any_": [str(run_id)]}}}
        deadline = time.monotonic() + 30
        while True:  # task runs reach the database through a queue
            runs = client.request("POST", "/task_runs/filter", json=body).json()
            if (runs and all(run["state_type"] in ("COMPLETED", "FAILED", "CRASHED") for run in runs)) or time.monotonic() > deadline:
                return sorted(runs, key=lambda run: run["start_time"])
            time.sleep(0.2)


def logs_of(run_id: UUID) -> list[str]:
    """Every message of the run; they are sent in the background, the run's end last."""
    deadline = time.monotonic() + 60
    with get_client(sync_client=True) as client:
        while True:
            logs = client.read_logs(log_filter=LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run_id])), limit=200)
            messages = [item.message for item in logs]
            if messages.count("Finished in state Completed()") == 2 or time.monotonic() > deadline:
                return messages
            time.sleep(0.2)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("flows") / "street"
    write_images(root, 8)
    write_images(root, 3, split="val", start=100)
    return root


@pytest.fixture(scope="module")
def config(images: Path) -> PipelineConfig:
    return PipelineConfig.model_validate(
        {
            "output": str(images.parent / "run"),
            "source": str(images),
            "format": "folder",
            "engine": INLINE,
            "train": {"epochs": 1, "batch_size": 4, "model": {"name": "unet", "options": {"width": 4, "depth": 2}}},
            "report": {"examples": 1},
        }
    )


@pytest.fixture(scope="module")
def results(config: PipelineConfig) -> dict[str, Any]:
    return pipeline(config)


RUN_NAME = re.compile(r"pipeline folder flows\d+/street into flows\d+/run")


def test_the_pipeline_returns_every_stages_result_as_json(results: dict[str, Any]) -> None:
    assert list(results) == list(STAGES)
    assert json.loads(json.dumps(results)) == results
    assert {name: result["already_done"] for name, result in results.items()} == dict.fromkeys(STAGES, False)
    assert results["infer"]["counts"]["rows"] == 3
    assert 0 <= results["evaluate"]["details"]["summary"]["miou"] <= 1


def test_a_second_run_finds_everything_done(config: PipelineConfig, results: dict[str, Any]) -> None:
    events: list[dict[str, Any]] = []
    with listening(events.append):
        again = pipeline(config)
    assert {name: result["already_done"] for name, result in again.items()} == dict.fromkeys(STAGES, True)
    assert {name: result["snapshot"] for name, result in again.items()} == {name: result["snapshot"] for name, result in results.items()}
    assert not [event for event in events if event["event"] in ("epoch", "retry")]


def test_a_run_is_named_for_what_it_runs_and_has_a_task_a_stage(config: PipelineConfig, results: dict[str, Any]) -> None:
    with get_client(sync_client=True) as client:
        names = {run.name for run in client.read_flow_runs()}
    (name,) = [name for name in names if RUN_NAME.fullmatch(name)]
    assert [run["name"] for run in task_runs_of(newest_run(name).id)] == list(STAGES)


def test_artifacts_show_progress_a_table_a_stage_and_a_picture(config: PipelineConfig, results: dict[str, Any]) -> None:
    pipeline(config)
    with get_client(sync_client=True) as client:
        name = next(run.name for run in client.read_flow_runs() if RUN_NAME.fullmatch(run.name or ""))
    found = artifacts_of(newest_run(name).id)
    assert {f"{stage}-result" for stage in STAGES} <= set(found)
    table = {row["what"]: row["value"] for row in json.loads(found["infer-result"])}
    assert (table["output"], table["rows"], table["already done"]) == (f"{config.output}/predictions@1", 3, True)
    first, *_ = re.findall(r"!\[(.+?)\]\(data:image/jpeg;base64,(.+?)\)", found["prediction-picture"])
    with Image.open(io.BytesIO(base64.b64decode(first[1]))) as picture:
        assert picture.format == "JPEG"
        assert picture.width > 3 * picture.height / 2  # image, truth, prediction and errors side by side
    assert first[0] == "images/val/i0100.png"
    assert len(found["prediction-picture"]) < 200_000


def test_a_stages_progress_ends_at_a_hundred_percent(images: Path, tmp_path: Path) -> None:
    ingest(IngestConfig(source=str(images), format="folder", output=str(tmp_path / "data"), engine=INLINE))
    run = newest_run(f"ingest folder {images.parent.name}/street into {tmp_path.name}/data")
    assert artifacts_of(run.id)["ingest-progress"] == 100
    assert open_snapshot(str(tmp_path / "data")).counts.rows == 11


def test_each_stage_is_a_flow_of_its_own(config: PipelineConfig, results: dict[str, Any]) -> None:
    data, model = f"{config.output}/data", f"{config.output}/model"
    predicted = infer(InferConfig(data=data, checkpoint=model, output=f"{config.output}/all", engine=INLINE))
    assert (predicted["counts"]["rows"], predicted["already_done"]) == (11, False)
    assert newest_run("infer run/data with run/model").state.is_completed()
    scored = evaluate(EvaluateConfig(predictions=f"{config.output}/all@1", data=data, output=f"{config.output}/all-scores", engine=INLINE))
    assert scored["details"]["summary"]["images"] == 11
    run = newest_run("evaluate run/all@1")
    assert "prediction-picture" in artifacts_of(run.id)


def test_data_are_exported_and_compacted_by_flows(images: Path, tmp_path: Path) -> None:
    data = str(tmp_path / "data")
    ingest(IngestConfig.model_validate({"source": str(images), "format": "folder", "output": data, "shard_bytes": 4096, "engine": INLINE}))
    settings = {"data": data, "format": "coco", "output": str(tmp_path / "coco"), "engine": INLINE}
    assert export_data(ExportDataConfig.model_validate(settings))["counts"]["done"] == 11
    run = newest_run(f"export {tmp_path.name}/data as coco into {tmp_path.name}/coco")
    assert artifacts_of(run.id)["export-data-progress"] == 100
    before = open_snapshot(data)
    compact(CompactConfig(output=data, target_bytes=1 << 20, engine=INLINE))
    after = open_snapshot(data)
    assert newest_run(f"compact {tmp_path.name}/data").state.is_completed()
    assert (len(list(after.shards())), after.counts.rows) == (2, before.counts.rows)
    assert len(list(before.shards())) > 2


def test_a_check_shows_its_findings_also_where_they_fail_it(images: Path, tmp_path: Path) -> None:
    settings = {"data": str(images), "format": "folder", "output": str(tmp_path / "check"), "engine": INLINE}
    result = check(CheckConfig.model_validate(settings))
    assert (result["counts"]["rows"], result["details"]["findings"]) == (11, {})
    assert artifacts_of(newest_run(f"check {images.parent.name}/street").id)["check-result"]
    broken = CheckConfig.model_validate({**settings, "constant_std": 255, "max_findings": {"near_constant": 10}})
    with pytest.raises(TooManyFindings, match=r"near_constant 11 \(max_findings.near_constant is 10\)"):
        check(broken)
    found = artifacts_of(newest_run(f"check {images.parent.name}/street").id)
    assert json.loads(found["check-findings"]) == [{"finding": "near_constant", "found": 11, "over": True}]


def flaky(images: Path, tmp_path: Path, error: str, failures: int) -> IngestConfig:
    options = {"counter": str(tmp_path / "tries"), "error": error, "failures": failures}
    reader = {"name": "tests.flows.flaky", "options": options}
    return IngestConfig.model_validate(
        {
            "source": str(images),
            "format": reader,
            "output": str(tmp_path / "data"),
            "engine": INLINE,
        }
    )


def tries(tmp_path: Path) -> int:
    return len((tmp_path / "tries").read_text().splitlines())


def test_weather_is_tried_again_and_told(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_run, "retry_delays_s", [0.0, 0.0])
    events: list[dict[str, Any]] = []
    with listening(events.append):
        result = ingest(flaky(images, tmp_path, "storage", 2))
    assert (result["counts"]["rows"], tries(tmp_path)) == (11, 3)
    told = [event["message"] for event in events if event["event"] == "log" and "again" in event["message"]]
    assert told == [f"failed, and is tried again: planted: try {number}" for number in (1, 2)]


def test_weather_that_stays_fails_the_run_with_its_own_error(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_run, "retry_delays_s", [0.0, 0.0])
    with pytest.raises(StorageError, match="planted: try 3"):
        ingest(flaky(images, tmp_path, "storage", 99))
    assert tries(tmp_path) == 3


@pytest.mark.parametrize(("error", "raised"), [("input", InputError), ("bug", KeyError)])
def test_what_cannot_change_is_not_tried_again(error: str, raised: type[Exception], images: Path, tmp_path: Path) -> None:
    with pytest.raises(raised, match="planted: try 1"):
        ingest(flaky(images, tmp_path, error, 99))
    assert tries(tmp_path) == 1


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (StorageError("503"), True),
        (SegtasksError("training failed"), True),
        (OSError("disk"), True),
        (ConfigError("wrong"), False),
        (InputError("missing"), False),
        (QuarantineLimit("too many"), False),
        (IncompleteError("3 of 5"), False),
        (TypeError("ours"), False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_only_weather_is_worth_a_retry(error: Exception, again: bool) -> None:
    @flow
    def decide() -> bool:
        run = type("Run", (), {"run_count": 99})
        return worth_retrying(_run._stage, run, Failed(data=error))  # type: ignore[arg-type]

    assert decide() is again


def test_logs_of_segtasks_reach_prefect_and_the_listener(images: Path, tmp_path: Path) -> None:
    events: list[dict[str, Any]] = []
    settings = flaky(images, tmp_path, "storage", 0)
    with listening(events.append):
        ingest(settings)
    run = newest_run(f"ingest tests.flows.flaky {images.parent.name}/street into {tmp_path.name}/data")
    messages = logs_of(run.id)
    assert "try 1 of the flaky reader" in messages
    assert any(message.startswith("ingest: output ") for message in messages)
    assert {"event": "log", "stage": "ingest", "message": "try 1 of the flaky reader"} in events


def test_engines_are_closed_however_a_flow_ends(tmp_path: Path) -> None:
    held: list[Any] = []

    @flow
    def fails() -> None:
        with engines():
            held.append(_run._engines.get().get(EngineConfig(name="local", workers=1)))
            assert list(held[0].map(_make_echo, [{"n": 1}]))
            raise ConfigError("planted")

    with pytest.raises(ConfigError, match="planted"):
        fails()
    assert held[0]._engine is None


def _make_echo() -> Any:
    return dict


def test_stages_of_one_configuration_share_an_engine() -> None:
    with engines():
        made = _run._engines.get()
        assert made.get(INLINE) is made.get(EngineConfig(name="local", workers=0))
        assert made.get(INLINE) is not made.get(EngineConfig(name="local", workers=1))


@pytest.mark.parametrize("name", FLOWS)
def test_a_flows_form_has_every_setting_with_its_description(name: str) -> None:
    model = {**STAGES, "check": CheckConfig, "compact": CompactConfig, "export-data": ExportDataConfig}.get(name, PipelineConfig)
    definitions = parameter_schema(FLOWS[name]).definitions
    properties = definitions[model.__name__]["properties"]
    assert {key: value.get("description") for key, value in properties.items()} == {
        key: field.description for key, field in model.model_fields.items()
    }


@pytest.mark.parametrize("reader", ["folder", {"name": "folder"}, {"name": "folder", "options": {"mask_suffix": "_mask"}}], ids=str)
def test_a_deployment_accepts_a_plugin_by_name_or_with_options(reader: Any) -> None:
    schema = parameter_schema(ingest).model_dump_for_openapi()
    settings = {"source": "street", "format": reader, "output": "out", "engine": {"name": "local"}}
    assert not list(schema_errors({"config": settings}, schema))
    assert list(schema_errors({"config": {**settings, "format": 3}}, schema))


def test_a_wrong_parameter_is_refused_before_the_run_does_anything(images: Path, tmp_path: Path) -> None:
    with pytest.raises(ParameterTypeError, match="shard_rows"):
        ingest({"source": str(images), "format": "folder", "output": str(tmp_path / "data"), "shard_rows": 0})  # type: ignore[arg-type]
    assert not (tmp_path / "data").exists()


def test_a_parameter_may_be_plain_values_as_a_deployment_sends_them(images: Path, tmp_path: Path) -> None:
    settings = {"source": str(images), "format": "folder", "output": str(tmp_path / "data"), "engine": {"name": "local", "workers": 0}}
    assert ingest(settings)["counts"]["rows"] == 11  # type: ignore[arg-type]


def test_the_result_of_a_flow_is_kept_as_json_without_pickle(images: Path, tmp_path: Path) -> None:
    @flow(**FLOW_OPTIONS)
    def kept() -> dict[str, Any]:
        config = IngestConfig(source=str(images), format="folder", output=str(tmp_path / "data"), engine=INLINE)
        with engines():
            return stage("ingest", config)

    before = set(PREFECT_LOCAL_STORAGE_PATH.value().rglob("*"))
    result = kept()
    (file,) = set(PREFECT_LOCAL_STORAGE_PATH.value().rglob("*")) - before
    assert json.loads(file.read_text()) == result


def test_the_deployments_name_flows_that_can_be_loaded() -> None:
    import yaml

    deployments = yaml.safe_load((ROOT / "infra" / "prefect.yaml").read_text())["deployments"]
    loaded = [load_flow_from_entrypoint(str(ROOT / item["entrypoint"])) for item in deployments]
    assert sorted(item.name for item in loaded) == sorted(FLOWS)
