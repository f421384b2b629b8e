# timer: requests openings and closings when due, and sends the ticks.
# Variables, order and sizes: nomad/README.md.

variable "image" {
  type        = string
  description = "The image of the Dockerfile, in production by digest: registry.example/flash-auction@sha256:…"
}

variable "datacenters" {
  type    = list(string)
  default = ["dc1"]
}

variable "timer_count" {
  type    = number
  default = 2
}

variable "timer_cpu" {
  type    = number
  default = 300
}

variable "timer_memory" {
  type    = number
  default = 256
}

variable "timer_broadcast_interval" {
  type    = string
  default = "1"
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

job "timer" {
  datacenters = var.datacenters
  type        = "service"

  # All new instances are ready before the first old one stops. With fewer canaries Nomad stops all old ones when the
  # canaries are ready, and starts the rest only then.
  update {
    max_parallel      = 1
    canary            = var.timer_count
    auto_promote      = true
    auto_revert       = true
    health_check      = "checks"
    min_healthy_time  = "5s"
    healthy_deadline  = "2m"
    progress_deadline = "3m"
  }

  group "timer" {
    count = var.timer_count

    # Time from the removal from Nomad's list of services to SIGTERM: the ingress must have read the list again.
    shutdown_delay = "8s"

    # Instances are on different nodes while there are enough of them.
    spread {
      attribute = "${node.unique.id}"
    }

    network {
      port "http" {
        to = 8003
      }

      # /ready and /metrics, which clients have no business with.
      port "operations" {
        to = 9100
      }
    }

    service {
      name     = "timer"
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
      name     = "timer-operations"
      provider = "nomad"
      port     = "operations"
    }

    restart {
      attempts = 5
      interval = "30s"
      delay    = "2s"
      mode     = "delay"
    }

    task "timer" {
      driver = "docker"

      # A service drains for at most 8 s and exits within 10 s.
      kill_signal  = "SIGTERM"
      kill_timeout = "12s"

      config {
        image   = var.image
        command = "timer"
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
        LISTEN_ADDRESS           = "0.0.0.0:8003"
        OPERATIONS_ADDRESS       = "0.0.0.0:9100"
        TIMER_BROADCAST_INTERVAL = var.timer_broadcast_interval
        RUST_LOG                 = var.rust_log
        ALLOW_PLAINTEXT          = var.allow_plaintext

        OTEL_EXPORTER_OTLP_ENDPOINT = var.otlp_endpoint
        OTEL_TRACES_SAMPLER_ARG     = var.traces_ratio
      }

      # Secrets: nomad var put nomad/jobs/timer redis_url=… nats_url=…
      template {
        data        = <<-EOF
        {{ with nomadVar "nomad/jobs/timer" }}
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
        {{ with nomadVar "nomad/jobs/timer" }}{{ with .ca.Value }}{{ . }}{{ end }}{{ end }}
        EOF
        destination = "secrets/ca.pem"
        change_mode = "noop"
      }

      # The certificate of this job for NATS.
      template {
        data        = <<-EOF
        {{ with nomadVar "nomad/jobs/timer" }}{{ with .client_certificate.Value }}{{ . }}{{ end }}{{ end }}
        EOF
        destination = "secrets/client.pem"
        change_mode = "noop"
      }

      # Its key.
      template {
        data        = <<-EOF
        {{ with nomadVar "nomad/jobs/timer" }}{{ with .client_key.Value }}{{ . }}{{ end }}{{ end }}
        EOF
        destination = "secrets/client-key.pem"
        change_mode = "noop"
      }

      # The certificate of the listener. The service reads a changed file within seconds.
      template {
        data        = <<-EOF
        {{ with nomadVar "nomad/jobs/timer" }}{{ with .certificate.Value }}{{ . }}{{ end }}{{ end }}
        EOF
        destination = "secrets/tls.pem"
        change_mode = "noop"
      }

      # Its key.
      template {
        data        = <<-EOF
        {{ with nomadVar "nomad/jobs/timer" }}{{ with .key.Value }}{{ . }}{{ end }}{{ end }}
        EOF
        destination = "secrets/tls-key.pem"
        change_mode = "noop"
      }

      resources {
        cpu    = var.timer_cpu
        memory = var.timer_memory
      }
    }
  }
}
