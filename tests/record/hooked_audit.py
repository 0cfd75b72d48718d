"""`flashtrail audit` in a process that notes every file it opens and every connection it asks for, as JSON."""

import json
import os
import sys

NOTED: dict[str, list[str]] = {"open": [], "net": [], "run": []}


def note(event: str, words: tuple[object, ...]) -> None:
    if event == "open" and isinstance(words[0], str | bytes):
        NOTED["open"].append(os.path.realpath(os.fsdecode(words[0])))
    elif event in ("socket.connect", "socket.getaddrinfo"):
        NOTED["net"].append(str(words))
    elif event in ("subprocess.Popen", "os.exec", "os.system", "os.posix_spawn"):
        NOTED["run"].append(str(words[:2]))


from flashtrail import cli  # noqa: E402

sys.addaudithook(note)
code = cli.main(["audit", *sys.argv[2:]])
with open(sys.argv[1], "w") as stream:  # noqa: PTH123
    json.dump({"code": code, **NOTED}, stream)
