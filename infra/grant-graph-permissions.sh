#!/usr/bin/env bash
# Grants the app's managed identity the application permissions of Microsoft Graph that it needs,
# and no others. docs/permissions.md says what each one is for. Needs bash and the Azure CLI only.
#
# What is granted already stays as it is, so that it may be run as often as you like.
set -euo pipefail

if ((BASH_VERSINFO[0] < 4 || (BASH_VERSINFO[0] == 4 && BASH_VERSINFO[1] < 4))); then
  printf 'error: this bash is older than 4.4.\n  fix: %s\n' \
    "install a newer one (macOS: brew install bash), or run this in Azure Cloud Shell." >&2
  exit 1
fi

readonly GRAPH_APP=00000003-0000-0000-c000-000000000000 # Microsoft Graph, in every cloud
readonly GUID='^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$'

# All that the product can ever need: the name of the permission and the id of its app role, which
# is the same in every tenant. --undo removes these, and only these.
readonly MANAGED=(
  "AuditLog.Read.All b0afded3-3588-46d8-8b3d-9842eff778da"
  "GroupMember.Read.All 98830695-27a2-44f7-8c18-0c3ebc9698f6"
  "User.Read.All df021288-bdef-4463-88db-98f22de89214"
  "UserAuthenticationMethod.Read.All 38d9df27-64da-44fd-b7c5-a6fbac20248f"
)

usage() {
  cat <<'TEXT'
Usage: grant-graph-permissions.sh --identity OBJECT_ID [options]

  --identity OBJECT_ID    object id of the identity's service principal: IDENTITY_PRINCIPAL_ID
                          among the outputs of the deployment
  --confirm report|methods   as graphConfirm of the deployment; `methods` asks for
                          UserAuthenticationMethod.Read.All, `report` (the default) does not
  --audience group|filter    `filter` where no campaign names a group, neither as its audience nor
                          under audience.exclude: then GroupMember.Read.All is not needed
  --check                 change nothing; say what is there and what is missing
  --undo                  remove what this script grants, and nothing else
  --help                  this text

Whoever runs it, but for --check, needs the Entra role Privileged Role Administrator (or Global
Administrator): application permissions of Microsoft Graph are the ones that an Application
Administrator may not grant.

Ends with 0 when all is as it should be, 1 when something is missing or went wrong, 2 when it was
called wrongly.
TEXT
}

die() { # reason, fix
  printf 'error: %s\n  fix: %s\n' "$1" "$2" >&2
  exit 1
}

misused() { # reason
  printf 'error: %s\n  fix: see --help.\n' "$1" >&2
  exit 2
}

identity='' confirm=report audience=group action=grant

read_arguments() {
  while (($#)); do
    case $1 in
      --identity | --confirm | --audience)
        (($# > 1)) || misused "$1 needs a value."
        case $1 in
          --identity) identity=$2 ;;
          --confirm) confirm=$2 ;;
          --audience) audience=$2 ;;
        esac
        shift 2
        ;;
      --check | --undo)
        [[ $action == grant ]] || misused "--check and --undo are two different things."
        action=${1#--}
        shift
        ;;
      --help | -h)
        usage
        exit 0
        ;;
      *) misused "there is no option $1." ;;
    esac
  done
  [[ -n $identity ]] || misused "--identity is missing."
  [[ $identity =~ $GUID ]] || misused "--identity must be an object id (a GUID)."
  identity=${identity,,}
  [[ $confirm == methods || $confirm == report ]] || misused "--confirm is report or methods."
  [[ $audience == group || $audience == filter ]] || misused "--audience is group or filter."
}

is_needed() { # permission
  case $1 in
    GroupMember.Read.All) [[ $audience == group ]] ;;
    UserAuthenticationMethod.Read.All) [[ $confirm == methods ]] ;;
    *) true ;;
  esac
}

# --- Microsoft Graph, by the Azure CLI ----------------------------------------------------------

graph=''             # such as https://graph.microsoft.com, without a slash at its end
complaints=$(mktemp) # what the CLI complained of at the last call
trap 'rm -f "$complaints"' EXIT

said() { # words: whether the complaint has them
  [[ $(<"$complaints") == *"$1"* ]]
}

ask() { # method, path or whole address, further arguments of `az rest`
  local method=$1 url=$2
  shift 2
  [[ $url == https://* ]] || url="$graph/v1.0/$url"
  # The CLI must not send its token anywhere else, whatever a next link says.
  if [[ $url != "$graph/"* ]]; then
    echo "the next page is at another host" >"$complaints"
    return 1
  fi
  az rest --method "$method" --url "$url" --resource "$graph/" --output tsv "$@" 2>"$complaints"
}

explain() { # what was tried: turns the CLI's complaint into an error with its fix
  if said "az login" || said AADSTS; then
    die "the Azure CLI is not signed in, or its sign-in has ended." \
      "run: az login --tenant YOUR_TENANT"
  elif said Authorization_RequestDenied || said Forbidden; then
    die "you are not allowed to $1." "$NEEDED_ROLE"
  elif said "Too Many Requests" || said TooManyRequests; then
    die "Graph is throttling: it would not $1 now." "run it again in a minute; nothing is lost."
  fi
  die "could not $1: $(head -c 500 "$complaints")" "run it again; nothing is lost."
}

is_missing() {
  said Request_ResourceNotFound || said "Not Found("
}

readonly NEEDED_ROLE="sign in as somebody with the Entra role Privileged Role Administrator or \
Global Administrator, activated where it is time-limited. Application Administrator is not \
enough for application permissions of Microsoft Graph."

find_graph() {
  command -v az >/dev/null || die "the Azure CLI (az) is not installed." \
    "install it, or run this in Azure Cloud Shell."
  graph=$(az cloud show --query endpoints.microsoftGraphResourceId --output tsv) ||
    die "the Azure CLI does not say where Graph is in this cloud." "run: az cloud set --name AzureCloud"
  graph=${graph%/}
  [[ $graph == https://* ]] || die "the Azure CLI names no address of Graph in this cloud." \
    "update the Azure CLI: az upgrade"
}

graph_principal=''          # object id of Graph's own service principal in this tenant
declare -A name_of=()       # name of each app role that Graph has, by its id
declare -A assignment_of=() # id of the assignment to this identity, by role id

read_tenant() {
  local owner rows row id name
  graph_principal=$(ask get "servicePrincipals(appId='$GRAPH_APP')?\$select=id" --query id) ||
    explain "read Graph's service principal"
  rows=$(ask get "servicePrincipals(appId='$GRAPH_APP')?\$select=appRoles" \
    --query 'appRoles[].[id, value]') || explain "read the permissions that Graph has"
  while IFS=$'\t' read -r id name; do
    [[ -z $id ]] || name_of[${id,,}]=$name
  done <<<"$rows"
  for row in "${MANAGED[@]}"; do
    read -r name id <<<"$row"
    [[ ${name_of[$id]:-} == "$name" ]] ||
      die "Graph of this cloud has no permission $name." \
        "check that the app can run in this cloud: docs/permissions.md."
  done
  if ! owner=$(ask get "servicePrincipals/$identity?\$select=id,appId" --query id); then
    is_missing || explain "read the identity"
    tell_unknown
  fi
  [[ ${owner,,} == "$identity" ]] || die "Graph answers with another identity." "run it again."
}

# A client id is easily taken for an object id: both stand side by side in the portal.
tell_unknown() {
  local owner
  if owner=$(ask get "servicePrincipals(appId='$identity')?\$select=id" --query id) && [[ $owner ]]; then
    die "this is the client id of the identity." "use its object id: --identity $owner"
  fi
  die "this tenant has no service principal with the object id $identity." \
    "take IDENTITY_PRINCIPAL_ID of the deployment, and sign in to the app's own tenant: az login \
--tenant YOUR_TENANT. An identity that was just created may take a minute to appear."
}

read_assignments() {
  local page rows id role resource
  assignment_of=()
  page="servicePrincipals/$identity/appRoleAssignments?\$top=100"
  while [[ -n $page ]]; do
    rows=$(ask get "$page" --query 'value[].[id, appRoleId, resourceId]') ||
      explain "read what is granted to the identity"
    while IFS=$'\t' read -r id role resource; do
      [[ ${resource,,} != "${graph_principal,,}" ]] || assignment_of[${role,,}]=$id
    done <<<"$rows"
    page=$(ask get "$page" --query '"@odata.nextLink"') ||
      explain "read what is granted to the identity"
    [[ $page != None ]] || page=''
  done
}

# --- What is done -------------------------------------------------------------------------------

grant() { # name, role id
  local body
  body=$(printf '{"principalId": "%s", "resourceId": "%s", "appRoleId": "%s"}' \
    "$identity" "$graph_principal" "$2")
  if ask post "servicePrincipals/$graph_principal/appRoleAssignedTo" \
    --headers Content-Type=application/json --body "$body" --query id >/dev/null; then
    echo "granted: $1"
  elif said "already exists" || said "Conflict("; then
    echo "there already: $1 (granted by somebody else at the same time)"
  else
    explain "grant $1"
  fi
}

remove() { # name, role id
  if ask delete "servicePrincipals/$graph_principal/appRoleAssignedTo/${assignment_of[$2]}" \
    >/dev/null; then
    echo "removed: $1"
  elif is_missing; then
    echo "gone already: $1 (removed by somebody else at the same time)"
  else
    explain "remove $1"
  fi
}

warn_of() { # role id, what is odd about it
  printf 'warning: %s %s Remove it, unless something else needs it: az rest --method delete --url %s\n' \
    "${name_of[$1]:-app role $1}" "$2" \
    "$graph/v1.0/servicePrincipals/$graph_principal/appRoleAssignedTo/${assignment_of[$1]}" >&2
}

warn_of_the_rest() {
  local role row name id
  for role in "${!assignment_of[@]}"; do
    for row in "${MANAGED[@]}"; do
      read -r name id <<<"$row"
      [[ $id != "$role" ]] || continue 2
    done
    warn_of "$role" "is granted, and mfa-nudge has no use for it."
  done
}

main() {
  local row name id missing=0 changed=0
  read_arguments "$@"
  find_graph
  read_tenant
  read_assignments
  for row in "${MANAGED[@]}"; do
    read -r name id <<<"$row"
    if [[ $action == undo ]]; then
      [[ -n ${assignment_of[$id]:-} ]] || continue
      remove "$name" "$id"
      changed=1
    elif ! is_needed "$name"; then
      [[ -z ${assignment_of[$id]:-} ]] ||
        warn_of "$id" "is granted, and not needed with --confirm $confirm --audience $audience."
    elif [[ -n ${assignment_of[$id]:-} ]]; then
      echo "there already: $name"
    elif [[ $action == check ]]; then
      echo "missing: $name"
      missing=1
    else
      grant "$name" "$id"
      changed=1
    fi
  done
  warn_of_the_rest
  ((!missing)) || die "the identity lacks what is named above." \
    "run the same command without --check."
  # The platform keeps an identity's tokens, and with them the permissions of that moment.
  case $action/$changed in
    grant/1) echo "An app that asked Graph before may be refused for up to 24 hours more." ;;
    undo/1) echo "A token that the app holds by now may be used for up to 24 hours more." ;;
    grant/0) echo "Nothing to do." ;;
    undo/0) echo "Nothing to remove." ;;
    *) ;; # --check has said all
  esac
}

main "$@"
