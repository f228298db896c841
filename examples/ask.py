"""Ask a running decision service where tasks go.

    jaxmec serve BUNDLE &
    python examples/ask.py --url http://127.0.0.1:8080

Needs Python's standard library and `jaxmec.deploy.client` alone.
"""

from __future__ import annotations

import argparse
import os

from jaxmec.deploy.client import Client


def main() -> None:
    """One task, then three at once."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", default="http://127.0.0.1:8080")
    url = parser.parse_args().url
    with Client(url, token=os.environ.get("JAXMEC_TOKEN")) as client:
        health = client.health()
        servers = health["servers"]
        print(f"{health['method']}, {servers} servers, needs {', '.join(health['needs'])}")
        # Everything that a policy may have been trained to see; what it needs is used.
        queues = {
            "backlog": [0.5 * i for i in range(servers)],  # Gcycles
            "inflight": [0.0] * servers,  # Gcycles
            "sent": [0.0] * servers,  # Gcycles
            "uplink": [0.0] * servers,  # s
            "progress": 0.0,
            "remaining_tasks": 3,
            "remaining_work": 1.5,  # Gcycles
            "place": 0,
            "slot": 0,
            "sent_tasks": [0.0] * servers,
            "sent_work": [0.0] * servers,  # Gcycles
        }
        task = {"origin": 0, "size": 3.0, "work": 0.6}  # Mbit, Gcycles
        decision = client.decide(task, queues)
        for server in decision["servers"]:
            print(f"  server {server} takes {decision['fractions'][server]:.1%}")
        print(f"  done in {decision['makespan']:.3f} s, decided by {decision['by']}")
        several = [{**task, "size": size} for size in (2.0, 3.5, 5.0)]
        for asked, answer in zip(
            several, client.decide_many(several, [queues] * len(several)), strict=True
        ):
            print(f"  {asked['size']} Mbit: servers {answer['servers']}")


if __name__ == "__main__":
    main()
