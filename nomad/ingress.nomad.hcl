# ingress: HAProxy, the one origin that clients know. Run it in the root of the checkout.
# Variables, order and certificates: nomad/README.md.

variable "datacenters" {
  type    = list(string)
  default = ["dc1"]
}

variable "ingress_image" {
  type        = string
  default     = "haproxy:2.6-alpine"
  description = "In production by digest: haproxy:2.6-alpine@sha256:…"
}

variable "ingress_count" {
  type    = number
  default = 2
}

variable "ingress_cpu" {
  type    = number
  default = 1000
}

variable "ingress_memory" {
  type    = number
  default = 1024
}

job "ingress" {
  datacenters = var.datacenters
  type        = "service"
  # Clients reach the services through it only.
  priority = 70

  # Its ports are fixed: on each node the old one stops before the new one starts, one node at a time.
  update {
    max_parallel      = 1
    auto_revert       = true
    health_check      = "checks"
    min_healthy_time  = "5s"
    healthy_deadline  = "2m"
    progress_deadline = "3m"
  }

  group "ingress" {
    count = var.ingress_count

    constraint {
      distinct_hosts = true
    }

    network {
      port "http" {
        static = 80
        to     = 8080
      }
      port "https" {
        static = 443
        to     = 8443
      }
      # For the check and Prometheus.
      port "operations" {
        to = 8404
      }
    }

    service {
      name     = "ingress"
      provider = "nomad"
      port     = "operations"

      check {
        type     = "http"
        path     = "/ready"
        interval = "3s"
        timeout  = "2s"
      }
    }

    restart {
      attempts = 5
      interval = "30s"
      delay    = "2s"
      mode     = "delay"
    }

    task "ingress" {
      driver = "docker"
      # Accepts no more, serves what is open. Clients with a WebSocket reconnect elsewhere after the timeout.
      kill_signal  = "SIGUSR1"
      kill_timeout = "30s"

      config {
        image = var.ingress_image
        args  = ["haproxy", "-W", "-db", "-f", "/local/haproxy.cfg"]
        ports = ["http", "https", "operations"]

        readonly_rootfs = true
        cap_drop        = ["all"]
        security_opt    = ["no-new-privileges"]

        # Open files: two for each connection, also of the workers that a reload left behind.
        ulimit {
          nofile = "131072:131072"
        }
      }

      # A new list of instances is a reload: it breaks no connection.
      template {
        data          = file("nomad/ingress/haproxy.cfg")
        destination   = "local/haproxy.cfg"
        change_mode   = "signal"
        change_signal = "SIGUSR2"

        # Instances of one update come one after the other: one reload serves several.
        wait {
          min = "1s"
          max = "4s"
        }
      }

      # nomad var put nomad/jobs/ingress certificate=@site.pem: chain and key in one. Without it there is no HTTPS.
      template {
        data          = <<-EOF
        {{- if nomadVarExists "nomad/jobs/ingress" }}
        {{- with nomadVar "nomad/jobs/ingress" }}{{ .certificate }}{{ end }}
        {{- end }}
        EOF
        destination   = "secrets/site.pem"
        change_mode   = "signal"
        change_signal = "SIGUSR2"
      }

      # The authority of the services' certificates, empty if they have none: nomad/README.md, TLS.
      template {
        data          = <<-EOF
        {{- if nomadVarExists "nomad/jobs/ingress" }}
        {{- with nomadVar "nomad/jobs/ingress" }}{{ with .services_ca.Value }}{{ . }}{{ end }}{{ end }}
        {{- end }}
        EOF
        destination   = "secrets/services-ca.pem"
        change_mode   = "signal"
        change_signal = "SIGUSR2"
      }

      resources {
        cpu    = var.ingress_cpu
        memory = var.ingress_memory
      }
    }
  }
}
