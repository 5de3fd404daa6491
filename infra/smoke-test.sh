#!/usr/bin/env bash
# Looks whether a deployed app runs: its functions, pages, secrets, settings, storage, telemetry and
# own domain. Changes nothing. Needs bash, curl and the Azure CLI, signed in.
#
# After a first deployment some of it takes minutes: roles, the list of functions, telemetry. So
# what fails is tried again until it is right or the wait is over, but for what waits for a person.
#
# shellcheck disable=SC2329 # `try` calls the checks by their names
set -euo pipefail
export LC_ALL=C # one order of names for sort and comm

readonly HERE=${BASH_SOURCE[0]%/*}
readonly HEARTBEAT=nudge.heartbeat # shared/names.json
readonly PAUSE=15                  # seconds between two tries

usage() {
  cat <<'TEXT'
Usage: smoke-test.sh [options]

  --resource-group NAME   or AZURE_RESOURCE_GROUP
  --app NAME              or FUNCTION_APP_NAME
  --url URL               or FUNCTION_APP_URL
  --workspace NAME        or LOG_ANALYTICS_WORKSPACE_NAME
  --storage NAME          or STORAGE_ACCOUNT_NAME
  --identity OBJECT_ID    or IDENTITY_PRINCIPAL_ID
  --domain HOST           or CUSTOM_DOMAIN, where CUSTOM_DOMAIN_STAGE is secure: the app's own
  --manifest FILE         of the package that was deployed: build/mfa-nudge.json
  --wait SECONDS          how long to wait for what is not right yet: 600
  --help                  this text

The first six are outputs of the deployment. Whoever runs it needs the role Website Contributor on
the app, and Log Analytics Reader and Reader on the resource group.

Ends with 0 when the app runs, 1 when something is wrong, 2 when it was called wrongly.
TEXT
}

misused() { # reason
  printf 'error: %s\n  fix: see --help.\n' "$1" >&2
  exit 2
}

group=${AZURE_RESOURCE_GROUP-} app=${FUNCTION_APP_NAME-} url=${FUNCTION_APP_URL-}
workspace=${LOG_ANALYTICS_WORKSPACE_NAME-} storage=${STORAGE_ACCOUNT_NAME-}
identity=${IDENTITY_PRINCIPAL_ID-} domain=''
[[ ${CUSTOM_DOMAIN_STAGE-} != secure ]] || domain=${CUSTOM_DOMAIN-}
manifest=$HERE/../build/mfa-nudge.json wait=600

while (($# > 0)); do
  case $1 in
    --help) usage && exit 0 ;;
    --*) (($# > 1)) || misused "$1 has no value." ;;
  esac
  case $1 in
    --resource-group) group=$2 ;;
    --app) app=$2 ;;
    --url) url=$2 ;;
    --workspace) workspace=$2 ;;
    --storage) storage=$2 ;;
    --identity) identity=$2 ;;
    --domain) domain=$2 ;;
    --manifest) manifest=$2 ;;
    --wait) wait=$2 ;;
    *) misused "$1 is no option." ;;
  esac
  shift 2
done
for value in "resource-group=$group" "app=$app" "url=$url" "workspace=$workspace" \
  "storage=$storage" "identity=$identity"; do
  [[ -n ${value#*=} ]] || misused "--${value%%=*} is missing."
done
[[ $url == https://* ]] || misused "--url is no https address."
url=${url%/}
[[ $wait =~ ^[0-9]{1,5}$ ]] || misused "--wait is no number of seconds."
[[ -r $manifest ]] || misused "there is no package manifest $manifest: \`make package\` makes it."

# The manifest has a line for each value, and one for each function.
version=$(sed -n 's/^ *"version": "\(.*\)",$/\1/p' "$manifest")
functions=$(sed -n '/"functions": \[/,/\]/s/^ *"\([a-z_]*\)",\{0,1\}$/\1/p' "$manifest" | sort)
[[ -n $version && -n $functions ]] || misused "$manifest is no manifest of a package."

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
readonly ERRORS=$scratch/errors # what a command wrote to standard error, for the check that failed
wrong='' fix='' by_hand=''

# Each check says nothing when all is well; else it sets what is wrong, and its fix, in a line each,
# and by_hand where no waiting helps.

ask() { # command …: what it prints; sets what is wrong where it fails
  if ! "$@" 2>"$ERRORS"; then
    wrong="$1 says: $(grep -v '^WARNING' "$ERRORS" | tr '\n' ' ' | cut -c 1-300)"
    return 1
  fi
}

get() { # url, option …: sets status and body; status 000 where nothing answered
  local to=$1
  shift
  curl_code=0
  status=$(curl --silent --show-error --max-time 30 --output "$scratch/body" \
    --write-out '%{http_code}' "$@" "$to" 2>"$ERRORS") || curl_code=$?
  ((curl_code == 0)) || status=000
  body=$(head -c 2000 "$scratch/body" 2>/dev/null || true)
  rm -f "$scratch/body"
}

# ask runs in the same shell as its caller, which a $(…) around it would not: hence the file.
answer_of() { # command …: sets answer
  ask "$@" >"$scratch/answer" && answer=$(tr -d '\r' <"$scratch/answer")
}

check_account() {
  answer_of az account show --query id --output tsv ||
    { by_hand=1 fix="sign in with \`az login\`, and choose the subscription with \`az account set\`." && return; }
  answer_of az functionapp show --resource-group "$group" --name "$app" \
    --query "[id, state]" --output tsv ||
    { fix="check the names and the subscription; you need Reader on the resource group." && return; }
  app_id=$(head -n 1 <<<"$answer") state=$(tail -n 1 <<<"$answer")
  if [[ $state != Running ]]; then
    wrong="the app is $state." by_hand=1 fix="start it: az functionapp start -g $group -n $app"
  fi
}

check_functions() {
  answer_of az functionapp function list --resource-group "$group" --name "$app" \
    --query "[].name" --output tsv ||
    { fix="you need the role Website Contributor on the app." && return; }
  local found missing unknown
  found=$(awk -F / '{ print $NF }' <<<"$answer" | sort)
  if [[ -z $answer ]]; then
    wrong="Azure finds no function in the app: it cannot be indexed, or nothing was uploaded."
    fix="deploy again; if it stays so, AppTraces of $workspace hold the traceback of the start."
    return
  fi
  missing=$(comm -13 <(printf '%s\n' "$found") <(printf '%s\n' "$functions") | tr '\n' ' ')
  unknown=$(comm -23 <(printf '%s\n' "$found") <(printf '%s\n' "$functions") | tr '\n' ' ')
  if [[ -n $missing$unknown ]]; then
    wrong="another package runs than $manifest:${missing:+ without ${missing% }}"
    wrong+="${unknown:+ with ${unknown% }}."
    fix="deploy this package, or name the manifest of the one that was deployed."
  fi
}

check_health() {
  get "$url/health"
  case $status in
    200)
      if [[ $body != *"\"version\": \"$version\""* ]]; then
        wrong="another version answers than $version: ${body:0:100}"
        fix="deploy this package, or name the manifest of the one that was deployed."
      fi
      ;;
    000)
      wrong="$url does not answer: $(head -n 1 "$ERRORS")"
      fix="where the network is private, run this from inside; else see that the app is started."
      ;;
    401 | 403)
      wrong="$url/health answers $status: something stands in front of the app."
      fix="open it to the network that you call from; sign-in must let anonymous requests pass."
      ;;
    404)
      wrong="$url/health answers 404: the app has no functions, or a route prefix."
      fix="see to the functions first; then deploy again."
      ;;
    *)
      wrong="$url/health answers $status: the host of the functions does not start."
      fix="after a first deployment wait for the roles on $storage; else see AppTraces of $workspace."
      ;;
  esac
}

check_secrets() {
  answer_of az rest --method get \
    --url "$app_id/config/configreferences/appsettings?api-version=2025-03-01" \
    --query "value[?properties.status!='Resolved'].[name, properties.status]" --output tsv ||
    { fix="you need the role Website Contributor on the app." && return; }
  if [[ -n $answer ]]; then
    local unresolved
    unresolved=$(tr '\t' ' ' <<<"$answer" | paste -s -d , -)
    wrong="not every secret is there: ${unresolved//,/, }."
    [[ $unresolved != *SecretNotFound* ]] || by_hand=1
    fix="run infra/set-secrets.sh; then docs/runbook.md, After a secret has changed."
  fi
}

# /status is served by the product's own code: it reads every setting, and lists the campaigns.
check_settings_and_storage() {
  answer_of az functionapp keys list --resource-group "$group" --name "$app" \
    --query functionKeys.default --output tsv ||
    { fix="you need the role Website Contributor on the app." && return; }
  # By standard input: what stands in a command line is seen by everybody on the machine.
  get "$url/status" --header "Accept: application/json" --config - <<<"header = \"x-functions-key: $answer\""
  [[ $status != 200 ]] || return 0
  if [[ $status == 401 ]]; then
    wrong="$url/status does not take the app's own key." fix="wait a minute: keys reach the app late."
    return
  fi
  wrong="$url/status answers $status: a setting is missing, or the storage refuses the app."
  local role missing=''
  if ! answer_of az role assignment list --assignee-object-id "$identity" --include-inherited \
    --scope "${app_id%/providers/*}/providers/Microsoft.Storage/storageAccounts/$storage" \
    --query "[].roleDefinitionName" --output tsv; then
    fix="you need Reader on the resource group to see which role is missing."
    return
  fi
  for role in "Storage Blob Data Owner" "Storage Queue Data Contributor" \
    "Storage Table Data Contributor"; do
    grep -qxF "$role" <<<"$answer" || missing+="${missing:+, }$role"
  done
  if [[ -n $missing ]]; then
    wrong="the app may not use its storage (403): its identity lacks $missing on $storage."
    fix="deploy infra/ as somebody who may assign roles (Owner, or User Access Administrator)."
  else
    fix="roles work after up to 10 minutes; then \`nudge doctor\` names a setting that is wrong."
  fi
}

check_heartbeat() {
  local query="AppMetrics | where Name == '$HEARTBEAT' and TimeGenerated > datetime($began)"
  answer_of az monitor log-analytics workspace show --resource-group "$group" \
    --workspace-name "$workspace" --query customerId --output tsv ||
    { fix="you need the role Log Analytics Reader on the resource group." && return; }
  answer_of az rest --method post --resource https://api.loganalytics.io \
    --url "https://api.loganalytics.io/v1/workspaces/$answer/query" \
    --headers Content-Type=application/json --body "{\"query\": \"$query | count\"}" \
    --query "tables[0].rows[0][0]" --output tsv ||
    { fix="you need the role Log Analytics Reader on the resource group." && return; }
  if [[ ! $answer =~ ^[1-9] ]]; then
    wrong="no heartbeat since $began: the timer of every minute does not run, or tells nobody."
    fix="restart it: az functionapp restart -g $group -n $app; then see AppTraces of $workspace."
  fi
}

check_domain() {
  get "https://$domain/health"
  case $curl_code in
    0) ;;
    6)
      wrong="$domain is not in DNS." by_hand=1
      fix="have a CNAME record made that points to ${url#https://}, and the TXT record asuid.$domain."
      return
      ;;
    35 | 51 | 60)
      wrong="$domain has no certificate that browsers trust: $(head -n 1 "$ERRORS")"
      fix="deploy with CUSTOM_DOMAIN_STAGE=secure once the domain is bound."
      return
      ;;
    *)
      wrong="$domain does not answer: $(head -n 1 "$ERRORS")"
      fix="see that its CNAME record points to ${url#https://}."
      return
      ;;
  esac
  if [[ $status != 200 || $body != *"\"version\": \"$version\""* ]]; then
    wrong="$domain answers $status, and not as this app: it leads elsewhere, or is not bound."
    fix="point its CNAME record to ${url#https://} and deploy with CUSTOM_DOMAIN_STAGE=bind."
  fi
}

began=$(date -u +%Y-%m-%dT%H:%M:%SZ)
failed=0

try() { # name, check
  while true; do
    wrong='' fix='' by_hand=''
    "$2"
    if [[ -z $wrong ]]; then
      printf 'ok    %s\n' "$1"
      return 0
    fi
    if [[ -n $by_hand ]] || ((SECONDS + PAUSE > wait)); then break; fi
    sleep "$PAUSE"
  done
  printf 'FAIL  %s: %s\n      fix: %s\n' "$1" "$wrong" "$fix"
  failed=1
  return 1
}

try "the app is there" check_account || exit 1
try "its functions are all found" check_functions || true
try "it answers, in version $version" check_health || true
if try "its secrets are there" check_secrets; then
  try "it sees its settings and its storage" check_settings_and_storage || true
else
  printf 'skip  it sees its settings and its storage: first the secrets\n'
fi
try "its timers run, and telemetry arrives" check_heartbeat || true
if [[ -n $domain ]]; then
  try "it answers at $domain, with a certificate" check_domain || true
fi
exit "$failed"
