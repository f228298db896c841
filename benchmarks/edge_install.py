"""A fresh environment with jaxmec-edge alone: what it weighs, and that it decides the same.

python benchmarks/edge_install.py

Makes a virtual environment, installs `edge/` into it as pip does, opens a bundle made here and
compares its decisions. It downloads NumPy and ONNX Runtime from the index that pip is set to.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

import jax
import numpy as np
import tyro

from jaxmec.agents import DSAC
from jaxmec.deploy import export, onnx
from jaxmec.deploy.runtime import Queues, Task
from jaxmec.experiment import Policy, Setting
from jaxmec.training.rollout import make_spec

ROOT = Path(__file__).parents[1]
DECIDE = """
import json, sys
from jaxmec.deploy import onnx
from jaxmec.deploy.runtime import Queues, Task
scheduler = onnx.load(sys.argv[1])
answers = []
for backlog, task in json.load(open(sys.argv[2])):
    decision = scheduler.decide(None, Queues(backlog=backlog), Task(*task))
    answers.append([list(decision.servers), decision.fractions.tolist()])
roots = {name.partition(".")[0] for name in sys.modules}
print(json.dumps([answers, sorted(roots & {"jax", "jaxlib", "flax", "orbax"})]))
"""


def size_of(folder: Path) -> int:
    """Bytes of all files below."""
    return sum(file.lstat().st_size for file in folder.rglob("*") if not file.is_dir())


def main(extra: str = "", decisions: int = 1_000) -> int:
    """Install, weigh, compare; the exit code is 1 where a decision differs.

    Args:
        extra: of jaxmec-edge: "serve", or none.
        decisions: how many are compared.
    """
    setting = Setting("MultiServerOffloading-v0", "amcoedge")
    spec = make_spec(*setting.make())
    agent = DSAC(hidden=(64, 64), judged_chains=0)
    policy = Policy(agent, agent.init(jax.random.key(0), spec), spec, setting, "dsac")
    rng = np.random.default_rng(0)
    asked = [
        (rng.exponential(3, 5).tolist(), (int(rng.integers(5)), *rng.uniform(0.2, 5, 2).tolist()))
        for _ in range(decisions)
    ]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        export.export(policy, folder / "bundle")
        (folder / "asked.json").write_text(json.dumps(asked))
        venv.create(folder / "env", with_pip=True)
        python = folder / "env" / "bin" / "python"
        bare = size_of(folder / "env")
        target = f"{ROOT / 'edge'}[{extra}]" if extra else str(ROOT / "edge")
        subprocess.run([python, "-m", "pip", "install", "--quiet", target], check=True)
        listed = subprocess.run(
            [python, "-m", "pip", "list", "--format", "freeze"],
            check=True,
            capture_output=True,
            text=True,
        ).stdout.split()
        installed = size_of(folder / "env") - bare
        run = subprocess.run(
            [python, "-c", DECIDE, folder / "bundle", folder / "asked.json"],
            check=True,
            capture_output=True,
            text=True,
            cwd=folder,
        )
        answers, heavy = json.loads(run.stdout)
        scheduler = onnx.load(folder / "bundle")
        here = scheduler.decide_many(
            None,
            [Queues(backlog=backlog) for backlog, _ in asked],
            [Task(*task) for _, task in asked],
        )
    same = sum(
        tuple(servers) == decision.servers and np.allclose(fractions, decision.fractions, atol=1e-6)
        for (servers, fractions), decision in zip(answers, here, strict=True)
    )
    print(
        "installed:", ", ".join(line for line in listed if not line.startswith(("pip=", "setup")))
    )
    print(f"size: {installed / 1e6:.0f} MB beyond an empty environment of {bare / 1e6:.0f} MB")
    print(f"imported of JAX and what needs it: {', '.join(heavy) or 'nothing'}")
    print(f"decisions alike: {same} of {decisions}")
    return int(same != decisions or bool(heavy))


if __name__ == "__main__":
    sys.exit(tyro.cli(main))
