//! Vault and OpenBao PKI as a certificate source for Perennial.
