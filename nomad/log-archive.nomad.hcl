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

variable "allow_plaintext" {
  type        = string
  default     = "false"
  description = "true: NATS, Redis and PostgreSQL on other machines may be reached without TLS"
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
        LOG_KEEP_DAYS   = var.log_keep_days
        ALLOW_PLAINTEXT = var.allow_plaintext
      }

      # Secrets: nomad var put nomad/jobs/log-archive redis_url=… nats_url=…
      template {
        data        = <<-EOF
        {{ with nomadVar "nomad/jobs/log-archive" }}
        REDIS_URL={{ .redis_url.Value | toJSON }}
        NATS_URL={{ .nats_url.Value | toJSON }}
        {{ with .ca.Value }}
        NATS_CA_FILE="/secrets/ca.pem"
        REDIS_CA_FILE="/secrets/ca.pem"
        {{ end }}
        {{ with .client_certificate.Value }}
        NATS_CERT_FILE="/secrets/client.pem"
        NATS_KEY_FILE="/secrets/client-key.pem"
        {{ end }}
        {{ end }}
        EOF
        destination = "secrets/settings.env"
        env         = true
        change_mode = "noop"
      }

      # PEM files, empty without TLS: nomad/README.md, TLS.
      template {
        data        = <<-EOF
        {{ with nomadVar "nomad/jobs/log-archive" }}{{ with .ca.Value }}{{ . }}{{ end }}{{ end }}
        EOF
        destination = "secrets/ca.pem"
        change_mode = "noop"
      }

      # The certificate of this job for NATS.
      template {
        data        = <<-EOF
        {{ with nomadVar "nomad/jobs/log-archive" }}{{ with .client_certificate.Value }}{{ . }}{{ end }}{{ end }}
        EOF
        destination = "secrets/client.pem"
        change_mode = "noop"
      }

      # Its key.
      template {
        data        = <<-EOF
        {{ with nomadVar "nomad/jobs/log-archive" }}{{ with .client_key.Value }}{{ . }}{{ end }}{{ end }}
        EOF
        destination = "secrets/client-key.pem"
        change_mode = "noop"
      }

      resources {
        cpu    = 200
        memory = 256
      }
    }
  }
}
