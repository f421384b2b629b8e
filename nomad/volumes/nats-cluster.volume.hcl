# The log, if three servers keep it. Once for each of three nodes, with a node_id (`nomad node status`) of its own:
# nomad volume create nomad/volumes/nats-cluster.volume.hcl
name      = "nats-cluster"
type      = "host"
plugin_id = "mkdir"
# node_id = "…"

parameters = {
  mode = "0700"
  uid  = 10001
  gid  = 10001
}

capability {
  access_mode     = "single-node-writer"
  attachment_mode = "file-system"
}
