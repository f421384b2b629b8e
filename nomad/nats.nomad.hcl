# nats: one server with JetStream on a volume of its host; a cluster of three needs nats/nats-cluster.conf.
# nomad job run nomad/nats.nomad.hcl

variable "datacenters" {
  type    = list(string)
  default = ["dc1"]
}

variable "image" {
  type    = string
  default = "nats:2.12-alpine"
}

variable "volume" {
  type        = string
  default     = "nats"
  description = "A host volume: the log must not move to another disk by itself"
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
      port "monitor" {
        to = 8222
      }
    }

    volume "data" {
      type   = "host"
      source = var.volume
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

      config {
        image = var.image
        args  = ["-c", "/local/nats-server.conf"]
        ports = ["client", "monitor"]
      }

      volume_mount {
        volume      = "data"
        destination = "/data"
      }

      # Run `nomad job run` in the root of the checkout: the path is relative to it. The tests use the same file.
      template {
        data        = file("nats/nats-server.conf")
        destination = "local/nats-server.conf"
      }

      env {
        NATS_SERVER_NAME     = "flash"
        NATS_HOST            = "0.0.0.0"
        NATS_PORT            = "4222"
        NATS_MONITOR_ADDRESS = "\"0.0.0.0:8222\""
        NATS_STORE_DIR       = "\"/data\""
      }

      # nomad var put nomad/jobs/nats nats_services_password=… nats_operator_password=…
      template {
        data        = <<-EOF
        {{ with nomadVar "nomad/jobs/nats" }}
        NATS_SERVICES_PASSWORD={{ .nats_services_password }}
        NATS_OPERATOR_PASSWORD={{ .nats_operator_password }}
        {{ end }}
        EOF
        destination = "secrets/nats.env"
        env         = true
      }

      resources {
        cpu    = 1000
        memory = 1024
      }
    }
  }
}
