"""Runs the demo's live view on a terminal, presses its keys, and checks the result.

    .ci/terminal.py COMMAND...

Fails unless each key has its effect, three keys caused one rotation each, the command ends with 0, and the
terminal is restored.
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

# Each key is pressed after the word of the previous one was drawn. The screen is so large that no text is drawn over
# another, so each word arrives whole.
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
ALTERNATE_SCREEN = b"\x1b[?1049h"
# Limits in seconds: for the effect of a key, and for the start, which may include a build.
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
        """Reads until `word` arrives, and discards everything up to it."""
        end = time.monotonic() + deadline
        while word not in self.seen:
            if time.monotonic() > end or (self.child.poll() is not None and not self.read()):
                if self.child.poll() is None:
                    os.killpg(self.child.pid, signal.SIGTERM)
                sys.exit(f"{word} was not drawn; the last output was {self.seen[-2000:]}")
            self.read()
        self.seen = self.seen.partition(word)[2]

    def read(self):
        if not select.select([self.keyboard], [], [], 0.1)[0]:
            return False
        self.seen += os.read(self.keyboard, 65536)
        return True


terminal = Terminal(sys.argv[1:])
terminal.wait_for(ALTERNATE_SCREEN, START)
for key, word in KEYS:
    os.write(terminal.keyboard, key.encode())
    terminal.wait_for(word)
code = terminal.child.wait(DEADLINE)
while terminal.read():
    pass
output = terminal.seen.decode(errors="replace").replace("\r", "")
print(output)
assert termios.tcgetattr(terminal.line) == terminal.before, "the terminal was not restored"
assert code == 0, f"the command ended with {code}"
assert re.search(r"^3 rotations", output, re.M), "not exactly one rotation each for renew, revoke and new CA"
