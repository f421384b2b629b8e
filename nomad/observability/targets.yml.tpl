# The instances that Prometheus scrapes. Nomad fills it in, beside prometheus.yml, with change_mode = "noop".
{{- range nomadServices }}{{ $service := .Name }}
{{- if $service | regexMatch "^((auction|bid)-.*|timer|websocket)-operations$|^ingress$" }}
- labels: { job: {{ $service | replaceAll "-operations" "" }} }
  targets:
  {{- range nomadService $service }}
    - {{ .Address }}:{{ .Port }}
  {{- end }}
{{- end }}
{{- end }}
