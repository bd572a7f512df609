//! Postgres pools that move onto each new certificate without a failed query.
