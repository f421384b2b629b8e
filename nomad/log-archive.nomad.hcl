# log-archive: once a night, moves auctions that ended LOG_KEEP_DAYS ago from the log into files on a volume.
# nomad job run -var image=registry.example/flash-auction:1 nomad/log-archive.nomad.hcl

variable "image" {
  type        = string
  description = "The image that the Dockerfile builds, with its tag"
}

variable "datacenters" {
  type    = list(string)
  default = ["dc1"]
}

variable "log_keep_days" {
  type    = string
  default = "30"
}

variable "volume" {
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
      source = var.volume
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
      }

      volume_mount {
        volume      = "archive"
        destination = "/archive"
      }

      env {
        LOG_KEEP_DAYS = var.log_keep_days
      }

      # Secrets of this cluster: nomad var put nomad/jobs/flash database_url=… redis_url=… nats_url=…
      template {
        data        = <<-EOF
        {{ with nomadVar "nomad/jobs/flash" }}
        REDIS_URL={{ .redis_url }}
        NATS_URL={{ .nats_url }}
        {{ end }}
        EOF
        destination = "secrets/settings.env"
        env         = true
      }

      resources {
        cpu    = 200
        memory = 256
      }
    }
  }
}
