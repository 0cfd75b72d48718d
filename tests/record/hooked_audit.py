"""`flashtrail audit` in a process that notes every file it opens and every connection it asks for, as JSON.

With words: where to and what to audit. Without: each line of standard input is such a list, of which a fork does the
work, and each line of standard output is one exit status. A fork has the modules already: what importing them opens,
asks for or starts is seen with words only.
"""

import json
import os
import sys

from flashtrail import cli
from flashtrail.record import audit, conclusions  # noqa: F401  (with what they import)

NOTED: dict[str, list[str]] = {"open": [], "net": [], "run": []}


def note(event: str, words: tuple[object, ...]) -> None:
    if event == "open" and isinstance(words[0], str | bytes):
        NOTED["open"].append(os.path.realpath(os.fsdecode(words[0])))
    elif event in ("socket.connect", "socket.getaddrinfo"):
        NOTED["net"].append(str(words))
    elif event in ("subprocess.Popen", "os.exec", "os.system", "os.posix_spawn"):
        NOTED["run"].append(str(words[:2]))


def hooked(answer: str, *words: str) -> None:
    sys.addaudithook(note)
    code = cli.main(["audit", *words])
    with open(answer, "w") as stream:  # noqa: PTH123
        json.dump({"code": code, **NOTED}, stream)


def main() -> None:
    if sys.argv[1:]:
        return hooked(*sys.argv[1:])
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            return hooked(*json.loads(line))  # it ends as any program does
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
