"""Two processes use a database with a write-ahead log, which they share by mapping a file, locks and syncs.

`database.py make FOLDER` makes the database and leaves its log behind, as after a crash.
`database.py use FOLDER` uses it: the output is the same wherever FOLDER lies. Each line is the name of a
case and its outcome.
"""

import faulthandler
import os
import sqlite3
import sys

ROWS = 500


def say(case, outcome):
    print(f"{case}: {outcome}", flush=True)


def open_database(folder):
    database = sqlite3.connect(f"{folder}/db", timeout=0, isolation_level=None)
    database.execute("PRAGMA synchronous = FULL")
    return database


def ask(database, text, *values):
    try:
        found = database.execute(text, values).fetchone()
        return found[0] if found else "done"
    except sqlite3.Error as error:
        return str(error)


def insert(database, first):
    for number in range(first, first + ROWS):
        database.execute("INSERT INTO rows VALUES (?, ?)", (number, bytes([number % 251]) * 300))


def make(folder):
    os.makedirs(folder, exist_ok=True)
    database = open_database(folder)
    ask(database, "PRAGMA journal_mode = WAL")
    ask(database, "PRAGMA wal_autocheckpoint = 0")
    database.execute("CREATE TABLE rows (number INTEGER PRIMARY KEY, content BLOB)")
    insert(database, 0)
    say("files", sorted(os.listdir(folder)))
    # Closing would empty the log.
    os._exit(0)


class Other:
    """Another process with the same database. It runs a statement for each line that it gets."""

    def __init__(self, folder):
        self.requests, requests = os.pipe()[::-1]
        answers, self.answers = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            # Only the parent may hold this end: the child stops when it is closed.
            os.close(self.requests)
            database = open_database(folder)
            with os.fdopen(requests) as lines, os.fdopen(self.answers, "w", 1) as out:
                for line in lines:
                    if line == "insert\n":
                        insert(database, 2 * ROWS)
                        print("inserted", file=out)
                    else:
                        print(ask(database, line), file=out)
            os._exit(0)
        os.close(requests)
        os.close(self.answers)
        self.answers = os.fdopen(answers)

    def ask(self, text):
        os.write(self.requests, f"{text}\n".encode())
        return self.answers.readline().strip()

    def stop(self):
        os.close(self.requests)
        return os.waitpid(self.pid, 0)[1]


COUNT = "SELECT count(*) || ' rows, ' || sum(length(content)) FROM rows"


def use(folder):
    # This process reads before anything is changed, and keeps its files open.
    other = Other(folder)
    say("recovered", other.ask(COUNT))
    own = open_database(folder)
    say("mode", ask(own, "PRAGMA journal_mode"))
    insert(own, ROWS)
    say("own rows", ask(own, COUNT))
    say("rows seen by the other", other.ask(COUNT))

    say("other inserts", other.ask("insert"))
    say("rows of the other", ask(own, COUNT))

    # Locks: one writer at a time, and readers keep what they saw.
    say("own transaction", ask(own, "BEGIN IMMEDIATE"))
    say("other transaction", other.ask("BEGIN IMMEDIATE"))
    say("delete", ask(own, "DELETE FROM rows WHERE number < 100"))
    say("before commit", other.ask("SELECT count(*) FROM rows"))
    say("commit", ask(own, "COMMIT"))
    say("after commit", other.ask("SELECT count(*) FROM rows"))
    say("other starts to read", other.ask("BEGIN") + ", " + other.ask("SELECT count(*) FROM rows"))
    say("delete more", ask(own, "DELETE FROM rows WHERE number < 200"))
    say("other reads on", other.ask("SELECT count(*) FROM rows"))
    # A reader of the log keeps it from being emptied.
    say("checkpoint beside a reader", ask(own, "PRAGMA wal_checkpoint(TRUNCATE)"))
    say("other ends", other.ask("COMMIT"))
    say("checkpoint", ask(own, "PRAGMA wal_checkpoint(TRUNCATE)"))
    say("log", os.path.getsize(f"{folder}/db-wal"))
    say("other rows", other.ask(COUNT))
    say("vacuum", ask(own, "VACUUM"))
    say("integrity", ask(own, "PRAGMA integrity_check") + ", " + other.ask("PRAGMA integrity_check"))
    say("other stops", other.stop())
    own.close()
    say("files", sorted(os.listdir(folder)))
    again = open_database(folder)
    say("again", ask(again, COUNT))


faulthandler.dump_traceback_later(180, exit=True)
{"make": make, "use": use}[sys.argv[1]](sys.argv[2])
