{{- define "floodmark.labels" -}}
app.kubernetes.io/name: floodmark
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "floodmark.selector" -}}
app.kubernetes.io/name: floodmark
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}
