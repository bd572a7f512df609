ui           = false
api_addr     = "https://openbao:8200"
cluster_addr = "https://127.0.0.1:8201"

storage "raft" {
  path                   = "/data/raft"
  node_id                = "demo"
  # A single node then elects itself after 1 to 2 s instead of 5 to 10.
  performance_multiplier = 1
}

listener "tcp" {
  address         = "0.0.0.0:8200"
  cluster_address = "127.0.0.1:8201"
  tls_cert_file   = "/data/listener.pem"
  tls_key_file    = "/data/listener.pem"
}
