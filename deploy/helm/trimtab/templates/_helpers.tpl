{{- define "trimtab.name" -}}
{{- .Values.nameOverride | default (ternary .Release.Name (printf "%s-trimtab" .Release.Name) (contains "trimtab" .Release.Name)) | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "trimtab.selector" -}}
app.kubernetes.io/name: trimtab
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "trimtab.labels" -}}
{{ include "trimtab.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end -}}

{{- define "trimtab.policies" -}}
{{- .Values.policies.existingConfigMap | default (printf "%s-policies" (include "trimtab.name" .)) -}}
{{- end -}}

{{- define "trimtab.check" -}}
{{- if and .Values.policies.existingConfigMap .Values.policies.files -}}
{{- fail "policies.files and policies.existingConfigMap are both given: give one" -}}
{{- end -}}
{{- if gt (int .Values.replicas) 1 -}}
{{- if not .Values.store.url -}}
{{- fail "several replicas follow one store: set store.url to a PostgreSQL database" -}}
{{- end -}}
{{- if and (not .Values.artifacts.existingClaim) (ne .Values.artifacts.accessMode "ReadWriteMany") -}}
{{- fail "several replicas share the artifacts: set artifacts.accessMode to ReadWriteMany, or name an existingClaim that all can write" -}}
{{- end -}}
{{- end -}}
{{- end -}}
