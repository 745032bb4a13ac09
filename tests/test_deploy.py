"""What is shipped for deployment is well-formed, and fits the program."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from controller.config import load_config

ROOT = Path(__file__).resolve().parent.parent
DEPLOY = ROOT / "deploy"


def test_systemd_accepts_the_unit(tmp_path):
    """`systemd-analyze verify` has nothing to say about the unit, whose program is put where this machine has one."""
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        if os.environ.get("CI"):
            pytest.fail("systemd-analyze is missing; .ci/run installs it")
        pytest.skip("systemd-analyze is not on this machine")
    unit = (DEPLOY / "systemd" / "retraind.service").read_text()
    copy = tmp_path / "retraind.service"
    copy.write_text(unit.replace("/opt/retrain/bin/retraind", shutil.which("true")))

    done = subprocess.run([analyze, "verify", "--man=no", copy], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (0, "")


def test_the_unit_leaves_jobs_alone():
    """A restart of the service ends the daemon only: training jobs go on."""
    lines = (DEPLOY / "systemd" / "retraind.service").read_text().splitlines()

    assert "KillMode=process" in lines
    assert "Type=notify" in lines


def documents():
    for path in sorted((DEPLOY / "kubernetes").glob("*.yaml")):
        for document in yaml.safe_load_all(path.read_text()):
            yield pytest.param(document, id=f"{path.stem}-{document['kind']}")


@pytest.mark.parametrize("document", list(documents()))
def test_kubernetes_manifests_have_a_kind_and_a_name(document):
    """Every manifest says what it is."""
    assert document["apiVersion"]
    assert document["kind"] == "Kustomization" or document["metadata"]["name"]


def test_kustomization_lists_every_manifest():
    """What is in the folder is applied."""
    folder = DEPLOY / "kubernetes"
    listed = yaml.safe_load((folder / "kustomization.yaml").read_text())["resources"]

    assert sorted(listed) == sorted(path.name for path in folder.glob("*.yaml") if path.name != "kustomization.yaml")


def test_the_shipped_configuration_loads(tmp_path):
    """The ConfigMap's configuration is one that the daemon takes."""
    shipped = yaml.safe_load((DEPLOY / "kubernetes" / "configuration.yaml").read_text())["data"]["retrain.yaml"]
    path = tmp_path / "retrain.yaml"
    path.write_text(shipped)

    config = load_config(path)

    assert config.http.listen == ("0.0.0.0", 8080)
    assert list(config.models) == ["example"]


def test_the_image_copies_what_exists():
    """Every file that the Dockerfile copies out of the source tree is there."""
    copied = [
        name
        for line in (DEPLOY / "docker" / "Dockerfile").read_text().splitlines()
        if line.startswith("COPY ") and "--from" not in line
        for name in line.split()[1:-1]
    ]

    assert copied
    assert [name for name in copied if not (ROOT / name).exists()] == []
