# auction-management: serves the HTTP API of auctions and writes results into PostgreSQL.
# nomad job run -var image=registry.example/flash-auction:1 nomad/auction-management.nomad.hcl

variable "image" {
  type        = string
  description = "The image that the Dockerfile builds, with its tag"
}

variable "datacenters" {
  type    = list(string)
  default = ["dc1"]
}

variable "count" {
  type    = number
  default = 2
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

variable "video_linger_seconds" {
  type    = string
  default = "300"
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

job "auction-management" {
  datacenters = var.datacenters
  type        = "service"

  # One new instance at a time; the old one is stopped when the new one is ready.
  update {
    max_parallel     = 1
    canary           = 1
    auto_promote     = true
    auto_revert      = true
    health_check     = "checks"
    min_healthy_time = "5s"
    healthy_deadline = "2m"
  }

  group "auction-management" {
    count = var.count

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

    restart {
      attempts = 5
      interval = "2m"
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
        VIDEO_LINGER_SECONDS           = var.video_linger_seconds
        MAX_OPEN_AUCTIONS_PER_USER     = var.max_open_auctions_per_user
        MAX_AUCTIONS_PER_USER_PER_HOUR = var.max_auctions_per_user_per_hour
        RUST_LOG                       = var.rust_log
      }

      # Secrets of this cluster: nomad var put nomad/jobs/flash database_url=… redis_url=… nats_url=…
      template {
        data        = <<-EOF
        {{ with nomadVar "nomad/jobs/flash" }}
        DATABASE_URL={{ .database_url }}
        REDIS_URL={{ .redis_url }}
        NATS_URL={{ .nats_url }}
        {{ end }}
        EOF
        destination = "secrets/settings.env"
        env         = true
      }

      resources {
        cpu    = 300
        memory = 256
      }
    }
  }
}
