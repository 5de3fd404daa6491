#!/usr/bin/env bash
# Puts the app's secrets into its Key Vault: asks for those that the providers gave you, makes those
# that are the app's own. Needs bash, openssl and the Azure CLI.
#
# What is there stays as it is, so that it may be run as often as you like. Values are never shown,
# and never stand in a command line, where other users of the machine could read them.
set -euo pipefail

usage() {
  cat <<'TEXT'
Usage: set-secrets.sh --vault NAME [--sms] [--replace SECRET]

  --vault NAME        the Key Vault: KEY_VAULT_NAME among the outputs of the deployment
  --sms               with the two secrets of Twilio
  --replace SECRET    a new value for one that is there. A new one of link-keys is put before the
                      old ones, so that links in mails already sent still open. address-key is
                      never replaced: every address that bounced would be forgotten
  --help              this text

The secrets: sendgrid-api-key, link-keys, address-key; twilio-account-sid, twilio-auth-token.
Values are asked for on a terminal, and read line by line where there is none.

Whoever runs it needs the role Key Vault Secrets Officer on the vault.
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

vault='' sms='' replace=''
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

read_arguments() {
  while (($#)); do
    case $1 in
      --vault | --replace)
        (($# > 1)) || misused "$1 needs a value."
        if [[ $1 == --vault ]]; then vault=$2; else replace=$2; fi
        shift 2
        ;;
      --sms)
        sms=yes
        shift
        ;;
      --help | -h)
        usage
        exit 0
        ;;
      *) misused "there is no option $1." ;;
    esac
  done
  [[ -n $vault ]] || misused "--vault is missing."
  case $replace in
    '' | sendgrid-api-key | link-keys) ;;
    twilio-account-sid | twilio-auth-token) sms=yes ;;
    address-key) misused "address-key is never replaced." ;;
    *) misused "there is no secret $replace." ;;
  esac
}

# --- the vault, by the Azure CLI ----------------------------------------------------------------

vault_secret() { # verb, name, further arguments
  local verb=$1 name=$2
  shift 2
  az keyvault secret "$verb" --vault-name "$vault" --name "$name" "$@" 2>"$scratch/complaint"
}

explain() { # what was tried: turns the CLI's complaint into an error with its fix
  local complaint
  complaint=$(<"$scratch/complaint")
  case $complaint in
    *"az login"* | *AADSTS*)
      die "the Azure CLI is not signed in, or its sign-in has ended." \
        "run: az login --tenant YOUR_TENANT" ;;
    *ForbiddenByRbac* | *"not authorized to perform action"*)
      die "you are not allowed to $1." \
        "ask for the role Key Vault Secrets Officer on $vault. A new assignment takes some minutes." ;;
    *ForbiddenByConnection* | *"Public network access is disabled"* | *ForbiddenByFirewall*)
      die "the vault lets nobody in from here." "run this within the app's virtual network." ;;
    *"Failed to resolve"* | *"Name or service not known"* | *"Max retries exceeded"*)
      die "there is no vault $vault, or it cannot be reached from here." \
        "take KEY_VAULT_NAME of the deployment." ;;
    *ObjectIsDeletedButRecoverable*)
      die "a secret of this name was deleted, and is kept by the vault." \
        "recover it: az keyvault secret recover --vault-name $vault --name SECRET" ;;
    *) die "could not $1: $(head -c 300 "$scratch/complaint")" "run it again; nothing is lost." ;;
  esac
}

is_there() { # name
  if vault_secret show "$1" --query id --output tsv >/dev/null; then
    return 0
  fi
  [[ $(<"$scratch/complaint") == *SecretNotFound* ]] || explain "read the vault"
  return 1
}

put() { # name, value
  (umask 077 && printf '%s' "$2" >"$scratch/value")
  vault_secret set "$1" --file "$scratch/value" --encoding utf-8 --output none ||
    explain "write to the vault"
  rm -f "$scratch/value"
}

# --- values -------------------------------------------------------------------------------------

is_usable() { # name, value
  case $1 in
    sendgrid-api-key) [[ $2 =~ ^SG\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+$ ]] ;;
    twilio-account-sid) [[ $2 =~ ^AC[0-9a-fA-F]{32}$ ]] ;;
    twilio-auth-token) [[ $2 =~ ^[0-9a-fA-F]{32}$ ]] ;;
    *) true ;;
  esac
}

what_it_is() { # name
  case $1 in
    sendgrid-api-key) echo "SendGrid's API key with the right to send mail (SG.…)" ;;
    twilio-account-sid) echo "Twilio's account SID (AC and 32 hexadecimal digits)" ;;
    twilio-auth-token) echo "Twilio's auth token (32 hexadecimal digits)" ;;
    *) echo "$1" ;;
  esac
}

value_of() { # name
  local value=''
  case $1 in
    link-keys | address-key)
      openssl rand -base64 32
      return
      ;;
  esac
  if [[ -t 0 ]]; then
    printf '%s: ' "$(what_it_is "$1")" >&2
    IFS= read -rs value || true
    printf '\n' >&2
  else
    IFS= read -r value || true
  fi
  value=${value//[[:space:]]/}
  is_usable "$1" "$value" || die "that is not $(what_it_is "$1")." "copy it once more, and run this again."
  printf '%s' "$value"
}

main() {
  local name value needed changed=''
  read_arguments "$@"
  command -v az >/dev/null || die "the Azure CLI (az) is not installed." \
    "install it, or run this in Azure Cloud Shell."
  command -v openssl >/dev/null || die "openssl is not installed." "install it."
  needed=(sendgrid-api-key link-keys address-key)
  [[ -z $sms ]] || needed+=(twilio-account-sid twilio-auth-token)
  for name in "${needed[@]}"; do
    if is_there "$name"; then
      if [[ $name != "$replace" ]]; then
        echo "there already: $name"
        continue
      fi
      value=$(value_of "$name")
      if [[ $name == link-keys ]]; then
        value="$value,$(vault_secret show "$name" --query value --output tsv)" || explain "read the vault"
      fi
      put "$name" "$value"
      echo "replaced: $name"
    else
      value=$(value_of "$name")
      put "$name" "$value"
      echo "saved: $name"
    fi
    changed=yes
  done
  if [[ $changed ]]; then
    echo "A running app takes them within a day, or at once: docs/runbook.md, After a secret has changed"
  else
    echo "Nothing to do."
  fi
}

main "$@"
