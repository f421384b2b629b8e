# nats: one server with JetStream on a volume of its host. Three servers: nomad/nats-cluster.nomad.hcl.
# Variables, order and volumes: nomad/README.md. Run it in the root of the checkout.

variable "datacenters" {
  type    = list(string)
  default = ["dc1"]
}

variable "nats_image" {
  type        = string
  default     = "nats:2.12-alpine"
  description = "In production by digest: nats:2.12-alpine@sha256:…"
}

variable "nats_cpu" {
  type    = number
  default = 1000
}

variable "nats_memory" {
  type    = number
  default = 1024
}

variable "nats_volume" {
  type        = string
  default     = "nats"
  description = "A host volume: the log must not move to another disk by itself"
}

variable "nats_configuration" {
  type        = string
  default     = "nats-server.conf"
  description = "nats-server-tls.conf with TLS: nomad/README.md, TLS"
}

job "nats" {
  datacenters = var.datacenters
  type        = "service"
  # Higher than that of the services, which need it.
  priority = 80

  update {
    max_parallel = 1
    health_check = "checks"
  }

  group "nats" {
    count = 1

    network {
      port "client" {
        static = 4222
      }
      # For Nomad's check only. A node's configuration defines the network: nomad/README.md, Nodes.
      port "monitor" {
        to           = 8222
        host_network = "loopback"
      }
    }

    volume "data" {
      type   = "host"
      source = var.nats_volume
    }

    service {
      name     = "nats"
      provider = "nomad"
      port     = "client"

      check {
        type     = "http"
        port     = "monitor"
        path     = "/healthz?js-enabled-only=true"
        interval = "3s"
        timeout  = "2s"
      }
    }

    task "nats" {
      driver       = "docker"
      kill_signal  = "SIGTERM"
      kill_timeout = "30s"
      # Owner of the volume.
      user = "10001:10001"

      config {
        image = var.nats_image
        args  = ["-c", "/local/${var.nats_configuration}"]
        ports = ["client", "monitor"]

        readonly_rootfs = true
        cap_drop        = ["all"]
        security_opt    = ["no-new-privileges"]

        # Open files: one for each connection, two for each block of a stream.
        ulimit {
          nofile = "65536:65536"
        }
      }

      volume_mount {
        volume      = "data"
        destination = "/data"
      }

      # Run `nomad job run` in the root of the checkout: the path is relative to it. The tests use the same file.
      template {
        data        = file("nats/nats-server.conf")
        destination = "local/nats-server.conf"
        change_mode = "noop"
      }

      template {
        data        = file("nats/nats-server-tls.conf")
        destination = "local/nats-server-tls.conf"
        change_mode = "noop"
      }

      # PEM files, empty without TLS: nomad/README.md, TLS.
      template {
        data        = <<-EOF
        {{ with nomadVar "nomad/jobs/nats" }}{{ with .certificate.Value }}{{ . }}{{ end }}{{ end }}
        EOF
        destination = "secrets/tls.pem"
        change_mode = "noop"
      }

      # Its key.
      template {
        data        = <<-EOF
        {{ with nomadVar "nomad/jobs/nats" }}{{ with .key.Value }}{{ . }}{{ end }}{{ end }}
        EOF
        destination = "secrets/tls-key.pem"
        change_mode = "noop"
      }

      # The authority that has signed it, and the certificates of clients.
      template {
        data        = <<-EOF
        {{ with nomadVar "nomad/jobs/nats" }}{{ with .ca.Value }}{{ . }}{{ end }}{{ end }}
        EOF
        destination = "secrets/ca.pem"
        change_mode = "noop"
      }

      # The logins and their rights.
      template {
        data        = file("nats/users.conf")
        destination = "local/users.conf"
        change_mode = "noop"
      }

      env {
        NATS_SERVER_NAME     = "flash"
        NATS_HOST            = "0.0.0.0"
        NATS_PORT            = "4222"
        NATS_MONITOR_ADDRESS = "\"0.0.0.0:8222\""
        NATS_STORE_DIR       = "\"/data\""
        NATS_TLS_CERT_FILE   = "\"/secrets/tls.pem\""
        NATS_TLS_KEY_FILE    = "\"/secrets/tls-key.pem\""
        NATS_TLS_CA_FILE     = "\"/secrets/ca.pem\""
        NATS_TLS_VERIFY      = "true"
      }

      # nomad var put nomad/jobs/nats nats_auction_management_password=… and those below
      # Quoted twice: once for the environment, once for NATS, which would read a bare 12345678 as a number.
      template {
        data        = <<-EOF
        {{ with nomadVar "nomad/jobs/nats" }}
        NATS_AUCTION_MANAGEMENT_PASSWORD={{ .nats_auction_management_password.Value | toJSON | toJSON }}
        NATS_WEBSOCKET_PASSWORD={{ .nats_websocket_password.Value | toJSON | toJSON }}
        NATS_BID_PROCESSING_PASSWORD={{ .nats_bid_processing_password.Value | toJSON | toJSON }}
        NATS_TIMER_PASSWORD={{ .nats_timer_password.Value | toJSON | toJSON }}
        NATS_BID_PERSISTENCE_PASSWORD={{ .nats_bid_persistence_password.Value | toJSON | toJSON }}
        NATS_AUCTION_NOTIFICATIONS_PASSWORD={{ .nats_auction_notifications_password.Value | toJSON | toJSON }}
        NATS_MIGRATE_PASSWORD={{ .nats_migrate_password.Value | toJSON | toJSON }}
        NATS_LOG_ARCHIVE_PASSWORD={{ .nats_log_archive_password.Value | toJSON | toJSON }}
        NATS_OPERATOR_PASSWORD={{ .nats_operator_password.Value | toJSON | toJSON }}
        NATS_ADMIN_PASSWORD={{ .nats_admin_password.Value | toJSON | toJSON }}
        NATS_SYSTEM_PASSWORD={{ .nats_system_password.Value | toJSON | toJSON }}
        {{ end }}
        EOF
        destination = "secrets/nats.env"
        env         = true
        change_mode = "noop"
      }

      resources {
        cpu    = var.nats_cpu
        memory = var.nats_memory
      }
    }
  }
}
