"""One contender in a process of its own: reads a JSON command a line, answers each with a JSON line.

Started by benchmarks.compare as `python -m benchmarks.worker ours|torch|library`. The first command is `setup`, all
others are `run`; their arguments are those of the methods of Ours and Theirs.
"""

import json
import os
import sys

from sit_jax.common.errors import InputError


def main(name: str) -> None:
    """Serves commands until the input ends; wrong input is answered with `error`, anything else ends the process."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print goes to stderr, and no answer gets lost in it
    if name == "ours":
        from benchmarks.ours import Ours

        contender = Ours()
    else:
        from benchmarks.theirs import Theirs

        contender = Theirs(name)
    for line in sys.stdin:
        command, arguments = json.loads(line)
        try:
            answer = {"result": getattr(contender, command)(**arguments)}
        except InputError as error:
            answer = {"error": str(error)}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
