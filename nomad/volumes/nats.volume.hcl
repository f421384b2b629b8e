# The log, if one server keeps it. Once, on the node that shall run it:
# nomad volume create nomad/volumes/nats.volume.hcl
name      = "nats"
type      = "host"
plugin_id = "mkdir"

parameters = {
  mode = "0700"
  uid  = 10001
  gid  = 10001
}

capability {
  access_mode     = "single-node-writer"
  attachment_mode = "file-system"
}
