# nats-cluster: three servers on three nodes, each with JetStream on the volume of its node; in place of the job nats.
# Streams then have three replicas: stream_replicas = "3" of the job migrate. One server may fail or be replaced.
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

variable "nats_cluster_volume" {
  type        = string
  default     = "nats-cluster"
  description = "A host volume on each of the three nodes"
}

variable "nats_cluster_configuration" {
  type        = string
  default     = "nats-cluster.conf"
  description = "nats-cluster-tls.conf with TLS: nomad/README.md, TLS"
}

job "nats-cluster" {
  datacenters = var.datacenters
  type        = "service"
  # Higher than that of the services, which need it.
  priority = 80

  # One server at a time. The next one is stopped only when this one has served for 30 s: its replicas catch up.
  update {
    max_parallel      = 1
    health_check      = "checks"
    min_healthy_time  = "30s"
    healthy_deadline  = "5m"
    progress_deadline = "10m"
  }

  group "nats-cluster" {
    count = 3

    constraint {
      distinct_hosts = true
    }

    network {
      port "client" {
        static = 4222
      }
      # Between the servers.
      port "cluster" {
        static = 6222
      }
      # For Nomad's check only. A node's configuration defines the network: nomad/README.md, Nodes.
      port "monitor" {
        to           = 8222
        host_network = "loopback"
      }
    }

    # A server that is replaced gets the volume that it had, on the node where it was: its replicas are there.
    volume "data" {
      type   = "host"
      source = var.nats_cluster_volume
      sticky = true
    }

    service {
      name     = "nats-cluster"
      provider = "nomad"
      port     = "client"

      # Whether the server itself serves. Streams that have no leader for a moment must not stop an update half-way.
      check {
        type     = "http"
        port     = "monitor"
        path     = "/healthz?js-server-only=true"
        interval = "3s"
        timeout  = "2s"
      }
    }

    service {
      name     = "nats-cluster-routes"
      provider = "nomad"
      port     = "cluster"
    }

    restart {
      attempts = 5
      interval = "30s"
      delay    = "2s"
      mode     = "delay"
    }

    task "nats" {
      driver = "docker"
      # Lame duck mode: nats/nats-cluster.conf. The node's max_kill_timeout must allow it.
      kill_signal  = "SIGUSR2"
      kill_timeout = "45s"
      # Owner of the volume.
      user = "10001:10001"

      config {
        image = var.nats_image
        args  = ["-c", "/local/${var.nats_cluster_configuration}"]
        ports = ["client", "cluster", "monitor"]

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

      template {
        data        = file("nats/nats-server.conf")
        destination = "local/nats-server.conf"
        change_mode = "noop"
      }

      template {
        data        = file("nats/users.conf")
        destination = "local/users.conf"
        change_mode = "noop"
      }

      template {
        data        = file("nats/nats-cluster.conf")
        destination = "local/nats-cluster.conf"
        change_mode = "noop"
      }

      template {
        data        = file("nats/nats-server-tls.conf")
        destination = "local/nats-server-tls.conf"
        change_mode = "noop"
      }

      template {
        data        = file("nats/nats-cluster-tls.conf")
        destination = "local/nats-cluster-tls.conf"
        change_mode = "noop"
      }

      template {
        data        = file("nats/routes.conf")
        destination = "local/routes.conf"
        change_mode = "noop"
      }

      # PEM files, empty without TLS: nomad/README.md, TLS.
      template {
        data        = <<-EOF
        {{ with nomadVar "nomad/jobs/nats-cluster" }}{{ with .certificate.Value }}{{ . }}{{ end }}{{ end }}
        EOF
        destination = "secrets/tls.pem"
        change_mode = "noop"
      }

      # Its key.
      template {
        data        = <<-EOF
        {{ with nomadVar "nomad/jobs/nats-cluster" }}{{ with .key.Value }}{{ . }}{{ end }}{{ end }}
        EOF
        destination = "secrets/tls-key.pem"
        change_mode = "noop"
      }

      # The authority that has signed it, and the certificates of clients.
      template {
        data        = <<-EOF
        {{ with nomadVar "nomad/jobs/nats-cluster" }}{{ with .ca.Value }}{{ . }}{{ end }}{{ end }}
        EOF
        destination = "secrets/ca.pem"
        change_mode = "noop"
      }

      env {
        # The replicas of a stream know a server by its name: one node, one name.
        NATS_SERVER_NAME     = "${node.unique.name}"
        NATS_HOST            = "0.0.0.0"
        NATS_PORT            = "4222"
        NATS_MONITOR_ADDRESS = "\"0.0.0.0:8222\""
        NATS_CLUSTER_ADDRESS = "\"0.0.0.0:6222\""
        NATS_STORE_DIR       = "\"/data\""
        NATS_TLS_CERT_FILE   = "\"/secrets/tls.pem\""
        NATS_TLS_KEY_FILE    = "\"/secrets/tls-key.pem\""
        NATS_TLS_CA_FILE     = "\"/secrets/ca.pem\""
        NATS_TLS_VERIFY      = "true"
      }

      # nomad var put nomad/jobs/nats-cluster nats_auction_management_password=… and those below
      # Quoted twice: once for the environment, once for NATS, which would read a bare 12345678 as a number.
      # Routes name the servers that are registered now; these introduce all others.
      template {
        data        = <<-EOF
        {{ with nomadVar "nomad/jobs/nats-cluster" }}
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
        NATS_CLUSTER_PASSWORD={{ .nats_cluster_password.Value | toJSON | toJSON }}
        {{- $password := .nats_cluster_password.Value }}
        NATS_ROUTES='[
        {{- range $nth, $server := nomadService "nats-cluster-routes" }}
        {{- if $nth }}, {{ end }}"nats://cluster:{{ $password }}@{{ $server.Address }}:{{ $server.Port }}"
        {{- end }}]'
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
