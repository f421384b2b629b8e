# Sizes for one node of two cores: nomad job run -hcl2-strict=false -var-file=nomad/dev.hcl … nomad/<job>.nomad.hcl
# cpu is in MHz of a node, memory in MiB. Two instances of each service, and of one service four during its update.

auction_management_count  = 2
auction_management_cpu    = 100
auction_management_memory = 128

auction_notifications_count  = 2
auction_notifications_cpu    = 100
auction_notifications_memory = 64

bid_persistence_count  = 2
bid_persistence_cpu    = 100
bid_persistence_memory = 128

bid_processing_count  = 2
bid_processing_cpu    = 200
bid_processing_memory = 256

timer_count  = 2
timer_cpu    = 100
timer_memory = 128

websocket_count  = 2
websocket_cpu    = 200
websocket_memory = 512

ingress_count  = 1
ingress_cpu    = 200
ingress_memory = 256

nats_cpu    = 300
nats_memory = 512

redis_cpu = 300

stream_replicas = "1"

# NATS and Redis are on the same node.
allow_plaintext = "true"
