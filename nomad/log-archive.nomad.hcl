# log-archive: once a night, moves auctions that ended LOG_KEEP_DAYS ago from the log into files on a volume.
# Variables, order and volumes: nomad/README.md.

variable "image" {
  type        = string
  description = "The image of the Dockerfile, in production by digest: registry.example/flash-auction@sha256:…"
}

variable "datacenters" {
  type    = list(string)
  default = ["dc1"]
}

variable "log_keep_days" {
  type    = string
  default = "30"
}

variable "archive_volume" {
  type        = string
  default     = "archive"
  description = "A host volume: the only copy of old records that proves their chain"
}

job "log-archive" {
  datacenters = var.datacenters
  type        = "batch"

  periodic {
    crons            = ["30 3 * * *"]
    prohibit_overlap = true
  }

  group "log-archive" {
    volume "archive" {
      type   = "host"
      source = var.archive_volume
    }

    restart {
      attempts = 3
      interval = "30m"
      delay    = "60s"
      mode     = "fail"
    }

    task "log-archive" {
      driver = "docker"

      config {
        image   = var.image
        command = "flash-admin"
        args    = ["log", "archive", "--directory", "/archive"]

        readonly_rootfs = true
        cap_drop        = ["all"]
        security_opt    = ["no-new-privileges"]
      }

      volume_mount {
        volume      = "archive"
        destination = "/archive"
      }

      env {
        LOG_KEEP_DAYS = var.log_keep_days
      }

      # Secrets: nomad var put nomad/jobs/log-archive redis_url=… nats_url=…
      template {
        data        = <<-EOF
        {{ with nomadVar "nomad/jobs/log-archive" }}
        REDIS_URL={{ .redis_url.Value | toJSON }}
        NATS_URL={{ .nats_url.Value | toJSON }}
        {{ end }}
        EOF
        destination = "secrets/settings.env"
        env         = true
        change_mode = "noop"
      }

      resources {
        cpu    = 200
        memory = 256
      }
    }
  }
}
