"""One contender in its own process: reads one JSON command per line and answers each with one JSON line.

benchmarks.compare starts it as `python -m benchmarks.worker ours|torch|library`. The first command is `setup`, the
other commands are `run`. Their arguments are those of the methods of Ours and Theirs.
"""

import json
import os
import sys

from sit_jax.common.errors import InputError


def main(name: str) -> None:
    """Serves commands until the input ends; answers wrong input with `error`, any other exception ends the process."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # library output goes to stderr, so that it cannot corrupt an answer
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
