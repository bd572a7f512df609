//! Real OpenBao and real Postgres as child processes, and a TCP fault proxy, for tests and the demo.
