# Archived auctions: the only copy of old records that proves their chain. Once, on a node whose disk is backed up:
# nomad volume create nomad/volumes/archive.volume.hcl
name      = "archive"
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
