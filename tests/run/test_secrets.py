"""One run with a secret of every kind in its command: none of them is in a file that it leaves, nor printed."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.run.prepared import prepared_python
from tests.run.training import environment, flags, make_data, read_run

SECRETS = {
    "flag": "plain-secret-of-a-flag",
    "address": "password-in-an-address",
    "query": "signature-in-a-query",
    "shape": "hf_" + "aB3" * 11,
    "bearer": "Abc-Def.123",
    "environment": "value-of-a-variable",
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_data(tmp_path_factory.mktemp("data"))


def run(arguments: list[str], **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [prepared_python(), "-m", "minicpmv", *arguments],
        env=environment() | variables,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_run_repeats_no_secret_of_its_command_anywhere(data: str, tmp_path: Path) -> None:
    output = tmp_path / "output"
    given = [
        *flags(data, output, steps=2),
        *["--hub_token", SECRETS["flag"], "--save_steps", "1", "--report", "true", "--use_lora", "true"],
        *["--report_to", "tensorboard", "--logging_dir", str(tmp_path / "boards")],
        *["--run_name", f"https://me:{SECRETS['address']}@host/x?sig={SECRETS['query']}"],
        *["--project", f"Authorization: Bearer {SECRETS['bearer']} {SECRETS['shape']} {SECRETS['environment']}"],
    ]
    done = run(["train", *given], MY_API_KEY=SECRETS["environment"])
    assert done.returncode == 0, done.stderr
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {"run.json", "report.html", "checkpoint.json", "log.jsonl"} <= {path.name for path in written}
    assert any(path.name.startswith("events.out") for path in written)
    for kind, secret in SECRETS.items():
        holding = [str(path) for path in written if secret.encode() in path.read_bytes()]
        assert not holding, kind
        assert secret not in done.stdout + done.stderr, kind
    command = read_run(output)["command"]
    assert "--hub_token '***' --save_steps 1" in command
    assert "https://***@host/x?sig=***" in command
    assert "--hub_token" in (output / "report.html").read_text(encoding="utf-8")


def test_report_hides_what_an_older_run_wrote_down(data: str, tmp_path: Path) -> None:
    facts = {"command": f"python -m minicpmv.training --hub_token {SECRETS['flag']} --seed 1", "log": [{"step": 1}]}
    facts["training_arguments"] = {"run_name": f"https://a:{SECRETS['address']}@b"}
    (tmp_path / "run.json").write_text(json.dumps(facts), encoding="utf-8")
    done = run(["report", str(tmp_path)])
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "--seed 1" in page
    assert not [kind for kind in ("flag", "address") if SECRETS[kind] in page]


@pytest.mark.parametrize(
    "given",
    [
        ["train", "--hub_token", SECRETS["flag"], SECRETS["flag"]],
        ["train", "--hub_token", SECRETS["flag"], f"--learning_rate={SECRETS['flag']}"],
        ["chat", f"https://me:{SECRETS['flag']}@host/model", "hi"],
        ["serve", "nowhere", "--api-key", SECRETS["flag"], SECRETS["flag"]],
        ["report", f"/nowhere?token={SECRETS['flag']}"],
        ["check", f"/nowhere?token={SECRETS['flag']}"],
    ],
)
def test_error_quotes_no_secret(given: list[str]) -> None:
    done = run(given)
    assert done.returncode in (1, 2)
    assert SECRETS["flag"] not in done.stdout + done.stderr
    assert "***" in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_trackers_are_told_of_no_secret_on_the_command_line(tmp_path: Path) -> None:
    """Some write down what the process was started with."""
    code = (
        "import sys; sys.argv[1:] = ['--hub_token', 'abc-def', '--nonsense', '1']\n"
        "from minicpmv.training.__main__ import main; main(sys.argv[1:]); print(sys.argv[1:])"
    )
    done = subprocess.run(
        [prepared_python(), "-c", code], env=dict(os.environ), capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "['--hub_token', '***', '--nonsense', '1']"
