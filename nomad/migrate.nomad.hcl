# migrate: brings tables, streams and consumers to a version before its services start.
# nomad job run -var image=registry.example/flash-auction:1 nomad/migrate.nomad.hcl

variable "image" {
  type        = string
  description = "The image that the Dockerfile builds, with its tag"
}

variable "datacenters" {
  type    = list(string)
  default = ["dc1"]
}

variable "stream_replicas" {
  type    = string
  default = "3"
}

job "migrate" {
  datacenters = var.datacenters
  type        = "batch"

  group "migrate" {
    restart {
      attempts = 5
      interval = "5m"
      delay    = "5s"
      mode     = "fail"
    }

    task "migrate" {
      driver = "docker"

      config {
        image   = var.image
        command = "flash-admin"
        args    = ["migrate"]
      }

      env {
        STREAM_REPLICAS = var.stream_replicas
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
        cpu    = 200
        memory = 128
      }
    }
  }
}
