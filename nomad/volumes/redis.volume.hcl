# The hot state. Once, on the node that shall run it; the owner is the user `redis` of its image:
# nomad volume create nomad/volumes/redis.volume.hcl
name      = "redis"
type      = "host"
plugin_id = "mkdir"

parameters = {
  mode = "0700"
  uid  = 999
  gid  = 1000
}

capability {
  access_mode     = "single-node-writer"
  attachment_mode = "file-system"
}
