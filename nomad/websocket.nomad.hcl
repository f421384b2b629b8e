# websocket: the edge that clients are connected to.
# Variables, order and sizes: nomad/README.md.

variable "image" {
  type        = string
  description = "The image of the Dockerfile, in production by digest: registry.example/flash-auction@sha256:…"
}

variable "datacenters" {
  type    = list(string)
  default = ["dc1"]
}

variable "websocket_count" {
  type    = number
  default = 2
}

variable "websocket_cpu" {
  type    = number
  default = 1000
}

variable "websocket_memory" {
  type    = number
  default = 1024
}

variable "cognito_region" {
  type    = string
  default = "us-east-1"
}

variable "cognito_user_pool_id" {
  type = string
}

variable "cognito_app_client_id" {
  type = string
}

variable "cors_origins" {
  type    = string
  default = "https://example.com"
}

variable "cognito_hosted_ui_url" {
  type        = string
  default     = ""
  description = "Where people sign in in a browser: https://auth.example.com. Without it the web page has no sign-in"
}

variable "currency" {
  type    = string
  default = "USD"
}

variable "show_aliases" {
  type        = string
  default     = "false"
  description = "whether everyone but an auction's host sees aliases; the same in auction-management and websocket"
}

variable "video_player_url" {
  type        = string
  default     = ""
  description = "Module of a video player for browsers that do not play HLS themselves"
}

variable "uploads_origin" {
  type        = string
  default     = ""
  description = "Origin of the bucket of photos, to which the page may send them"
}

variable "max_anonymous_connections" {
  type        = string
  default     = ""
  description = "Sockets that watch without a token; by default half of max_connections"
}

variable "max_connections" {
  type    = string
  default = "10000"
}

variable "max_bids_per_user_per_second" {
  type    = string
  default = "200"
}

variable "rust_log" {
  type    = string
  default = "info"
}

variable "otlp_endpoint" {
  type        = string
  default     = ""
  description = "address of a collector of traces, such as https://collector:4318; empty: no traces"
}

variable "traces_ratio" {
  type        = string
  default     = "0.01"
  description = "share of the bids and requests that are traced, from 0 to 1"
}

variable "allow_plaintext" {
  type        = string
  default     = "false"
  description = "true: NATS, Redis and PostgreSQL on other machines may be reached without TLS"
}

job "websocket" {
  datacenters = var.datacenters
  type        = "service"

  # All new instances are ready before the first old one stops. With fewer canaries Nomad stops all old ones when the
  # canaries are ready, and starts the rest only then.
  update {
    max_parallel      = 1
    canary            = var.websocket_count
    auto_promote      = true
    auto_revert       = true
    health_check      = "checks"
    min_healthy_time  = "5s"
    healthy_deadline  = "2m"
    progress_deadline = "3m"
  }

  group "websocket" {
    count = var.websocket_count

    # Time from the removal from Nomad's list of services to SIGTERM: the ingress must have read the list again.
    shutdown_delay = "8s"

    # Instances are on different nodes while there are enough of them.
    spread {
      attribute = "${node.unique.id}"
    }

    network {
      port "http" {
        to = 8001
      }

      # /ready and /metrics, which clients have no business with.
      port "operations" {
        to = 9100
      }
    }

    service {
      name     = "websocket"
      provider = "nomad"
      port     = "http"

      check {
        type     = "http"
        port     = "operations"
        path     = "/ready"
        interval = "3s"
        timeout  = "2s"
      }
    }

    # Where the ingress asks for /ready and Prometheus for /metrics.
    service {
      name     = "websocket-operations"
      provider = "nomad"
      port     = "operations"
    }

    restart {
      attempts = 5
      interval = "30s"
      delay    = "2s"
      mode     = "delay"
    }

    task "websocket" {
      driver = "docker"

      # A service drains for at most 8 s and exits within 10 s.
      kill_signal  = "SIGTERM"
      kill_timeout = "12s"

      config {
        image   = var.image
        command = "websocket"
        ports   = ["http", "operations"]

        readonly_rootfs = true
        cap_drop        = ["all"]
        security_opt    = ["no-new-privileges"]

        # Open files: one for each connection, and some of its own.
        ulimit {
          nofile = "65536:65536"
        }
      }

      env {
        LISTEN_ADDRESS               = "0.0.0.0:8001"
        OPERATIONS_ADDRESS           = "0.0.0.0:9100"
        EDGE_ADDRESS                 = "${NOMAD_ADDR_http}"
        COGNITO_REGION               = var.cognito_region
        COGNITO_USER_POOL_ID         = var.cognito_user_pool_id
        COGNITO_APP_CLIENT_ID        = var.cognito_app_client_id
        COGNITO_HOSTED_UI_URL        = var.cognito_hosted_ui_url
        CORS_ORIGINS                 = var.cors_origins
        CURRENCY                     = var.currency
        SHOW_ALIASES                 = var.show_aliases
        MAX_ANONYMOUS_CONNECTIONS    = var.max_anonymous_connections
        MAX_BIDS_PER_USER_PER_SECOND = var.max_bids_per_user_per_second
        MAX_CONNECTIONS              = var.max_connections
        RUST_LOG                     = var.rust_log
        ALLOW_PLAINTEXT              = var.allow_plaintext
        VIDEO_PLAYER_URL             = var.video_player_url
        UPLOADS_ORIGIN               = var.uploads_origin
        # AUCTION_MANAGEMENT_URL and its like are not set: the ingress leads /api to the services itself.

        OTEL_EXPORTER_OTLP_ENDPOINT = var.otlp_endpoint
        OTEL_TRACES_SAMPLER_ARG     = var.traces_ratio
      }

      # Secrets: nomad var put nomad/jobs/websocket redis_url=… nats_url=…
      template {
        data        = <<-EOF
        {{ with nomadVar "nomad/jobs/websocket" }}
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
        {{ with .certificate.Value }}
        TLS_CERT_FILE="/secrets/tls.pem"
        TLS_KEY_FILE="/secrets/tls-key.pem"
        {{ end }}
        {{ with .services_ca.Value }}
        SERVICES_CA_FILE="/secrets/services-ca.pem"
        {{ end }}
        {{ with .services_name.Value }}
        SERVICES_TLS_NAME={{ . | toJSON }}
        {{ end }}
        {{ end }}
        EOF
        destination = "secrets/settings.env"
        env         = true
        # A changed variable must not stop every instance at once: nomad job restart, see nomad/README.md.
        change_mode = "noop"
      }

      # PEM files, empty without TLS: nomad/README.md, TLS.
      template {
        data        = <<-EOF
        {{ with nomadVar "nomad/jobs/websocket" }}{{ with .ca.Value }}{{ . }}{{ end }}{{ end }}
        EOF
        destination = "secrets/ca.pem"
        change_mode = "noop"
      }

      # The certificate of this job for NATS.
      template {
        data        = <<-EOF
        {{ with nomadVar "nomad/jobs/websocket" }}{{ with .client_certificate.Value }}{{ . }}{{ end }}{{ end }}
        EOF
        destination = "secrets/client.pem"
        change_mode = "noop"
      }

      # Its key.
      template {
        data        = <<-EOF
        {{ with nomadVar "nomad/jobs/websocket" }}{{ with .client_key.Value }}{{ . }}{{ end }}{{ end }}
        EOF
        destination = "secrets/client-key.pem"
        change_mode = "noop"
      }

      # The certificate of the listener. The service reads a changed file within seconds.
      template {
        data        = <<-EOF
        {{ with nomadVar "nomad/jobs/websocket" }}{{ with .certificate.Value }}{{ . }}{{ end }}{{ end }}
        EOF
        destination = "secrets/tls.pem"
        change_mode = "noop"
      }

      # Its key.
      template {
        data        = <<-EOF
        {{ with nomadVar "nomad/jobs/websocket" }}{{ with .key.Value }}{{ . }}{{ end }}{{ end }}
        EOF
        destination = "secrets/tls-key.pem"
        change_mode = "noop"
      }

      # The authority of the other edges' listeners.
      template {
        data        = <<-EOF
        {{ with nomadVar "nomad/jobs/websocket" }}{{ with .services_ca.Value }}{{ . }}{{ end }}{{ end }}
        EOF
        destination = "secrets/services-ca.pem"
        change_mode = "noop"
      }

      resources {
        cpu    = var.websocket_cpu
        memory = var.websocket_memory
      }
    }
  }
}
