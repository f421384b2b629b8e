# auction-management: serves the HTTP API of auctions and writes results into PostgreSQL.
# Variables, order and sizes: nomad/README.md.

variable "image" {
  type        = string
  description = "The image of the Dockerfile, in production by digest: registry.example/flash-auction@sha256:…"
}

variable "datacenters" {
  type    = list(string)
  default = ["dc1"]
}

variable "auction_management_count" {
  type    = number
  default = 2
}

variable "auction_management_cpu" {
  type    = number
  default = 300
}

variable "auction_management_memory" {
  type    = number
  default = 256
}

variable "aws_region" {
  type    = string
  default = "us-east-1"
}

variable "dynamodb_bids_table" {
  type    = string
  default = "bids_history"
}

variable "sqs_notification_queue_url" {
  type = string
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

variable "currency" {
  type    = string
  default = "USD"
}

variable "show_aliases" {
  type        = string
  default     = "false"
  description = "whether everyone but an auction's host sees aliases; the same in auction-management and websocket"
}

variable "video_linger_seconds" {
  type    = string
  default = "300"
}

variable "stream_state_interval_seconds" {
  type    = string
  default = "5"
}

# Empty: hosts give addresses of photos that are on the web.
variable "uploads_bucket" {
  type    = string
  default = ""
}

variable "uploads_public_url" {
  type    = string
  default = ""
}

variable "max_open_auctions_per_user" {
  type    = string
  default = "100"
}

variable "max_auctions_per_user_per_hour" {
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

job "auction-management" {
  datacenters = var.datacenters
  type        = "service"

  # All new instances are ready before the first old one stops. With fewer canaries Nomad stops all old ones when the
  # canaries are ready, and starts the rest only then.
  update {
    max_parallel      = 1
    canary            = var.auction_management_count
    auto_promote      = true
    auto_revert       = true
    health_check      = "checks"
    min_healthy_time  = "5s"
    healthy_deadline  = "2m"
    progress_deadline = "3m"
  }

  group "auction-management" {
    count = var.auction_management_count

    # Time from the removal from Nomad's list of services to SIGTERM: the ingress must have read the list again.
    shutdown_delay = "8s"

    # Instances are on different nodes while there are enough of them.
    spread {
      attribute = "${node.unique.id}"
    }

    network {
      port "http" {
        to = 8000
      }

      # /ready and /metrics, which clients have no business with.
      port "operations" {
        to = 9100
      }
    }

    service {
      name     = "auction-management"
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
      name     = "auction-management-operations"
      provider = "nomad"
      port     = "operations"
    }

    restart {
      attempts = 5
      interval = "30s"
      delay    = "2s"
      mode     = "delay"
    }

    task "auction-management" {
      driver = "docker"

      # A service drains for at most 8 s and exits within 10 s.
      kill_signal  = "SIGTERM"
      kill_timeout = "12s"

      config {
        image   = var.image
        command = "auction-management"
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
        LISTEN_ADDRESS                 = "0.0.0.0:8000"
        OPERATIONS_ADDRESS             = "0.0.0.0:9100"
        AWS_REGION                     = var.aws_region
        DYNAMODB_BIDS_TABLE            = var.dynamodb_bids_table
        SQS_NOTIFICATION_QUEUE_URL     = var.sqs_notification_queue_url
        COGNITO_REGION                 = var.cognito_region
        COGNITO_USER_POOL_ID           = var.cognito_user_pool_id
        COGNITO_APP_CLIENT_ID          = var.cognito_app_client_id
        CORS_ORIGINS                   = var.cors_origins
        CURRENCY                       = var.currency
        SHOW_ALIASES                   = var.show_aliases
        UPLOADS_BUCKET                 = var.uploads_bucket
        UPLOADS_PUBLIC_URL             = var.uploads_public_url
        VIDEO_LINGER_SECONDS           = var.video_linger_seconds
        STREAM_STATE_INTERVAL_SECONDS  = var.stream_state_interval_seconds
        MAX_OPEN_AUCTIONS_PER_USER     = var.max_open_auctions_per_user
        MAX_AUCTIONS_PER_USER_PER_HOUR = var.max_auctions_per_user_per_hour
        RUST_LOG                       = var.rust_log
        ALLOW_PLAINTEXT                = var.allow_plaintext

        OTEL_EXPORTER_OTLP_ENDPOINT = var.otlp_endpoint
        OTEL_TRACES_SAMPLER_ARG     = var.traces_ratio
      }

      # Proof of identity for AWS, if the variables below name a role: nomad/README.md, Credentials of AWS.
      identity {
        name = "aws"
        aud  = ["sts.amazonaws.com"]
        file = true
        ttl  = "1h"
      }

      # Secrets: nomad var put nomad/jobs/auction-management database_url=… redis_url=… nats_url=…
      template {
        data        = <<-EOF
        {{ with nomadVar "nomad/jobs/auction-management" }}
        DATABASE_URL={{ .database_url.Value | toJSON }}
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
        {{ with .aws_role_arn.Value }}
        AWS_ROLE_ARN={{ . | toJSON }}
        AWS_WEB_IDENTITY_TOKEN_FILE="/secrets/nomad_aws.jwt"
        {{ end }}
        {{ with .aws_access_key_id.Value }}
        AWS_ACCESS_KEY_ID={{ . | toJSON }}
        {{ end }}
        {{ with .aws_secret_access_key.Value }}
        AWS_SECRET_ACCESS_KEY={{ . | toJSON }}
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
        {{ with nomadVar "nomad/jobs/auction-management" }}{{ with .ca.Value }}{{ . }}{{ end }}{{ end }}
        EOF
        destination = "secrets/ca.pem"
        change_mode = "noop"
      }

      # The certificate of this job for NATS.
      template {
        data        = <<-EOF
        {{ with nomadVar "nomad/jobs/auction-management" }}{{ with .client_certificate.Value }}{{ . }}{{ end }}{{ end }}
        EOF
        destination = "secrets/client.pem"
        change_mode = "noop"
      }

      # Its key.
      template {
        data        = <<-EOF
        {{ with nomadVar "nomad/jobs/auction-management" }}{{ with .client_key.Value }}{{ . }}{{ end }}{{ end }}
        EOF
        destination = "secrets/client-key.pem"
        change_mode = "noop"
      }

      # The certificate of the listener. The service reads a changed file within seconds.
      template {
        data        = <<-EOF
        {{ with nomadVar "nomad/jobs/auction-management" }}{{ with .certificate.Value }}{{ . }}{{ end }}{{ end }}
        EOF
        destination = "secrets/tls.pem"
        change_mode = "noop"
      }

      # Its key.
      template {
        data        = <<-EOF
        {{ with nomadVar "nomad/jobs/auction-management" }}{{ with .key.Value }}{{ . }}{{ end }}{{ end }}
        EOF
        destination = "secrets/tls-key.pem"
        change_mode = "noop"
      }

      resources {
        cpu    = var.auction_management_cpu
        memory = var.auction_management_memory
      }
    }
  }
}
