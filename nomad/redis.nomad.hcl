# redis: the hot state, synced every second, on a volume of its host. Lost data comes back from the log.
# Run it in the root of the checkout: the path of the script is relative to it. Variables, order and volumes:
# nomad/README.md.

variable "datacenters" {
  type    = list(string)
  default = ["dc1"]
}

variable "redis_image" {
  type        = string
  default     = "redis:7.4-alpine"
  description = "In production by digest: redis:7.4-alpine@sha256:…"
}

variable "redis_cpu" {
  type    = number
  default = 1000
}

variable "redis_volume" {
  type    = string
  default = "redis"
}

job "redis" {
  datacenters = var.datacenters
  type        = "service"
  # Higher than that of the services, which need it.
  priority = 80

  update {
    max_parallel = 1
    health_check = "checks"
  }

  group "redis" {
    count = 1

    network {
      port "redis" {
        static = 6379
      }
    }

    volume "data" {
      type   = "host"
      source = var.redis_volume
    }

    service {
      name     = "redis"
      provider = "nomad"
      port     = "redis"

      check {
        type     = "tcp"
        interval = "3s"
        timeout  = "2s"
      }
    }

    task "redis" {
      driver       = "docker"
      kill_signal  = "SIGTERM"
      kill_timeout = "30s"
      # Owner of the volume: the user `redis` of the image.
      user = "999:1000"

      config {
        image   = var.redis_image
        ports   = ["redis"]
        command = "sh"
        # The script repairs the append-only file after a power loss; the image's entrypoint then starts redis-server.
        args = [
          "-c",
          file("nomad/redis-start.sh"),
          "redis-start",
          "/data",
          "docker-entrypoint.sh",
          "redis-server",
          "/secrets/redis.conf",
        ]

        readonly_rootfs = true
        cap_drop        = ["all"]
        security_opt    = ["no-new-privileges"]
      }

      volume_mount {
        volume      = "data"
        destination = "/data"
      }

      template {
        data        = file("nomad/redis-users.conf")
        destination = "local/redis-users.conf"
        change_mode = "noop"
      }

      # nomad var put nomad/jobs/redis password=… websocket_password=… and those below: letters and digits
      template {
        data        = <<-EOF
        {{ with nomadVar "nomad/jobs/redis" }}
        REDIS_AUCTION_MANAGEMENT_PASSWORD={{ .auction_management_password.Value | toJSON }}
        REDIS_WEBSOCKET_PASSWORD={{ .websocket_password.Value | toJSON }}
        REDIS_BID_PROCESSING_PASSWORD={{ .bid_processing_password.Value | toJSON }}
        REDIS_TIMER_PASSWORD={{ .timer_password.Value | toJSON }}
        REDIS_LOG_ARCHIVE_PASSWORD={{ .log_archive_password.Value | toJSON }}
        {{ end }}
        EOF
        destination = "secrets/users.env"
        env         = true
        change_mode = "noop"
      }

      env {
        REDIS_USERS = "/local/redis-users.conf"
      }

      template {
        data        = <<-EOF
        dir /data
        appendonly yes
        appendfsync everysec
        no-appendfsync-on-rewrite no
        maxmemory-policy noeviction
        maxmemory 1200mb
        lazyfree-lazy-expire yes
        lazyfree-lazy-server-del yes
        lazyfree-lazy-user-del yes
        {{ with nomadVar "nomad/jobs/redis" }}requirepass {{ .password.Value | toJSON }}{{ end }}
        {{ with nomadVar "nomad/jobs/redis" }}{{ with .certificate.Value }}
        port 0
        tls-port 6379
        tls-cert-file /secrets/tls.pem
        tls-key-file /secrets/tls-key.pem
        tls-ca-cert-file /secrets/ca.pem
        tls-auth-clients no
        {{ end }}{{ end }}
        EOF
        destination = "secrets/redis.conf"
        change_mode = "noop"
      }

      # PEM files, empty without TLS: nomad/README.md, TLS.
      template {
        data        = <<-EOF
        {{ with nomadVar "nomad/jobs/redis" }}{{ with .certificate.Value }}{{ . }}{{ end }}{{ end }}
        EOF
        destination = "secrets/tls.pem"
        change_mode = "noop"
      }

      # Its key.
      template {
        data        = <<-EOF
        {{ with nomadVar "nomad/jobs/redis" }}{{ with .key.Value }}{{ . }}{{ end }}{{ end }}
        EOF
        destination = "secrets/tls-key.pem"
        change_mode = "noop"
      }

      # The authority that has signed it.
      template {
        data        = <<-EOF
        {{ with nomadVar "nomad/jobs/redis" }}{{ with .ca.Value }}{{ . }}{{ end }}{{ end }}
        EOF
        destination = "secrets/ca.pem"
        change_mode = "noop"
      }

      resources {
        cpu = var.redis_cpu
        # More than maxmemory: a rewrite of the append-only file copies every page that changes during it.
        memory = 2048
      }
    }
  }
}
