"""Pool processes are forked while threads of the worker use the state."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

FORK_WITHIN_A_TRANSACTION = """
import os, sys, threading
from contextlib import closing
from pathlib import Path
from sqlalchemy import text
from meshtasks.state.database import Database, StateLocation

location = StateLocation.in_directory(Path(sys.argv[1]))
within, forking = threading.Event(), threading.Event()

def write(name):
    with closing(Database(name, location, "old.sqlite")) as state:
        with state.transaction() as db:
            db.execute(text("INSERT INTO alert_notes VALUES (:n, 'x')"), {"n": name})
            within.set()
            forking.wait(60)

thread = threading.Thread(target=write, args=["thread"])
thread.start()
within.wait(60)
os.register_at_fork(before=forking.set)
if not (child := os.fork()):
    try:
        write("child")
    except BaseException as error:
        print(error, flush=True)
        os._exit(1)
    os._exit(0)
thread.join()
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""

FORK_WHILE_CLOSING = """
import os, sys, threading
from pathlib import Path
from sqlalchemy import text
from meshtasks.state.database import Database, StateLocation

state = Database("thread", StateLocation.in_directory(Path(sys.argv[1])), "old.sqlite")
within, forking, closed = threading.Event(), threading.Event(), []

class Closing:
    def __init__(self, connection):
        self.connection = connection
    def close(self):
        within.set()
        forking.wait(60)
        self.connection.close()
        closed.append(self)

def close():
    with state.transaction() as db:
        db.execute(text("INSERT INTO alert_notes VALUES ('a', 'x')"))
    state._connection = Closing(state._connection)
    state.close()

thread = threading.Thread(target=close)
thread.start()
within.wait(60)
os.register_at_fork(before=forking.set)
if not (child := os.fork()):
    os._exit(0 if closed else 1)
thread.join()
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def run(script: str, directory: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", script, str(directory)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_a_process_forked_within_a_transaction_of_a_thread_can_write(
    tmp_path: Path,
) -> None:
    run(FORK_WITHIN_A_TRANSACTION, tmp_path)


def test_a_process_is_forked_when_a_thread_has_closed_its_connection(
    tmp_path: Path,
) -> None:
    run(FORK_WHILE_CLOSING, tmp_path)
