# migrate: brings tables, streams and consumers to a version before its services start. Registering it runs nothing:
# nomad/dispatch.sh migrate runs it and waits for its end.
# Variables, order and volumes: nomad/README.md.

variable "image" {
  type        = string
  description = "The image of the Dockerfile, in production by digest: registry.example/flash-auction@sha256:…"
}

variable "datacenters" {
  type    = list(string)
  default = ["dc1"]
}

variable "stream_replicas" {
  type        = string
  description = "3 with the job nats-cluster, 1 with the job nats"
  default     = "1"
}

variable "allow_plaintext" {
  type        = string
  default     = "false"
  description = "true: NATS, Redis and PostgreSQL on other machines may be reached without TLS"
}

job "migrate" {
  datacenters = var.datacenters
  type        = "batch"

  # Each dispatch is a run, also of the same version: needed after a restore.
  parameterized {}

  group "migrate" {
    restart {
      attempts = 3
      interval = "5m"
      delay    = "5s"
      mode     = "fail"
    }

    # A run that failed is repeated by another dispatch, not by Nomad hours later.
    reschedule {
      attempts  = 0
      unlimited = false
    }

    task "migrate" {
      driver = "docker"

      config {
        image   = var.image
        command = "flash-admin"
        args    = ["migrate"]

        readonly_rootfs = true
        cap_drop        = ["all"]
        security_opt    = ["no-new-privileges"]
      }

      env {
        STREAM_REPLICAS = var.stream_replicas
        ALLOW_PLAINTEXT = var.allow_plaintext
      }

      # Secrets: nomad var put nomad/jobs/migrate database_url=… nats_url=… and, where migrate makes the services' logins
      # to PostgreSQL, database_auction_management_password=… database_auction_notifications_password=…
      template {
        data        = <<-EOF
        {{ with nomadVar "nomad/jobs/migrate" }}
        DATABASE_URL={{ .database_url.Value | toJSON }}
        NATS_URL={{ .nats_url.Value | toJSON }}
        {{ with .ca.Value }}
        NATS_CA_FILE="/secrets/ca.pem"
        {{ end }}
        {{ with .client_certificate.Value }}
        NATS_CERT_FILE="/secrets/client.pem"
        NATS_KEY_FILE="/secrets/client-key.pem"
        {{ end }}
        {{- with .database_auction_management_password }}
        DATABASE_AUCTION_MANAGEMENT_PASSWORD={{ .Value | toJSON }}
        {{- end }}
        {{- with .database_auction_notifications_password }}
        DATABASE_AUCTION_NOTIFICATIONS_PASSWORD={{ .Value | toJSON }}
        {{- end }}
        {{ end }}
        EOF
        destination = "secrets/settings.env"
        env         = true
        change_mode = "noop"
      }

      # PEM files, empty without TLS: nomad/README.md, TLS.
      template {
        data        = <<-EOF
        {{ with nomadVar "nomad/jobs/migrate" }}{{ with .ca.Value }}{{ . }}{{ end }}{{ end }}
        EOF
        destination = "secrets/ca.pem"
        change_mode = "noop"
      }

      # The certificate of this job for NATS.
      template {
        data        = <<-EOF
        {{ with nomadVar "nomad/jobs/migrate" }}{{ with .client_certificate.Value }}{{ . }}{{ end }}{{ end }}
        EOF
        destination = "secrets/client.pem"
        change_mode = "noop"
      }

      # Its key.
      template {
        data        = <<-EOF
        {{ with nomadVar "nomad/jobs/migrate" }}{{ with .client_key.Value }}{{ . }}{{ end }}{{ end }}
        EOF
        destination = "secrets/client-key.pem"
        change_mode = "noop"
      }

      resources {
        cpu    = 200
        memory = 128
      }
    }
  }
}
