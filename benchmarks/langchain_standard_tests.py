"""Count how LangChain's standard chat tests end for `OneGenLLM`, and for langchain-huggingface's local path.

    pip install langchain-huggingface
    python benchmarks/langchain_standard_tests.py

Both run the bundled checkpoint through the unmodified suites of langchain-tests, each with the flags that its class
declares by default and, for ours, JSON mode on top. A test that fails only because of what a small model can do is
counted as failed for both.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from importlib.util import find_spec
from pathlib import Path

TEMPLATE = """
from langchain_tests.integration_tests import ChatModelIntegrationTests
from langchain_tests.unit_tests import ChatModelUnitTests
{setup}

class TestUnit(Settings, ChatModelUnitTests):
    pass

class TestIntegration(Settings, ChatModelIntegrationTests):
    pass
"""
ONEGEN = """
from onegen_integrations.langchain import OneGenLLM

class Settings:
    chat_model_class = OneGenLLM
    supports_json_mode = True
    supports_model_override = False
"""
HUGGINGFACE = """
from langchain_huggingface import ChatHuggingFace, HuggingFacePipeline
from onegen_integrations.config import BUNDLED

pipeline = HuggingFacePipeline.from_model_id(str(BUNDLED), "text-generation", pipeline_kwargs={"max_new_tokens": 64})

class Settings:
    chat_model_class = ChatHuggingFace
    supports_model_override = False
    chat_model_params = {"llm": pipeline, "model_id": str(BUNDLED)}
"""


def count(name: str, setup: str) -> None:
    """Run both suites for one class and print how its tests ended."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "test_standard.py"
        path.write_text(TEMPLATE.format(setup=setup), encoding="utf-8")
        report = Path(folder) / "report.xml"
        options = ["-p", "no:cacheprovider", "--benchmark-disable", "-o", "asyncio_mode=auto", "--rootdir", folder]
        run = subprocess.run(  # noqa: S603 (our own arguments)
            [sys.executable, "-m", "pytest", str(path), f"--junitxml={report}", *options],
            capture_output=True,
            text=True,
            check=False,
        )
        if not report.is_file():
            sys.exit(f"{name}: the tests did not run\n{run.stdout}{run.stderr}")
        [suite] = ET.parse(report).getroot().iter("testsuite")  # noqa: S314 (pytest wrote it)
    total, failures, errors, skipped = (int(suite.get(key, 0)) for key in ("tests", "failures", "errors", "skipped"))
    failed = failures + errors
    print(f"{name:40}{total - failed - skipped:8}{failed:8}{skipped:8}", flush=True)


if __name__ == "__main__":
    print(f"{'':40}{'passed':>8}{'failed':>8}{'skipped':>8}")
    count("OneGenLLM", ONEGEN)
    if find_spec("langchain_huggingface") is None:
        print("langchain-huggingface is not installed")
    else:
        count("ChatHuggingFace(HuggingFacePipeline)", HUGGINGFACE)
