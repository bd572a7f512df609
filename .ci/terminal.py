"""Runs the demo's live view on a terminal, breaks things by its keys, and looks at what is left.

    .ci/terminal.py COMMAND...

Fails unless each key does what it says, three of them were a rotation each, the command ends with 0, and the
terminal is as it was before.
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

# Each key is typed once the word of the one before has been drawn. Words are whole on the screen: it is so large
# that nothing is drawn over.
KEYS = [
    ("r", b"demand:"),
    ("v", b"revoked;"),
    ("c", b"sides,"),
    ("o", b"stopped"),
    ("o", b"again"),
    ("n", b"stalls:"),
    ("n", b"everything"),
    ("p", b"stalls:"),
    ("p", b"everything"),
    ("s", b"sealed"),
    ("s", b"unsealed"),
    ("q", b"\x1b[?1049l"),
]
SIZE = (60, 200)
TAKEN = b"\x1b[?1049h"
# Seconds for what a key does, and for the start, before which there may be a build.
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
        """Reads on until `word` is there; what came up to it is done with."""
        ends = time.monotonic() + deadline
        while word not in self.seen:
            if time.monotonic() > ends or (self.child.poll() is not None and not self.read()):
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
said = terminal.seen.decode(errors="replace").replace("\r", "")
print(said)
assert termios.tcgetattr(terminal.line) == terminal.before, "the terminal is not as it was"
assert code == 0, f"it ended with {code}"
assert re.search(r"^3 rotations", said, re.M), "not one rotation each for renew, revoke and the new CA"
