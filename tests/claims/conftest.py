"""test_running.py plays scripted episodes: it needs the rollouts' packages, which the `evidence` extra leaves out."""

from importlib.util import find_spec

collect_ignore = [] if find_spec("msgpack") else ["test_running.py"]
