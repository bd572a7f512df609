"""Runs docker-compose.yml as it is, on a Docker of its own, with each fault that docs/src/compose.md describes.

    docker.py TOOLS PROGRAM

TOOLS is a folder to keep files in, with Debian's prometheus unpacked; PROGRAM is the built service.
"""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from pathlib import Path

import standins

# Shorter than in the file (four minutes, 130 s, two minutes without OpenBao), to save CI's time.
LIFETIME, OUTAGE, STOPPED = 60, 35, 20
SOON = 180
# No command takes longer.
LONGEST = 600
IMAGE_LIMIT = 40_000_000
SERVICE, PROMETHEUS = 18080, 19090
COMPOSE = os.environ.get("COMPOSE", "docker-compose").split()
ENVIRONMENT = {
    "COMPOSE": " ".join(COMPOSE),
    "COMPOSE_PROJECT_NAME": "perennial-ci",
    "PERENNIAL_TTL": f"{LIFETIME}s",
    "PERENNIAL_OUTAGE": f"{OUTAGE}s",
    "SERVICE_PORT": str(SERVICE),
    "PROMETHEUS_PORT": str(PROMETHEUS),
    # No proxy for 127.0.0.1, whatever the environment sets.
    "NO_PROXY": "127.0.0.1",
    "no_proxy": "127.0.0.1",
}


@contextlib.contextmanager
def daemon(folder):
    """A daemon of our own, because the stand-ins have the names of real images."""
    socket = f"unix://{folder}/docker.sock"
    log = folder / "dockerd.log"
    with log.open("w") as out:
        process = subprocess.Popen(
            ["dockerd", f"--host={socket}", f"--data-root={folder}/data", f"--exec-root={folder}/exec",
             f"--pidfile={folder}/dockerd.pid"], stdout=out, stderr=out)
    os.environ["DOCKER_HOST"] = socket
    try:
        def answers():
            if process.poll() is not None:
                sys.exit(f"Docker cannot run here, so its step fails:\n{log.read_text()[-2000:]}")
            return subprocess.run(["docker", "info"], capture_output=True).returncode == 0
        until("dockerd answers", answers)
        yield
    finally:
        process.terminate()
        process.wait(60)


def until(what, holds, within=SOON):
    end = time.monotonic() + within
    while not (result := holds()):
        if time.monotonic() > end:
            raise AssertionError(f"not within {within} s: {what}")
        time.sleep(0.5)
    return result


def out(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=LONGEST).stdout


def compose(*words):
    done = subprocess.run([*COMPOSE, *words], capture_output=True, text=True, timeout=LONGEST)
    if done.returncode:
        raise AssertionError(f"compose {' '.join(words)}:\n{done.stdout}{done.stderr}")
    return done.stdout


def container(name):
    """Found by its label: `ps` of docker-compose 1 and 2 print different names."""
    project = ENVIRONMENT["COMPOSE_PROJECT_NAME"]
    return out("docker", "ps", "-aq", "--filter", f"label=com.docker.compose.project={project}",
               "--filter", f"label=com.docker.compose.service={name}").strip()


def log(name):
    done = subprocess.run(["docker", "logs", container(name)], check=True, capture_output=True, text=True)
    return done.stdout + done.stderr


def fetch(port, path):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
        return answer.read().decode()


def counters():
    return json.loads(fetch(SERVICE, "/counters"))


def sessions():
    """The serial numbers that Postgres sees now."""
    return {line.split("|")[0] for line in out("docker/demo", "sessions").split()}


def rotated_beyond(serial):
    """Waits until Postgres sees every session on one certificate, other than this one."""
    def holds():
        seen, now = sessions(), counters()
        return seen == {now["serial"]} and now["serial"] != serial and now
    return until(f"all sessions on another certificate than {serial}", holds)


class Course:
    """One fault after the other; the service answers before and after each."""

    def __init__(self):
        self.began = time.monotonic()
        self.last = counters()

    def passed(self, what, retries=False, anew=False):
        """Asserts that queries were answered and none failed; retries only where the server ended sessions."""
        before = 0 if anew else self.last["queries_ok"]
        now = until("queries are answered", lambda: (c := counters())["queries_ok"] > before + 50 and c)
        retried = now["queries_retried"] - (0 if anew else self.last["queries_retried"])
        assert now["queries_failed"] == 0, (what, now)
        assert retries or retried == 0, (what, now)
        self.last = now
        print(f"{time.monotonic() - self.began:4.0f} s  {what}: {now['queries_ok']} queries answered, "
              f"{retried} retried, 0 failed", flush=True)


def faults():
    course = Course()
    first = counters()["serial"]
    rotated_beyond(first)
    course.passed("rotation")

    issued = counters()["serial"]
    compose("stop", "--timeout", "1", "openbao")
    # The only fixed sleep: the test needs time to pass.
    time.sleep(STOPPED)
    assert counters()["queries_failed"] == 0
    compose("--profile", "prometheus", "up", "-d")
    rotated_beyond(issued)
    course.passed(f"OpenBao stopped for at least {STOPPED} s of a lifetime of {LIFETIME} s")

    issued = counters()["serial"]
    out("docker", "kill", container("openbao"))
    compose("up", "-d")
    rotated_beyond(issued)
    course.passed("OpenBao killed")

    out("docker", "kill", container("postgres"))
    compose("up", "-d")
    course.passed("PostgreSQL killed", retries=True)

    out("docker", "kill", container("service"))
    compose("up", "-d")
    until("the service answers", lambda: subprocess.run(
        ["docker/demo", "counters"], capture_output=True).returncode == 0)
    course.passed("the service killed", anew=True)

    def refused():
        """A renewal may come before PostgreSQL has loaded the CRL: then it refuses nothing, and we revoke again."""
        fresh = rotated_beyond(counters()["serial"])["serial"]
        out("docker/demo", "revoke")
        rotated_beyond(fresh)
        return "certificate revoked" in log("postgres")
    until("PostgreSQL refuses a revoked certificate", refused)
    course.passed("the certificate revoked", retries=True)

    before = counters()
    out("docker/demo", "rotate-ca")
    now = rotated_beyond(before["serial"])
    assert now["issuer"] != before["issuer"], now
    # A new connection sees the server's new certificate.
    out(*COMPOSE, "exec", "-T", "postgres", "psql", "--host=/tmp", "--username=postgres", "--command",
        "select pg_terminate_backend(pid) from pg_stat_ssl where ssl limit 1")
    course.passed("the CA rotated", retries=True)


def watched():
    def alone():
        found = json.loads(fetch(PROMETHEUS, "/api/v1/query?" + urllib.parse.urlencode({"query": "up"})))
        return [series["value"][1] for series in found["data"]["result"]] == ["1"]
    until("Prometheus scrapes the service", alone)
    rules = json.loads(fetch(PROMETHEUS, "/api/v1/rules"))["data"]["groups"][0]["rules"]
    assert rules and all(rule["health"] == "ok" for rule in rules), rules
    assert "perennial_pool_connections" in fetch(SERVICE, "/metrics")
    print(f"Prometheus evaluates {len(rules)} alerts")


def secrets():
    """The demo's secrets, which may be in its volumes only."""
    kept = out("docker", "run", "--rm", "--entrypoint", "/bin/sh", "--volume", "perennial-ci_operator:/o:ro",
               "--volume", "perennial-ci_credential:/c:ro", "openbao/openbao", "-c", "cat /o/init; echo; cat /c/wrapped_secret_id")
    found = re.findall(r"(?:Key 1|Token): (\S+)", kept) + kept.splitlines()[-1:]
    assert len(found) == 3 and all(len(secret) > 20 for secret in found), "these are not the demo's secrets"
    return found


def shown():
    """The whole output of `docker inspect`, `docker history` and the logs."""
    ids = out("docker", "ps", "-aq").split()
    images = out("docker", "images", "-q").split()
    text = out("docker", "inspect", *ids, *images)
    text += "".join(out("docker", "history", "--no-trunc", image) for image in images)
    return text + "".join(log(name) for name in ("openbao", "setup", "postgres", "service"))


def main(tools, program):
    os.environ.update(ENVIRONMENT)
    # Not /tmp: it may be in memory.
    work = Path(tempfile.mkdtemp(prefix="docker-", dir=tools))
    try:
        with daemon(work):
            standins.images(tools, program, tools / "usr/bin", work)
            size = len(subprocess.run("docker save perennial-service:demo | gzip", shell=True, check=True,
                                      capture_output=True).stdout)
            print(f"the service's image: {size / 1e6:.1f} MB compressed, of an unoptimised program")
            assert size <= IMAGE_LIMIT
            try:
                began = time.monotonic()
                compose("--profile", "prometheus", "up", "-d")
                rotated_beyond(until("the service answers", ready)["serial"])
                print(f"first rotation {time.monotonic() - began:.0f} s after `up`", flush=True)
                faults()
                watched()
                text = shown()
                assert not [secret for secret in secrets() if secret in text], "docker or a log shows a secret"
                # Logged by a server that stops, recovers after a kill, or ends sessions.
                expected = re.compile(
                    "shutting down|starting up|not yet accepting connections|in recovery mode|terminating connection"
                )
                fatal = [line for line in log("postgres").splitlines() if "FATAL" in line and not expected.search(line)]
                assert not fatal, fatal
            except BaseException:
                print(compose("ps"), compose("logs", "--no-color", "--tail=40"), file=sys.stderr)
                raise
            finally:
                compose("--profile", "prometheus", "down", "-v")
            left = out("docker", "ps", "-aq") + out("docker", "volume", "ls", "-q") + out(
                "docker", "network", "ls", "-q", "--filter", "type=custom")
            assert not left, f"left behind: {left}"
    finally:
        shutil.rmtree(work)


def ready():
    try:
        return (now := counters())["queries_ok"] and now
    except OSError:
        return None


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve())
