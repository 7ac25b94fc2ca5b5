"""The frozen recipes still show what the log says they showed."""

import json

import pytest

from neo_model.config.command_line import main


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_overfit_learns_five_images_by_heart(tmp_path):
    run_dir = tmp_path / "run"
    few = [f"data.root={tmp_path / 'shapes'}", "data.num_train=5", "data.num_val=1", "logger=none"]
    assert main("train", ["experiments=overfit", *few, f"hydra.run.dir={run_dir}"]) == 0
    records = {}
    for line in (run_dir / "metrics.jsonl").read_text().splitlines():
        record = json.loads(line)
        records.setdefault(record["step"], {}).update(record)
    assert min(records[step]["train/loss_last_layer"] for step in range(1, 41)) < 1.0
    assert records[100]["train/loss_without_denoising"] < 1.0
    assert records[100]["val/AP50"] > 0.999
