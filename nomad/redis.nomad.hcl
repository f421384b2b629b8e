# redis: the hot state, synced every second, on a volume of its host. Lost data comes back from the log.
# nomad job run nomad/redis.nomad.hcl, in the root of the checkout: the path of the script is relative to it.

variable "datacenters" {
  type    = list(string)
  default = ["dc1"]
}

variable "image" {
  type    = string
  default = "redis:7.4-alpine"
}

variable "volume" {
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
      source = var.volume
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

      config {
        image   = var.image
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
      }

      volume_mount {
        volume      = "data"
        destination = "/data"
      }

      # nomad var put nomad/jobs/redis password=…
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
        {{ with nomadVar "nomad/jobs/redis" }}requirepass {{ .password }}{{ end }}
        EOF
        destination = "secrets/redis.conf"
      }

      resources {
        cpu    = 1000
        # More than maxmemory: a rewrite of the append-only file copies every page that changes during it.
        memory = 2048
      }
    }
  }
}
