# The instances that Prometheus scrapes. Nomad fills it in, beside prometheus.yml, with change_mode = "noop".
{{- range nomadServices }}{{ $service := .Name }}
{{- if $service | regexMatch "^(auction-.*|bid-.*|timer|websocket|ingress)$" }}
- labels: { job: {{ $service }} }
  targets:
  {{- range nomadService $service }}
    - {{ .Address }}:{{ .Port }}
  {{- end }}
{{- end }}
{{- end }}
