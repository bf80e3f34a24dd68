{{- define "podpair-operator.name" -}}
{{ .Values.nameOverride | default .Chart.Name | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- /* The name of all objects. A release that is named like the chart, or like its beginning, is not said twice. */}}
{{- define "podpair-operator.fullname" -}}
{{- $name := include "podpair-operator.name" . -}}
{{- if .Values.fullnameOverride }}{{ .Values.fullnameOverride | trunc 50 | trimSuffix "-" }}
{{- else if contains .Release.Name $name }}{{ $name | trunc 50 | trimSuffix "-" }}
{{- else }}{{ printf "%s-%s" .Release.Name $name | trunc 50 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- /* The name of what is not in a namespace: two releases must not share it. */}}
{{- define "podpair-operator.clusterName" -}}
{{ printf "%s-%s" .Release.Namespace (include "podpair-operator.fullname" .) }}
{{- end }}

{{- define "podpair-operator.selectorLabels" -}}
app.kubernetes.io/name: {{ include "podpair-operator.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "podpair-operator.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{ include "podpair-operator.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: podpair
{{- end }}

{{- define "podpair-operator.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}{{ .Values.serviceAccount.name | default (include "podpair-operator.fullname" .) }}
{{- else }}{{ .Values.serviceAccount.name | default "default" }}
{{- end }}
{{- end }}

{{- /* An image by digest, else by tag, else by the chart's appVersion: (list image appVersion). */}}
{{- define "podpair-operator.image" -}}
{{- $image := index . 0 -}}
{{ $image.repository }}{{ if $image.digest }}@{{ $image.digest }}{{ else }}:{{ $image.tag | default (index . 1) }}{{ end }}
{{- end }}

{{- /* What a pod needs to pass the restricted Pod Security Standard. */}}
{{- define "podpair-operator.podSecurityContext" -}}
runAsNonRoot: true
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "podpair-operator.securityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{- /*
What the operator does in a namespace whose resources it looks after. Everything that it makes it applies (patch, and
create the first time), watches for drift, and deletes when the resource no longer asks for it.
*/}}
{{- define "podpair-operator.rules" -}}
- apiGroups: [podpair.dev]
  resources: [inferencegateways]
  verbs: [get, list, watch, patch]
- apiGroups: [podpair.dev]
  resources: [inferencegateways/status]
  verbs: [get, patch]
# What owns objects may block its deletion until they are gone (OwnerReferencesPermissionEnforcement).
- apiGroups: [podpair.dev]
  resources: [inferencegateways/finalizers]
  verbs: [update]
- apiGroups: [apps]
  resources: [deployments]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [services, configmaps, serviceaccounts]
  verbs: [get, list, watch, create, patch, delete]
# Secrets: read, for the broker's password and for the checksum that rolls the pods when one changes; make, the key that
# signs resume tokens, and a copy of the password where topics are to be deleted with their resource. RBAC can't narrow this to the Secrets that resources name: watchNamespaces narrows it to namespaces.
- apiGroups: [""]
  resources: [secrets]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [autoscaling]
  resources: [horizontalpodautoscalers]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies, ingresses]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [gateway.networking.k8s.io]
  resources: [httproutes]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [monitoring.coreos.com]
  resources: [podmonitors, prometheusrules]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [keda.sh]
  resources: [scaledobjects, triggerauthentications]
  verbs: [get, list, watch, create, patch, delete]
# Why pods don't start, and how many sessions they hold. Patched are annotations only: which pod goes first when there are to be
# fewer (controller.kubernetes.io/pod-deletion-cost).
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch, patch]
- apiGroups: [apps]
  resources: [replicasets]
  verbs: [get, list, watch]
- apiGroups: [""]
  resources: [events]
  verbs: [create, patch]
{{- end }}
