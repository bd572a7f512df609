"""Runs the demo's live view on a terminal, breaks things by its keys, and looks at what is left.

    .ci/terminal.py COMMAND...

Fails unless the command ends with 0, three keys were a rotation each, and the terminal is as it was before.
"""

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time

# Renew, revoke, change the CA, stop OpenBao and start it again, stall each network and heal it, seal, unseal, quit.
# A dot is a key that means nothing: it gives what came before it time to end.
KEYS = "r..v..c....o..o..n.n.p.p.s..s..q"
BETWEEN_KEYS = 1.0
DEADLINE = 600
TAKEN, GIVEN_BACK = b"\x1b[?1049h", b"\x1b[?1049l"


def run(command):
    """What the command wrote, how it ended, and the terminal's settings before and after."""
    terminal, line = pty.openpty()
    fcntl.ioctl(line, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
    before = termios.tcgetattr(line)
    child = subprocess.Popen(command, stdin=line, stdout=line, stderr=line, start_new_session=True)
    seen, keys, next_key = b"", list(KEYS), None
    ends = time.monotonic() + DEADLINE
    while time.monotonic() < ends:
        readable = select.select([terminal], [], [], 0.1)[0]
        if readable:
            seen += os.read(terminal, 65536)
        elif child.poll() is not None:
            return seen, child.returncode, before, termios.tcgetattr(line)
        if next_key is None and TAKEN in seen:
            next_key = time.monotonic() + BETWEEN_KEYS
        if next_key is not None and keys and time.monotonic() > next_key:
            os.write(terminal, keys.pop(0).encode())
            next_key += BETWEEN_KEYS
    child.terminate()
    sys.exit("it does not end")


seen, code, before, after = run(sys.argv[1:])
said = seen.rpartition(GIVEN_BACK)[2].decode(errors="replace").replace("\r", "")
print(said)
assert TAKEN in seen and GIVEN_BACK in seen, "the screen was not taken and given back"
assert after == before, "the terminal is not as it was"
assert code == 0, f"it ended with {code}"
assert re.search(r"^3 rotations", said, re.M), "not one rotation each for renew, revoke and the new CA"
