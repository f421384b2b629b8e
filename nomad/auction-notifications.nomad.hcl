# auction-notifications: sends mails to winner, losers and host.
# nomad job run -var image=registry.example/flash-auction:1 nomad/auction-notifications.nomad.hcl

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

variable "sqs_notification_queue_url" {
  type = string
}

variable "notify_from_email" {
  type = string
}

variable "rust_log" {
  type    = string
  default = "info"
}

job "auction-notifications" {
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

  group "auction-notifications" {
    count = var.count

    network {
      port "http" {
        to = 9005
      }

      # /ready and /metrics, which clients have no business with.
      port "operations" {
        to = 9100
      }
    }

    service {
      name     = "auction-notifications"
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

    task "auction-notifications" {
      driver = "docker"

      # A service drains for at most 8 s and exits within 10 s.
      kill_signal  = "SIGTERM"
      kill_timeout = "12s"

      config {
        image   = var.image
        command = "auction-notifications"
        ports   = ["http", "operations"]
      }

      env {
        LISTEN_ADDRESS             = "0.0.0.0:9005"
        OPERATIONS_ADDRESS         = "0.0.0.0:9100"
        AWS_REGION                 = var.aws_region
        SQS_NOTIFICATION_QUEUE_URL = var.sqs_notification_queue_url
        NOTIFY_FROM_EMAIL          = var.notify_from_email
        RUST_LOG                   = var.rust_log
      }

      # Secrets of this cluster: nomad var put nomad/jobs/flash database_url=… redis_url=… nats_url=…
      template {
        data        = <<-EOF
        {{ with nomadVar "nomad/jobs/flash" }}
        DATABASE_URL={{ .database_url }}
        NATS_URL={{ .nats_url }}
        {{ end }}
        EOF
        destination = "secrets/settings.env"
        env         = true
      }

      resources {
        cpu    = 300
        memory = 128
      }
    }
  }
}
