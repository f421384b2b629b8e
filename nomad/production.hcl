# Sizes for production: nomad job run -hcl2-strict=false -var-file=nomad/production.hcl … nomad/<job>.nomad.hcl
# cpu is in MHz of a node, memory in MiB. The reasons are in nomad/README.md, Sizing.

auction_management_count  = 2
auction_management_cpu    = 300
auction_management_memory = 256

auction_notifications_count  = 2
auction_notifications_cpu    = 300
auction_notifications_memory = 128

bid_persistence_count  = 2
bid_persistence_cpu    = 300
bid_persistence_memory = 256

bid_processing_count  = 2
bid_processing_cpu    = 1000
bid_processing_memory = 512

timer_count  = 2
timer_cpu    = 300
timer_memory = 256

websocket_count  = 2
websocket_cpu    = 1000
websocket_memory = 1024

ingress_count  = 2
ingress_cpu    = 1000
ingress_memory = 1024

nats_cpu    = 1000
nats_memory = 1024

redis_cpu = 1000

# With the job nats-cluster.
stream_replicas = "3"

# TLS: nomad/README.md, TLS.
allow_plaintext            = "false"
nats_configuration         = "nats-server-tls.conf"
nats_cluster_configuration = "nats-cluster-tls.conf"
