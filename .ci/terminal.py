"""Runs the demo's live view on a terminal, presses its keys, and checks how it leaves the terminal.

    .ci/terminal.py COMMAND...

Fails unless each key has its effect, three of them cause one rotation each, the command exits with 0, and the
terminal has its former settings.
"""

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time

# Each key, and the word that the view draws for it before the next key is pressed. The screen is so large that the
# view never overwrites part of a word.
KEYS = [
    ("r", b"demand:"),
    ("v", b"revoked;"),
    ("c", b"sides,"),
    ("o", b"stopped"),
    ("o", b"again"),
    ("n", b"stalled:"),
    ("n", b"resumed"),
    ("p", b"stalled:"),
    ("p", b"resumed"),
    ("s", b"sealed"),
    ("s", b"unsealed"),
    ("q", b"\x1b[?1049l"),
]
SIZE = (60, 200)
TAKEN = b"\x1b[?1049h"
# Seconds for the effect of a key, and for the start, which may include a build.
DEADLINE, START = 120, 900


class Terminal:
    def __init__(self, command):
        self.keyboard, self.line = pty.openpty()
        fcntl.ioctl(self.line, termios.TIOCSWINSZ, struct.pack("HHHH", *SIZE, 0, 0))
        self.before = termios.tcgetattr(self.line)
        self.seen = b""
        self.child = subprocess.Popen(
            command, stdin=self.line, stdout=self.line, stderr=self.line, start_new_session=True
        )

    def wait_for(self, word, deadline=DEADLINE):
        """Reads until `word` has been drawn, and drops everything up to it."""
        end = time.monotonic() + deadline
        while word not in self.seen:
            if time.monotonic() > end or (self.child.poll() is not None and not self.read()):
                if self.child.poll() is None:
                    os.killpg(self.child.pid, signal.SIGTERM)
                sys.exit(f"{word} was never drawn; the last was {self.seen[-2000:]}")
            self.read()
        self.seen = self.seen.partition(word)[2]

    def read(self):
        if not select.select([self.keyboard], [], [], 0.1)[0]:
            return False
        self.seen += os.read(self.keyboard, 65536)
        return True


terminal = Terminal(sys.argv[1:])
terminal.wait_for(TAKEN, START)
for key, word in KEYS:
    os.write(terminal.keyboard, key.encode())
    terminal.wait_for(word)
code = terminal.child.wait(DEADLINE)
while terminal.read():
    pass
summary = terminal.seen.decode(errors="replace").replace("\r", "")
print(summary)
assert termios.tcgetattr(terminal.line) == terminal.before, "the terminal's settings have changed"
assert code == 0, f"the exit code is {code}"
assert re.search(r"^3 rotations", summary, re.M), "renew, revoke and the new CA must cause one rotation each"
