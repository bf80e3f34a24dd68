{{- define "inference-gateway.name" -}}
{{ .Values.name | default .Release.Name }}
{{- end }}

{{- define "inference-gateway.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: podpair
{{- end }}

{{- /* The gateway's section, with the Secret that this chart makes. */}}
{{- define "inference-gateway.gateway" -}}
{{- $secrets := .Values.secrets.auth -}}
{{- $gateway := deepCopy .Values.gateway -}}
{{- $auth := $gateway.auth | default dict -}}
{{- $name := printf "%s-auth" (include "inference-gateway.name" .) -}}
{{- if and $secrets.secret $secrets.publicKey }}
{{- fail "secrets.auth.secret and secrets.auth.publicKey are both set: tokens are verified by one of them" }}
{{- end }}
{{- if $secrets.secret }}
{{- $auth = mergeOverwrite $auth (dict "secretRef" (dict "name" $name "key" "secret")) }}
{{- else if $secrets.publicKey }}
{{- $auth = mergeOverwrite $auth (dict "publicKeyRef" (dict "name" $name "key" "public-key")) }}
{{- else if not (or $auth.jwksUrl $auth.secretRef $auth.publicKeyRef $auth.disabled) }}
{{- fail "how are clients' tokens verified? Set secrets.auth.secret, secrets.auth.publicKey, or one of gateway.auth.jwksUrl, .secretRef, .publicKeyRef (or gateway.auth.disabled: true, for development)" }}
{{- end }}
{{- toYaml (set $gateway "auth" $auth) }}
{{- end }}

{{- /* The broker's section, with the Secret that this chart makes. */}}
{{- define "inference-gateway.kafka" -}}
{{- $secrets := .Values.secrets.kafka -}}
{{- $kafka := deepCopy .Values.kafka -}}
{{- if ne (empty $secrets.username) (empty $secrets.password) }}
{{- fail "secrets.kafka.username and secrets.kafka.password are set together, or neither" }}
{{- end }}
{{- if $secrets.username }}
{{- if dig "sasl" "secretName" "" $kafka }}
{{- fail "kafka.sasl.secretName and secrets.kafka are both set: the password is in one of them" }}
{{- end }}
{{- $made := dict "secretName" (printf "%s-kafka" (include "inference-gateway.name" .)) -}}
{{- $kafka = set $kafka "sasl" (mergeOverwrite ($kafka.sasl | default dict) $made) }}
{{- else if and (hasKey $kafka "sasl") (not (dig "sasl" "secretName" "" $kafka)) }}
{{- fail "kafka.sasl needs secretName, or secrets.kafka.username and secrets.kafka.password" }}
{{- end }}
{{- toYaml $kafka }}
{{- end }}
